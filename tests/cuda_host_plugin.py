"""A pytest plugin: in every test the engine ``cuda`` runs its kernels on the host."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cuda_on_host import WholeModule, engine_on_host

_MODULE = WholeModule(os.environ["CMSEI_CUDA_ON_HOST"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    with engine_on_host(_MODULE):
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the kernels did, for the process that started this one."""
    relation = _MODULE.relation
    counts = _MODULE.launches, len(_MODULE.teams), len(relation.forward), len(relation.backward)
    terminalreporter.line("launches: {} of tiles, {} kinds of pairs, {} forward, {} backward".format(*counts))
