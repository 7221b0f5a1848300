"""Which rate can be kept up: whether a step at some rate was held, and which rate to try next.

Pure, from observations alone: it reads no clock and knows neither clients nor brokers, so that whoever drives a run
can ask it, one process or the coordinator of several.
"""

from __future__ import annotations
