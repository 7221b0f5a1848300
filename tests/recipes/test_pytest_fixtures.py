"""The fixtures work as they stand, on both backends, in a run of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.recipes.harness import RECIPES, ROOT


def test_it_runs(amqp_url: str, tmp_path: Path) -> None:
    program = tmp_path / "test_service.py"
    program.write_text((RECIPES / "pytest_fixtures.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", program],
        cwd=tmp_path,
        env={"RABBITMQ_URL": amqp_url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert " 4 passed" in done.stdout, done.stdout
