"""Results as JUnit's XML, for whatever shows the tests of a build: each requirement is a test case, as is the run.

What must stay true: no two cases of a document have the same class and name. Those who read it know cases by these
alone, whatever suite they are in, and of two that are alike they show one: the failed one may be the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
        _add_suite(root, result, name, f".{name}" if len(runs) > 1 else "")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_suite(root: ElementTree.Element, result: Mapping[str, Any], name: str, suffix: str) -> None:
    """A run's suite. The classes of its cases end in the suffix: a single run has none, lest each build's be others."""
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
    told = {"classname": f"loadtest.run{suffix}", "name": "the run", "time": f"{seconds:.3f}"}
    run = ElementTree.SubElement(suite, "testcase", told)
    if outcome != "ok":
        kind = "failure" if outcome == "failed" else "error"
        ElementTree.SubElement(run, kind, type=outcome, message="; ".join(why))
    for each, case_name in zip(requirements, _name_cases(requirements), strict=True):
        told = {"classname": f"loadtest.require{suffix}", "name": case_name, "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", told)
        if not each["holds"]:
            message = f"{said(each['requirement'])}: {said(each['note'])}"
            ElementTree.SubElement(case, "failure", type="requirement", message=message)
    ElementTree.SubElement(suite, "system-out").text = headline_of(result)


def _name_cases(requirements: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A name for each: what is required; of trials, which all have the same requirements, with the trial that it is of,
    and in any case so that there is but one of it.
    """
    seen = Counter[str]()
    for each in requirements:
        name = said(each["requirement"]) + (f" ({said(each['trial'])})" if each.get("trial") else "")
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} ({seen[name]})"
