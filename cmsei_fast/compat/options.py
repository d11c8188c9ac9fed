"""Makes scorers from the argparse namespaces of the field's repositories."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..scorer import NORMS, Attention, PairScorer, finite

NORMS_OF = {"no_norm": "none", **{name: name for name in NORMS if name != "none"}}
_CODINGS = ("VHACoding", "THACoding", "VSACoding")
_POOLINGS = {"LSEPooling": "lse", "MeanPooling": "mean", "MaxPooling": "max", "SumPooling": "sum"}
_AGGREGATES = {"LogSumExp": "lse", "Max": "max", "Sum": "sum", "Mean": "mean"}


def option(opt: Any, name: str) -> Any:
    """The option of that name, of a namespace or a dictionary.

    Raises:
        AttributeError: if it lacks it.
    """
    if isinstance(opt, Mapping) and name in opt:
        return opt[name]
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


def positive(opt: Any, name: str) -> float:
    """The option of that name, a finite number above 0.

    Raises:
        AttributeError: if the namespace lacks it.
        ValueError: for any other value.
    """
    return finite(f"opt.{name}", number(opt, name), minimum=0.0, open_=True)


def choice(opt: Any, name: str, known: dict[str, str]) -> str:
    """This package's name for the value of an option that takes one of a few names.

    Raises:
        AttributeError: if the namespace lacks it.
        ValueError: if the value has no counterpart here.
    """
    value = option(opt, name)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"opt.{name}: expected one of {', '.join(known)}, got {value!r}")
    return known[value]


def scan(opt: Any) -> Attention:
    """One direction from SCAN's ``raw_feature_norm``, ``agg_func``, ``lambda_softmax`` and ``lambda_lse``."""
    norm, aggregate = choice(opt, "raw_feature_norm", NORMS_OF), choice(opt, "agg_func", _AGGREGATES)
    lse_option: dict[str, Any] = {"lse_temperature": positive(opt, "lambda_lse")} if aggregate == "lse" else {}
    return Attention(temperature=positive(opt, "lambda_softmax"), norm=norm, aggregate=aggregate, **lse_option)


def bfan(opt: Any) -> PairScorer:
    """BFAN's score from ``focal_type`` and ``lambda_softmax``."""
    scorer = PairScorer.bfan(choice(opt, "focal_type", {"equal": "equal", "prob": "prob"}))
    assert scorer.t2i is not None
    direction = replace(scorer.t2i, temperature=positive(opt, "lambda_softmax"))
    return PairScorer(direction, direction)


def naaf(opt: Any) -> PairScorer:
    """NAAF's score at test time from ``thres_safe`` and ``lambda_softmax``."""
    scorer = PairScorer.naaf(finite("opt.thres_safe", number(opt, "thres_safe")))
    assert scorer.t2i is not None
    return PairScorer(replace(scorer.t2i, temperature=positive(opt, "lambda_softmax")))


def chan(coding: Any, pooling: Any, opt: Any, prefix: str = "") -> PairScorer:
    """CHAN's score from its coding and pooling, with ``alpha`` of ``VSACoding`` and ``belta`` of ``LSEPooling``.

    ``prefix``: of the two names in errors: ``"opt."`` where coding and pooling are read from the options.

    Raises:
        AttributeError: if the namespace lacks an option that is read.
        ValueError: naming the argument or option, what it takes and what it was given.
    """
    for name, value, known in (("coding_type", coding, _CODINGS), ("pooling_type", pooling, tuple(_POOLINGS))):
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{prefix}{name}: expected one of {', '.join(known)}, got {value!r}")
    direction = Attention(norm="none", aggregate=_POOLINGS[pooling])
    if pooling == "LSEPooling":  # log Σ exp(r / β): the weight undoes the division by λ that is not there
        inverse = _inverse(opt, "belta")
        direction = replace(direction, weight=inverse, lse_temperature=inverse)
    if coding == "VSACoding":
        return PairScorer(i2t=replace(direction, temperature=_inverse(opt, "alpha")))
    direction = replace(direction, attend="hard", relevance="dot")
    return PairScorer(t2i=direction) if coding == "VHACoding" else PairScorer(i2t=direction)


def _inverse(opt: Any, name: str) -> float:
    """One divided by the option of that name, whose inverse the field's code multiplies with.

    Raises:
        AttributeError: if the namespace lacks it.
        ValueError: for anything but a number whose inverse is finite and positive.
    """
    value = positive(opt, name)
    if not math.isfinite(inverse := 1 / value):
        raise ValueError(f"opt.{name}: expected a finite number > 0, got {value!r} with an infinite inverse")
    return inverse
