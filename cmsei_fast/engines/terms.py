"""The meaning of an operator's flat (scalars, config), and the dtypes a precision rounds to and sums in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cmsei_fast import scorer as s
from cmsei_fast.engines import eight_bits

EPS = 1e-8
LEAK = 0.1
# Focal attention keeps weights above (1 − FOCAL_SLACK) times their mean: equal weights (one context item, one query)
# are then all kept, whatever their rounding. The published code divides 0 by 0 if the context is one item.
FOCAL_SLACK = 1e-5
INTRA_TEMPERATURE = 5.0  # of a negative-aware direction's attention among its queries, as in NAAF's code
# The dtype that holds features rounded to each precision: bfloat16 holds 8-bit numbers times their scales exactly
# (eight_bits.py).
PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "float8": torch.bfloat16,
    "int8": torch.bfloat16,
}


class Direction(NamedTuple):
    """One direction of attention: tensors are 0-d views of the scalars."""

    weight: Tensor
    temperature: Tensor
    lse_temperature: Tensor
    norm: str
    aggregate: str
    steps: int
    gates: tuple[tuple[Tensor, Tensor], ...]
    attend: str
    relevance: str
    threshold: Tensor


class Terms(NamedTuple):
    """The five terms of a score; None where the weight is zero, so that nothing is computed for it."""

    t2i: Direction | None
    i2t: Direction | None
    object_sentence: Tensor | None
    word_image: Tensor | None
    alignment: Tensor | None
    guide_temperature: Tensor

    @property
    def guides_regions(self) -> bool:
        """Whether p, the softmax over regions of μ cos(v_r, ĝ_t), is needed."""
        return self.object_sentence is not None or (self.i2t is not None and self.i2t.aggregate == "guided")

    @property
    def guides_words(self) -> bool:
        """Whether ω, the softmax over words of μ cos(w_j, ĝ_v), is needed."""
        return self.word_image is not None or (self.t2i is not None and self.t2i.aggregate == "guided")


def read_terms(scalars: Tensor, config: list[int]) -> Terms:
    """The terms behind ``PairScorer.scalars()`` (as a tensor (n,)) and ``PairScorer.config()``."""
    aware = s.thresholds(config)
    end = len(scalars) - len(aware)
    limits = {place: scalars[end + i] for i, place in enumerate(aware)}
    gates = [(scalars[i], scalars[i + 1]) for i in range(s.FIRST_GATE, end, 2)]
    directions: list[Direction | None] = []
    for place, (weight, temperature, lse, attend) in enumerate(
        ((s.W_T2I, s.T2I_TEMPERATURE, s.T2I_LSE, s.T2I_ATTEND), (s.W_I2T, s.I2T_TEMPERATURE, s.I2T_LSE, s.I2T_ATTEND))
    ):
        active, norm, aggregate, steps = config[4 * place : 4 * place + 4]
        own, gates = tuple(gates[: steps - 1]), gates[steps - 1 :]
        direction = Direction(
            scalars[weight],
            scalars[temperature],
            scalars[lse],
            s.NORMS[norm],
            s.AGGREGATES[aggregate],
            steps,
            own,
            s.ATTENDS[config[attend]],
            s.RELEVANCES[config[attend + 1]],
            limits.get(place, scalars.new_zeros(())),
        )
        directions.append(direction if active else None)
    flags = zip(config[8:11], (s.W_OBJECT_SENTENCE, s.W_WORD_IMAGE, s.W_ALIGNMENT), strict=True)
    weights = [scalars[i] if active else None for active, i in flags]
    return Terms(directions[0], directions[1], weights[0], weights[1], weights[2], scalars[s.GUIDE_TEMPERATURE])


def accumulator(precision: str) -> torch.dtype:
    """The dtype of sums: float64 for ``"float64"``, float32 for everything else."""
    return torch.float64 if precision == "float64" else torch.float32


def narrow_labels(labels: Tensor, tables: bool) -> Tensor:
    """Labels (B, R, R) of relations as kernels read them: int32, contiguous.

    Without tables a label may be any integer, and only 0 has a meaning: 2³² must not become 0 in 32 bits.
    """
    if not tables and labels.dtype == torch.int64:
        labels = labels != 0
    return labels.to(torch.int32).contiguous()


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over numbers of this dtype are kept: float64 for float64, float32 for narrower ones."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rounded_rows(x: Tensor, precision: str) -> Tensor:
    """Features (rows, D) rounded to the precision, in the dtype that holds them; a view where they are already."""
    return eight_bits.rounded(x, precision) if precision in eight_bits.FORMATS else x.to(PRECISIONS[precision])


def rounded(x: Tensor, precision: str) -> Tensor:
    """Features (rows, D) rounded to the precision, held in its accumulator's dtype."""
    return rounded_rows(x, precision).to(accumulator(precision))
