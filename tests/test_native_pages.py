"""Pages that the native engine keeps between calls: what was in them never shows, they are few, and fork loses none."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest
import torch

from cmsei_fast import PairScorer, engines, pair_score

pytestmark = pytest.mark.skipif(engines.unavailable("native") is not None, reason="needs the native module")

# Packed regions, Gram matrices and their gradients of more than 4 MiB each, which is where pages begin.
IMAGES, REGIONS, CAPTIONS, WORDS, DEPTH = 32, 200, 3, 5, 256


def gradients(rows: torch.Tensor, words: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    rows, words = rows.clone().requires_grad_(), words.clone().requires_grad_()
    offsets = torch.arange(IMAGES + 1) * REGIONS, torch.arange(CAPTIONS + 1) * WORDS
    scores = pair_score(rows, words, *offsets, scorer=PairScorer.cmsei(), engine="native")
    (scores * weight).sum().backward()
    assert rows.grad is not None
    assert words.grad is not None
    return [scores.detach(), rows.grad, words.grad]


@pytest.mark.parametrize("few", [False, True], ids=["all pairs", "few pairs"])
def test_pages_show_nothing_of_the_call_before(few: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(IMAGES * REGIONS, DEPTH, generator=generator)
    words = torch.randn(CAPTIONS * WORDS, DEPTH, generator=generator)
    weight = torch.zeros(IMAGES, CAPTIONS) if few else torch.randn(IMAGES, CAPTIONS, generator=generator)
    weight[5, 1] = 1.0
    first = gradients(rows, words, weight)
    assert all(found.isfinite().all() for found in first)
    spoilt = gradients(rows.fill_(float("nan")), words, weight)
    assert spoilt[0].isnan().all()
    generator.manual_seed(0)
    rows = torch.randn(IMAGES * REGIONS, DEPTH, generator=generator)
    for found, expected in zip(gradients(rows, words, weight), first, strict=True):
        assert torch.equal(found, expected)


# Scores images of many sizes against a word, and prints the bytes that stay resident and what a child scores.
SIZES = """
import os, re, sys, torch
from cmsei_fast import pair_score, PairScorer
def resident():
    return int(re.findall(r"^VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read(), re.MULTILINE)[0]) * 1024
torch.set_num_threads(2)
rows, word = torch.ones(50_000, 1024), torch.ones(1, 1024)
def score(count):
    ends = torch.tensor([0, 1])
    offsets = torch.arange(count + 1)
    return pair_score(rows[:count], word, offsets, ends, scorer=PairScorer.scan_i2t(), engine="native").sum().item()
score(10)
before = resident()
for count in [*range(2_000, 16_000, 500), 50_000, 16_000, 12_000, 3_000, 2_000, 9_000]:
    score(count)
print(resident() - before, flush=True)
child = os.fork()
scored = f"{score(9_000)} {score(3_000)}"
if child: os.waitpid(child, 0)
print(scored, flush=True)
if child == 0: os._exit(0)
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc, and forks")
def test_what_is_kept_is_bounded_and_survives_a_fork() -> None:
    done = subprocess.run([sys.executable, "-c", SIZES], capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    kept, first, second = done.stdout.splitlines()
    assert re.fullmatch(r"[\d.]+ [\d.]+", first)
    assert first == second
    assert 4 * 2**20 < int(kept) < 144 * 2**20  # 128 MiB of pages, and what else a process comes to hold
