from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from loadtest.commands.flags import parse_settings
from loadtest.execution.state import Run, start_run
from loadtest.metrics.histogram import LONGEST, Histogram
from loadtest.output.interval_log import KINDS, IntervalLog


def begun(path: Path) -> Run:
    run = start_run(parse_settings(["--clients", "10", "--output", str(path)], {}))
    run.begin_phase("measure")
    return run


def read(path: Path) -> list[HdrHistogram]:
    """What HdrHistogram's own reader finds."""
    found = []
    with closing(HistogramLogReader(str(path), HdrHistogram(1, LONGEST, 3))) as log:
        while (histogram := log.get_next_interval_histogram()) is not None:
            found.append(histogram)
    return found


def test_each_second_is_an_entry_for_each_kind_that_the_library_reads(tmp_path: Path) -> None:
    run, log = begun(tmp_path), IntervalLog(tmp_path / "deep" / "run.hlog")
    inside, outside = run.measurement.inside, run.measurement.outside
    outside.connect.record(7_000_000)
    log.update(run, None, 1.0)
    inside.confirm.record(1_000_000)
    outside.confirm.record(2_000_000)
    inside.service.record(500_000)
    log.update(run, None, 1.5)
    log.update(run, None, 2.0)
    inside.confirm.record(1_000_000)
    log.close(run, 2.25)
    log.update(run, None, 9.0)
    assert "confirm_service" in KINDS.values()
    told = [(each.get_tag(), each.get_total_count(), each.get_max_value()) for each in read(log.path)]
    assert told == [("connect", 1, 7003), ("confirm", 2, 2000), ("confirm_service", 1, 500), ("confirm", 1, 1000)]
    lengths = [re.split("[=,]", line)[1:4] for line in log.path.read_text().splitlines() if line.startswith("Tag")]
    assert lengths == [
        ["connect", "0.000", "1.000"],
        ["confirm", "1.000", "1.000"],
        ["confirm_service", "1.000", "1.000"],
        ["confirm", "2.000", "0.250"],
    ]


def test_all_entries_together_are_the_whole_run(tmp_path: Path) -> None:
    run, log = begun(tmp_path), IntervalLog(tmp_path / "run.hlog")
    for second in range(5):
        for number in range(100):
            run.measurement.inside.end_to_end.record((second * 100 + number) * 1_000_000)
        log.update(run, None, second + 1.0)
    log.close(run, 6.0)
    counts: Counter[int] = Counter()
    for histogram in read(log.path):
        counts.update({index: number for index, number in enumerate(histogram.counts) if number})
    assert counts == run.measurement.inside.end_to_end.counts


def test_what_is_written_is_on_disk_at_once(tmp_path: Path) -> None:
    run, log = begun(tmp_path), IntervalLog(tmp_path / "run.hlog")
    run.measurement.inside.rpc.record(1_000_000)
    log.update(run, None, 1.0)
    assert [each.get_tag() for each in read(log.path)] == ["rpc"]
    log.close(run, 1.0)


def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path: Path) -> None:
    run, log = begun(tmp_path), IntervalLog(tmp_path / "file" / "run.hlog")
    (tmp_path / "file").touch()  # where a folder should be
    log.update(run, None, 1.0)
    log.update(run, None, 2.0)
    log.close(run, 3.0)
    assert sum(run.record.errors.counts.values()) == 1
    assert next(iter(run.record.errors.counts)).endswith("(interval log)")


def test_no_log_of_a_run_that_never_began(tmp_path: Path) -> None:
    run, log = begun(tmp_path), IntervalLog(tmp_path / "run.hlog")
    run.record.phases.clear()
    log.close(run, 1.0)
    assert not log.path.exists()


def test_a_run_that_ends_before_the_first_look_has_a_log(tmp_path: Path) -> None:
    run, log = begun(tmp_path), IntervalLog(tmp_path / "run.hlog")
    run.measurement.inside.confirm.record(1)
    log.close(run, 0.5)
    assert read(log.path)[0].get_total_count() == 1


def test_the_start_is_the_runs_own(tmp_path: Path) -> None:
    run, log = begun(tmp_path), IntervalLog(tmp_path / "run.hlog")
    run.measurement.inside.confirm.record(1)
    log.update(run, None, 30.0)
    log.close(run, 30.0)
    match = re.search(r"StartTime: ([0-9.]+)", log.path.read_text())
    assert match is not None and abs(time.time() - 30 - float(match[1])) < 5
    histogram: Histogram = run.measurement.inside.confirm
    assert read(log.path)[0].get_total_count() == histogram.count


def test_every_phase_is_told_however_short_it_was(tmp_path: Path) -> None:
    run, log = begun(tmp_path), IntervalLog(tmp_path / "run.hlog")
    log.update(run, None, 1.0)
    run.begin_phase("drain")
    run.begin_phase("close")
    log.update(run, None, 2.0)
    log.close(run, 2.1)
    told = re.findall(r"#\[Phase: (\w+) began at", log.path.read_text())
    assert told == ["measure", "drain", "close"]
