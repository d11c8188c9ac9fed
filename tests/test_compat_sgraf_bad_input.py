"""What SGRAF's module and functions refuse, told by name."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
import torch
from sgraf_written_out import LENGTHS, MODULES, VECTOR, WIDTH, encoder, problem
from torch import nn

from cmsei_fast.compat import sgraf
from cmsei_fast.compat.similarity import EncoderSimilarity


@pytest.mark.parametrize("name", ["embed_size", "sim_dim", "sgr_step", "num_region"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "4", None, True])
def test_sizes_that_are_none(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected an integer >= 1, got"):
        EncoderSimilarity(**{"embed_size": 4, "sim_dim": 3, name: value})


@pytest.mark.parametrize("module", MODULES)
def test_a_state_that_is_not_whole_is_told_by_name(module: str) -> None:
    state = dict(encoder(module).state_dict())
    smaller = {**state, "sim_eval_w.weight": state["sim_eval_w.weight"][:, 1:]}
    for given, told in (
        (
            {k: x for k, x in state.items() if k != "sim_eval_w.bias"},
            r"'sim_eval_w.bias'\]: expected shape \(1,\), got n",
        ),
        ({**state, "more": torch.zeros(2)}, r"'more'\]: expected shape none, got \(2,\)"),
        (smaller, r"'sim_eval_w.weight'\]: expected shape \(1, 6\), got \(1, 5\)"),
    ):
        with pytest.raises(ValueError, match=rf"^state\[{told}"):
            EncoderSimilarity.from_state(given)
    with pytest.raises(ValueError, match=r"^state: expected the weights of SGRAF's EncoderSimilarity, got NoneType"):
        EncoderSimilarity.from_state(None)  # type: ignore[arg-type]


def test_dtypes_that_do_not_fit_the_weights() -> None:
    v, w = problem()
    model = encoder("SGR")
    with pytest.raises(TypeError, match=r"^img_emb: expected float64 \(as the module's weights\), got float32$"):
        model(v.float(), w, LENGTHS)
    with pytest.raises(TypeError, match=r"^cap_emb: expected float32 \(as the module's weights\), got bfloat16$"):
        model.float()(v.float(), w.bfloat16(), LENGTHS)
    with pytest.raises(TypeError, match=r"^weights: expected float32 or float64, got float16$"):
        model.half()(v.half(), w.half(), LENGTHS)


def test_bad_input() -> None:
    v, w = problem()
    model = encoder("SAF")
    with pytest.raises(ValueError, match="module_name: expected 'SGR' or 'SAF', got 'AVE'"):
        EncoderSimilarity(WIDTH, VECTOR, "AVE")
    with pytest.raises(ValueError, match="precision: expected 'float32' or 'bfloat16', got 'float64'"):
        sgraf.shard_attn_scores(model, v, w, LENGTHS, None, precision="float64")
    with pytest.raises(ValueError, match=r"^model: expected the weights of SGRAF's EncoderSimilarity"):
        sgraf.shard_attn_scores(nn.Linear(2, 2), v, w, LENGTHS, None)
    with pytest.raises(TypeError, match="model: expected a model with sim_enc or a module, got Namespace"):
        sgraf.shard_attn_scores(Namespace(), v, w, LENGTHS, None)
    with pytest.raises(ValueError, match=r"^img_emb: expected 5 regions each, got shape"):
        model(v[:, :4], w, LENGTHS)
    with pytest.raises(ValueError, match=r"cap_lens\[2\]: expected a length from 1 to 8, got 9"):
        sgraf.shard_attn_scores(model, v, w, [1, 4, 9, 3, 4], None)
    with pytest.raises(TypeError, match="cap_lens: expected the number of words"):
        sgraf.shard_attn_scores(model, v, w, None, None)
    for device, told in (
        ("gpu", "cpu, cuda or cuda:N"),
        ("cuda:77", "an available device"),
        ("meta", "an available device"),
    ):
        with pytest.raises(ValueError, match=rf"^device: expected {told}.*, got '{device}'$"):
            sgraf.shard_attn_scores(model, v, w, LENGTHS, None, device=device)
    for name, images, captions in (("img_embs", v[..., 1:], w), ("cap_embs", v, w[..., 1:])):
        told = rf"^{name}: expected a last dimension of {WIDTH} \(as the module\), got {WIDTH - 1}$"
        with pytest.raises(ValueError, match=told):
            sgraf.shard_attn_scores(model, images, captions, LENGTHS, None)
    with pytest.raises(ValueError, match=f"^img_emb: expected a last dimension of {WIDTH}"):
        model(v[..., 1:], w[..., 1:], LENGTHS)
    for name, images, captions in (("img_emb", v[0], w), ("cap_emb", v, w[0])):
        with pytest.raises(ValueError, match=rf"^{name}: expected 3 dimensions \(n, rows, D\), got shape"):
            model(images, captions, LENGTHS)
    with pytest.raises(ValueError, match=rf"^cap_emb: expected a last dimension of {WIDTH} \(as img_emb\), got"):
        model(v, w[..., 1:], LENGTHS)
