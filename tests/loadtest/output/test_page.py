"""Pages, Markdown and JUnit: what they say, and that nobody's text becomes markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from loadtest.output.junit import render_junit
from loadtest.output.markdown import escape, render_markdown
from loadtest.output.page import Drawing, as_data, as_script, render_page
from loadtest.output.told import headline_of, tables_of

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`|\n# x\x1b[31m\u202e amqp://u:secret@h/"


class Elements(HTMLParser):
    """What a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def make_hostile(result: dict[str, Any]) -> dict[str, Any]:
    """The result, with the worst that a user, a broker and a library could have said."""
    result["environment"] |= {"broker": {"product": HOSTILE, "version": HOSTILE}, "cpu": HOSTILE, "kernel": HOSTILE}
    result["scenario"] |= {"labels": {HOSTILE: HOSTILE}, "driver": HOSTILE, "command": HOSTILE}
    result |= {"errors": {HOSTILE: 1}, "error_examples": {HOSTILE: HOSTILE}}
    result["verdict"] = {"status": HOSTILE, "evidence": [HOSTILE]}
    result["requirements"] = [{"requirement": HOSTILE, "value": None, "holds": False, "note": HOSTILE}]
    result["phases"].append({"name": HOSTILE, "seconds": 1.0})
    result["faults"] = [{"at_seconds": 1.0, "fault": HOSTILE, "error": HOSTILE}]
    result["findings"] = [HOSTILE]
    result["run_id"] = result["started_at"] = HOSTILE
    return result


def page_of(*results: dict[str, Any], drawings: tuple[Drawing, ...] = ()) -> str:
    return render_page(HOSTILE, results, drawings, "var vegaEmbed;")


def test_the_page_says_what_came_of_the_run(result: dict[str, Any]) -> None:
    texts = Elements(page_of(result)).texts
    said = " ".join(texts)
    for part in (
        *("10,000 clients: 49/s confirmed (p99 1.98 s)", "✗ failed", "2 connections failed", "broker-bound"),
        *("broker: it used [all]", "python -m loadtest", "publishes unknown", "messages lost", "33.3 µs", "RabbitMQ"),
        *("✗ confirm.p99 < 50ms 1.98 s", "✓ rpc.rate >= 0.1 0.3", "p99.9", "measure"),
    ):
        assert part in said, part


def test_a_page_needs_nothing_else(result: dict[str, Any]) -> None:
    page = page_of(result, drawings=(Drawing("rate", "Rate", "It says.", 200, {"mark": "line"}),))
    for tag, attributes in Elements(page).tags:
        assert tag not in ("link", "iframe", "img", "base", "object"), tag
        assert not {"src", "href"} & attributes.keys()
    assert "url(" not in page and "@import" not in page
    assert "prefers-color-scheme:dark" in page and "@media print" in page and "width=device-width" in page


def test_nobodys_text_becomes_markup(result: dict[str, Any]) -> None:
    legend = [{"name": HOSTILE, "colour": "var(--line0)"}, {"name": HOSTILE, "dash": [2, 3]}]
    drawing = Drawing(HOSTILE, HOSTILE, HOSTILE, 200, {"title": HOSTILE}, legend)
    harmless = {"html", "head", "meta", "title", "style", "body", "main", "header", "section", "div", "figure", "svg"}
    harmless |= {"figcaption", "h1", "h2", "p", "b", "ul", "li", "pre", "code", "span", "strong", "table", "thead"}
    harmless |= {"tbody", "tr", "th", "td", "button", "line"}
    for results in ((make_hostile(result),), (result, result)):
        page = page_of(*results, drawings=(drawing,))
        found = Elements(page)
        assert {tag for tag, _ in found.tags} <= {*harmless, "script"}
        assert sum(tag == "script" for tag, _ in found.tags) == 3
        assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
        assert "secret" not in page.replace(as_data(HOSTILE)[1:-1], ""), "but in the chart that this test has made"
        assert "\x1b" not in page and "\u202e" not in page


@pytest.mark.parametrize("text", [HOSTILE, "<!--", "</SCRIPT>", "&lt;"])
def test_data_and_scripts_cannot_end_their_element(text: str) -> None:
    assert not set("<>&") & set(as_data([text]))
    assert json.loads(as_data([text])) == [text]
    assert not re.search("</script|<!--", as_script(text), re.IGNORECASE)


