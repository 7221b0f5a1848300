"""The guardian alone, with programs that stand for RabbitMQ's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rabbitry.testing.rabbitmq import guardian


def test_it_says_nothing_where_nobody_reads_it_any_more(tmp_path: Path) -> None:
    """Its standard error is the terminal of who started a node that failed."""
    folder = tmp_path / "node"
    folder.mkdir()
    epmd = tmp_path / "epmd"
    epmd.write_text("#!/bin/sh\nexit 3\n")
    epmd.chmod(0o700)
    reader, writer = os.pipe()
    os.close(reader)
    words = [str(folder), "1024", str(os.getpid()), "1", str(epmd), "true"]
    with subprocess.Popen(
        [sys.executable, guardian.__file__, *words], stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE
    ) as process:
        os.close(writer)
        assert process.stderr is not None
        assert process.wait(20) == 1
        assert process.stderr.read() == b""
    assert not folder.exists()
