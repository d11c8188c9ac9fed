"""SGRAF's module: similarities, gradients and running statistics; autocast and transforms."""

from __future__ import annotations

import warnings

import pytest
import torch
from sgraf_written_out import LENGTHS, MODULES, encoder, literal, problem
from torch.autograd import forward_ad

from cmsei_fast.ops import attended


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


@pytest.mark.parametrize("module", MODULES)
def test_every_parameter_has_a_gradient(module: str) -> None:
    """Of 0 too: DistributedDataParallel stops at the second step where one has none."""
    v, w = problem()
    model = encoder(module).train()
    model(v, w, LENGTHS).sum().backward()
    assert [name for name, x in model.named_parameters() if x.grad is None] == []


def test_in_a_compiled_model_it_is_one_break() -> None:
    """Its tiles are not traced, which would be compiled again for the lengths of every batch."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    v, w = (x.float() for x in problem())
    model = encoder("SAF").float()
    compiled = torch.compile(lambda v, lengths: model(2 * v, w, lengths) + 1, backend="aot_eager")
    for lengths in (LENGTHS, [max(1, n - 1) for n in LENGTHS]):
        torch.testing.assert_close(compiled(v, torch.tensor(lengths)), model(2 * v, w, lengths) + 1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


def test_recomputed_tiles_are_counted_once() -> None:
    v, w = problem()
    model = encoder("SAF", dropout=0.4).train()
    model(v, w, LENGTHS).sum().backward()
    assert model.SAF_module.bn.num_batches_tracked == len(LENGTHS)


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

    def call(v: torch.Tensor) -> torch.Tensor:
        return model(v, w, LENGTHS).sum()

    with torch.set_grad_enabled(recorded):
        _, slope = torch.func.jvp(call, (v,), (direction,))
        torch.testing.assert_close(slope, (gradient * direction).sum())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of an operation that vmap has no rule for
            several = torch.func.vmap(call)(torch.stack([v, v + 1]))
            torch.testing.assert_close(several, torch.stack([call(v), call(v + 1)]))
            several = torch.func.vmap(lambda w: model(v, w, LENGTHS).sum())(torch.stack([w, w + 1]))
            torch.testing.assert_close(several, torch.stack([call(v), model(v, w + 1, LENGTHS).sum()]))
        with forward_ad.dual_level():
            dual = call(forward_ad.make_dual(v, direction))
            torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope)
    torch.testing.assert_close(torch.func.grad(call)(v), gradient)
