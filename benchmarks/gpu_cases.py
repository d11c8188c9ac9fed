"""Runs every kernel of the fused engines once, on small awkward problems, and compares it with ``eager``.

``python -m benchmarks.gpu_cases "cuda hopper bfloat16"`` runs one case; without a name it lists them. It prints each
step before running it, so the last line names the step that hangs or faults. Of a wrong result it prints where, and by
how much. The cases are small enough for compute-sanitizer.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_compare import check_same_bits, difference_over_limit, step
from cmsei_fast import PairScorer, pair_score, relation_attention
from cmsei_fast.engines import cuda_tiles, triton_design

# Largest differences, relative to the largest number. Engines may multiply rounded features by other instructions.
LIMITS = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-3, "float16": 1e-3, "float8": 5e-3, "int8": 1e-3}
GRADIENT_LIMITS = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 2e-2}
SCORERS = {"t2i": PairScorer.scan_t2i(), "i2t": PairScorer.scan_i2t(), "cmsei": PairScorer.cmsei()}
# Items of one row, of a few, of the field's 36, and of more than a kernel's tile holds; captions likewise.
REGIONS, WORDS, WIDTH = (36, 36, 1, 20, 144, 150, 36), (*range(1, 34), 64, 66), 200


def problem(device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Regions and words of about unit length, and their offsets on the CPU."""
    generator = torch.Generator().manual_seed(0)
    sides = []
    for lengths in (REGIONS, WORDS):
        x = torch.randn(sum(lengths), WIDTH, generator=generator) + 0.3
        sides.append((x / x.norm(dim=1, keepdim=True)).to(device, dtype))
    return sides[0], sides[1], *(torch.tensor([0, *x]).cumsum(0) for x in (REGIONS, WORDS))


def _dtype(precision: str) -> torch.dtype:
    return torch.float32 if precision in ("float8", "int8") else getattr(torch, precision)


@contextlib.contextmanager
def kernel(name: str) -> Iterator[None]:
    """Inside the block, cuda computes scores with this kernel; "" leaves the choice alone."""
    before = cuda_tiles.choose
    if name:
        cuda_tiles.choose = lambda *_: cuda_tiles.Choice(name, "asked for")
    try:
        yield
    finally:
        cuda_tiles.choose = before


@contextlib.contextmanager
def design(name: str) -> Iterator[None]:
    """Inside the block, triton's pair score takes this design; "" leaves the choice alone."""
    before = os.environ.get(triton_design.VARIABLE)
    if name:
        os.environ[triton_design.VARIABLE] = name
    try:
        yield
    finally:
        os.environ.pop(triton_design.VARIABLE, None)
        if before is not None:
            os.environ[triton_design.VARIABLE] = before


def scores(engine: str, precision: str, device: str, variant: str = "") -> float:
    """Compares the scores of all scorers; ``variant`` is cuda's kernel or triton's design."""
    inputs = problem(device, _dtype(precision))
    worst = 0.0
    for name, scorer in SCORERS.items():

        def run(engine: str, scorer: PairScorer = scorer) -> Tensor:
            return pair_score(*inputs, scorer=scorer, engine=engine, precision=precision)

        expected = step(f"{name}: eager", device, lambda run=run: run("eager"))
        with kernel(variant if engine == "cuda" else ""), design(variant if engine == "triton" else ""):
            first, second = (
                step(f"{name}: {engine} {variant}, {ordinal} run", device, lambda run=run: run(engine))
                for ordinal in ("first", "second")
            )
        worst = max(worst, difference_over_limit(f"{name}, images x captions", first, expected, LIMITS[precision]))
        check_same_bits(name, [first], [second])
    return worst


def gradients(engine: str, precision: str, device: str, scorers: tuple[str, ...] = tuple(SCORERS)) -> float:
    """Compares the gradients of regions, words and scalars of these scorers."""
    v, w, *offsets = problem(device, _dtype(precision))
    worst = 0.0
    for name, scorer in ((x, SCORERS[x]) for x in scorers):

        def run(engine: str, scorer: PairScorer = scorer) -> tuple[Tensor, ...]:
            dtype = torch.float64 if precision == "float64" else torch.float32
            leaves = [v.clone().requires_grad_(), w.clone().requires_grad_()]
            scalars = torch.tensor(scorer.scalars(), dtype=dtype).requires_grad_()
            out = pair_score(*leaves, *offsets, scorer=scorer, scalars=scalars, engine=engine)
            return torch.autograd.grad(out.square().sum(), (*leaves, scalars))

        first, second, expected = (
            step(f"{name}: gradients by {by}", device, lambda run=run, by=by: run(by))
            for by in (engine, engine, "eager")
        )
        for part, actual, wanted in zip(("regions", "words", "scalars"), first, expected, strict=True):
            worst = max(
                worst, difference_over_limit(f"{name}, gradient of {part}", actual, wanted, GRADIENT_LIMITS[precision])
            )
        check_same_bits(name, first, second)
    return worst


