"""What it takes to test against RabbitMQ: a private broker or a cluster, faults of theirs and of the network, virtual
time, and a pytest plugin (`pytest_plugin.py`) with fixtures of all that and of the embedded broker.

Private nodes need an installed RabbitMQ, and nothing else here does: `python -m rabbitry.testing.install` installs it,
and `python -m rabbitry.testing.debian` puts that of another Debian release into a folder. Both are commands alone;
programs import from here and nowhere below.

The names are imported when the first of them is asked for, as pytest imports its plugin in each of its runs, whoever
needs it, and the plugin is in this package.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rabbitry.testing.names import *  # noqa: F403
    from rabbitry.testing.names import __all__ as __all__
else:

    def __getattr__(name):
        """Called for what is not there yet: imports all of the public names, and is not needed any more."""
        if name == "__all__" or not name.startswith("_"):
            names = import_module("rabbitry.testing.names")
            for each in ("__all__", *names.__all__):
                globals().setdefault(each, getattr(names, each))  # what a test has put there meanwhile stays
            for each in ("__getattr__", "__dir__"):
                globals().pop(each, None)  # Python does the same from now on, and `help` shows names alone
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])

    def __dir__():
        load = globals().get("__getattr__")
        if load is not None:
            load("__all__")
        return sorted(globals())
