"""Routing by itself: the topic trie against a pattern matched the slow way, and what is left behind by unbinding."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from rabbitry.broker.exchanges import Binding, Exchange

WORDS = st.sampled_from(["a", "b", ""])
KEYS = st.lists(WORDS, max_size=5).map(".".join)
PATTERNS = st.lists(st.one_of(WORDS, st.just("*"), st.just("#")), max_size=5).map(".".join)


class Place:
    """Something to bind."""

    def __init__(self, name: str) -> None:
        self.name = name


def matches(pattern: list[str], words: list[str]) -> bool:
    """By the definition."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(matches(pattern[1:], words[index:]) for index in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and matches(pattern[1:], words[1:])


def split(key: str) -> list[str]:
    return key.split(".") if key else []


@given(st.lists(PATTERNS, max_size=6, unique=True), st.lists(KEYS, max_size=6), st.data())
def test_topics_match_by_their_definition(patterns: list[str], keys: list[str], data: st.DataObject) -> None:
    exchange = Exchange("x", "topic")
    for pattern in patterns:
        exchange.bind(pattern, Binding(exchange, Place(pattern), pattern, {}))
    removed = data.draw(st.sets(st.sampled_from(patterns))) if patterns else set()
    for pattern in removed:
        exchange.unbind(pattern)
    for key in keys:
        found = {place.name for place in exchange.find((key,), {}, True)}
        assert found == {each for each in patterns if each not in removed and matches(split(each), split(key))}


def test_many_wildcards_take_no_time() -> None:
    exchange = Exchange("x", "topic")
    pattern = ".".join(["#", "a"] * 20)
    exchange.bind(pattern, Binding(exchange, Place("q"), pattern, {}))
    began = time.process_time()
    assert not list(exchange.find((".".join(["a"] * 100 + ["b"]),), {}, True))
    assert time.process_time() - began < 2.0


def test_what_is_unbound_leaves_nothing() -> None:
    for kind in ("direct", "fanout", "topic", "headers"):
        exchange = Exchange("x", kind)
        for key in ("a.b.c", "a.*", "#"):
            exchange.bind(key, Binding(exchange, Place("q"), key, {}))
        for key in ("a.*", "#", "a.b.c"):
            assert exchange.unbind(key) is not None
            assert exchange.unbind(key) is None
        assert not exchange.bindings and not list(exchange.find(("a.b.c",), {}, True))
        router = vars(exchange._router)
        assert not any(getattr(each, "children", each) for each in router.values()), router


def test_headers_that_are_no_numbers_are_none() -> None:
    exchange = Exchange("x", "headers")
    exchange.bind(1, Binding(exchange, Place("q"), "", {"a": 1}))
    for value, is_found in ((1, True), (True, False), ("1", False), (None, False), (2, False)):
        assert bool(list(exchange.find(("",), {"a": value}, True))) is is_found
    assert list(exchange.find(("",), {"a": 1.0}, False)) and not list(exchange.find(("",), {"a": 1.0}, True))


def test_a_binding_is_matched_whole() -> None:
    """A word is no prefix of another."""
    exchange = Exchange("x", "topic")
    exchange.bind(1, Binding(exchange, Place("q"), "ab.c", {}))
    assert not list(exchange.find(("a.c",), {}, True)) and not list(exchange.find(("abc",), {}, True))
