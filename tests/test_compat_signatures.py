"""The drop-in functions take by place what the field's take."""

from __future__ import annotations

import inspect
from typing import Any

from cmsei_fast.compat import bfan, chan, laps, naaf, scan, vse_infinity, vsepp


def test_signatures_are_the_field_s() -> None:
    """Names and order of what can be given by place, as in the public repositories."""

    def names(function: Any) -> list[str]:
        return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

    features = ["images", "captions", "cap_lens", "opt"]
    for function in (scan.xattn_score_t2i, scan.xattn_score_i2t, bfan.xattn_score, naaf.xattn_score_test):
        assert names(function) == features
    shards = (scan.shard_xattn_t2i, scan.shard_xattn_i2t, bfan.shard_xattn, naaf.shard_xattn)
    for function in shards:
        assert names(function) == ["images", "captions", "caplens", "opt", "shard_size"]
    for module, expected in (
        (scan, ["images", "captions", "caplens", "sims", "npts", "return_ranks"]),
        (bfan, ["npts", "sims", "return_ranks"]),
        (naaf, ["images", "sims", "npts", "return_ranks"]),
        (vse_infinity, ["npts", "sims", "return_ranks", "mode"]),
        (laps, ["npts", "sims", "return_ranks", "mode"]),
        (chan, ["npts", "sims", "return_ranks", "mode"]),
        (vsepp, ["images", "captions", "npts", "measure", "return_ranks"]),
    ):
        assert names(module.i2t) == names(module.t2i) == expected
    assert names(chan.compute_sims) == ["img_embs", "cap_embs", "img_lens", "cap_lens", "model", "shard_size"]
    assert names(laps.xattn_score_two) == ["images", "captions", "cap_lens", "smooth_t2i", "smooth_i2t"]
