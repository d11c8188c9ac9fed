"""What certified screening saves, and how much other bounds would leave undecided (docs/pruning.md).

    python -m benchmarks.pruning FEATURES.npz [--rounds 3] [--sample 200]
    python -m benchmarks.pruning --random 1024 [--images 500]

The archive has ``images`` (ΣR, D), ``image_lengths`` (N,), ``captions`` (ΣL, D), ``caption_lengths`` (M,) and
``caption_to_image`` (M,). ``--random`` draws unit rows: 36 regions an image, 12 words a caption and five captions an
image. Exact and screened runs alternate (none with ``--rounds 0``), and their results must be the same. ``--sample``
says on how many images, with their captions, the bounds that are not used are tried.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import cpu
from cmsei_fast import PairScorer, evaluate, retrieve
from cmsei_fast.engines import native
from cmsei_fast.retrieval import best, evaluation
from cmsei_fast.retrieval.screen import Screen

SCORER = PairScorer.maxsim("mean")


class CountedScreen(Screen):
    """A screen that is kept in ``last``, for its counts."""

    last: CountedScreen

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        CountedScreen.last = self


def read(path: str) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """(images, captions, caption lengths, image lengths) and the map of an archive."""
    with np.load(path) as x:
        sides = x["images"], x["captions"], x["caption_lengths"], x["image_lengths"]
        return sides, x["caption_to_image"]


def draw(width: int, n_image: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Draws the same at random."""
    rng = np.random.default_rng(0)
    n, m = np.full(n_image, 36), np.full(5 * n_image, 12)
    rows = [rng.standard_normal((k.sum(), width), dtype=np.float32) for k in (n, m)]
    images, captions = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows)
    return (images, captions, m, n), np.repeat(np.arange(n_image), 5)


def same(a: Any, b: Any) -> bool:
    if hasattr(a, "indices"):
        return bool(np.array_equal(a.indices, b.indices) and np.array_equal(a.scores, b.scores))
    return a.to_dict() == b.to_dict() and np.array_equal(a.t2i.ranks, b.t2i.ranks)


def compare(name: str, run: Callable[[str | None], Any], rounds: int) -> None:
    """Exact and screened in turn, one line of what was found."""
    seconds: dict[str | None, list[float]] = {None: [], "bfloat16": []}
    for _ in range(rounds):
        results = []
        for screen, times in seconds.items():
            start = time.perf_counter()
            results.append(run(screen))
            times.append(time.perf_counter() - start)
        if not same(*results):
            raise SystemExit(f"{name}: another result than without a screen")
    a, b = seconds.values()
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    counts, pairs = CountedScreen.last, math.prod(CountedScreen.last.problem.shape) / 100
    print(
        f"{name:18s} exact {statistics.median(a):6.2f} s  screened {statistics.median(b):6.2f} s  "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})  "
        f"rounded {counts.screened / pairs:.2f} %  exact {counts.rescored / pairs:.2f} % of the pairs",
        flush=True,
    )


def largest(rows: Tensor, other: Tensor, n: int, width: int) -> Tensor:
    """(n, M', words) largest inner products of padded words (M', L, D) with n images of ``width`` regions."""
    s = torch.einsum("mld,rd->mlr", other, rows)
    return s.unflatten(-1, (n, width)).amax(-1).permute(2, 0, 1)


