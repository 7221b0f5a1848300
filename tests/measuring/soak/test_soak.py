"""A short soak on each backend, and that its ledger would notice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from rabbitry.testing import PrivateCluster
from rabbitry.testing.rabbitmq import install
from tests.measuring.soak.ledger import Ledger
from tests.measuring.soak.report import page, picture
from tests.measuring.soak.run import Soak


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateCluster]:
    with PrivateCluster() as cluster:
        yield cluster


@pytest.mark.skipif(
    "RABBITMQ_URL" in os.environ and not install.is_installed(),
    reason="RABBITMQ_URL is set and RabbitMQ not installed",
)
@pytest.mark.timeout(180)
async def test_what_is_confirmed_arrives_though_nodes_die(cluster: PrivateCluster, anyio_backend_name: str) -> None:
    soak = Soak(50, 15, seed=4, queues=4, kill_every=5, down_for=2, fault_every=4, on_progress=False)
    ledger = await soak.run(cluster)
    assert not soak.failures
    assert ledger.confirmed > 50  # of 750 asked for: a busy machine's cluster takes its time to come back
    assert "node killed" in ledger.since_fault and ledger.since_loss

    text = page(soak, anyio_backend_name)
    assert "| confirmed, but never delivered | **0** |" in text and "node killed" in text
    ElementTree.fromstring(picture(soak, anyio_backend_name))


def test_the_ledger_tells_lost_forged_and_unaccounted_messages() -> None:
    ledger = Ledger(began=0)
    assert ledger.failures() == ["nothing was confirmed"]
    ledger.enter(1, now=0)
    ledger.confirm(1, 1, now=1)
    assert ledger.failures() == ["1 confirmed and never delivered"]
    ledger.arrive(1, 1)
    ledger.arrive(1, 1)
    assert not ledger.failures() and ledger.duplicates == 1
    ledger.fail(1, 2, "OutcomeUnknown")
    assert not ledger.failures()
    ledger.arrive(1, 3)
    ledger.fail(1, 4, "NotSent")
    assert ledger.failures() == ["1 delivered that nobody published", "publishes ended as NotSent"]


def test_the_ledger_measures_from_fault_and_loss_to_the_next_confirm() -> None:
    ledger = Ledger(began=0)
    ledger.enter(1, now=0)
    ledger.strike("cut", now=1)
    ledger.strike("reset", now=2)
    ledger.lose(1, now=3)
    assert ledger.slowest(now=3) == 3 and ledger.down == {1}
    ledger.return_(1)
    ledger.lose(1, now=4)
    ledger.return_(1)
    ledger.confirm(1, 1, now=5)
    ledger.confirm(1, 2, now=6)
    assert ledger.since_fault == {"cut": [4], "reset": [3]} and ledger.since_loss == [2]
    assert not ledger.down and ledger.slowest(now=7) == 1
