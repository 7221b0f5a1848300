"""What the reference shows: which names, which of their members, and what a word in a docstring refers to.

What must stay true: every public name is shown once, with all that its users call; and nothing that is there for this
library's other rooms alone.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "CONSTRUCTED",
    "MODULES",
    "PLUMBING",
    "Shown",
    "inventories",
    "members_of",
    "names_in_pages",
    "public_names",
    "scope_of",
    "target_of",
]

DOCS = Path(__file__).parents[1]

MODULES = (
    *("rabbitry", "rabbitry.blocking", "rabbitry.testing", "rabbitry.broker", "rabbitry.opentelemetry"),
    *("rabbitry.prometheus", "rabbitry.taskiq"),
)
"""The doors, whose names are in the reference."""

PLUMBING = {
    *("Exchange.declaration", "Exchange.deletion", "ExchangeBinding.declaration", "ExchangeBinding.deletion"),
    *("Binding.declaration", "Binding.deletion", "Queue.declaration", "Queue.deletion"),
    *("Backoff.delay", "Backoff.is_exhausted", "Backoff.rest"),
    *("Confirmation.check", "Confirmation.forget_return", "Confirmation.lose", "Confirmation.mark_returned"),
    *("Confirmation.settle", "Confirmation.tell", "Confirmation.told"),
    *("Consumer.cancelled_by_broker", "Consumer.channel_ended", "Consumer.drop_stale", "Consumer.put"),
    *("Consumer.refuse", "Consumer.take_over"),
    *("RPC.cancelled_by_broker", "RPC.channel_ended", "RPC.drop_stale", "RPC.put", "RPC.refuse"),
    *("Delivery.put_back", "Delivery.seems_streamed", "Delivery.settle_handled"),
    *("VirtualTimeLoop.run_forever", "VirtualTimeLoop.run_in_executor", "VirtualTimeLoop.shutdown_default_executor"),
    *("GetOperation.ended_by", "Message.encoded_properties", "Operation.ended_by", "Operation.located"),
}
"""Members without an underscore that no user is to call: a class shares them with other rooms."""

CONSTRUCTED = {
    *("rabbitry.Service", "rabbitry.Stop", "rabbitry.broker.Broker", "rabbitry.opentelemetry.OpenTelemetry"),
    *("rabbitry.prometheus.Prometheus", "rabbitry.taskiq.RabbitryBroker"),
    *("rabbitry.testing.PrivateCluster", "rabbitry.testing.PrivateNode", "rabbitry.testing.Schedule"),
    *("rabbitry.testing.VirtualTimeLoop",),
}
"""Classes that users call, beside those that are plain values; the others are given to them."""


class Shown(NamedTuple):
    """One name of the reference."""

    module: str
    name: str
    value: Any

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def is_constructed(self) -> bool:
        """Whether its users make it, so that it shows what that takes."""
        value = self.value
        is_value = hasattr(value, "__dataclass_fields__") or issubclass(value, tuple)
        return self.path in CONSTRUCTED or (is_value and not issubclass(value, BaseException))


@cache
def public_names() -> dict[str, Shown]:
    """Every name of the doors, by its path."""
    found = [
        Shown(module, name, getattr(import_module(module), name))
        for module in MODULES
        for name in import_module(module).__all__
    ]
    return {each.path: each for each in found}


@cache
def members_of(path: str) -> tuple[str, ...]:
    """What is shown of a class: its own members, and those of bases that are not shown themselves, as in the source."""
    shown = public_names()[path]
    siblings = {each.value for each in public_names().values() if inspect.isclass(each.value)} - {shown.value}
    found: dict[str, None] = {}
    for base in shown.value.__mro__:
        if base in siblings or not base.__module__.startswith("rabbitry"):
            break
        for name, member in vars(base).items():
            if not name.startswith("_") and f"{base.__name__}.{name}" not in PLUMBING and _is_called(member):
                found.setdefault(name)
    return tuple(name for name in found if f"{shown.name}.{name}" not in PLUMBING)


def _is_called(member: object) -> bool:
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    return isinstance(member, types.FunctionType | property)


def names_in_pages() -> Iterator[tuple[str, str]]:
    """The names that the pages of the reference ask for, as (page, path)."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for module, names in re.findall(r"^```\{public\} (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for name in names.split():
                yield page.relative_to(DOCS).as_posix(), f"{module}.{name}"


# --- what a word refers to --------------------------------------------------------------------------------------------

RECEIVERS = {
    "broker": "Broker",
    "channel": "Channel",
    "client": "Client",
    "confirmation": "Confirmation",
    "connection": "Connection",
    "delivery": "Delivery",
    "message": "Message",
    "publisher": "Publisher",
    "proxy": "Proxy",
    "rpc": "RPC",
    "stop": "Stop",
}
"""What examples call a value of each class."""


def scope_of(page: str) -> str | None:
    """The module whose names a page's words mean; None where they may be another library's."""
    if page in ("guides/blocking", "reference/blocking"):
        return "rabbitry.blocking"
    about_it = page.startswith(("guides/", "reference/")) or page in ("index", "tutorial", "defaults", "architecture")
    return "rabbitry" if about_it or page in ("testing", "embedded_broker") else None


@cache
def inventories() -> dict[str, dict[str, str]]:
    """The names of other projects that can be linked: by project, each with its kind. See `inventories/README.md`."""
    found = {}
    for path in sorted((Path(__file__).parent / "inventories").glob("*.txt")):
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        found[path.stem] = {name: kind for name, kind, _ in rows}
    return found


@cache
def _known() -> frozenset[str]:
    members = {f"{path}.{name}" for path, each in public_names().items() if inspect.isclass(each.value)
               for name in members_of(path)}  # fmt: skip
    return frozenset(public_names()) | members


def target_of(words: str, path: str, parameters: frozenset[str]) -> str | None:
    """What these words, in the docstring of what is at `path`, are called in full; None for what is no name."""
    if words in parameters or not re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", words):
        return None
    name = words.removesuffix("()")
    receiver, dot, rest = name.partition(".")
    names = [name, f"{RECEIVERS[receiver]}.{rest}"] if dot and receiver in RECEIVERS else [name]
    scopes = [".".join(path.split(".")[:length]) for length in range(path.count(".") + 1, 0, -1)]
    for each in names:
        for candidate in (*(f"{scope}.{each}" for scope in scopes), each):
            if candidate in _known():
                return None if candidate == path else candidate
    return name if any(name in names for names in inventories().values()) else None
