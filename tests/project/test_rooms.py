"""The folder list is the architecture: imports point down the list of rooms, in no circle, through the front doors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.project.rooms import (
    DOORS,
    GUESTS,
    ONLY,
    ROOMS,
    Graph,
    is_within,
    room_of,
    through_the_wall,
    upward,
)

GRAPH = Graph()

# protocol is sans-IO: no clock, no socket, no event loop.
FORBIDDEN_IN_PROTOCOL = {
    "anyio", "asyncio", "select", "selectors", "socket", "sniffio", "ssl", "threading", "time", "trio", "uvloop",
}  # fmt: skip


def test_every_module_has_a_room() -> None:
    rooms = {room_of(module) for module in GRAPH.sources}
    assert rooms == set(ROOMS), "a room without a module is no room"
    assert set(ONLY) <= set(ROOMS)


def test_every_folder_opens_with_its_law() -> None:
    folders = {path.parent for path in GRAPH.sources.values()}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_imports_point_down_the_list_of_rooms() -> None:
    assert not upward(GRAPH)


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert not GRAPH.circles()


def test_guests_come_through_the_front_doors() -> None:
    assert set(DOORS) <= set(GRAPH.sources)
    assert all(any(is_within(module, guest) for module in GRAPH.sources) for guest in GUESTS)
    assert not through_the_wall(GRAPH)


def test_only_a_folder_says_that_it_is_not_for_import() -> None:
    """With an underscore. A file has none unless it lies at the top, where no folder can say it."""
    parts = [module.split(".") for module in GRAPH.sources]
    assert not [".".join(each) for each in parts if len(each) > 2 and re.match("_[^_]", each[-1])]


@pytest.mark.parametrize("module", [name for name in GRAPH.sources if is_within(name, "rabbitry.protocol")])
def test_protocol_does_no_io(module: str) -> None:
    assert not {name.partition(".")[0] for name in GRAPH.imported(module)} & FORBIDDEN_IN_PROTOCOL


BROKERS_THIN_PARTS = ("broker", "controls", "listening", "memory", "served", "session")


def test_the_brokers_core_is_pure() -> None:
    """What decides is synchronous, with time as an argument: only the thin parts know streams, tasks and clocks."""
    allowed = ("rabbitry.broker", "rabbitry.protocol.server", "rabbitry.protocol.wire", "rabbitry._errors")
    for module in GRAPH.sources:
        room, _, name = module.rpartition(".")
        if room == "rabbitry.broker" and name not in BROKERS_THIN_PARTS:
            assert not {each.partition(".")[0] for each in GRAPH.imported(module)} & FORBIDDEN_IN_PROTOCOL, module
            outside = [other for other in GRAPH.imports[module] if not any(is_within(other, each) for each in allowed)]
            assert not outside, f"{module} imports {outside}"


def test_names_that_are_another_modules_own() -> None:
    """Few, and each for the reason beside it. What needs another's private name either belongs there, or that is given
    a name.
    """
    reaches = {reach.partition(":")[0] + " " + reach.partition(" ")[2] for reach in GRAPH.reaches()}
    assert reaches == set(REACHES)
    assert len(GRAPH.reaches()) <= 25


REACHES = {
    "loadtest.strategies.cell os._exit": "a documented function of os, for all its underscore",
    "rabbitry.testing.rabbitmq.guardian os._exit": "the same",
    "loadtest.drivers.amqpstorm connection._io": "see there",
    "loadtest.drivers.amqpstorm connection._io._exceptions": "or it takes no notice of a lost connection",
    "loadtest.drivers.pika self._connection._impl": "what the broker says of itself: nothing public tells",
    "rabbitry.__main__ os._exit": "a documented function of os, for all its underscore",
    "rabbitry._channel.channel channel._life": "`life_of`, the door of the other rooms: a public one users would see",
    "rabbitry._channel.life message._encoded": "hot: the properties encoded before, without a call",
    "rabbitry._instrumented.client confirmation._on_settled": "whose operation goes on in another attempt",
    "rabbitry._instrumented.client once._on_settled": "see above",
    "rabbitry._instrumented.life confirmation._on_settled": "an Observer takes the place of what it calls",
    "rabbitry._rpc.caller delivery._header": "hot: by its octets a reply is known like others, and is not decoded",
    "rabbitry._rpc.envelope content._header": "what could not be decoded, which no user is to see",
    "rabbitry.blocking.ahead consumer._return": "see below",
    "rabbitry.blocking.ahead consumer._take_some": "what has arrived: a batch would wait for its first one",
    "rabbitry.blocking.channel channel._publish_nowait": "hot: as of the client",
    "rabbitry.blocking.client client._publish_nowait": "hot: what `publish` does with nearly all, without a task",
    "rabbitry.blocking.consumer consumer._return": "puts back what was fetched and not iterated; nothing public does",
    "rabbitry.blocking.pool publisher._window": "one channel serves windows of all sizes, and a publisher has one only",
    "rabbitry.blocking.threads function._functions": "of a Service only the names are public",
    "rabbitry.blocking.turns sys._getframe": "whether the stack is so deep: nothing public asks without walking it all",
}


# --- the checks themselves --------------------------------------------------------------------------------------------


def write(root: Path, **modules: str) -> Graph:
    for name, text in modules.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Graph(root)


def test_a_circle_of_type_only_imports_and_one_within_a_function_are_seen(tmp_path: Path) -> None:
    graph = write(
        tmp_path,
        rabbitry__a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rabbitry.b import B\n",
        rabbitry__b="def f():\n    from rabbitry import a\n",
        rabbitry__c="from rabbitry.a import x\n",
    )
    assert graph.circles() == [["rabbitry.a", "rabbitry.b"]]


def test_an_upward_import_and_one_past_the_doors_are_seen(tmp_path: Path) -> None:
    graph = write(
        tmp_path,
        rabbitry___transport__socket="from rabbitry.protocol.wire import codec\n",
        rabbitry__protocol__wire__codec="",
        loadtest__units="import rabbitry._transport.socket\n",
    )
    assert upward(graph) == [
        "loadtest.units imports rabbitry._transport.socket",
        "rabbitry._transport.socket imports rabbitry.protocol.wire.codec",
    ]
    assert through_the_wall(graph) == ["loadtest.units imports rabbitry._transport.socket"]


def test_a_private_name_of_another_module_is_seen(tmp_path: Path) -> None:
    graph = write(tmp_path, rabbitry__a="def f(x):\n    self._own = x._other\n    return x._own\n")
    assert graph.reaches() == ["rabbitry.a:2 x._other"]


def test_a_graph_that_is_asked_for_names_alone_reads_no_module(tmp_path: Path) -> None:
    (tmp_path / "rabbitry").mkdir()
    (tmp_path / "rabbitry" / "broken.py").write_text("no Python")
    graph = Graph(tmp_path)
    assert list(graph.sources) == ["rabbitry.broken"]
    with pytest.raises(SyntaxError):
        graph.imports


def test_a_module_of_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the rooms"):
        room_of("rabbitry.somewhere")
