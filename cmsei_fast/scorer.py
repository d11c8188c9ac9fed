"""What the score of an image–sentence pair is: frozen descriptions and the presets of the field."""

from __future__ import annotations

import contextlib
import math
import sys
from dataclasses import dataclass, fields, replace

NORMS = ("softmax", "l2norm", "clipped_l2norm", "l1norm", "clipped_l1norm", "clipped", "none")
AGGREGATES = ("mean", "sum", "max", "lse", "guided")
DEFAULT_GATE = (2.0, -1.0)
MAX_STEPS = 8

# Positions in the flat vector of scalars that the operator takes (and differentiates).
W_T2I, W_I2T, W_OBJECT_SENTENCE, W_WORD_IMAGE, W_ALIGNMENT, GUIDE_TEMPERATURE = range(6)
T2I_TEMPERATURE, T2I_LSE, I2T_TEMPERATURE, I2T_LSE, FIRST_GATE = range(6, 11)


def _finite(owner: str, name: str, value: object, *, minimum: float = -math.inf, open_: bool = False) -> float:
    expected = "a finite number" if minimum == -math.inf else f"a finite number {'>' if open_ else '>='} {minimum:g}"
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        number = float(value)
    if not number >= minimum or (open_ and number == minimum):
        raise ValueError(f"{owner}.{name}: expected {expected}, got {value!r}")
    return number


@dataclass(frozen=True)
class Attention:
    """One direction of cross-attention: who asks is said by the field of :class:`PairScorer` it stands in.

    Args:
        weight: weight of the direction in the pair's score, >= 0; 0 means that it is never computed.
        temperature: λ of the softmax over the context, > 0.
        norm: normalisation of the inner products along the query axis, one of ``NORMS`` (SCAN, Lee et al. 2018).
        aggregate: how the queries' relevances become one number, one of ``AGGREGATES``.
        lse_temperature: λ of ``aggregate="lse"``, > 0.
        steps: K >= 1 attention steps (IMRAM-style refinement between them, Chen et al. 2020); 1 is SCAN.
        gates: K − 1 pairs (a, b), g = sigmoid(a · relevance + b); empty means (2, −1) for each.

    Raises:
        ValueError: naming the field, what it takes and what it was given.
    """

    weight: float = 1.0
    temperature: float = 9.0
    norm: str = "clipped_l2norm"
    aggregate: str = "mean"
    lse_temperature: float = 6.0
    steps: int = 1
    gates: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 - the dataclass is frozen
        set_("weight", _finite("Attention", "weight", self.weight, minimum=0.0))
        set_("temperature", _finite("Attention", "temperature", self.temperature, minimum=0.0, open_=True))
        set_("lse_temperature", _finite("Attention", "lse_temperature", self.lse_temperature, minimum=0.0, open_=True))
        if self.norm not in NORMS:
            raise ValueError(f"Attention.norm: expected one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"Attention.aggregate: expected one of {', '.join(AGGREGATES)}, got {self.aggregate!r}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"Attention.steps: expected an integer from 1 to {MAX_STEPS}, got {self.steps!r}")
        gates: tuple | None = None
        with contextlib.suppress(TypeError, ValueError):
            gates = tuple((a, b) for a, b in self.gates) or (DEFAULT_GATE,) * (self.steps - 1)
        if gates is None or len(gates) != self.steps - 1:
            raise ValueError(f"Attention.gates: expected {self.steps - 1} pairs (a, b), got {self.gates!r}")
        set_("gates", tuple((_finite("Attention", "gates", a), _finite("Attention", "gates", b)) for a, b in gates))


