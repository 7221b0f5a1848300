"""`RPC`: calls that wait for their replies. Replies, deadlines and errors are the async one's."""

from __future__ import annotations

from typing import Any, TypeAlias

import rabbitry
from rabbitry.blocking._block import Block
from rabbitry.blocking._portal import Timeout

__all__ = ["RPC"]


AnyRPC: TypeAlias = rabbitry.RPC | rabbitry.ClientRPC


class RPC(Block[AnyRPC]):
    """Calls servers and gives their replies; made by `client.rpc()` or `connection.rpc()`, and used inside its `with`
    block, by any number of threads at once.
    """

    _what = "the RPC"
    _call = "client.rpc()"

    @property
    def late_replies(self) -> int:
        """Replies that came when nobody waited for them any more."""
        return self._entered.late_replies if self._entered is not None else 0

    def call(self, routing_key: str, payload: Any = None, *, timeout: Timeout = None, **options: Any) -> Any:
        """Send a request and return the reply's payload; `options` are those of the async `call`.

        The request expires with `timeout`. Timed out or interrupted, a late reply is dropped and counted.
        """
        rpc = self._async
        return self._portal.run(lambda: rpc.call(routing_key, payload, **options), timeout)
