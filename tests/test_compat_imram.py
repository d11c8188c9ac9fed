"""IMRAM's scores of all steps against each pair's equations written out."""

from __future__ import annotations

import inspect
from argparse import Namespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

from cmsei_fast.compat import chan, imram

LENGTHS = [4, 1, 6, 4, 3]
WIDTH = 8


class Model(nn.Module):
    """The part of IMRAM's that the scores need, with its names."""

    def __init__(self) -> None:
        super().__init__()
        for direction in ("t2i", "i2t"):
            for kind in ("linear", "gate"):
                layer = nn.Linear(2 * WIDTH, WIDTH)
                nn.init.normal_(layer.weight)
                setattr(self, f"{kind}_{direction}", layer)


def options(**changes: Any) -> Namespace:
    known = {"model_mode": "full_IMRAM", "iteration_step": 3, "raw_feature_norm": "clipped_l2norm"}
    return Namespace(**{**known, "lambda_softmax": 9.0, "no_IMRAM_norm": False, **changes})


def problem() -> tuple[Model, Tensor, Tensor]:
    torch.manual_seed(0)
    model = Model()
    v = normalize(torch.randn(7, 5, WIDTH, dtype=torch.float64) + 0.3, dim=-1)
    w = normalize(torch.randn(len(LENGTHS), max(LENGTHS) + 2, WIDTH, dtype=torch.float64) + 0.3, dim=-1)
    return model, v, w


def literal(model: Model, queries: Tensor, context: Tensor, direction: str, opt: Namespace) -> Tensor:
    """One pair in one direction: attention, relevance and memory of each step, every vector in full."""
    linear, gate = (getattr(model, f"{kind}_{direction}").double() for kind in ("linear", "gate"))
    state, total = queries, torch.zeros((), dtype=torch.float64)
    for _ in range(opt.iteration_step):
        a = context @ state.T  # (context, queries)
        if opt.raw_feature_norm == "clipped_l2norm":
            a = leaky_relu(a, 0.1)
            a = a / (a.square().sum(1, keepdim=True).sqrt() + 1e-8)
        attended = (opt.lambda_softmax * a).softmax(0).T @ context
        total = total + ((queries * attended).sum(1) / (queries.norm(dim=1) * attended.norm(dim=1))).mean()
        both = torch.cat([state, attended], 1)
        g = gate(both).sigmoid()
        state = state * g + linear(both).tanh() * (1 - g)
        if not opt.no_IMRAM_norm:
            state = state / (state.norm(dim=1, keepdim=True) + 1e-8)
    return total


