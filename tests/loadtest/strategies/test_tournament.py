"""The order of cells, who is given up, and what a cell's process tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anyio
import psutil
import pytest

from loadtest.execution.body import BodyMaker
from loadtest.machine.resources import Meter
from loadtest.strategies import course, tournament
from loadtest.strategies.course import Course
from loadtest.strategies.ground import PrivateGround, declare_queues
from loadtest.strategies.table import STRATEGIES
from loadtest.strategies.tournament import Plan, Tournament, run_process
from loadtest.strategies.work import Book, Cell, Window
from loadtest.urls import with_vhost
from rabbitry import connect
from rabbitry.testing import PrivateNode

PLAN = Plan(
    strategies=tuple(STRATEGIES),
    clients=(100, 10),
    trials=3,
    seconds=0.5,
    warmup=0.1,
    size=64,
    prefetch=10,
    memory_bound=2**32,
    seed=1,
)


def test_the_order_is_the_seeds_and_has_every_trial_once() -> None:
    orders = PLAN.orders()
    assert orders == PLAN.orders()
    assert orders != replace(PLAN, seed=2).orders()
    assert [order[0][1] for order in orders] == [10, 100]  # from few to many
    for order in orders:
        assert len(set(order)) == len(order) == len(STRATEGIES) * 3
        assert [name for name, _, _ in order] != [name for _ in range(3) for name in STRATEGIES]


class Scripted(Tournament):
    """Performs nothing: each cell ends as `outcome` says."""

    outcome: Callable[[str, int, int], dict[str, Any] | None]

    def _perform(self, strategy: str, clients: int, trial: int) -> dict[str, Any]:
        gave_up = self.outcome(strategy, clients, trial)
        publish = {"rate": 1.0, "confirm_latency_ms": {"p50": None}}
        cell = {"strategy": strategy, "clients": clients, "trial": trial, "gave_up": gave_up, "publish": publish}
        return cell | {"resources": {"client_rss_bytes": 1}}


def scripted(outcome: Callable[[str, int, int], dict[str, Any] | None], clients: tuple[int, ...]) -> Scripted:
    plan = replace(PLAN, strategies=("aiormq", "threads-pika"), clients=clients)
    done = Scripted(plan, PrivateGround(PrivateNode()), lambda text: None)
    done.outcome = outcome
    done.run()
    return done


def test_who_is_given_up_in_every_trial_is_not_tried_with_more() -> None:
    reason = {"reason": "memory", "text": "its process took 9 MiB", "number": 9}
    done = scripted(lambda name, clients, _: reason if (name, clients) == ("aiormq", 20) else None, (10, 20, 30, 40))
    assert {(cell["strategy"], cell["clients"]) for cell in done.cells} == {
        *[("aiormq", clients) for clients in (10, 20)],
        *[("threads-pika", clients) for clients in (10, 20, 30, 40)],
    }
    assert done.not_tried == [
        {"strategy": "aiormq", "clients": clients, "because": {"clients": 20, **reason}} for clients in (30, 40)
    ]
    assert len(done.cells) == 6 * 3


def test_who_got_through_once_is_tried_with_more() -> None:
    reason = {"reason": "memory", "text": "its process took 9 MiB", "number": 9}
    done = scripted(lambda name, clients, trial: reason if trial else None, (10, 20))
    assert len(done.cells) == 4 * 3
    assert not done.not_tried


@pytest.fixture(scope="module")
def cell(node: PrivateNode) -> Cell:
    cell = Cell(
        strategy="connection-per-client",
        clients=4,
        trial=0,
        url=node.url,
        broker_pid=node.pid,
        seconds=0.5,
        warmup=0.1,
        size=64,
        prefetch=10,
        memory_bound=2**32,
        bound=60.0,
    )
    declare_queues(cell.url, cell.queues)
    return cell


def empty(cell: Cell) -> None:
    """Its queues are new: what a virtual host of its own would be, without three calls of rabbitmqctl."""

    async def delete() -> None:
        async with connect(cell.url) as connection, connection.channel() as channel:
            for queue in cell.queues:
                await channel.delete_queue(queue)

    anyio.run(delete)
    declare_queues(cell.url, cell.queues)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_does_the_same_work_and_loses_nothing(cell: Cell, name: str) -> None:
    empty(cell)
    result = run_process(replace(cell, strategy=name))
    assert result["gave_up"] is None, result
    assert result["errors"] == {}
    publish, consume, resources = result["publish"], result["consume"], result["resources"]
    assert publish["sent"] == publish["confirmed"] > 2
    assert (consume["missing"], consume["duplicates"]) == (0, 0)
    assert consume["unique"] == publish["confirmed"]
    assert publish["rate"] > 0
    assert consume["rate"] > 0
    assert publish["confirm_latency_ms"]["count"] >= publish["rate"] * 0.4
    assert result["connect"]["connected"] == 4
    assert result["measured_seconds"] >= 0.5
    assert resources["client_cpu_us_per_message"] > 0
    assert resources["broker_cpu_seconds"] is not None
    is_threaded = name.startswith("threads")
    assert (resources["client_threads"] >= 5) is is_threaded


def test_a_process_that_takes_too_much_memory_is_given_up(cell: Cell) -> None:
    result = run_process(replace(cell, memory_bound=1))
    assert result["gave_up"]["reason"] == "memory"
    assert result["gave_up"]["number"] > 1


def test_clients_that_can_not_connect_say_why(node: PrivateNode, cell: Cell) -> None:
    node.rabbitmqctl("add_vhost", "bare")
    node.rabbitmqctl("set_permissions", "-p", "bare", "guest", ".*", ".*", ".*")
    result = run_process(replace(cell, strategy="channel-per-client", url=with_vhost(node.url, "bare")))
    assert result["gave_up"]["reason"] == "connect"
    assert "2 of 4 clients were connected after" in result["gave_up"]["text"]
    assert "; 2 times: NotFound: channel closed (404): NOT_FOUND - no queue" in result["gave_up"]["text"]


def test_descriptors_that_run_out_are_a_reason_with_its_number(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = SimpleNamespace(arrived=3, failed=0, working=0, books=[])
    found = Course(cell, Window(), Meter(None))
    monkeypatch.setattr(course.resource, "getrlimit", lambda which: (4, 4))
    assert list(found.run(crowd, lambda: None, lambda: 1)) == [course.LOOK]
    assert found.gave_up is not None
    assert (found.gave_up["reason"], found.gave_up["number"]) == ("descriptors", 3)
    assert "of the 4 descriptors allowed were open with 3 clients connected" in found.gave_up["text"]


def test_what_libraries_say_of_a_broker_is_told_without_its_password(cell: Cell) -> None:
    secret = replace(cell, url="amqp://me:sesame@there")
    book = Book(Window(), BodyMaker(1, 64))
    book.note(ConnectionError("no way to amqp://me:sesame@there"))
    crowd = SimpleNamespace(arrived=0, failed=4, working=0, books=[book])
    found = Course(secret, book.window, Meter(None))
    found.give_up("connect", "no way to amqp://me:sesame@there", 0)
    result = found.result(crowd)
    assert result["errors"] == {"ConnectionError: no way to amqp://me@there": 1}
    assert "sesame" not in str(result)


@pytest.mark.parametrize("name", ["connection-per-client", "channel-per-client", "threads-pika", "aio-pika-pool"])
def test_a_broker_that_is_not_there_is_given_up_with_its_reason(cell: Cell, name: str) -> None:
    result = run_process(replace(cell, strategy=name, url="amqp://guest:guest@127.0.0.1:1/"))
    assert result["gave_up"]["reason"] == "connect"
    assert "guest:guest" not in str(result)


def test_a_process_that_does_not_end_is_ended(cell: Cell) -> None:
    result = run_process(replace(cell, seconds=60.0, bound=1.5))
    assert result["gave_up"]["reason"] == "bound"
    assert result["publish"] is None
    assert not [child for child in psutil.Process().children() if "strategies.cell" in " ".join(child.cmdline())]


def test_a_process_that_fails_says_why(cell: Cell) -> None:
    result = run_process(replace(cell, strategy="no such thing"))
    assert result["gave_up"]["reason"] == "ended"
    assert "no such thing" in result["gave_up"]["text"]


def test_confirmed_messages_that_are_nowhere_are_lost(node: PrivateNode, cell: Cell, monkeypatch: Any) -> None:
    monkeypatch.setattr(tournament, "REST_BOUND", 1.0)
    declare_queues(node.url, ["test.strategies.lost"])
    done = Tournament(PLAN, PrivateGround(node), lambda text: None)
    found = {"consume": {"missing": 2}}
    assert done._find_lost(found, node.url, ["test.strategies.lost"]) == 2
    assert done._find_lost({"consume": {"missing": 0}}, node.url, []) == 0
    assert done._find_lost({"consume": {"missing": None}}, node.url, []) is None
