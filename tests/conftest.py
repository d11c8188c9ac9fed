"""Fixtures that files of tests share: the backends that this machine has, poisoned memory, a browser."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cmsei_fast import engines
from cmsei_fast.data import layout
from cmsei_fast.engines import triton
from cmsei_fast.scorer import PairScorer

if TYPE_CHECKING:
    from browser import Browser


@dataclass(frozen=True)
class Backend:
    """An engine, the device it is tested on and, for native, the instruction set it is held to."""

    engine: str
    device: str = "cpu"
    isa: str | None = None

    def __str__(self) -> str:
        return "-".join(x for x in (self.engine, self.isa or self.device) if x != "cpu")

    @contextlib.contextmanager
    def forced(self) -> Iterator[None]:
        """Inside the block, native runs this instruction set."""
        if self.isa is None:
            yield
            return
        from cmsei_fast.engines import native

        with native.use_isa(self.isa):
            yield


def available_backends() -> list[Backend]:
    """Eager on every device there is, native in every variant where it is built, triton on a GPU.

    Under TRITON_INTERPRET=1, a process of its own (``test_triton_interpreter.py``), triton on the CPU and nothing else;
    under CMSEI_CUDA_ON_HOST=hopper (or mma) (``test_cuda_as_every_engine.py``) cuda.
    """
    if os.environ.get("CMSEI_CUDA_ON_HOST"):
        return [Backend("cuda")]
    if triton.interpreted():
        return [Backend("triton")]
    found = [Backend("eager")]
    if torch.cuda.is_available():
        found.append(Backend("eager", "cuda"))
        found += [Backend(name, "cuda") for name in ("triton", "cuda") if engines.unavailable(name) is None]
    missing = engines.unavailable("native")
    if missing is not None and "built from other sources" in missing:
        raise pytest.UsageError(missing)  # else native would go untested without a word
    if missing is None:
        from cmsei_fast.engines import native

        found += [Backend("native", isa=name) for name in native.isas()]
    return found


BACKENDS = available_backends()


# Of a test's cases triton runs these many, evenly spaced, unless CMSEI_TRITON_GRID asks for all: the interpreter is
# slow, and on a GPU nearly every case compiles kernels of its own.
INTERPRETED_CASES = 3
COMPILED_CASES = 6

if triton.interpreted():
    import quick_interpreter

    quick_interpreter.install()

# The tests' tensors are small: threads would only wait for each other. The tests of threads ask for their own.
torch.set_num_threads(1)


def pytest_report_header() -> str:
    missing = [f"{name} ({reason})" for name in engines.names() if (reason := engines.unavailable(name))]
    return f"backends: {', '.join(map(str, BACKENDS))}; not here: {', '.join(missing) or 'none'}"


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Marks ``gpu`` before the command line selects; then leaves out cases of triton, and other shards' tests."""
    for item in items:
        if (backend := _backend(item)) is not None and (backend.device == "cuda" or triton.interpreted()):
            item.add_marker(pytest.mark.gpu)
    yield
    kept = items if os.environ.get("CMSEI_TRITON_GRID") else _fewer(items)
    if shard := os.environ.get("CMSEI_TEST_SHARD"):
        place, shards = map(int, shard.split("/"))
        kept = kept[place::shards]
    ids = {id(x) for x in kept}
    if left_out := [x for x in items if id(x) not in ids]:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process and those that it starts, though it may be ignored: behind ``nohup``, by ``&``."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[object]:
    """Begins the work of the tests that are marked ``beside``, but of those that ``skipif`` leaves out."""
    waiting = [
        item
        for item in session.items
        if item.get_closest_marker("beside") and not any(mark.args[0] for mark in item.iter_markers("skipif"))
    ]
    if not waiting or session.config.option.collectonly:
        return (yield)
    import beside

    with beside.start_work(waiting):
        return (yield)


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Any:
    """What the work gives that a test's mark ``beside`` names."""
    import beside

    return request.node.stash[beside.JOB].result_meanwhile(beside.STARTED)


def _backend(item: pytest.Item) -> Backend | None:
    """The backend that an item is of, if any."""
    found = getattr(item, "callspec", None)
    return next((x for x in found.params.values() if isinstance(x, Backend)), None) if found else None


def _fewer(items: list[pytest.Item]) -> list[pytest.Item]:
    """The items without those of triton's cases that are too many."""
    most = INTERPRETED_CASES if triton.interpreted() else COMPILED_CASES
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if triton.interpreted() or ((backend := _backend(item)) is not None and backend.engine == "triton"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out = {id(x) for own in cases.values() for x in own} - {
        id(x) for own in cases.values() for x in own[:: max(1, -(-len(own) // most))]
    }
    return [x for x in items if id(x) not in left_out]


def leave_out(engine: str, scorer: PairScorer) -> None:
    """Skips the test where the engine says that it lacks an option of the scorer."""
    if (lacking := engines.lacks(engine, scorer.config())) is not None:
        pytest.skip(f"{engine} has no {lacking}")


def _leave_out_case(request: pytest.FixtureRequest) -> None:
    """Skips a case whose problem, scorer or option the engine of its backend lacks."""
    engine, case = request.param.engine, request.node.callspec.params
    scorer = case.get("scorer") or getattr(case.get("problem"), "scorer", None)
    if isinstance(scorer, PairScorer):
        leave_out(engine, scorer)
    for option, values in engines.MISSING_OPTIONS.get(engine, {}).items():
        if case.get(option) in values:
            pytest.skip(f"{engine} has no {option}={case[option]!r}")


@pytest.fixture(params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend in turn, forced to its instruction set; without the cases that its engine lacks an option of."""
    _leave_out_case(request)
    with request.param.forced():
        yield request.param


@pytest.fixture(params=[b for b in BACKENDS if b.device == "cpu"], ids=str)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine's name of each backend on the CPU, likewise."""
    _leave_out_case(request)
    with request.param.forced():
        yield request.param.engine


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill what ``torch.empty`` returns with NaN, so that memory nobody wrote shows."""
    before, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of splits have chunks of a few rows, so that images cross from one into the next."""
    monkeypatch.setattr(layout, "_CHUNK_BYTES", 100)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser's window."""
    import browser

    with browser.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="session")
def building() -> ModuleType:
    """The package that ``setup.py`` builds with: it lies in the source tree and is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "csrc"))
        importlib.import_module("building.command")
    return sys.modules["building"]


@pytest.fixture
def of_benchmarks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of ``benchmarks/``, which is not installed with the package."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1])
    return lambda name: importlib.import_module(f"benchmarks.{name}")
