"""The native engine computes on torch's own threads where it has them, and on its own in a forked process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_on_host import COMPILER, ROOT

from cmsei_fast import engines

pytestmark = pytest.mark.skipif(
    engines.unavailable("native") is not None or platform.system() != "Linux",
    reason="needs the native module; reads /proc",
)

START = """
import os, torch
from cmsei_fast import pair_score, PairScorer
torch.set_num_threads(2)
def threads():
    at = "/proc/self/task"
    return {name: open(f"{at}/{name}/stat").read().rsplit(")", 1)[1].split()[11] for name in os.listdir(at)}
alone = threads()
rows = torch.randn(64 * 36, 512, generator=torch.Generator().manual_seed(0))
offsets = torch.arange(65) * 36
def score():
    return pair_score(rows, rows, offsets, offsets, scorer=PairScorer.scan_t2i(), engine="native").double().sum().item()
"""

# Prints the ticks (1/100 s) that threads which torch began have computed for scores, while the first thread had a
# second of the processor: beside other work that takes longer.
TICKS = """
score()
torch.ones(2000, 2000).exp_()
before, own = threads(), str(os.getpid())
def ticks(names):
    now = threads()
    return sum(int(now[name]) - int(before[name]) for name in names & now.keys())
while ticks({own}) < 100:
    score()
print(ticks(before.keys() - alone.keys()))
"""

# Prints what the parent and then a child of it score.
FORK = """
scored = score()
child = os.fork()
scored = f"{scored} {score()}"
if child: os.waitpid(child, 0)
print(scored, flush=True)
if child == 0: os._exit(0)
"""


def printed(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + program], capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_threads_are_torchs() -> None:
    assert int(printed(TICKS)) >= 10


def test_a_forked_process_has_threads_of_its_own() -> None:
    child, parent = (line.split() for line in printed(FORK).splitlines())
    assert len({*child, *parent}) == 1


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_where_memory_for_threads_runs_out_fewer_do_the_work(tmp_path: Path) -> None:
    """Thrown on, the failure would end the process: threads that had begun were never waited for."""
    program = tmp_path / "threads"
    source = ROOT / "tests" / "native" / "threads_host.cpp"
    subprocess.run([str(COMPILER), "-std=c++17", "-pthread", str(source), "-o", str(program)], check=True, timeout=300)
    for allocations in (1, 2, 3, 4):
        done = subprocess.run([str(program), str(allocations)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "1000"), done.stderr
