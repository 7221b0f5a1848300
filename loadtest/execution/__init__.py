"""One process's run: where it is (`state`), who leads it (`conductor`), and what its clients do.

It gets settings, a plan, a driver's session and URLs, and gives back a record. It judges nothing and prints nothing.
"""

from __future__ import annotations
