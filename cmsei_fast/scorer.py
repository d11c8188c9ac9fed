"""Definitions of the score of an image–sentence pair, as frozen dataclasses, and presets of published models."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from .known_fields import check_known

NORMS = ("softmax", "l2norm", "clipped_l2norm", "l1norm", "clipped_l1norm", "clipped", "none")
AGGREGATES = ("mean", "sum", "max", "lse", "guided")
ATTENDS = ("softmax", "hard", "focal_equal", "focal_prob", "negative_aware")
RELEVANCES = ("cosine", "dot")
DEFAULT_GATE = (2.0, -1.0)
MAX_STEPS = 8

# Positions in the flat vector of scalars that the operator takes (and differentiates).
W_T2I, W_I2T, W_OBJECT_SENTENCE, W_WORD_IMAGE, W_ALIGNMENT, GUIDE_TEMPERATURE = range(6)
T2I_TEMPERATURE, T2I_LSE, I2T_TEMPERATURE, I2T_LSE, FIRST_GATE = range(6, 11)
# After the gates of t2i and of i2t: the threshold of each direction that is negative-aware.

# Positions in the list of integers, each followed by its direction's relevance.
T2I_ATTEND, I2T_ATTEND = 11, 13


def thresholds(config: list[int]) -> list[int]:
    """0 for t2i and 1 for i2t, those of them whose threshold is at the end of the scalars."""
    return [i for i, at in enumerate((T2I_ATTEND, I2T_ATTEND)) if ATTENDS[config[at]] == "negative_aware"]


def finite(name: str, value: object, *, minimum: float = -math.inf, open_: bool = False) -> float:
    """A number as a float; ``open_``: it is above the minimum.

    Raises:
        ValueError: naming it, for any other.
    """
    expected = "a finite number" if minimum == -math.inf else f"a finite number {'>' if open_ else '>='} {minimum:g}"
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):  # numpy's scalars too
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number) or number < minimum or (open_ and number == minimum):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return number


@dataclass(frozen=True)
class Attention:
    """One direction of cross-attention. The field of :class:`PairScorer` that holds it says which side attends.

    Args:
        weight: weight of the direction in the pair's score, >= 0; with 0 it is never computed.
        temperature: λ of the softmax over the context, > 0.
        norm: normalisation of the inner products along the query axis, one of ``NORMS`` (SCAN, Lee et al. 2018).
        aggregate: how the queries' relevances become one number, one of ``AGGREGATES``.
        lse_temperature: λ of ``aggregate="lse"``, > 0.
        steps: K >= 1 attention steps (with IMRAM-style refinement between them, Chen et al. 2020); 1 is SCAN.
        gates: K − 1 pairs (a, b), g = sigmoid(a · relevance + b); empty means (2, −1) for each.
        attend: how the attention P over the context is formed from the normalised inner products Ã, one of ``ATTENDS``:
            ``"softmax"`` of λ Ã; ``"hard"``, all of it on the first largest inner product (CHAN, Pan et al. 2023);
            ``"focal_equal"`` and ``"focal_prob"``, the softmax without what is below its mean, or below its mean
            weighted by √P (BFAN, Liu et al. 2019); ``"negative_aware"``, whose relevance adds two terms (NAAF, Zhang et
            al. 2022; one step, relevance ``"cosine"``). docs/scores.md has the formulas. Which entries are kept or
            chosen is a constant in the gradient.
        relevance: ``"cosine"`` of query and attended context, or their inner product ``"dot"``.
        threshold: τ of ``attend="negative_aware"``: a word whose inner products are all below it is a mismatch.

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
    attend: str = "softmax"
    relevance: str = "cosine"
    threshold: float = 0.0

    def __post_init__(self) -> None:
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 - the dataclass is frozen
        set_("weight", finite("Attention.weight", self.weight, minimum=0.0))
        set_("temperature", finite("Attention.temperature", self.temperature, minimum=0.0, open_=True))
        set_("lse_temperature", finite("Attention.lse_temperature", self.lse_temperature, minimum=0.0, open_=True))
        if self.norm not in NORMS:
            raise ValueError(f"Attention.norm: expected one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"Attention.aggregate: expected one of {', '.join(AGGREGATES)}, got {self.aggregate!r}")
        integral = isinstance(self.steps, numbers.Integral) and not isinstance(self.steps, bool)
        if not integral or not 1 <= self.steps <= MAX_STEPS:
            raise ValueError(f"Attention.steps: expected an integer from 1 to {MAX_STEPS}, got {self.steps!r}")
        set_("steps", int(self.steps))
        gates: tuple | None = None
        with contextlib.suppress(TypeError, ValueError):
            gates = tuple((a, b) for a, b in self.gates) or (DEFAULT_GATE,) * (self.steps - 1)
        if gates is None or len(gates) != self.steps - 1:
            raise ValueError(f"Attention.gates: expected {self.steps - 1} pairs (a, b), got {self.gates!r}")
        set_("gates", tuple((finite("Attention.gates", a), finite("Attention.gates", b)) for a, b in gates))
        if self.attend not in ATTENDS:
            raise ValueError(f"Attention.attend: expected one of {', '.join(ATTENDS)}, got {self.attend!r}")
        if self.relevance not in RELEVANCES:
            raise ValueError(f"Attention.relevance: expected one of {', '.join(RELEVANCES)}, got {self.relevance!r}")
        if self.attend == "negative_aware" and (self.steps, self.relevance) != (1, "cosine"):
            raise ValueError(
                "Attention.attend: expected 'negative_aware' with steps=1 and relevance='cosine', "
                f"got steps={self.steps}, relevance={self.relevance!r}"
            )
        set_("threshold", finite("Attention.threshold", self.threshold))


_ABSENT = Attention(weight=0.0)


@dataclass(frozen=True)
class PairScorer:
    """The score of one image–sentence pair, S = w₁ S_t2i + w₂ S_i2t + w₃ S_os + w₄ S_wi + w₅ S_g.

    Args:
        t2i: words are the queries, regions the context; None (or weight 0) leaves the direction out.
        i2t: regions are the queries, words the context; None (or weight 0) leaves the direction out.
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
            object.__setattr__(self, name, finite(f"PairScorer.{name}", getattr(self, name), minimum=0.0))
        mu = finite("PairScorer.guide_temperature", self.guide_temperature, minimum=0.0, open_=True)
        object.__setattr__(self, "guide_temperature", mu)
        weights = [direction.weight for direction in (self.t2i, self.i2t) if direction is not None]
        if not any((*weights, self.object_sentence, self.word_image, self.alignment)):
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

    @classmethod
    def scan_both(cls, t2i: str = "mean", i2t: str = "lse") -> PairScorer:
        """SCAN's ensemble of both directions (Lee et al. 2018): the mean of both scores, with these aggregates."""
        return cls(
            t2i=Attention(0.5, 9.0, aggregate=t2i, lse_temperature=6.0),
            i2t=Attention(0.5, 4.0, aggregate=i2t, lse_temperature=5.0),
        )

    @classmethod
    def laps(cls) -> PairScorer:
        """``xattn_score_two`` of LAPS (Fu et al. 2024): the mean of SCAN's t2i and i2t with means; unit vectors."""
        return cls.scan_both("mean", "mean")

    @classmethod
    def bfan(cls, focal: str = "equal") -> PairScorer:
        """BFAN (Liu et al. 2019): focal attention in both directions, λ = 20; focal is ``"equal"`` or ``"prob"``.

        Raises:
            ValueError: for another focal form.
        """
        if focal not in ("equal", "prob"):
            raise ValueError(f"focal: expected 'equal' or 'prob', got {focal!r}")
        direction = Attention(temperature=20.0, attend=f"focal_{focal}")
        return cls(direction, direction)

    @classmethod
    def naaf(cls, threshold: float = 0.0) -> PairScorer:
        """``xattn_score_test`` of NAAF (Zhang et al. 2022), λ = 20; threshold is the model's ``thres_safe``."""
        return cls(t2i=Attention(temperature=20.0, attend="negative_aware", threshold=threshold))

    @classmethod
    def chan(cls) -> PairScorer:
        """CHAN (Pan et al. 2023): each word's best region, pooled by log Σ exp(r / 0.1); unit vectors.

        The weight of 10 undoes the division by λ_lse, which CHAN's pooling does not have.
        """
        return cls(
            t2i=Attention(10.0, norm="none", aggregate="lse", lse_temperature=10.0, attend="hard", relevance="dot")
        )

    @classmethod
    def maxsim(cls, aggregate: str = "sum") -> PairScorer:
        """ColBERT's MaxSim (Khattab and Zaharia 2020), TERAN's MrSw (Messina et al. 2021): Σ_j max_r w_j · v_r.

        ``aggregate="mean"`` is TERAN's MrAVGw. Padding does not count as a region, as it does (with 0) in TERAN's code.
        """
        return cls(t2i=Attention(norm="none", aggregate=aggregate, attend="hard", relevance="dot"))

    @classmethod
    def imram_first_step(cls) -> PairScorer:
        """The first of IMRAM's steps (Chen et al. 2020), in both directions: SCAN's attention with λ = 9, means.

        The later steps need the weights of the model's memory (:mod:`cmsei_fast.compat.imram`).
        """
        return cls(Attention(temperature=9.0), Attention(temperature=9.0))

    def config(self) -> list[int]:
        """The discrete half of the scorer: (active, norm, aggregate, steps) of t2i and of i2t, a flag for each of the
        other three terms, then (attend, relevance) of t2i and of i2t.
        """
        out: list[int] = []
        tail: list[int] = []
        for attention in (self.t2i, self.i2t):
            if attention is None or attention.weight == 0:
                out += [0, 0, 0, 1]
                tail += [0, 0]
            else:
                out += [1, NORMS.index(attention.norm), AGGREGATES.index(attention.aggregate), attention.steps]
                tail += [ATTENDS.index(attention.attend), RELEVANCES.index(attention.relevance)]
        return out + [int(w > 0) for w in (self.object_sentence, self.word_image, self.alignment)] + tail

    def scalars(self) -> list[float]:
        """The continuous half, in the order of this module's positions: gates of t2i, gates of i2t, then thresholds."""
        t2i = self.t2i if self.t2i is not None and self.t2i.weight > 0 else _ABSENT
        i2t = self.i2t if self.i2t is not None and self.i2t.weight > 0 else _ABSENT
        head = [t2i.weight, i2t.weight, self.object_sentence, self.word_image, self.alignment, self.guide_temperature]
        head += [t2i.temperature, t2i.lse_temperature, i2t.temperature, i2t.lse_temperature]
        gates = [x for a in (t2i, i2t) for gate in a.gates for x in gate]
        return head + gates + [(t2i, i2t)[i].threshold for i in thresholds(self.config())]

    def with_scalars(self, values: list[float]) -> PairScorer:
        """The same structure with other weights, temperatures, gates and thresholds (inverse of :meth:`scalars`).

        Raises:
            ValueError: for a wrong number of values, and as the constructor does.
        """
        if len(values) != len(self.scalars()):
            raise ValueError(f"values: expected {len(self.scalars())} numbers, got {len(values)}")
        aware = thresholds(self.config())
        end = len(values) - len(aware)
        limits = dict(zip(aware, values[end:], strict=True))
        gates = list(zip(values[FIRST_GATE:end:2], values[FIRST_GATE + 1 : end : 2], strict=True))
        new: dict[str, Attention | None] = {}
        places = (W_T2I, T2I_TEMPERATURE, T2I_LSE), (W_I2T, I2T_TEMPERATURE, I2T_LSE)
        for direction, (name, (weight, temperature, lse)) in enumerate(zip(("t2i", "i2t"), places, strict=True)):
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
                threshold=limits.get(direction, old.threshold),
            )
            gates = gates[old.steps - 1 :]
        return PairScorer(new["t2i"], new["i2t"], *values[W_OBJECT_SENTENCE : GUIDE_TEMPERATURE + 1])

    def to_dict(self) -> dict:
        """A plain dictionary for JSON; :meth:`from_dict` reads it back."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("t2i", "i2t"):
            a = out[name]
            if a is not None:
                out[name] = {f.name: getattr(a, f.name) for f in fields(a)}
        return out

    @classmethod
    def from_dict(cls, values: dict) -> PairScorer:
        """Inverse of :meth:`to_dict`; missing fields get their defaults.

        Raises:
            TypeError: for an unknown field, or for something other than a dictionary where one is expected.
            ValueError: as the constructor does.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"PairScorer: expected a dictionary of its fields, got {type(values).__name__}")
        check_known("PairScorer", values, cls, TypeError)
        values = dict(values)
        for name in ("t2i", "i2t"):
            if values.get(name) is not None:
                if not isinstance(values[name], Mapping):
                    got = type(values[name]).__name__
                    raise TypeError(f"PairScorer.{name}: expected a dictionary of its fields or None, got {got}")
                check_known(f"PairScorer.{name}", values[name], Attention, TypeError)
                a = dict(values[name])
                a["gates"] = tuple(tuple(g) for g in a.get("gates", ()))
                values[name] = Attention(**a)
        return cls(**values)


def scorer_at_hand(value: object) -> str:
    """A hint for errors: where the scorer is, for the name of a preset, its function, or a module with a scorer."""
    name = value if isinstance(value, str) else getattr(value, "__name__", "")
    if isinstance(getattr(value, "scorer", None), PairScorer):
        return "; its .scorer is one"
    if name != "from_dict" and isinstance(vars(PairScorer).get(name), classmethod):
        return f"; PairScorer.{name}() is one"
    return ""
