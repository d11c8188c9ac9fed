"""What the tests share: the backends that this machine has, poisoned memory, and seeded problems."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from cmsei_fast import engines
from cmsei_fast.engines import triton


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

    Under TRITON_INTERPRET=1, a process of its own (``test_triton_interpreter.py``), triton on the CPU and nothing else.
    """
    if triton.interpreted():
        return [Backend("triton")]
    found = [Backend("eager")]
    if torch.cuda.is_available():
        found.append(Backend("eager", "cuda"))
        found += [Backend(name, "cuda") for name in ("triton", "cuda") if engines.unavailable(name) is None]
    if engines.unavailable("native") is None:
        from cmsei_fast.engines import native

        found += [Backend("native", isa=name) for name in native.isas()]
    return found


BACKENDS = available_backends()


# The interpreter is slow: of a test's cases it runs these many, evenly spaced, unless CMSEI_TRITON_GRID asks for all.
INTERPRETED_CASES = 3

# The tests' tensors are small: threads would only wait for each other. The tests of threads ask for their own.
torch.set_num_threads(1)


def pytest_report_header() -> str:
    missing = [f"{name} ({reason})" for name in engines.names() if (reason := engines.unavailable(name))]
    return f"backends: {', '.join(map(str, BACKENDS))}; not here: {', '.join(missing) or 'none'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not triton.interpreted() or os.environ.get("CMSEI_TRITON_GRID"):
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = {id(x) for own in cases.values() for x in own[:: max(1, -(-len(own) // INTERPRETED_CASES))]}
    config.hook.pytest_deselected(items=[x for x in items if id(x) not in kept])
    items[:] = [x for x in items if id(x) in kept]


@pytest.fixture(params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend in turn, forced to its instruction set."""
    with request.param.forced():
        yield request.param


@pytest.fixture(params=[b for b in BACKENDS if b.device == "cpu"], ids=str)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The engine's name of each backend on the CPU, forced to its instruction set."""
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