def test_nobodys_text_becomes_markdown(result: dict[str, Any]) -> None:
    text = render_markdown([make_hostile(result)], "a b.svg")
    assert "secret" not in text
    assert "](a%20b.svg)" in text
    outside = re.sub(r"(`{3,}).*?\n\1", "", text, flags=re.DOTALL)  # a block of code shows what it holds
    assert not re.search(r"(?<!\\)<", outside)
    assert not any(line.startswith("# x") for line in text.splitlines())
    for line in outside.splitlines():
        if line.startswith("| "):
            assert line.endswith(" |")
    tables = [block for block in outside.split("\n\n") if block.startswith("| ")]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table


def test_markdown_says_what_the_page_says(result: dict[str, Any]) -> None:
    text = render_markdown([result])
    assert text.startswith(f"# {escape(headline_of(result))}\n")
    for part in (
        "**failed**: 2 connections failed",
        "verdict: **broker-bound**",
        "| ✗ | confirm.p99 \\< 50ms | 1.98 s |",
    ):
        assert part in text, part
    assert "![" not in text


def test_several_results_stand_side_by_side(result: dict[str, Any]) -> None:
    tables = {table.title: table for table in tables_of([result, {**result, "run_id": "x-2"}])}
    assert tables["Rates"].columns == ("", "abcdef", "2")
    assert ("confirmed", "49/s", "49/s") in tables["Rates"].rows
    assert tables["Latencies"].rows[0][0] == "connect · abcdef"


def test_what_one_of_several_lacks_is_a_dash(result: dict[str, Any]) -> None:
    tables = {table.title: table for table in tables_of([result, {**result, "rpc": None, "run_id": "x-2"}])}
    assert ("RPC replies", "0.3/s", "–") in tables["Rates"].rows


def test_ways_are_told_by_the_median_of_their_trials() -> None:
    row = {"strategy": "a", "clients": 10, "p50_ms": None, "memory_bytes": 2**20, "gave_up": None}
    rows = [{**row, "rate": rate} for rate in (1.0, 3.0, 2.0)]
    (table,) = tables_of([{"strategies": [*rows, {**row, "clients": 100, "rate": None, "gave_up": "no threads"}]}])
    assert table.rows[0] == ("a", "10", "3", "2/s", "–", "–", "1.0 MiB", "–", "–", "–")
    assert table.rows[1][-1] == "no threads"


def test_the_search_for_a_rate_is_in_the_headline(result: dict[str, Any]) -> None:
    steps = [{"rate": 98.0, "held": True, "reason": "held"}, {"rate": 120.0, "held": False, "reason": "it grew"}]
    result["capacity"] = {"sustainable_rate": 98.4, "closed_rate": 130.0, "share": 0.5, "steps": steps}
    assert headline_of(result).startswith("10,000 clients kept up 98/s; at 50% of it: 49/s confirmed")
    tables = {table.title: table for table in tables_of([result])}
    assert tables["Steps to the capacity"].rows[1] == ("2", "120", "no", "it grew")
    result["capacity"]["sustainable_rate"] = None
    assert headline_of(result).startswith("10,000 clients: 49/s")


def test_faults_are_told_with_what_they_cost(result: dict[str, Any]) -> None:
    fault = {"fault": "2s stop 1s", "action": "stop", "at_seconds": 2.0, "error": None, "unknown": 3, "duplicates": 0}
    fault |= {"confirm_outage_seconds": 1.25, "confirm_recovery_seconds": 1.5, "delivery_outage_seconds": 0.5}
    fault |= {"delivery_recovery_seconds": None}
    result["faults"] = [fault, {**fault, "error": "it could not"}]
    (table,) = [table for table in tables_of([result]) if table.title == "Faults"]
    cost = "1.25 s without a confirm (as before after 1.50 s), 500 ms without a delivery, 3 unknown"
    assert table.rows == [("2s stop 1s", "2.0 s", cost), ("2s stop 1s", "2.0 s", "it could not")]
    assert [table.is_number(column) for column in range(3)] == [False, True, False]


def test_what_a_scenario_found_is_told(result: dict[str, Any]) -> None:
    own = {name: result[name] for name in ("loop", "publish", "consume", "rpc")} | {"failures": []}
    result["workloads"] = [{**own, "name": "steady"}, {**own, "name": "[noisy]", "rpc": None, "publish": None}]
    (table,) = [table for table in tables_of([result]) if table.title == "Scenario"]
    assert table.rows == [
        (
            "workload",
            "steady (open loop): 49/s confirmed, p99 1.98 s; 48/s consumed, p99 1.98 s; 0.3/s replies, p99 1.98 s",
        ),
        ("workload", "[noisy] (open loop): 48/s consumed, p99 1.98 s"),
    ]
    assert "steady" in render_markdown([result]) and "[noisy]" in page_of(result)


