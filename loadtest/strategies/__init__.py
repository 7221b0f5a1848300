"""The ways in which programs answer the C10K question, put to the same work one after the other.

A way and a number of clients are a cell. Each cell runs in a process of its own (`cell`) on fresh queues (`ground`), in
an order drawn from a seed (`tournament`); what its clients do is the same in all of them (`work`): half of them publish
persistent messages one at a time, each confirmed, half consume with a prefetch and acknowledge each, and a ledger knows
every message. Only how they hold connections, channels and threads differs (`table`, `tasks`, `threads`, `pools`). It
judges nothing: that is `loadtest.analysis.strategies`.
"""

from __future__ import annotations