@pytest.mark.parametrize("mode", ["full_IMRAM", "text_IMRAM", "image_IMRAM"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"no_IMRAM_norm": True}, {"iteration_step": 1}, {"iteration_step": 2, "raw_feature_norm": "no_norm"}],
)
@pytest.mark.parametrize("small", [False, True])
def test_scores_of_all_steps(mode: str, changes: dict, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:  # several blocks of images, a caption at a time
        monkeypatch.setattr(imram, "_TILE_IMAGES", {"cpu": 3})
        monkeypatch.setattr(imram, "_TILE_NUMBERS", {"cpu": 1})
    model, v, w = problem()
    opt = options(model_mode=mode, **changes)
    expected = np.zeros((len(v), len(w)))
    double = Model().double()
    double.load_state_dict(model.state_dict())
    with torch.no_grad():
        for i, regions in enumerate(v):
            for j, (words, n) in enumerate(zip(w, LENGTHS, strict=True)):
                pair = words[:n], regions
                if mode != "image_IMRAM":
                    expected[i, j] += float(literal(double, *pair, "t2i", opt))
                if mode != "text_IMRAM":
                    expected[i, j] += float(literal(double, *pair[::-1], "i2t", opt))
    assert expected.std() > 0.05
    found = imram.shard_xattn(model, None, v.numpy(), None, w.numpy(), LENGTHS, opt, shard_size=128)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    parallel = Namespace(module=model)  # as DataParallel has it
    again = imram.shard_xattn(parallel, None, v.float(), None, w.float(), [torch.tensor(n) for n in LENGTHS], opt)
    np.testing.assert_allclose(again, found, rtol=1e-6, atol=1e-6)


class OnGPU(Tensor):
    """A number that numpy cannot read before it is fetched."""

    def __array__(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return self.as_subclass(Tensor)


def test_lengths_are_a_list_of_a_gpu_s_numbers() -> None:
    """As its ``encode_data`` leaves them: it takes the elements of what ``forward_emb`` returns."""
    model, v, w = problem()
    given = model, None, v.numpy(), None, w.numpy()
    far = [torch.tensor(n).as_subclass(OnGPU) for n in LENGTHS]
    found = imram.shard_xattn(*given, far, options())
    np.testing.assert_array_equal(found, imram.shard_xattn(*given, LENGTHS, options()))
    opt = Namespace(coding_type="VHACoding", pooling_type="MeanPooling")
    regions = [torch.tensor(5.0).as_subclass(OnGPU)] * len(v)
    found = chan.compute_sims(v.numpy(), w.numpy(), regions, far, opt)
    np.testing.assert_array_equal(found, chan.compute_sims(v.numpy(), w.numpy(), [5] * len(v), LENGTHS, opt))


def test_what_does_not_fit() -> None:
    model, v, w = problem()
    arrays = (None, v.numpy(), None, w.numpy(), LENGTHS)
    for opt, error in (
        (options(model_mode="both"), "opt.model_mode: expected one of full_IMRAM, text_IMRAM, image_IMRAM, got 'both'"),
        (options(iteration_step=0), "opt.iteration_step: expected an integer >= 1, got 0"),
        (options(raw_feature_norm="l3"), "opt.raw_feature_norm: expected one of no_norm, "),
    ):
        with pytest.raises(ValueError, match=error):
            imram.shard_xattn(model, *arrays, opt)
    with pytest.raises(TypeError, match="model: expected IMRAM's, with linear_t2i and gate_t2i, got another"):
        imram.shard_xattn(nn.Linear(2, 2), *arrays, options())
    with pytest.raises(ValueError, match="model: expected memories of width 4, as images, got 8"):
        imram.shard_xattn(model, None, v.numpy()[..., :4], None, w.numpy()[..., :4], LENGTHS, options())
    with pytest.raises(ValueError, match="captions: expected width 4"):
        imram.shard_xattn(model, None, v.numpy()[..., :4], None, w.numpy(), LENGTHS, options())
    with pytest.raises(ValueError, match=r"caplens\[1\]: expected a length from 1 to 8, got 9"):
        imram.shard_xattn(model, None, v.numpy(), None, w.numpy(), [1, 9, 2, 2, 2], options())
    holed = v.numpy().copy()
    holed[2, 3, 1] = np.nan
    with pytest.raises(ValueError, match="expected finite features, got none for image 2 and caption 0"):
        imram.shard_xattn(model, None, holed, None, w.numpy(), LENGTHS, options())
    with pytest.raises(AttributeError, match="opt: expected a namespace with iteration_step"):
        imram.shard_xattn(model, *arrays, Namespace(model_mode="full_IMRAM"))


def test_no_images_and_no_captions() -> None:
    model, v, w = problem()
    assert imram.shard_xattn(model, None, v.numpy()[:0], None, w.numpy(), LENGTHS, options()).shape == (0, 5)
    assert imram.shard_xattn(model, None, v.numpy(), None, w.numpy()[:0], [], options()).shape == (7, 0)


def test_signature_is_the_field_s() -> None:
    names = [
        p.name for p in inspect.signature(imram.shard_xattn).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert names == ["model", "images_fc", "images", "caption_ht", "captions", "caplens", "opt", "shard_size"]
