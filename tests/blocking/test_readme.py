"""The README's program without async runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_program_runs(amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All that is changed is the broker's address."""
    (program,) = re.findall(r"^```py\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    code = program.replace("amqp://guest:guest@localhost", amqp_url)
    assert amqp_url in code
    exec(compile(code, "README.md, without async", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3:] == ["the last job", "dear", "reader"] and len(printed) == 1003
