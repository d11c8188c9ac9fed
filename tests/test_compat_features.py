"""Features that no repository's function can score: each is told by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from field_written_out import LENGTHS, options, problem

from cmsei_fast.compat import bfan, laps, naaf, scan

SCORING = {
    "a tensor": (lambda v, w, opt: scan.xattn_score_i2t(v, w, LENGTHS, opt), torch.as_tensor),
    "LAPS": (lambda v, w, opt: laps.xattn_score_two(v, w, LENGTHS), torch.as_tensor),
    "shards of tensors": (lambda v, w, opt: bfan.shard_xattn(v, w, LENGTHS, opt), torch.as_tensor),
    "shards of arrays": (lambda v, w, opt: naaf.shard_xattn(v, w, LENGTHS, opt), np.asarray),
}
NO_FEATURES: dict[str, tuple[Any, type[Exception], str]] = {
    "sparse": (lambda x: torch.as_tensor(x).to_sparse(), TypeError, "got a torch tensor of layout torch.sparse_coo"),
    "nested": (
        lambda x: torch.nested.nested_tensor(list(torch.as_tensor(x))),
        TypeError,
        "expected .* got a nested torch tensor",
    ),
    "without data": (lambda x: torch.as_tensor(x).to("meta"), ValueError, "expected a tensor that holds data"),
    "a number": (lambda x: torch.ones(()), ValueError, r"expected 3 dimensions \(n, rows, D\), got shape \(\)"),
    "integers": (lambda x: torch.ones(3, 5, 8, dtype=torch.int64), TypeError, "expected a floating dtype .* got int64"),
}
NO_ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "masked": (np.ma.masked_array, TypeError, "got MaskedArray"),
    "objects": (lambda x: x.astype(object), TypeError, "expected a floating dtype .* got object"),
    "a number": (lambda x: np.ones(()), ValueError, r"expected 3 dimensions \(n, rows, D\), got shape \(\)"),
}
if np.finfo(np.longdouble).bits > 64:  # elsewhere it is float64
    NO_ARRAYS["long"] = (lambda x: x.astype(np.longdouble), TypeError, "expected a floating dtype .* got float[0-9]+")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("call", SCORING)
@pytest.mark.parametrize("name", NO_FEATURES)
def test_what_holds_no_features_is_told_by_name(call: str, name: str) -> None:
    score, kind = SCORING[call]
    make, error, told = NO_FEATURES[name]
    v, w = (kind(x.numpy()) for x in problem())
    for side, pair in (("images", (make(v), w)), ("captions", (v, make(w)))):
        with pytest.raises(error, match=rf"^{side}: .*{told}"):
            score(*pair, options())


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_arrays_without_features_are_told_by_name(name: str) -> None:
    make, error, told = NO_ARRAYS[name]
    v, w = (x.numpy() for x in problem())
    for side, pair in (("images", (make(v), w)), ("captions", (v, make(w)))):
        with pytest.raises(error, match=rf"^{side}: .*{told}"):
            scan.shard_xattn_t2i(*pair, LENGTHS, options())
