"""For people: a run as it goes on, its summary, its reports, its files. The live view alone looks at a run itself."""

from __future__ import annotations
