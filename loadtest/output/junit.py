"""Results as JUnit's XML, for whatever shows the tests of a build: each requirement is a test case, as is the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from loadtest.output.naming import name_runs, said
from loadtest.output.told import headline_of, outcome_of


def render_junit(results: Sequence[Mapping[str, Any]]) -> str:
    """One document with a suite for each result. An interrupted run is an error, as is an incomplete one; a
    broken requirement is a failure.
    """
    root = ElementTree.Element("testsuites", name="loadtest")
    runs = [result for result in results if "timeline" in result]
    for result, name in zip(runs, name_runs(runs), strict=True):
        _add_suite(root, result, name)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_suite(root: ElementTree.Element, result: Mapping[str, Any], name: str) -> None:
    requirements = result.get("requirements") or ()
    outcome, why = outcome_of(result)
    broken = [each for each in requirements if not each["holds"]]
    seconds = sum(phase["seconds"] for phase in result["phases"])
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=f"loadtest {name}",
        tests=str(1 + len(requirements)),
        failures=str(len(broken) + (outcome == "failed")),
        errors=str(int(outcome in ("interrupted", "incomplete"))),
        skipped="0",
        time=f"{seconds:.3f}",
        timestamp=said(result["started_at"]),
    )
    run = ElementTree.SubElement(suite, "testcase", classname="loadtest.run", name="the run", time=f"{seconds:.3f}")
    if outcome != "ok":
        kind = "failure" if outcome == "failed" else "error"
        ElementTree.SubElement(run, kind, type=outcome, message="; ".join(why))
    for each in requirements:
        required, note = said(each["requirement"]), said(each["note"])
        case = ElementTree.SubElement(suite, "testcase", classname="loadtest.require", name=required, time="0")
        if not each["holds"]:
            ElementTree.SubElement(case, "failure", type="requirement", message=f"{required}: {note}")
    ElementTree.SubElement(suite, "system-out").text = headline_of(result)
