from __future__ import annotations

from loadtest.metrics.tally import Errors


def test_errors_are_counted_by_name_with_an_example() -> None:
    errors = Errors()
    errors.note(ValueError("first"))
    errors.note(ValueError("second"))
    errors.note(KeyError(), " (closing)")
    assert errors.counts == {"ValueError": 2, "KeyError (closing)": 1}
    assert errors.examples == {"ValueError": "first", "KeyError (closing)": "KeyError()"}
