"""Processes that tests wait for, run on another core while other tests run.

A test that is marked ``beside(work=…)`` says what it waits for: ``work`` takes those of the case's parameters that it
names, and the fixture ``outcome`` is what it returns or raises. ``conftest.py`` starts the work of all tests, one after
another in a thread, once they are collected. A test that runs before its work has started does the work itself; one
whose work is in progress does other tests' work meanwhile. With one core each test does its own work, and so it does in
a worker of pytest-xdist, which has collected the tests of all workers and has no core to spare.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen
from threading import Event, Lock, Thread, current_thread
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = dict(os.environ)  # as at pytest's start: a test that runs meanwhile may change os.environ
RUNNING: dict[Popen[str], Thread] = {}  # with the thread that waits for each


def run(command: Sequence[str], timeout: float, **variables: str) -> CompletedProcess[str]:
    """Runs a process in the source tree and returns its output; the process does not outlive this one.

    Raises:
        subprocess.TimeoutExpired: after ``timeout`` seconds.
    """
    with Popen(command, cwd=ROOT, env=ENVIRONMENT | variables, stdout=PIPE, stderr=PIPE, text=True) as process:
        RUNNING[process] = current_thread()
        try:
            printed, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
        finally:
            del RUNNING[process]
    return CompletedProcess(command, process.returncode, printed, errors)


def cores() -> int:
    """The number of cores that this process may use."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return 1
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class Job:
    """Work that is done once, by the first thread that needs it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self._lock, self._future = work, Lock(), Future[Any]()

    def result(self) -> Any:
        """What the work returns, or raises."""
        with self._lock:
            self._do()
        return self._future.result()

    def result_meanwhile(self, others: Sequence[Job]) -> Any:
        """Returns :meth:`result`; while another thread does the work, does unstarted jobs of ``others``."""
        for other in others:
            if self._future.done() or not self._lock.locked():
                break
            other.begin()
        return self.result()

    def begin(self) -> None:
        """Does the work, unless a thread is already doing it."""
        if self._lock.acquire(blocking=False):
            try:
                self._do()
            finally:
                self._lock.release()

    def _do(self) -> None:
        if not self._future.done():
            try:
                self._future.set_result(self._work())
            except BaseException as error:
                self._future.set_exception(error)
                if not isinstance(error, Exception):  # Ctrl-C, whoever's work it is
                    raise


JOB = pytest.StashKey[Job]()
STARTED: list[Job] = []  # the jobs of the thread that :func:`start_work` runs


@contextmanager
def start_work(items: Sequence[pytest.Item]) -> Iterator[None]:
    """Does the work of these tests in a thread during the block, if a core is free for it; then stops what is left."""
    jobs = []
    for item in items:
        if (mark := item.get_closest_marker("beside")) is not None:
            work = mark.kwargs["work"]
            case = getattr(item, "callspec", None)
            arguments = {name: case.params[name] for name in inspect.signature(work).parameters} if case else {}
            jobs.append(item.stash.setdefault(JOB, Job(lambda work=work, arguments=arguments: work(**arguments))))
    ended = Event()

    def each() -> None:
        for job in jobs:
            if ended.is_set():
                return
            try:
                job.begin()
            except BaseException:  # its test raises it again
                continue

    thread, before = Thread(target=each, name="beside", daemon=True), STARTED[:]
    if cores() > 1:
        STARTED[:] = jobs
        thread.start()
    try:
        yield
    finally:
        ended.set()
        STARTED[:] = before
        for process, waiting in list(RUNNING.items()):
            if waiting is thread:
                process.kill()
