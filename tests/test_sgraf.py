"""SGRAF's similarities, gradients and running statistics against its loop over captions written out from the paper."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BACKENDS, Backend
from problems import error
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.functional import batch_norm, leaky_relu, linear, normalize

from cmsei_fast.compat import scan, sgraf
from cmsei_fast.compat.similarity import EncoderSimilarity
from cmsei_fast.engines import EngineUnavailable
from cmsei_fast.ops import attended

WIDTH, VECTOR, REGIONS = 12, 6, 5
LENGTHS = [1, 4, 6, 3, 4]
MODULES = ("SGR", "SAF")
Weights = dict[str, Tensor]


def l2norm(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-8)


def layer(x: Tensor, s: Weights, name: str) -> Tensor:
    return linear(x, s[f"{name}.weight"], s[f"{name}.bias"])


def norm(x: Tensor, s: Weights, name: str, training: bool) -> Tensor:
    running = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    return batch_norm(x, *running, s[f"{name}.weight"], s[f"{name}.bias"], training)


def glob(local: Tensor, s: Weights, name: str, image: bool, training: bool) -> Tensor:
    """(n, D) self-attention of regions or words (n, rows, D) by their mean."""
    parts = []
    for part, x in (("local", local), ("global", local.mean(1))):
        x = layer(x, s, f"{name}.embedding_{part}.0")
        parts.append((norm(x, s, f"{name}.embedding_{part}.1", training) if image else x).tanh())
    weights = layer(parts[0] * parts[1][:, None], s, f"{name}.embedding_common.0").softmax(1)
    return l2norm((weights * local).sum(1))


def literal(
    images: Tensor,
    captions: Tensor,
    s: Weights,
    module: str,
    training: bool = False,
    lengths: Any = LENGTHS,
    square: Callable[[Tensor], Tensor] = torch.square,
) -> Tensor:
    """(N, M), one caption with all images at a time, §3 of the paper; running statistics in s are updated."""
    whole = glob(images, s, "v_global_w", True, training)
    columns = []
    for caption, n in zip(captions, lengths, strict=True):
        q = caption[:n].expand(len(images), n, caption.shape[-1])
        a = leaky_relu(images @ q.mT, 0.1)  # (N, R, n)
        p = (9 * l2norm(a)).softmax(1)
        c = l2norm(p.mT @ images)
        local = l2norm(layer(square(c - q), s, "sim_tranloc_w"))
        sentence = glob(caption[None, :n], s, "t_global_w", False, training)
        x = torch.cat([l2norm(layer(square(whole - sentence), s, "sim_tranglo_w"))[:, None], local], 1)
        if module == "SGR":
            for i in range(3):
                query, key = (layer(x, s, f"SGR_module.{i}.graph_{name}_w") for name in ("query", "key"))
                x = layer((query @ key.mT).softmax(-1) @ x, s, f"SGR_module.{i}.sim_graph_w").relu()
            vector = x[:, 0]
        else:
            gate = norm(layer(x, s, "SAF_module.attn_sim_w").mT, s, "SAF_module.bn", training).sigmoid()
            vector = l2norm((gate / gate.sum(-1, keepdim=True) @ x)[:, 0])
        columns.append(layer(vector, s, "sim_eval_w").sigmoid())
    return torch.cat(columns, 1)


def problem(
    images: int = 7, regions: int = REGIONS, lengths: Any = LENGTHS, width: int = WIDTH
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images)
    v = torch.randn(images, regions, width, generator=generator, dtype=torch.float64)
    w = torch.randn(len(lengths), max(lengths) + 2, width, generator=generator, dtype=torch.float64)
    w = normalize(w + 0.3, dim=-1)
    for row, n in zip(w, lengths, strict=True):
        row[n:] = torch.nan  # never read
    return normalize(v + 0.3, dim=-1), w


def encoder(
    module: str, dropout: float = 0.0, sizes: tuple[int, int] = (WIDTH, VECTOR), regions: int = REGIONS, **options: Any
) -> EncoderSimilarity:
    """Weights and statistics as of a model that has learned: none is at its first value."""
    torch.manual_seed(1)
    out = EncoderSimilarity(*sizes, module, num_region=regions, **options).double().eval()
    with torch.no_grad():
        for name, x in out.state_dict().items():
            if x.is_floating_point():
                x.copy_(3 * x + 0.3 * torch.randn_like(x) if "var" not in name else 0.5 + torch.rand_like(x))
    for x in out.modules():
        if isinstance(x, nn.Dropout):
            x.p = dropout
    return out


@pytest.fixture(params=["one tile", "many tiles"])
def _tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(attended, "_TILE", {"cpu": 2**9, "other": 2**9})
        monkeypatch.setattr(attended, "_QUERY_ROWS", {"cpu": 7, "other": 7})


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("_tiles")
def test_similarities(module: str) -> None:
    v, w = problem()
    model = encoder(module, engine="eager")
    expected = literal(v, w, model.state_dict(), module)
    assert expected.std() > 0.01
    torch.testing.assert_close(model(v, w, LENGTHS), expected, rtol=1e-7, atol=1e-7)
    with torch.no_grad():
        torch.testing.assert_close(model(v, w, torch.tensor(LENGTHS)), expected, rtol=1e-7, atol=1e-7)
        found = model.float()(v.float(), w.float(), LENGTHS)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


NATIVE = [x for x in BACKENDS if x.engine == "native"]
# Regions, (D, vector width), captions' lengths: lanes and panels with rests, blocks and chunks of captions, a caption
# that is longer than a block.
SHAPES = {
    "small": (REGIONS, (WIDTH, VECTOR), LENGTHS),
    "one": (1, (1, 1), [1]),
    "narrow": (2, (3, 2), [2, 1]),
    "long": (17, (33, 17), [3, 150, 16, 31, 15]),
    "many": (36, (70, 40), [1 + i * i % 23 for i in range(90)]),
    "deep": (3, (600, 33), [5, 9, 16]),
}


@pytest.mark.parametrize("backend", NATIVE, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("module", MODULES)
@torch.no_grad()
def test_native(module: str, shape: str, backend: Backend) -> None:
    regions, sizes, lengths = SHAPES[shape]
    for images in (1, 3) if shape != "many" else (33,):
        v, w = problem(images, regions, lengths, sizes[0])
        model, eager = (encoder(module, sizes=sizes, regions=regions, engine=x) for x in ("native", "eager"))
        expected = eager(v, w, lengths)
        torch.testing.assert_close(
            expected, literal(v, w, model.state_dict(), module, lengths=lengths), rtol=1e-6, atol=1e-6
        )
        with backend.forced():
            torch.testing.assert_close(model(v, w, lengths), expected, rtol=1e-9, atol=1e-10)
            found = model.float()(v.float(), w.float(), lengths)
        limit = 3 * error(eager.float()(v.float(), w.float(), lengths), expected) + 5e-6
        assert error(found, expected) <= limit


@pytest.mark.parametrize("backend", NATIVE, ids=str)
@pytest.mark.parametrize("shape", ["small", "one", "long", "deep"])
@pytest.mark.parametrize("module", MODULES)
@torch.no_grad()
def test_native_rounds_what_it_says(module: str, shape: str, backend: Backend) -> None:
    regions, sizes, lengths = SHAPES[shape]
    v, w = problem(3, regions, lengths, sizes[0])
    model = encoder(module, sizes=sizes, regions=regions, engine="native", precision="bfloat16")
    state = dict(model.state_dict())
    exact = literal(v, w, state, module, lengths=lengths)
    for name in ("sim_tranloc_w", "sim_tranglo_w"):
        for x in ("weight", "bias"):
            state[f"{name}.{x}"] = state[f"{name}.{x}"].bfloat16().double()
    square = lambda x: x.square().bfloat16().double()  # noqa: E731
    expected = literal(v, w, state, module, lengths=lengths, square=square)
    with backend.forced():
        found = model.float()(v.float(), w.float(), lengths)
    assert error(found, expected) <= 0.3 * error(exact, expected) + 2e-5


@pytest.mark.skipif(not NATIVE, reason="needs the native module")
@pytest.mark.parametrize("steps", [1, 2])
@torch.no_grad()
def test_native_steps(steps: int) -> None:
    v, w = problem()
    model, eager = (encoder("SGR", sgr_step=steps, engine=engine) for engine in ("native", "eager"))
    torch.testing.assert_close(model(v, w, LENGTHS), eager(v, w, LENGTHS), rtol=1e-9, atol=1e-10)


@pytest.mark.skipif(not NATIVE, reason="needs the native module")
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("threads", "poisoned")
@torch.no_grad()
def test_native_scores_are_their_pairs_alone(module: str) -> None:
    """Neither threads nor what stands beside a pair change a bit of its score, not even if that is no number."""
    lengths = [1 + i * i % 23 for i in range(40)]
    v, w = (x.float() for x in problem(35, 5, lengths))
    model = encoder(module, engine="native").float()
    expected = model(v, w, lengths)
    assert expected.isfinite().all()
    torch.set_num_threads(3)
    assert torch.equal(model(v, w, lengths), expected)
    spoiled_images, spoiled_captions = v.clone(), w.clone()
    spoiled_images[4, 2, 1], spoiled_captions[7, 0, 3] = torch.nan, torch.inf
    found = model(spoiled_images, spoiled_captions, lengths)
    wrong = found.isnan()
    assert wrong[4].all()
    assert wrong[:, 7].all()
    assert wrong.sum() == sum(wrong.shape) - 1
    assert torch.equal(found[~wrong], expected[~wrong])


@pytest.mark.parametrize("module", MODULES)
def test_native_by_name_says_why_not(module: str) -> None:
    v, w = problem()
    model = encoder(module, engine="native")
    with pytest.raises(EngineUnavailable, match="engine 'native' cannot run here: it evaluates only"):
        model(v, w, LENGTHS)
    with torch.no_grad():
        with pytest.raises(EngineUnavailable, match="it evaluates only"):
            model.train()(v, w, LENGTHS)
        with pytest.raises(EngineUnavailable, match=r"got torch\.float32, torch\.float64 and weights"):
            model.eval()(v.float(), w, LENGTHS)
        with pytest.raises(EngineUnavailable, match="precision='bfloat16' goes with weights in float32"):
            encoder(module, engine="native", precision="bfloat16")(v, w, LENGTHS)
    with pytest.raises(ValueError, match="engine: expected 'auto', 'native' or 'eager', got 'cuda'"):
        EncoderSimilarity(WIDTH, VECTOR, engine="cuda")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("_tiles")
def test_gradients_and_statistics(module: str, training: bool) -> None:
    v, w = problem()
    answers = []
    for ours in (True, False):
        model = encoder(module).train(training)
        leaves = [v.clone().requires_grad_(), w.clone().requires_grad_()]
        weights = dict(model.named_parameters())
        if ours:
            scores = model(*leaves, LENGTHS)
        else:
            scores = literal(*leaves, {**dict(model.named_buffers()), **weights}, module, training)
        grads = torch.autograd.grad(scores, [*leaves, *weights.values()], scores.detach().cos(), materialize_grads=True)
        words = torch.cat([g[:n] for g, n in zip(grads[1], LENGTHS, strict=True)])
        statistics = {n: x for n, x in model.named_buffers() if x.is_floating_point()}
        named = dict(zip(weights, grads[2:], strict=True))
        answers.append({"scores": scores, "regions": grads[0], "words": words, **named, **statistics})
    before = dict(encoder(module).named_buffers())
    for name, expected in answers[1].items():
        torch.testing.assert_close(answers[0][name], expected, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        if name in before:
            assert torch.equal(before[name], expected) is not training, name
        elif not name.endswith("bias"):  # some biases have no gradient: a softmax or a batch norm takes them out
            assert expected.abs().max() > 1e-6, name


def test_recomputed_tiles_are_counted_once() -> None:
    v, w = problem()
    model = encoder("SAF", dropout=0.4).train()
    model(v, w, LENGTHS).sum().backward()
    assert model.SAF_module.bn.num_batches_tracked == len(LENGTHS)


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


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("training", [False, True])
def test_autocast(module: str, training: bool) -> None:
    """Its layers are rounded, the attention is not; its gradients come through."""
    v, w = (x.float() for x in problem())
    w = w.nan_to_num(0.0).requires_grad_()
    model = encoder(module).float().train(training)
    state = {name: x.detach().clone() for name, x in model.state_dict().items()}
    expected = literal(v, w, state, module, training).detach()
    with torch.autocast("cpu", torch.bfloat16):
        limit = 0.01 + 2 * (literal(v, w, state, module, training).detach() - expected).abs().max()
        found = model(v, w, LENGTHS)
        with torch.no_grad():
            assert (model(v, w, LENGTHS) - expected).abs().max() < limit
    assert (found - expected).abs().max() < limit < 0.5
    found.sum().backward()
    assert w.grad is not None
    assert w.grad.isfinite().all()
    assert w.grad.abs().max() > 0


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("recorded", [False, True])
def test_transforms(module: str, recorded: bool) -> None:
    """Where the transforms of torch.func are at work, or a tangent comes along, the compiled engine has no part."""
    v, w = problem()
    model = encoder(module)
    v.requires_grad_()
    (gradient,) = torch.autograd.grad(model(v, w, LENGTHS).sum(), v)
    v = v.detach()
    direction = torch.linspace(-1, 1, v.numel(), dtype=v.dtype).view(v.shape)
    call = lambda v: model(v, w, LENGTHS).sum()  # noqa: E731
    with torch.set_grad_enabled(recorded):
        _, slope = torch.func.jvp(call, (v,), (direction,))
        torch.testing.assert_close(slope, (gradient * direction).sum())
        torch.testing.assert_close(torch.func.vmap(call)(torch.stack([v, v + 1])), torch.stack([call(v), call(v + 1)]))
        with forward_ad.dual_level():
            dual = call(forward_ad.make_dual(v, direction))
            torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope)
    torch.testing.assert_close(torch.func.grad(call)(v), gradient)


def test_dtypes_that_do_not_fit_the_weights() -> None:
    v, w = problem()
    model = encoder("SGR")
    with pytest.raises(TypeError, match=r"^images: expected float64 \(as the module's weights\), got float32$"):
        model(v.float(), w, LENGTHS)
    with pytest.raises(TypeError, match=r"^captions: expected float32 \(as the module's weights\), got bfloat16$"):
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
    with pytest.raises(ValueError, match="state: expected the weights of SGRAF's EncoderSimilarity"):
        sgraf.shard_attn_scores(nn.Linear(2, 2), v, w, LENGTHS, None)
    with pytest.raises(TypeError, match="model: expected a model with sim_enc or a module, got Namespace"):
        sgraf.shard_attn_scores(Namespace(), v, w, LENGTHS, None)
    with pytest.raises(ValueError, match="images: expected 5 regions each, got shape"):
        model(v[:, :4], w, LENGTHS)
    with pytest.raises(ValueError, match=r"cap_lens\[2\]: expected a length from 1 to 8, got 9"):
        sgraf.shard_attn_scores(model, v, w, [1, 4, 9, 3, 4], None)
    with pytest.raises(TypeError, match="cap_lens: expected the number of words"):
        sgraf.shard_attn_scores(model, v, w, None, None)
    for device, told in (("gpu", "cpu, cuda or cuda:N"), ("cuda:77", "one that is here"), ("meta", "one that is here")):
        with pytest.raises(ValueError, match=rf"^device: expected {told}.*, got '{device}'$"):
            sgraf.shard_attn_scores(model, v, w, LENGTHS, None, device=device)
    for name, images, captions in (("images", v[..., 1:], w), ("captions", v, w[..., 1:])):
        told = rf"^{name}: expected a last dimension of {WIDTH} \(as the module\), got {WIDTH - 1}$"
        with pytest.raises(ValueError, match=told):
            sgraf.shard_attn_scores(model, images, captions, LENGTHS, None)
    with pytest.raises(ValueError, match=f"^images: expected a last dimension of {WIDTH}"):
        model(v[..., 1:], w[..., 1:], LENGTHS)
