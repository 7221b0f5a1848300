"""Exchanges: which destinations a message's routing keys and headers lead to, by the type of the exchange.

What must stay true: routing asks, and changes nothing; a destination that is bound twice is found once. Knows
destinations as objects that can be compared, and nothing of queues.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from rabbitry.broker.fields import type_name
from rabbitry.protocol.server.refusals import Refusal, term

__all__ = ["TYPES", "Binding", "Destination", "Exchange", "check_headers_binding"]


class Destination(Protocol):
    """What can be bound: a queue or an exchange."""

    @property
    def name(self) -> str:
        """Unique among its kind in its virtual host."""
        ...


class Binding:
    """`destination` gets what matches `key` and `arguments` at `source`."""

    __slots__ = ("arguments", "destination", "key", "source")

    def __init__(self, source: Exchange, destination: Destination, key: str, arguments: Mapping[str, Any]) -> None:
        self.source: Exchange = source
        self.destination: Destination = destination
        self.key: str = key
        self.arguments: Mapping[str, Any] = arguments


Found: TypeAlias = dict[Destination, None]
"""Destinations in the order they were found: dicts keep it, and hold each once."""


class _Direct:
    """By the whole routing key."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[Binding, None]] = {}

    def add(self, binding: Binding) -> None:
        self._by_key.setdefault(binding.key, {})[binding] = None

    def remove(self, binding: Binding) -> None:
        bindings = self._by_key[binding.key]
        del bindings[binding]
        if not bindings:
            del self._by_key[binding.key]

    def find(self, keys: Sequence[str], headers: Mapping[str, Any], exact: bool, found: Found) -> None:
        for key in keys:
            for binding in self._by_key.get(key, ()):
                found[binding.destination] = None


class _Listed:
    """Bindings that are looked through one by one."""

    def __init__(self) -> None:
        self._bindings: dict[Binding, None] = {}

    def add(self, binding: Binding) -> None:
        self._bindings[binding] = None

    def remove(self, binding: Binding) -> None:
        del self._bindings[binding]


class _Fanout(_Listed):
    """To all."""

    def find(self, keys: Sequence[str], headers: Mapping[str, Any], exact: bool, found: Found) -> None:
        for binding in self._bindings:
            found[binding.destination] = None


class _Node:
    """A word of binding keys, and those that go on from it or end here."""

    __slots__ = ("bindings", "children")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.bindings: dict[Binding, None] = {}


class _Topic:
    """By patterns of words: "*" is one word, which may be empty, "#" any number of them. A trie of the patterns."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, binding: Binding) -> None:
        node = self._root
        for word in _words(binding.key):
            node = node.children.setdefault(word, _Node())
        node.bindings[binding] = None

    def remove(self, binding: Binding) -> None:
        path = [self._root]
        words = _words(binding.key)
        for word in words:
            path.append(path[-1].children[word])
        del path[-1].bindings[binding]
        for parent, word in zip(reversed(path[:-1]), reversed(words), strict=True):
            child = parent.children[word]
            if child.children or child.bindings:
                break
            del parent.children[word]

    def find(self, keys: Sequence[str], headers: Mapping[str, Any], exact: bool, found: Found) -> None:
        for key in keys:
            self._find(_words(key), found)

    def _find(self, words: Sequence[str], found: Found) -> None:
        """Each node is entered once for each number of words behind it, however many "#" there are."""
        entered: set[tuple[_Node, int]] = set()
        following = [(self._root, 0)]
        while following:
            place = following.pop()
            if place in entered:
                continue
            entered.add(place)
            node, index = place
            any_number = node.children.get("#")
            if any_number is not None:
                following += ((any_number, further) for further in range(index, len(words) + 1))
            if index == len(words):
                for binding in node.bindings:
                    found[binding.destination] = None
                continue
            for word in ("*", words[index]):
                child = node.children.get(word)
                # "#" as a word of a routing key is a word; as one of a pattern it was dealt with above
                if child is not None and child is not any_number:
                    following.append((child, index + 1))


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


class _Headers(_Listed):
    """By headers: all or any of a binding's arguments."""

    def find(self, keys: Sequence[str], headers: Mapping[str, Any], exact: bool, found: Found) -> None:
        for binding in self._bindings:
            if _headers_match(binding.arguments, headers, exact):
                found[binding.destination] = None


_RULES = ("all", "any", "all-with-x", "any-with-x")


def check_headers_binding(arguments: Mapping[str, Any]) -> None:
    """Raises `Refusal` for an `x-match` that there isn't."""
    rule = arguments.get("x-match", "all")
    if not isinstance(rule, str):
        raise Refusal(406, f"Invalid x-match field type {type_name(rule)} (value {rule}); expected longstr")
    if rule not in _RULES:
        text = f"Invalid x-match field value {term(rule.encode('utf-8', 'surrogateescape'))}"
        raise Refusal(406, f"{text}; expected all, any, all-with-x, or any-with-x")


def _headers_match(arguments: Mapping[str, Any], headers: Mapping[str, Any], exact: bool) -> bool:
    rule = arguments.get("x-match", "all")
    is_any = rule.startswith("any")
    with_x = rule.endswith("-with-x")
    for name, wanted in arguments.items():
        if name == "x-match" or (name.startswith("x-") and not with_x):
            continue
        matches = name in headers and (wanted is None or _equal(headers[name], wanted, exact))
        if matches is is_any:
            return is_any
    return not is_any


def _equal(value: Any, wanted: Any, exact: bool) -> bool:
    if exact and isinstance(value, float) is not isinstance(wanted, float):
        return False
    return bool(_plain(value) == _plain(wanted))


def _plain(value: Any) -> Any:
    """A value as Erlang compares it: strings as octets, and a boolean is no number."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value


_Kind: TypeAlias = _Direct | _Fanout | _Topic | _Headers

TYPES: dict[str, type[_Kind]] = {"direct": _Direct, "fanout": _Fanout, "topic": _Topic, "headers": _Headers}
"""The types of exchanges that there are."""


class Exchange:
    """One exchange and the bindings of which it is the source."""

    __slots__ = ("_router", "arguments", "auto_delete", "bindings", "durable", "incoming", "internal", "name", "type")

    def __init__(
        self,
        name: str,
        type: str,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.name: str = name
        self.type: str = type
        self.durable: bool = durable
        self.auto_delete: bool = auto_delete
        self.internal: bool = internal
        self.arguments: Mapping[str, Any] = arguments or {}
        self.bindings: dict[object, Binding] = {}
        self.incoming: dict[Binding, None] = {}  # of which it is the destination
        self._router = TYPES[type]()

    def bind(self, identity: object, binding: Binding) -> None:
        """Add a binding that is not there yet; `identity` is what makes it the same as another."""
        self.bindings[identity] = binding
        self._router.add(binding)

    def unbind(self, identity: object) -> Binding | None:
        """Remove a binding, if it is there."""
        binding = self.bindings.pop(identity, None)
        if binding is not None:
            self._router.remove(binding)
        return binding

    def find(self, keys: Sequence[str], headers: Mapping[str, Any], exact: bool) -> Iterable[Destination]:
        """The destinations of a message, each once. `exact`: whether 1 and 1.0 are different."""
        found: Found = {}
        self._router.find(keys, headers, exact, found)
        return found