def bounds(sides: tuple[np.ndarray, ...], owner: np.ndarray, n: int) -> None:
    """Pairs that other bounds would leave undecided among the first n images and their captions."""
    images, captions, m, size = sides
    width = int(size[0])
    if (size[:n] != width).any():
        raise SystemExit("--sample: expected images of one size")
    mine = np.nonzero(owner < n)[0]
    starts = np.concatenate([[0], np.cumsum(m)])
    words = torch.zeros(len(mine), int(m[mine].max()), images.shape[1])
    mask = torch.arange(words.shape[1]) < torch.from_numpy(m[mine].astype(np.int64))[:, None]
    for at, j in enumerate(mine):
        words[at, : m[j]] = torch.from_numpy(captions[starts[j] : starts[j + 1]]).float()
    regions, mapping = torch.from_numpy(images[: n * width]).float(), torch.from_numpy(owner[mine].astype(np.int64))
    count = mask.sum(1)

    def mean(x: Tensor) -> Tensor:
        return (x * mask).sum(-1) / count

    def print_bound(name: str, scores: Tensor, near: Tensor, margin: Tensor) -> None:
        true = scores[mapping, torch.arange(len(mapping))]
        left = ((near - true).abs() <= margin).float().mean()
        off = (near - scores).abs().max()
        print(
            f"{name:22s} margin {margin.mean():9.4f}  largest error {off:.4f}  undecided {100 * left:6.2f} %",
            flush=True,
        )

    exact = mean(largest(regions, words, n, width))
    print(f"{'spread of scores':22s} {exact.std():.4f}")

    def rounding(name: str, low: Callable[[Tensor], Tensor]) -> None:
        v, w = low(regions), low(words)
        residual_v, residual_w = ((x - y).norm(dim=-1) for x, y in ((regions, v), (words, w)))
        a, b = (x.view(n, width).amax(1)[:, None] for x in (regions.norm(dim=1), residual_v))
        print_bound(name, exact, mean(largest(v, w, n, width)), a * mean(residual_w) + b * mean(w.norm(dim=-1)))

    def int8(x: Tensor) -> Tensor:
        step = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
        return (x / step).round() * step

    rounding("bfloat16", lambda x: x.bfloat16().float())
    rounding("int8 rows", int8)
    every = torch.cat([regions, words[mask]])
    basis = torch.linalg.eigh((every.T @ every).double()).eigenvectors.flip(1).float()
    for k in (64, 128, 192):
        if k < regions.shape[1]:
            low = basis[:, :k] @ basis[:, :k].T
            v, w = regions @ low, words @ low
            a, b = (regions - v).norm(dim=1).view(n, width).amax(1), mean((words - w).norm(dim=-1))
            print_bound(f"{k} of {regions.shape[1]} dimensions", exact, mean(largest(v, w, n, width)), a[:, None] * b)
    softmax(regions.view(n, width, -1), words, mask, print_bound)


def softmax(regions: Tensor, words: Tensor, mask: Tensor, print_bound: Callable[..., None]) -> None:
    """SCAN's t2i, means, temperature 9: what a bound of bfloat16's rounding leaves undecided."""
    count = mask.sum(1)
    ev, ew = (regions - regions.bfloat16().float()).norm(dim=-1), (words - words.bfloat16().float()).norm(dim=-1)
    found = []
    for v, e in zip(regions, ev, strict=True):  # (R, D), (R,)
        each = []
        for x, y in ((v, words), (v.bfloat16().float(), words.bfloat16().float())):
            a = torch.nn.functional.leaky_relu(y @ x.T, 0.1) * mask[..., None]  # (M, L, R)
            length = a.norm(dim=1, keepdim=True) + 1e-8
            u = (9 * a / length).softmax(-1) @ x
            each.append(torch.nn.functional.cosine_similarity(u, y, dim=-1, eps=1e-8))
        off = (ew[..., None] * v.norm(dim=-1) + words.norm(dim=-1)[..., None] * e) * mask[..., None]
        logit = 9 * ((off + a / length * off.norm(dim=1, keepdim=True)) / length).abs().amax(-1)  # (M, L)
        shift = torch.expm1(2 * logit) * v.norm(dim=-1).max() + e.max()
        bound = 2 * shift / u.norm(dim=-1).clamp(min=1e-8) + 2 * ew
        found.append(torch.stack([(x * mask).sum(-1) / count for x in (*each, bound.clamp(max=2))]))
    scores, near, margin = torch.stack(found, 1)
    print_bound("softmax, bfloat16", scores, near, margin)


def main() -> None:
    parser = argparse.ArgumentParser(description="What certified screening saves.")
    parser.add_argument("features", nargs="?")
    for name, default in (("random", 0), ("images", 500), ("rounds", 3), ("sample", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    sides, owner = read(options.features) if options.features else draw(options.random or 256, options.images)
    shape = f"{len(sides[3])} × {len(sides[2])}, D = {sides[0].shape[1]}"
    print(f"{cpu()}, {native.current_isa()}, {torch.get_num_threads()} threads, {shape}")
    for module in (best, evaluation):
        module.Screen = CountedScreen
    if options.rounds:
        compare(
            "evaluate",
            lambda screen: evaluate(*sides, scorer=SCORER, caption_to_image=owner, screen=screen),
            options.rounds,
        )
        for query in ("caption", "image"):
            compare(
                f"retrieve, {query}",
                lambda screen, query=query: retrieve(*sides, scorer=SCORER, query=query, screen=screen),
                options.rounds,
            )
    if options.sample:
        bounds(sides, owner, options.sample)


if __name__ == "__main__":
    main()