@dataclass(frozen=True)
class PairScorer:
    """The score of one image–sentence pair, S = w₁ S_t2i + w₂ S_i2t + w₃ S_os + w₄ S_wi + w₅ S_g.

    Args:
        t2i: words ask, regions are the context; None (or weight 0) leaves it out.
        i2t: regions ask, words are the context; None (or weight 0) leaves it out.
        object_sentence: weight of cos(Σ_r p_r v_r, ĝ_t), p = softmax over regions of μ cos(v_r, ĝ_t).
        word_image: weight of cos(Σ_j ω_j w_j, ĝ_v), ω = softmax over words of μ cos(w_j, ĝ_v).
        alignment: weight of ĝ_v · ĝ_t, the cosine of the mean region and the mean word.
        guide_temperature: μ, > 0, of the cross-level attention and of ``aggregate="guided"``.

    Raises:
        ValueError: naming the field, what it takes and what it was given.
        TypeError: if a direction is neither None nor an :class:`Attention`.
    """

    t2i: Attention | None = None
    i2t: Attention | None = None
    object_sentence: float = 0.0
    word_image: float = 0.0
    alignment: float = 0.0
    guide_temperature: float = 5.0

    def __post_init__(self) -> None:
        for name in ("t2i", "i2t"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Attention):
                raise TypeError(f"PairScorer.{name}: expected an Attention or None, got {type(value).__name__}")
        for name in ("object_sentence", "word_image", "alignment"):
            object.__setattr__(self, name, _finite("PairScorer", name, getattr(self, name), minimum=0.0))
        mu = _finite("PairScorer", "guide_temperature", self.guide_temperature, minimum=0.0, open_=True)
        object.__setattr__(self, "guide_temperature", mu)
        if not any(self.config()[i] for i in (0, 4, 8, 9, 10)):
            raise ValueError("PairScorer: expected at least one term with a weight > 0, got none")

    @classmethod
    def cmsei(cls) -> PairScorer:
        """CMSEI: both directions with guided aggregation and one refinement, cross-level terms and alignment."""
        return cls(
            t2i=Attention(temperature=9.0, aggregate="guided", steps=2),
            i2t=Attention(temperature=4.0, aggregate="guided", steps=2),
            object_sentence=1.0,
            word_image=1.0,
            alignment=1.0,
        )

    @classmethod
    def scan_t2i(cls, aggregate: str = "lse") -> PairScorer:
        """SCAN text-to-image (Lee et al. 2018): λ = 9, clipped l2 normalisation, LSE with λ = 6 or ``"mean"``."""
        return cls(t2i=Attention(temperature=9.0, aggregate=aggregate, lse_temperature=6.0))

    @classmethod
    def scan_i2t(cls, aggregate: str = "lse") -> PairScorer:
        """SCAN image-to-text (Lee et al. 2018): λ = 4, clipped l2 normalisation, LSE with λ = 5 or ``"mean"``."""
        return cls(i2t=Attention(temperature=4.0, aggregate=aggregate, lse_temperature=5.0))

    def config(self) -> list[int]:
        """The discrete half of the scorer: (active, norm, aggregate, steps) of t2i and of i2t, then three flags."""
        out: list[int] = []
        for attention in (self.t2i, self.i2t):
            if attention is None or attention.weight == 0:
                out += [0, 0, 0, 1]
            else:
                out += [1, NORMS.index(attention.norm), AGGREGATES.index(attention.aggregate), attention.steps]
        return out + [int(w > 0) for w in (self.object_sentence, self.word_image, self.alignment)]

    def scalars(self) -> list[float]:
        """The continuous half, in the order of this module's positions; gates of t2i first, then those of i2t."""
        t2i = self.t2i if self.t2i is not None and self.t2i.weight > 0 else Attention(weight=0.0)
        i2t = self.i2t if self.i2t is not None and self.i2t.weight > 0 else Attention(weight=0.0)
        head = [t2i.weight, i2t.weight, self.object_sentence, self.word_image, self.alignment, self.guide_temperature]
        head += [t2i.temperature, t2i.lse_temperature, i2t.temperature, i2t.lse_temperature]
        return head + [x for a in (t2i, i2t) for gate in a.gates for x in gate]

    def with_scalars(self, values: list[float]) -> PairScorer:
        """The same structure with other weights, temperatures and gates (the inverse of :meth:`scalars`)."""
        if len(values) != len(self.scalars()):
            raise ValueError(f"values: expected {len(self.scalars())} numbers, got {len(values)}")
        gates = list(zip(values[FIRST_GATE::2], values[FIRST_GATE + 1 :: 2], strict=True))
        new: dict[str, Attention | None] = {}
        for name, weight, temperature, lse in (("t2i", 0, 6, 7), ("i2t", 1, 8, 9)):
            old: Attention | None = getattr(self, name)
            if old is None or old.weight == 0:
                new[name] = old
                continue
            new[name] = replace(
                old,
                weight=values[weight],
                temperature=values[temperature],
                lse_temperature=values[lse],
                gates=tuple(gates[: old.steps - 1]),
            )
            gates = gates[old.steps - 1 :]
        return PairScorer(new["t2i"], new["i2t"], *values[2:6])

    def to_dict(self) -> dict:
        """Plain dictionary for JSON; :meth:`from_dict` reads it back."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("t2i", "i2t"):
            a = out[name]
            if a is not None:
                out[name] = {f.name: getattr(a, f.name) for f in fields(a)}
        return out

    @classmethod
    def from_dict(cls, values: dict) -> PairScorer:
        """Inverse of :meth:`to_dict`."""
        values = dict(values)
        for name in ("t2i", "i2t"):
            if values.get(name) is not None:
                a = dict(values[name])
                a["gates"] = tuple(tuple(g) for g in a.get("gates", ()))
                values[name] = Attention(**a)
        return cls(**values)
