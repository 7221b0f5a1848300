"""Each case with RabbitMQ and with the embedded broker that says it is like it: the transcripts must be equal.

RabbitMQ is the run's own (see tests/conftest.py), of whatever version that is; the broker is told to be the same.
"""

from __future__ import annotations

import pytest

from rabbitry.testing import PrivateNode
from tests.broker.conformance import (  # noqa: F401 - they fill the catalogue
    cases_consuming,
    cases_deaths,
    cases_discards,
    cases_entities,
    cases_overflow,
    cases_protocol,
    cases_publishing,
    cases_settling,
    cases_streams,
)
from tests.broker.conformance.cases_settling import settled_and_published_in_a_transaction
from tests.broker.conformance.catalogue import CASES
from tests.broker.conformance.conversation import Conversation, transcript
from tests.broker.conformance.differences import DIFFERENCES


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, rabbitmq: PrivateNode, embedded: str, version: str) -> None:
    theirs = transcript(CASES[name], rabbitmq.url)
    ours = transcript(CASES[name], embedded, is_embedded=True)
    assert theirs, "a case says something"
    if (name, version) in DIFFERENCES or (name, "") in DIFFERENCES:
        assert ours != theirs, "a difference that is none any more"
        return
    assert ours == theirs


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 400
    assert {name for name, _ in DIFFERENCES} <= set(CASES)


@pytest.mark.parametrize("outcome", ["ack", "reject", "requeue"])
def test_a_commit_to_a_quorum_queue(outcome: str, embedded: str) -> None:
    """Of the embedded broker alone: RabbitMQ, unless it is busy, heeds a commit's settlements before its messages, too,
    which wait for others to be written with them.
    """

    def case(c: Conversation) -> None:
        settled_and_published_in_a_transaction(c, "quorum", outcome)

    came = [entry[1:] for entry in transcript(case, embedded, is_embedded=True) if entry[0] == "unexpected"]
    first = {"ack": b"3", "reject": b"3", "requeue": b"2"}[outcome]
    limited = [body for _, fields, _, body in came if fields["consumer_tag"] == "limited"]
    assert limited == [first] and len(came) == (3 if outcome == "requeue" else 2)
