"""What is wrong with a call of a repository's function is told by that function's own names."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
import pytest
import torch
from field_written_out import LENGTHS, options, problem

from cmsei_fast.compat import bfan, chan, laps, naaf, scan, sgraf, vse_infinity, vsepp

CHAN = {"coding_type": "VHACoding", "pooling_type": "MeanPooling"}
SHARDS = {
    "SCAN": (("images", "captions"), lambda v, w: scan.shard_xattn_t2i(v, w, LENGTHS, options())),
    "BFAN": (("images", "captions"), lambda v, w: bfan.shard_xattn(v, w, LENGTHS, options())),
    "NAAF": (("images", "captions"), lambda v, w: naaf.shard_xattn(v, w, LENGTHS, options())),
    "CHAN": (
        ("img_embs", "cap_embs"),
        lambda v, w: chan.compute_sims(v, w, [5] * len(v), LENGTHS, Namespace(opt=Namespace(**CHAN))),
    ),
}


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["arrays", "tensors"])
@pytest.mark.parametrize("repository", SHARDS)
def test_features_that_are_not_finite(repository: str, kind: Any) -> None:
    names, call = SHARDS[repository]
    for side, name, item in ((0, names[0], "image"), (1, names[1], "caption")):
        features = [x.float().numpy() for x in problem()]
        features[side][2, 1] = np.nan
        with pytest.raises(ValueError, match=f"^{name}: expected finite features, got NaN or an infinity in {item} 2$"):
            call(*map(kind, features))
    huge = [kind(1e30 * x.float().numpy()) for x in problem()]
    with pytest.raises(ValueError, match=f"^{', '.join(names)}: expected features with finite inner products"):
        call(*huge)


def test_features_of_sgraf_that_are_not_finite() -> None:
    encoder = sgraf.EncoderSimilarity(8, 4, "SAF", num_region=5)
    for side in (0, 1):
        features = [x.float() for x in problem()]
        features[side][1, 0] = torch.nan
        with pytest.raises(ValueError, match=r"^img_embs, cap_embs: expected finite features, got none for image"):
            sgraf.shard_attn_scores(encoder, *features, LENGTHS, None)


def test_weights_that_are_not_sgraf_s() -> None:
    v, w = problem()
    other = sgraf.EncoderSimilarity(8, 4, "SAF", num_region=5)
    other.sim_eval_w = torch.nn.Linear(3, 1)
    for model, told in (
        (torch.nn.Linear(2, 2), "model: expected the weights of SGRAF's EncoderSimilarity"),
        (Namespace(sim_enc=other), r"model\['sim_eval_w.weight'\]: expected shape"),
    ):
        with pytest.raises(ValueError, match=f"^{told}"):
            sgraf.shard_attn_scores(model, v, w, LENGTHS, None)


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_matrices_that_cannot_be_ranked(direction: str) -> None:
    sims = np.random.default_rng(0).standard_normal((4, 20))
    holed = np.where(sims == sims[2, 3], np.nan, sims)
    features = np.zeros((4, 2, 3)), None, None
    for call in (
        lambda x: getattr(scan, direction)(*features, x),
        lambda x: getattr(bfan, direction)(len(x), x),
        lambda x: getattr(naaf, direction)(features[0][: len(x)], x),
        lambda x: getattr(vse_infinity, direction)(len(x), x),
    ):
        with pytest.raises(ValueError, match=r"^sims: expected no NaN, got one at image 2, caption 3$"):
            call(holed)
        with pytest.raises(ValueError, match=r"^sims: expected 5 captions for each of 4 images .*, got 19$"):
            call(sims[:, :19])
    rank = getattr(bfan, direction)
    with pytest.raises(ValueError, match=r"^sims: expected 5 .* got 20; .* in a row, sims\[::5\] has each once$"):
        rank(20, np.repeat(sims, 5, axis=0))
    with pytest.raises(ValueError, match=r"^sims: expected 5 captions .*, got 4; its transpose has them$"):
        rank(20, sims.T)
    with pytest.raises(ValueError, match=r"^sims: expected at least one image and one caption, got shape \(0, 0\)$"):
        rank(0, sims[:0, :0])


@pytest.mark.parametrize("measure", ["cosine", "order"])
def test_features_of_vsepp_that_are_not_numbers(measure: str) -> None:
    once, captions = np.random.default_rng(0).standard_normal((2, 4)), np.ones((10, 4))
    for name in ("images", "captions"):
        features = {"images": np.repeat(once, 5, axis=0), "captions": captions.copy()}
        features[name][7, 1] = np.nan
        with pytest.raises(ValueError, match=f"^{name}: expected no NaN, got one in row 7$"):
            vsepp.i2t(**features, measure=measure)
    features = {"images": np.repeat(np.full((2, 4), np.inf), 5, axis=0), "captions": captions * [1, -1, 1, -1]}
    with pytest.raises(ValueError, match=r"^images, captions: expected no NaN, got one at image 0, caption 0$"):
        vsepp.t2i(**features)


def test_vectors_that_have_no_inner_products() -> None:
    images, captions = torch.ones(3, 4), torch.ones(15, 4)
    assert vse_infinity.compute_sim(images.bfloat16().requires_grad_(), captions).shape == (3, 15)
    for name, pair, told in (
        ("captions", (images, captions[:, 1:]), r"expected a last dimension of 4 \(as images\), got 3"),
        ("images", (images[None], captions), r"expected shape \(n, d\), got \(1, 3, 4\)"),
        ("captions", (images, captions[0]), r"expected shape \(n, d\), got \(4,\)"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: {told}$"):
            vse_infinity.compute_sim(*pair)
    with pytest.raises(TypeError, match=r"^images: expected a floating dtype .* got int64$"):
        vse_infinity.compute_sim(images.long(), captions)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "9", None, True])
def test_options_that_are_no_temperatures(value: Any) -> None:
    v, w = problem()
    for name, calls in {
        "lambda_softmax": (scan.xattn_score_i2t, bfan.xattn_score, naaf.xattn_score_test),
        "lambda_lse": (scan.xattn_score_t2i,),
    }.items():
        for call in calls:
            with pytest.raises(ValueError, match=rf"^opt\.{name}: expected a finite number > 0, got {value!r}$"):
                call(v, w, LENGTHS, options(**{name: value}))
    for call, names in (
        (laps.xattn_score_t2i, ["smooth"]),
        (laps.xattn_score_i2t, ["smooth"]),
        (laps.xattn_score_two, ["smooth_t2i", "smooth_i2t"]),
    ):
        for name in names:
            with pytest.raises(ValueError, match=rf"^{name}: expected a finite number > 0, got {value!r}$"):
                call(v, w, LENGTHS, **{name: value})


def test_options_of_naaf_and_chan_by_their_names() -> None:
    v, w = problem()
    with pytest.raises(ValueError, match=r"^opt\.thres_safe: expected a finite number, got nan$"):
        naaf.xattn_score_test(v, w, LENGTHS, options(thres_safe=float("nan")))
    for name in CHAN:
        model = Namespace(opt=Namespace(**{**CHAN, name: "other"}))
        with pytest.raises(ValueError, match=rf"^opt\.{name}: expected one of .*, got 'other'$"):
            chan.compute_sims(v, w, [5] * 3, LENGTHS, model)
    for model in (torch.nn.Linear(2, 2), {}):
        with pytest.raises(AttributeError, match=r"^model: expected CHAN's, with its opt, or the options, got "):
            chan.compute_sims(v, w, [5] * 3, LENGTHS, model)