def test_what_was_not_to_be_confirmed_is_not_called_so(result: dict[str, Any]) -> None:
    asked = {"confirms": False, "unconfirmed": 980, "confirmed": 0, "confirm_latency_ms": None}
    other = {**result, "publish": {**result["publish"], **asked}, "run_id": "x-2"}
    assert "49/s sent" in headline_of(other) and "49/s confirmed" in headline_of(result)
    tables = {table.title: table for table in tables_of([other])}
    assert tables["Rates"].rows[0] == ("sent", "49/s")
    assert ("publishes unconfirmed", "980") in tables["Account"].rows
    tables = {table.title: table for table in tables_of([result, other])}
    assert tables["Rates"].rows[0] == ("published", "49/s", "49/s")
    tables = {table.title: table for table in tables_of([result])}
    assert "publishes unconfirmed" not in [row[0] for row in tables["Account"].rows]


def suites(*results: dict[str, Any]) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(render_junit(results)))


def test_junit_has_a_case_for_the_run_and_one_for_each_requirement(result: dict[str, Any]) -> None:
    (suite,) = suites(result)
    assert {name: suite.attrib[name] for name in ("tests", "failures", "errors", "time")} == {
        "tests": "3",
        "failures": "2",
        "errors": "0",
        "time": "21.000",
    }
    run, broken, kept = suite.findall("testcase")
    assert run[0].tag == "failure" and "2 connections failed" in run[0].attrib["message"]
    assert broken.attrib["name"] == "confirm.p99 < 50ms"
    assert broken[0].attrib["message"] == "confirm.p99 < 50ms: 1.98 s"
    assert len(kept) == 0


def test_no_two_cases_of_junit_are_taken_for_one(result: dict[str, Any]) -> None:
    """Whoever reads it knows a case by its class and name, and shows one of two that are alike."""

    def names(*results: dict[str, Any]) -> list[tuple[str | None, str | None]]:
        root = ElementTree.fromstring(render_junit(results))
        return [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]

    one = {"requirement": "lost == 0", "value": 0, "holds": True, "note": "0"}
    result["requirements"] = [{**one, "trial": "round 1, window 1"}, {**one, "trial": "round 2, window 1"}, one, one]
    assert names(result) == [
        ("loadtest.run", "the run"),
        *(("loadtest.require", f"lost == 0 (round {number}, window 1)") for number in (1, 2)),
        *(("loadtest.require", name) for name in ("lost == 0", "lost == 0 (2)")),
    ]
    found = names(result, {**result, "run_id": "x-2"}, {**result, "run_id": "y-2"})
    assert len(set(found)) == len(found) == 15


def test_a_run_that_lacks_a_part_is_not_ok(result: dict[str, Any]) -> None:
    result["connect"] |= {"failed": 0, "dropped": 0}
    result["consume"]["lost"] = 0
    result |= {"publish": None, "rpc": None, "requirements": [], "incomplete": ["worker 2 \x12 was lost"]}
    (suite,) = suites(result)
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
    (error,) = suite.iter("error")
    assert (error.get("type"), error.get("message")) == ("incomplete", r"worker 2 \x12 was lost")
    assert "**incomplete**: worker 2" in render_markdown([result]) and "! incomplete" in " ".join(
        Elements(page_of(result)).texts
    )


def test_of_several_trials_each_failure_is_told(result: dict[str, Any]) -> None:
    trials = [
        {"round": number, "cell": {"window": str(window)}, "failures": ["9 lost"] if window == 2 else []}
        for number in range(2)
        for window in (1, 2)
    ]
    result |= dict.fromkeys(("loop", "connect", "publish", "consume", "rpc", "resources"))
    result |= {"trials": [{**each, "publish": {"rate": 10.0 + each["round"]}} for each in trials], "incomplete": []}
    (suite,) = suites(result)
    assert next(failure.get("message") for failure in suite.iter("failure")) == "window 2: 9 lost"
    page = render_markdown([result])
    assert "## Trials" in page and "| publish rate | 10.5/s (10/s – 11/s) | 10.5/s (10/s – 11/s) |" in page


def test_junit_of_an_interrupted_run(result: dict[str, Any]) -> None:
    result |= {"interrupted": True, "requirements": []}
    result["connect"] |= {"failed": 0, "dropped": 0}
    result["consume"]["lost"] = 0
    (suite,) = suites(result)
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("0", "1")


def test_nobodys_text_becomes_xml(result: dict[str, Any]) -> None:
    (suite,) = suites(make_hostile(result))
    assert {element.tag for element in suite.iter()} == {"testsuite", "testcase", "failure", "system-out"}
    assert "secret" not in render_junit([result])
