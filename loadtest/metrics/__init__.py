"""What a run counts and times: pure values that add up, in one process and over several.

No clock is read here and nothing waits. What comes of it all is `loadtest.metrics.record.Record`.
"""

from __future__ import annotations
