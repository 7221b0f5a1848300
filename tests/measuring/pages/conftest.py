"""The result of a load test is made as for the reports'."""

from __future__ import annotations

from tests.loadtest.output.conftest import result as result
