"""Problems for the kernels that multiply and score pairs, run on a model of the machine, and what they must answer."""

from __future__ import annotations

import itertools

import torch
from cuda_on_host import TileModule, engine_on_host
from problems import error, magnitude

from cmsei_fast.engines import cuda_pair
from cmsei_fast.engines.eight_bits import FORMATS
from cmsei_fast.engines.terms import rounded_rows
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import Attention, PairScorer

CONFIG = tuple(PairScorer.cmsei().config()[: cuda_pair.OPTIONS])


def items(lengths: tuple[int, ...], width: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed features of the dtype's numbers, as float32, and offsets."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(lengths), width, generator=generator).to(dtype).float()
    return rows, torch.tensor([0, *itertools.accumulate(lengths)])


def compared(
    module: TileModule,
    scorer: PairScorer,
    regions: tuple[int, ...],
    words: tuple[int, ...],
    width: int,
    precision: str = "bfloat16",
) -> torch.Tensor:
    """The kernel's scores, which must be the definition's on the same rounded features."""
    dtype = torch.float32 if precision in FORMATS else getattr(torch, precision)
    (v, v_offsets), (w, w_offsets) = items(regions, width, dtype, 1), items(words, width, dtype, 2)
    if precision in FORMATS:  # lengths of several powers of two
        v, w = (x * torch.logspace(-3, 3, len(x), 2)[:, None] for x in (v, w))
    inputs = v, w, v_offsets, w_offsets
    rounded = (rounded_rows(x, precision).double() for x in (v, w))
    wanted = pair_score(*rounded, v_offsets, w_offsets, scorer=scorer, engine="reference", precision="float64")
    with engine_on_host(module):
        found = pair_score(*inputs, scorer=scorer, engine="cuda", precision=precision)
    assert error(found, wanted) <= 2e-5 * magnitude(wanted)
    return found


SCORERS = {
    "cmsei": PairScorer.cmsei(),
    "scan_t2i": PairScorer.scan_t2i(),
    "scan_i2t": PairScorer.scan_i2t("max"),
    "chan": PairScorer.chan(),
    "bfan_prob": PairScorer.bfan("prob"),
    "naaf": PairScorer.naaf(0.2),
    "steps": PairScorer(Attention(steps=3, gates=((1.0, 0.5), (-0.5, 1.0))), Attention(aggregate="max")),
}
