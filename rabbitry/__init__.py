"""rabbitry: RabbitMQ (AMQP 0-9-1) for Python on structured concurrency, natively under trio and asyncio.

The public names are in `rabbitry._public`, which is imported when the first of them is asked for: a package is imported
ahead of what is in it, so that the command line would wait for all of the client to show its `--help`, and Ctrl-C
would meet that import where nothing can catch it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rabbitry._public import *  # noqa: F403
    from rabbitry._public import __all__ as __all__
else:

    def __getattr__(name):
        """Called for what is not there yet: imports all of the public names."""
        if name == "__all__" or not name.startswith("_"):
            from rabbitry import _public

            for each in ("__all__", *_public.__all__):
                globals().setdefault(each, getattr(_public, each))  # what a test has put there meanwhile stays
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])

    def __dir__():
        __getattr__("__all__")
        return sorted(globals())
