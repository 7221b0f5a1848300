"""What a delivery passes, without a broker."""

from __future__ import annotations

from loadtest.commands.flags import parse_settings
from loadtest.drivers.base import Answer, Receive
from loadtest.execution import receiving
from loadtest.execution.receiving import make_receive, make_work
from loadtest.execution.state import Run, start_run
from loadtest.scenarios.plan import Place
from loadtest.scenarios.settings import Role

stopped: list[bool] = []


def prepared(line: str, consumer: int = 0) -> tuple[Run, Receive]:
    words = ["--producers", "2", "--consumers", "4", "--seed", "1", *line.split()]
    run = start_run(parse_settings(words, {}))
    stopped.clear()
    place = Place(Role.CONSUMER, consumer, run.plan.queues[consumer % len(run.plan.queues)])
    return run, make_receive(run, place, lambda: stopped.append(True))


def send(run: Run, producer: int = 0) -> bytes:
    return run.bodies(producer, run.record.ledger.accounts[producer].send(), 1)


def test_a_delivery_put_back_has_not_arrived() -> None:
    run, receive = prepared("--requeue 30% --reject 20%")
    waiting = [send(run) for _ in range(2000)]
    answers: list[Answer] = []
    while waiting:
        body = waiting.pop(0)
        answers.append(receive(body, False))
        if answers[-1] is Answer.REQUEUE:
            waiting.append(body)
    tally = run.record.tally
    assert tally.requeued == answers.count(Answer.REQUEUE)
    assert 0.25 < tally.requeued / len(answers) < 0.35
    assert tally.rejected == answers.count(Answer.REJECT)
    assert 0.15 < tally.rejected / len(answers) < 0.25
    assert tally.received == len(answers)
    assert tally.received - tally.requeued == run.record.ledger.unique == 2000
    assert run.record.ledger.balance().missing == 0


def test_what_is_put_back_and_never_comes_again_is_missing() -> None:
    run, receive = prepared("--requeue 50%")
    put_back = [receive(send(run), False) for _ in range(100)].count(Answer.REQUEUE)
    assert run.record.ledger.balance().missing == put_back > 20


def test_spoilt_bodies_are_counted_and_received() -> None:
    run, receive = prepared("--body random")
    body = send(run)
    assert receive(body[:-1] + bytes([body[-1] ^ 1]), False) is Answer.ACK
    assert receive(send(run), False) is Answer.ACK
    tally = run.record.tally
    assert (tally.corrupted, tally.received, tally.foreign) == (1, 2, 0)
    assert receive(b"x" * 200, False) is Answer.ACK
    assert (tally.corrupted, tally.foreign) == (1, 1)


def test_each_queue_has_its_copies_accounts() -> None:
    run, first = prepared("--fanout 2")
    second = make_receive(run, Place(Role.CONSUMER, 1, run.plan.queues[1]), lambda: None)
    bodies = [send(run, producer) for producer in (0, 0, 1)]
    for body in bodies:
        first(body, False)
    second(bodies[0], False)
    second(bodies[0], True)
    run.record.ledger.spread(run.settings.producers)
    balance = run.record.ledger.balance()
    assert (balance.confirmed, balance.unique, balance.missing) == (6, 4, 2)
    assert run.record.tally.received - balance.unique == 1
    assert run.record.ledger.fairness() == 0.9  # 2 and 1 messages, whatever became of their copies


def test_copies_of_what_was_not_confirmed_are_not_missed() -> None:
    run, _ = prepared("--fanout 2")
    for _ in range(3):
        send(run)
    run.record.ledger.accounts[0].disown(1)
    run.record.ledger.spread(run.settings.producers)
    assert run.record.ledger.balance().missing == 4


def test_anothers_messages_are_put_back_and_end_the_run() -> None:
    run, receive = prepared("--queue q --url amqp://localhost")
    assert receive(send(run), False) is Answer.ACK
    assert not stopped
    assert receive(b"not ours", False) is Answer.REQUEUE
    assert stopped
    assert run.enough.is_set()
    assert run.record.tally.foreign == 1
    assert "ForeignMessage" in run.record.errors.counts


def test_anothers_messages_are_taken_where_that_was_said() -> None:
    run, receive = prepared("--queue q --url amqp://localhost --consume-foreign")
    assert receive(b"not ours", False) is Answer.ACK
    assert not stopped
    assert run.record.tally.foreign == 1
    assert not run.record.errors.counts


def test_what_is_not_asked_for_is_not_in_the_way() -> None:
    run, receive = prepared("")
    assert receive.func is receiving.receive  # type: ignore[attr-defined]
    assert receive.args[0] == run.bodies.read  # type: ignore[attr-defined]
    assert make_work(run, Place(Role.CONSUMER, 0, "q")) is None


def test_work_is_drawn_from_the_seed_for_each_consumer() -> None:
    run, _ = prepared("--work exp:5ms")
    drawn = []
    for index in (0, 0, 1):
        work = make_work(run, Place(Role.CONSUMER, index, "q"))
        assert work is not None
        drawn.append([work() for _ in range(3)])
    assert drawn[0] == drawn[1] != drawn[2]
