"""What the tutorials' command line says where there is no broker."""

from __future__ import annotations

import argparse
import io
import logging

import pytest

import rabbitry
from rabbitry.tutorials import program
from rabbitry.tutorials.program import NO_BROKER, _Warnings

NOBODY = rabbitry.ConnectFailed("nothing listens at localhost:5672 (connection refused)")
REFUSED = rabbitry.AuthenticationFailed("the credentials were refused")


@pytest.mark.parametrize(
    ("tells_more", "errors", "hints"),
    [(True, [NOBODY, NOBODY], 1), (True, [REFUSED], 0), (False, [NOBODY], 0), (True, [], 0)],
)
def test_what_can_be_done_is_said_once_and_of_the_default_broker_alone(
    tells_more: bool, errors: list[rabbitry.RabbitryError], hints: int
) -> None:
    logger = logging.Logger("a tutorial's")
    handler = _Warnings(tells_more=tells_more)
    handler.setStream(said := io.StringIO())
    logger.addHandler(handler)
    logger.info("not shown")
    logger.warning("no arguments")
    logger.warning("a mapping: %(x)s", {"x": 1})
    for error in errors:
        logger.warning("%s: %s", "send", error)
    lines = said.getvalue().splitlines()
    assert lines.count(NO_BROKER) == hints
    assert len(lines) == 2 + len(errors) + hints
    assert "python -m rabbitry broker" in NO_BROKER


def test_a_backend_that_is_not_installed_is_told_how_to_get(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [program._backend(name) for name in ("asyncio", "trio")] == ["asyncio", "trio"]
    monkeypatch.setattr(program, "find_spec", lambda name: None if name == "trio" else name)
    assert program._backend("asyncio") == "asyncio"
    with pytest.raises(argparse.ArgumentTypeError, match=r"pip install trio"):
        program._backend("trio")
    with pytest.raises(argparse.ArgumentTypeError, match="no 'curio'"):
        program._backend("curio")
