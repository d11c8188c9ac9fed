"""Work that is done beside the tests: once, by whoever asks first, and no longer than the tests run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import beside
import pytest


class Item:
    """What is asked of a test that has been collected."""

    def __init__(self, work: Any) -> None:
        self.mark, self.stash = pytest.mark.beside(work=work).mark, pytest.Stash()

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.mark if name == self.mark.name else None


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """As many cores as the case has."""
    monkeypatch.setattr(beside, "cores", lambda: request.param)


@pytest.mark.parametrize("cores", [1, 2], indirect=True)
def test_work_is_done_once_and_its_error_is_the_tests(cores: None) -> None:
    done = []

    def work() -> str:
        done.append(threading.current_thread().name)
        return "x"

    def broken() -> None:
        done.append("broken")
        raise ZeroDivisionError("y")

    items = [Item(work), Item(broken)]
    with beside.start_work(items):  # type: ignore[arg-type]
        for _ in range(2):
            assert items[0].stash[beside.JOB].result() == "x"
            with pytest.raises(ZeroDivisionError, match="y"):
                items[1].stash[beside.JOB].result()
    assert len(done) == 2


@pytest.mark.parametrize("cores", [2], indirect=True)
def test_who_waits_does_what_nobody_has_begun(cores: None) -> None:
    begun, free = threading.Event(), threading.Event()

    def long() -> str:
        begun.set()
        return "x" if free.wait(20) else "nobody did the other"

    def other() -> str:
        free.set()
        return threading.current_thread().name

    items = [Item(long), Item(other)]
    with beside.start_work(items):  # type: ignore[arg-type]
        assert begun.wait(20)
        jobs = [item.stash[beside.JOB] for item in items]
        assert jobs == beside.STARTED
        assert jobs[0].result_meanwhile(beside.STARTED) == "x"
        assert jobs[1].result() == threading.current_thread().name


@pytest.mark.parametrize("cores", [2], indirect=True)
def test_the_second_core_passes_over_what_the_first_does(cores: None) -> None:
    begun, taken, free = threading.Event(), threading.Event(), threading.Event()

    def first() -> bool:
        begun.set()
        return taken.wait(20)

    def second() -> bool:
        taken.set()
        return free.wait(20)

    items = [Item(first), Item(second), Item(free.set)]
    with beside.start_work(items):  # type: ignore[arg-type]
        jobs = [item.stash[beside.JOB] for item in items]
        assert begun.wait(20)
        assert jobs[0].result_meanwhile(beside.STARTED)
        assert jobs[1].result()


@pytest.mark.parametrize("cores", [1, 2], indirect=True)
def test_a_second_core_begins_by_itself(cores: None, request: pytest.FixtureRequest) -> None:
    begun = threading.Event()
    with beside.start_work([Item(begun.set)]):  # type: ignore[list-item]
        assert begun.wait(20 if request.node.callspec.params["cores"] == 2 else 0.1) is (
            request.node.callspec.params["cores"] == 2
        )


def test_a_worker_of_several_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has collected the tests of all, and would do the work of all."""
    monkeypatch.setattr(beside.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(beside.os, "cpu_count", lambda: 2)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    assert beside.cores() == 2
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    begun = threading.Event()
    with beside.start_work([Item(begun.set)]):  # type: ignore[list-item]
        assert not begun.wait(0.1)


def test_a_process_ends_with_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "cores", lambda: 2)
    command = [sys.executable, "-c", "import time; time.sleep(600)  # to be ended"]
    item = Item(lambda: beside.run(command, 500))
    start = time.monotonic()
    with beside.start_work([item]):  # type: ignore[list-item]
        while not any(process.args == command for process in list(beside.RUNNING)):
            time.sleep(0.01)
    assert item.stash[beside.JOB].result().returncode != 0
    assert time.monotonic() - start < 60


def test_a_process_has_its_time_and_the_environment_of_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMSEI_ABSENT", "1")
    code = "import os; print(os.environ.get('CMSEI_ABSENT'), os.environ['OWN'], os.getcwd())"
    done = beside.run([sys.executable, "-c", code], 60, OWN="2")
    assert done.stdout.split() == ["None", "2", str(beside.ROOT)]
    with pytest.raises(subprocess.TimeoutExpired):
        beside.run([sys.executable, "-c", "import time; time.sleep(600)"], 0.2)