def attention(engine: str, precision: str, device: str) -> float:
    """Compares relation attention and its gradients, with every table and with none."""
    generator = torch.Generator().manual_seed(0)
    b, h, r, d, labels = 3, 4, 37, 72, 13
    dtype = _dtype(precision)
    q, k, v, upstream = (torch.randn(b, r, h, d, generator=generator).to(device, dtype) for _ in range(4))
    q, k, v, upstream = (x.transpose(1, 2) for x in (q, k, v, upstream))
    label_index = torch.randint(0, labels, (b, r, r), generator=generator).to(device)
    bias = torch.randn(labels, h, generator=generator).to(device, dtype)
    value = torch.randn(labels, h, d, generator=generator).to(device, dtype)
    confidence = (torch.rand(b, r, r, generator=generator) * 0.9 + 0.1).to(device, dtype)
    worst = 0.0
    names = ("output", *(f"gradient of {x}" for x in ("q", "k", "v", "bias", "value", "confidence")))
    for title, tables in (("every table", (bias, value, confidence)), ("no table", (None, None, None))):

        def run(engine: str, tables: tuple[Tensor | None, ...] = tables) -> tuple[Tensor, ...]:
            leaves = [x.detach().clone().requires_grad_() for x in (q, k, v, *tables) if x is not None]
            rest = leaves[3:] or (None, None, None)
            out = relation_attention(*leaves[:3], label_index, *rest, engine=engine)
            return out, *torch.autograd.grad(out, leaves, upstream)

        first, second, expected = (
            step(f"{title}: {by}", device, lambda run=run, by=by: run(by)) for by in (engine, engine, "eager")
        )
        for i, (x, y) in enumerate(zip(first, expected, strict=True)):
            limit = 2e-2 if precision == "bfloat16" else 1e-4 if i == 0 else 1e-3
            worst = max(worst, difference_over_limit(f"{title}, {names[i]}", x, y, limit))
        check_same_bits(title, first, second)
    return worst


# Each case returns the largest difference over its limit.
CASES: dict[str, Callable[[str], float]] = {
    f"cuda {variant} {precision}": partial(scores, "cuda", precision, variant=variant)
    for variant, precisions in (
        ("hopper", ("bfloat16", "float16", "float8", "int8")),
        ("mma", ("bfloat16", "float16")),
        ("library", ("bfloat16", "float32", "float64")),
    )
    for precision in precisions
}
CASES |= {f"cuda gradients {x}": partial(gradients, "cuda", x) for x in ("float32", "bfloat16", "float64")}
CASES |= {f"cuda attention {x}": partial(attention, "cuda", x) for x in ("float32", "bfloat16")}
CASES |= {
    f"triton {design} {x}": partial(scores, "triton", x, variant=design)
    for design in triton_design.DESIGNS
    for x in ("bfloat16", "float32")
}
# Each runs in its own process, because a scorer's kernels take most of a minute to compile.
CASES |= {
    f"triton gradients {x} {scorer}": partial(gradients, "triton", x, scorers=(scorer,))
    for x in ("float32", "bfloat16")
    for scorer in SCORERS
}
CASES |= {f"triton attention {x}": partial(attention, "triton", x) for x in ("float32", "bfloat16")}


def needed(case: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU of this compute capability runs the case: TMA and wgmma need 9.0."""
    return "hopper" not in case or capability == (9, 0)


def main(arguments: list[str]) -> int:
    """Runs a case and prints its largest difference; returns 0 if that is within the limit."""
    if not arguments:
        print("\n".join(CASES))
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    worst = CASES[arguments[0]](device)
    print(f"largest difference over what is allowed: {worst:.2g}")
    return int(not worst <= 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
