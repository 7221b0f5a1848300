"""Pictures of results, by Altair and vl-convert: the extra `report`. Only a child process imports what is in here.

A chart is a Vega-Lite specification, and the same one becomes SVG, PNG or a part of an interactive page. `panels` says
which charts a set of results has; the others draw one kind each.
"""

from __future__ import annotations
