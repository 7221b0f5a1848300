"""What a run is asked to do: its settings, complete and consistent, and the plan that follows from them.

Pure: it reads no clock and no machine, and the same settings and seed make the same plan in any process. It knows no
driver by name.
"""

from __future__ import annotations
