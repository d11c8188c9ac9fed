"""An argparse namespace of the field as a scorer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..scorer import NORMS, Attention, PairScorer

_NORMS = {"no_norm": "none", **{name: name for name in NORMS if name != "none"}}
_AGGREGATES = {"LogSumExp": "lse", "Max": "max", "Sum": "sum", "Mean": "mean"}


def option(opt: Any, name: str) -> Any:
    """The option of that name.

    Raises:
        AttributeError: if the namespace lacks it.
    """
    if not hasattr(opt, name):
        raise AttributeError(f"opt: expected a namespace with {name}, got one without it: {opt!r:.200}")
    return getattr(opt, name)


def number(opt: Any, name: str) -> Any:
    """The option of that name as a plain number, where training has left a tensor or an array of one.

    Raises:
        AttributeError: if the namespace lacks it.
    """
    value = option(opt, name)
    return value.item() if getattr(value, "shape", None) == () else value


def choice(opt: Any, name: str, known: dict[str, str]) -> str:
    """The counterpart of an option that names one of a few.

    Raises:
        AttributeError: if the namespace lacks it.
        ValueError: if what it names has no counterpart.
    """
    value = option(opt, name)
    if value not in known:
        raise ValueError(f"opt.{name}: expected one of {', '.join(known)}, got {value!r}")
    return known[value]


def scan(opt: Any) -> Attention:
    """One direction from SCAN's ``raw_feature_norm``, ``agg_func``, ``lambda_softmax`` and ``lambda_lse``."""
    norm, aggregate = choice(opt, "raw_feature_norm", _NORMS), choice(opt, "agg_func", _AGGREGATES)
    given = {"lse_temperature": number(opt, "lambda_lse")} if aggregate == "lse" else {}
    return Attention(temperature=number(opt, "lambda_softmax"), norm=norm, aggregate=aggregate, **given)


def bfan(opt: Any) -> PairScorer:
    """BFAN's score from ``focal_type`` and ``lambda_softmax``."""
    scorer = PairScorer.bfan(choice(opt, "focal_type", {"equal": "equal", "prob": "prob"}))
    assert scorer.t2i is not None
    direction = replace(scorer.t2i, temperature=number(opt, "lambda_softmax"))
    return PairScorer(direction, direction)


def naaf(opt: Any) -> PairScorer:
    """NAAF's score at test time from ``thres_safe`` and ``lambda_softmax``."""
    scorer = PairScorer.naaf(number(opt, "thres_safe"))
    assert scorer.t2i is not None
    return PairScorer(replace(scorer.t2i, temperature=number(opt, "lambda_softmax")))
