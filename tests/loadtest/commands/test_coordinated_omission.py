"""A broker that stands still for a second of ten: what fell due meanwhile has waited, and the percentiles say so."""

from __future__ import annotations

import pytest

from rabbitry.testing import PrivateNode
from tests.measuring.coordinated_omission import BEYOND_MS, TOLERANCE, measure


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_second_of_ten(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share above x ms is (1,000 - x)/10,000, and more where the machine is busy or catching up takes long: by how
    much less than 5 % on a quiet one, `python -m tests.measuring.coordinated_omission` tells, and in simulated time
    execution/test_stopped_broker.py.
    """
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    with PrivateNode() as node:
        shares = measure(node, backend, 200.0)
    assert [(share.kind, share.beyond_ms) for share in shares] == [
        (kind, beyond) for kind in ("confirm", "rpc") for beyond in BEYOND_MS
    ]
    for share in shares:
        assert 1900 <= share.count <= 2300
        chance = 1.5 / share.count  # each client is due at a moment of its own
        assert share.seen > (1 - TOLERANCE) * share.predicted - chance, share
