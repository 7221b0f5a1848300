"""What users see of a signature is theirs to give: no private parameter, and no type of a private room."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module

import pytest

import rabbitry
from rabbitry import Queue
from tests.project.rooms import DOORS, Graph, is_within

GRAPH = Graph()


def public_names(door: str) -> dict[str, object]:
    module = import_module(door)
    found = {name: getattr(module, name) for name in getattr(module, "__all__", vars(module))}
    return {name: value for name, value in found.items() if not name.startswith("_") and not inspect.ismodule(value)}


def members(name: str, value: object) -> Iterator[tuple[str, Callable[..., object]]]:
    """What users call by a public name: a function, or a class, its constructor and its methods."""
    if not callable(value):
        return
    yield name, value
    if inspect.isclass(value):
        for each, member in inspect.getmembers(value, callable):
            is_public = not each.startswith("_") or each.endswith("__")
            of_ours = str(getattr(member, "__module__", "")).partition(".")[0] == "rabbitry"
            if is_public and of_ours and inspect.isroutine(member):
                yield f"{name}.{each}", member


def signatures(door: str) -> Iterator[tuple[str, inspect.Signature]]:
    for name, value in public_names(door).items():
        for label, member in members(name, value):
            try:
                yield label, inspect.signature(member)
            except ValueError:  # of an exception that has Python's own constructor
                continue


CALLED = [(door, label, shown) for door in DOORS for label, shown in signatures(door)]


def test_much_is_looked_at() -> None:
    labels = {(door, label) for door, label, _ in CALLED}
    assert len(labels) > 500
    assert labels >= {("rabbitry", "Queue.__init__"), ("rabbitry", "Queue.temporary"), ("rabbitry.blocking", "connect")}


def test_no_parameter_is_private() -> None:
    """But of names that Python calls with what it chooses, as `__exit__`, which are positional."""
    private = [
        f"{door}: {label}({name})"
        for door, label, shown in CALLED
        for name, parameter in shown.parameters.items()
        if name.startswith("_") and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
    ]
    assert not private


def private_classes() -> set[str]:
    """Classes of rabbitry that no door has: nobody can give an object of one, but of a Protocol, which is any object
    with these methods."""
    public = {name for door in DOORS for name in public_names(door)}
    found = set()
    for module, tree in GRAPH.trees.items():
        if not is_within(module, "rabbitry"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
                if not bases & {"Protocol", "TypedDict"}:
                    found.add(node.name)
    return found - public


def test_no_parameter_is_of_a_private_class() -> None:
    private = private_classes()
    assert {"ChannelLife", "Settings", "Portal", "ServerName"} <= private
    found = [
        f"{door}: {label}({parameter})"
        for door, label, shown in CALLED
        if not is_within(door, "rabbitry.protocol")  # whose methods, events and slots are what it is about
        for parameter in shown.parameters.values()
        if set(re.findall(r"[A-Za-z_]\w*", re.sub(r"rabbitry\.\w+", "", str(parameter.annotation)))) & private
    ]
    assert not found


@pytest.mark.parametrize("name", ["Channel", "Client", "Connection", "Subscription"])
def test_what_only_the_library_makes_shows_no_constructor(name: str) -> None:
    for module in (rabbitry, import_module("rabbitry.blocking")):
        if name in module.__all__:
            text = pydoc.plain(pydoc.render_doc(getattr(module, name)))
            assert f" |  {name}(" not in text and " |  __init__(self)\n" in text
            assert not re.search(r"ChannelLife|Settings|Running|Registry|Portal", text)


def test_help_begins_with_what_to_begin_with() -> None:
    """And tells of public names, not of how they come to be there."""
    text = pydoc.plain(pydoc.render_doc(rabbitry))
    assert "rabbitry - A RabbitMQ (AMQP 0-9-1) client on structured concurrency" in text
    assert text.index("open_client") < text.index("PACKAGE CONTENTS")
    functions = re.findall(r"^    (?:async )?(\w+)\(", text[text.index("\nFUNCTIONS\n") : text.index("\nDATA\n")], re.M)
    assert functions == ["connect", "convert", "open_client", "open_reactor", "register_codec", "start_client"]
    assert "__getattr__" not in text and "__signature__" not in text


def test_the_introduction_names_what_is_public() -> None:
    named = set(re.findall(r"`([A-Za-z]\w+)`", rabbitry.__doc__ or "")) - {"TimeoutError"}
    assert len(named) > 20 and named <= set(rabbitry.__all__)


def test_a_temporary_queue_is_made_by_its_name_alone() -> None:
    """It has what the others don't by no argument that others could give."""
    queue = Queue.temporary(max_length=5)
    assert queue.is_temporary and queue.name == "" and queue.max_length == 5 and queue == queue
    assert queue != Queue.temporary(max_length=5)
    assert repr(queue).startswith("Queue(name='', ") and "server" not in repr(queue)
    with pytest.raises(TypeError, match="_server"):
        Queue("q", _server=None)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"Queue\.temporary"):
        replace(queue, max_length=6)
    with pytest.raises(TypeError, match="name"):
        Queue.temporary(name="mine")
