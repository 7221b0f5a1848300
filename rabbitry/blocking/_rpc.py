"""`RPC`: calls that wait for their replies. Replies, deadlines and errors are the async one's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

import rabbitry
from rabbitry._errors import LocalProtocolError
from rabbitry.blocking._portal import Portal, Timeout

__all__ = ["RPC"]


class RPC:
    """Calls servers and gives their replies; made by `client.rpc()` or `connection.rpc()`, and used inside its `with`
    block, by any number of threads at once.
    """

    def __init__(
        self,
        portal: Portal,
        make: Callable[[], AbstractAsyncContextManager[rabbitry.RPC | rabbitry.ClientRPC]],
        timeout: Timeout,
    ) -> None:
        self._portal = portal
        self._make = make
        self._manager: AbstractAsyncContextManager[rabbitry.RPC | rabbitry.ClientRPC] | None = None
        self._timeout = timeout
        self._rpc: rabbitry.RPC | rabbitry.ClientRPC | None = None

    def __repr__(self) -> str:
        return f"<blocking {self._rpc!r}>" if self._rpc is not None else "<blocking RPC, not entered>"

    @property
    def late_replies(self) -> int:
        """Replies that came when nobody waited for them any more."""
        return self._rpc.late_replies if self._rpc is not None else 0

    def __enter__(self) -> Self:
        """Open it, within the `timeout` that `rpc()` was given."""
        if self._rpc is not None:
            raise LocalProtocolError("this RPC was entered before: call rpc() again")
        self._rpc = self._portal.run(self._enter, self._timeout)
        return self

    async def _enter(self) -> rabbitry.RPC | rabbitry.ClientRPC:
        self._manager = self._make()
        return await self._manager.__aenter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        manager = self._manager
        if manager is not None and not self._portal.is_gone:
            self._portal.run(lambda: manager.__aexit__(None, None, None))

    def call(self, routing_key: str, payload: Any = None, *, timeout: Timeout = None, **options: Any) -> Any:
        """Send a request and return the reply's payload; `options` are those of the async `call`.

        The request expires with `timeout`. Timed out or interrupted, a late reply is dropped and counted.
        """
        rpc = self._rpc
        if rpc is None:
            raise LocalProtocolError("the RPC is not open: use it inside 'with client.rpc() as rpc'")
        return self._portal.run(lambda: rpc.call(routing_key, payload, **options), timeout)
