"""The fixture that collects a run's rows, the table printed at the end, and the results file."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.report import Report
from benchmarks.settings import QUICK
from cmsei_fast import engines

_REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--save-results", action="store_true", help="write benchmarks/results/<cpu>.json (every row must have been run)"
    )


def pytest_configure(config: pytest.Config) -> None:
    if QUICK and config.getoption("--save-results"):
        raise pytest.UsageError("--save-results: a quick run (CMSEI_BENCH_QUICK) is never saved")
    config.stash[_REPORT] = Report()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Where a benchmark records its rows. Without the native engine there is nothing to measure."""
    reason = engines.unavailable("native")
    if reason is not None:
        pytest.fail(f"the benchmarks measure the native engine, which cannot run here: {reason}")
    return request.config.stash[_REPORT]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    report = config.stash[_REPORT]
    if not report.rows:
        return
    terminalreporter.section("paired ratios")
    for line in report.lines():
        terminalreporter.write_line(line)
    if not config.getoption("--save-results"):
        return
    if report.missing():
        terminalreporter.write_line(f"not saved: no result for {', '.join(report.missing())}", red=True)
    else:
        terminalreporter.write_line(f"saved: benchmarks/results/{report.save().name}; now python -m benchmarks.table")
