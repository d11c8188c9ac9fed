"""SGRAF's names: its parameters', its functions' and its checkpoints'; models that score shards."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sgraf_written_out import LENGTHS, MODULES, REGIONS, VECTOR, WIDTH, encoder, literal, problem
from torch import Tensor, nn

from cmsei_fast.compat import scan, sgraf
from cmsei_fast.compat.similarity import EncoderSimilarity


def fields_own(model: EncoderSimilarity) -> nn.Module:
    """A module with the parameters of SGRAF's, as far as ``state_dict`` tells; it is never called."""

    class Own(nn.Module):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return model.state_dict()

        def forward(self, *args: Any) -> Tensor:
            raise AssertionError("called")

    return Own()


@pytest.mark.parametrize("module", MODULES)
def test_shards(module: str) -> None:
    v, w = problem()
    model = encoder(module)
    expected = literal(v, w, model.state_dict(), module)
    given = v.numpy(), w.numpy(), LENGTHS, Namespace()
    for holder in (SimpleNamespace(sim_enc=fields_own(model)), SimpleNamespace(sim_enc=model.train()), model):
        found = sgraf.shard_attn_scores(holder, *given, shard_size=2)
        assert (found.dtype, found.shape) == (np.float64, (7, len(LENGTHS)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    coarse = sgraf.shard_attn_scores(model, *given, precision="bfloat16")
    assert 0 < np.abs(coarse - found).max() < 0.02
    assert sgraf.shard_attn_scores(model, v.numpy()[:1], *given[1:]).shape == (1, len(LENGTHS))
    assert sgraf.shard_attn_scores(model, v.numpy()[:0], *given[1:]).shape == (0, len(LENGTHS))
    assert sgraf.shard_attn_scores(model, v.numpy(), w.numpy()[:0], [], None).shape == (7, 0)


@pytest.mark.parametrize("around", [nn.DataParallel, torch.compile, lambda x: torch.compile(nn.DataParallel(x))])
def test_what_is_around_a_model_is_looked_through(around: Callable[[nn.Module], nn.Module]) -> None:
    """Around the similarity module and around the whole, as scripts for several GPUs and compiled ones have it."""
    v, w = problem()
    whole = nn.Module()
    whole.sim_enc = model = encoder("SAF")
    given = v.numpy(), w.numpy(), LENGTHS, Namespace()
    expected = sgraf.shard_attn_scores(model, *given)
    for holder in (SimpleNamespace(sim_enc=around(model)), around(whole)):
        np.testing.assert_array_equal(sgraf.shard_attn_scores(holder, *given), expected)


@pytest.mark.parametrize("module", MODULES)
def test_checkpoints_of_an_old_torch_count_no_batches(module: str) -> None:
    whole = encoder(module).state_dict()
    without = {name: x for name, x in whole.items() if not name.endswith("num_batches_tracked")}
    assert len(without) < len(whole)
    found, expected = (EncoderSimilarity.from_state(dict(state)).state_dict() for state in (without, whole))
    assert all(torch.equal(found[name], x) for name, x in expected.items())


NAMES = {
    "v_global_w": {
        "embedding_local.0": (WIDTH, WIDTH),
        "embedding_local.1": (REGIONS,),
        "embedding_global.0": (WIDTH, WIDTH),
        "embedding_global.1": (WIDTH,),
        "embedding_common.0": (1, WIDTH),
    },
    "t_global_w": {f"embedding_{x}.0": (1 if x == "common" else WIDTH, WIDTH) for x in ("local", "global", "common")},
    "": {"sim_tranloc_w": (VECTOR, WIDTH), "sim_tranglo_w": (VECTOR, WIDTH), "sim_eval_w": (1, VECTOR)},
    "SAF_module": {"attn_sim_w": (1, VECTOR), "bn": (1,)},
    "SGR_module": {f"{i}.{x}_w": (VECTOR, VECTOR) for i in range(3) for x in ("graph_query", "graph_key", "sim_graph")},
}


@pytest.mark.parametrize("module", MODULES)
def test_parameters_are_sgraf_s(module: str) -> None:
    """The names and shapes of SGRAF's checkpoints."""
    expected = {}
    for part, layers in NAMES.items():
        if not part.endswith("_module") or part == f"{module}_module":
            expected.update({f"{part}.{x}".lstrip("."): shape for x, shape in layers.items()})
    found = {
        n.removesuffix(".weight"): tuple(x.shape) for n, x in encoder(module).state_dict().items() if "weight" in n
    }
    assert found == expected


def test_signatures_are_sgraf_s() -> None:
    def names(function: Any) -> list[str]:
        return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert names(sgraf.shard_attn_scores) == ["model", "img_embs", "cap_embs", "cap_lens", "opt", "shard_size"]
    assert names(EncoderSimilarity) == ["embed_size", "sim_dim", "module_name", "sgr_step"]
    assert names(EncoderSimilarity.forward) == ["self", "img_emb", "cap_emb", "cap_lens"]
    assert (sgraf.i2t, sgraf.t2i) == (scan.i2t, scan.t2i)
