"""Each cell of the table is a test: an operation, a fault, a backend. All operations of a fault run side by side."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import anyio
import pytest

from rabbitry.testing import PrivateCluster, PrivateNode
from tests.measuring.fault_table.cells import RULES, Cell, run_fault
from tests.measuring.fault_table.faults import FAULTS, ON_A_CLUSTER
from tests.measuring.fault_table.operations import OPERATIONS


@pytest.fixture(scope="module")
def own_node() -> Iterator[PrivateNode]:
    """Killed and restarted here, so no other test's."""
    with PrivateNode() as node:
        yield node


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateCluster]:
    with PrivateCluster() as cluster:
        yield cluster


@pytest.mark.timeout(150)
@pytest.mark.parametrize("operation", [operation.name for operation in OPERATIONS])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("fault", FAULTS)
def test_under(fault: str, backend: str, operation: str, request: pytest.FixtureRequest) -> None:
    nodes = request.getfixturevalue("cluster").nodes if fault == ON_A_CLUSTER else [request.getfixturevalue("own_node")]
    cell = outcomes(fault, backend, tuple(nodes))[operation]
    print(cell)
    assert not cell.failures(RULES[fault][operation])


@cache
def outcomes(fault: str, backend: str, nodes: tuple[PrivateNode, ...]) -> dict[str, Cell]:
    """What became of all operations: one run for the nine tests that look at it."""
    for node in nodes:
        if not node.is_running:
            node.restart()
    return anyio.run(run_fault, fault, list(nodes), backend=backend)
