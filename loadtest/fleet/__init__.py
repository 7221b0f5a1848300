"""Several processes, on one machine or on many, that make one run: who leads, who works, what they tell each other.

A coordinator leads (`coordinator`, `members`), workers take a segment of one plan each (`worker`, `segments`), and a
broker carries what they say (`bus`, `seal`, `messages`). What they measured comes together as parts, which are files,
too (`parts`, `pooling`); `clocks` has what is known of each other's time, `crossing` the latencies that depend on it.

What must stay true: no code and no password is ever sent. A worker loads nothing but what its own command line allows,
and ends by itself once nobody leads it. A lost worker is listed, and what it was to do is left undone.
"""

from __future__ import annotations
