"""An alias, for one release: what pickles of messages named before they named `rabbitry.Message`.

Nothing imports it but `pickle`. It goes with the release after 0.2; pickles made from now on don't need it.
"""

from __future__ import annotations

from typing import Any

from rabbitry._values.message import Message


def _rebuilt(values: dict[str, Any]) -> Message:
    return Message(**values)
