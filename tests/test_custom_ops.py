"""The operators as torch sees them: opcheck, fullgraph compilation, transforms, and modules that call them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from conftest import BACKENDS
from operator_inputs import SCORER, attended, scored
from problems import Problem
from torch import Tensor
from torch.autograd import forward_ad

import cmsei_fast
from cmsei_fast import CMSEI, Encoded, ModelConfig
from cmsei_fast.data import Vocabulary, split_from_scenes, synthetic_scenes
from cmsei_fast.data.batches import caption_batch, image_batch
from cmsei_fast.model.region_dropout import without_regions
from cmsei_fast.nn import PairScore, RelationAttention
from cmsei_fast.ops import pair_score, relation_attention

ENGINES = sorted({b.engine for b in BACKENDS})


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_opcheck_pair_score(precision: str, engine: str) -> None:
    dtype = torch.float64 if precision == "float64" else torch.float32
    scalars = torch.tensor(SCORER.scalars(), dtype=dtype, requires_grad=True)
    arguments = (*scored(dtype), scalars, SCORER.config(), engine, precision)
    torch.library.opcheck(torch.ops.cmsei_fast.pair_score.default, arguments)
    plain = [x.detach() if isinstance(x, Tensor) else x for x in arguments]
    grad = torch.ops.cmsei_fast.pair_score(*plain)
    torch.library.opcheck(torch.ops.cmsei_fast.pair_score_backward.default, (grad, *plain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", [7, 4], ids=["all", "plain"])
@pytest.mark.parametrize("engine", ENGINES)
def test_opcheck_relation_attention(given: int, dtype: torch.dtype, engine: str) -> None:
    arguments = [*attended(dtype)[:given], *[None] * (7 - given), engine]
    torch.library.opcheck(torch.ops.cmsei_fast.relation_attention.default, arguments)
    plain = [x.detach() if isinstance(x, Tensor) else x for x in arguments]
    torch.library.opcheck(torch.ops.cmsei_fast.relation_attention_backward.default, (plain[0], *plain))


def agrees_compiled(call: Callable[..., Tensor], leaves: list[Tensor], backend: str) -> None:
    """The same values and gradients compiled as one graph as without."""
    torch._dynamo.reset()
    found = []
    for f in (call, torch.compile(call, fullgraph=True, backend=backend)):
        out = f(*leaves)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
def test_compiled_pair_score(compiler: str) -> None:
    v, w, v_offsets, w_offsets = scored()
    scalars = torch.tensor(SCORER.scalars(), requires_grad=True)

    def call(v: Tensor, w: Tensor, scalars: Tensor) -> Tensor:
        return pair_score(v * 2, w, v_offsets, w_offsets, scorer=SCORER, scalars=scalars + 0.1).sin()

    agrees_compiled(call, [v, w, scalars], compiler)


def test_compiled_pair_score_by_name(engine: str) -> None:
    v, w, v_offsets, w_offsets = scored()

    def call(v: Tensor, w: Tensor) -> Tensor:
        return pair_score(v * 2, w, v_offsets, w_offsets, scorer=SCORER, engine=engine, precision="bfloat16") + 1

    agrees_compiled(call, [v, w], "aot_eager")


def test_compiled_pair_score_of_other_sizes() -> None:
    """Shapes that change do not break the graph."""
    torch._dynamo.reset()
    call = torch.compile(
        lambda *tensors: pair_score(*tensors, scorer=SCORER), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for regions, words in (((5, 2), (3,)), ((4, 4, 4), (1, 2)), ((1,), (6, 6, 2, 1))):
        tensors = Problem(SCORER, regions, words, 8).tensors()
        torch.testing.assert_close(call(*tensors), pair_score(*tensors, scorer=SCORER))


@pytest.mark.parametrize("compiler", ["inductor", "aot_eager"])
def test_compiled_relation_attention(compiler: str) -> None:
    *qkv, labels, bias, value, confidence = attended()

    def call(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, value: Tensor, confidence: Tensor) -> Tensor:
        return relation_attention(q * 2, k, v, labels, bias, value, confidence.clamp(max=1)).sin()

    agrees_compiled(call, [*qkv, bias, value, confidence], compiler)


def test_compiled_modules() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    attention, score = RelationAttention(8, 2, 6), PairScore(SCORER)
    labels = torch.randint(0, 6, (3, 4, 4))
    words, word_offsets = torch.randn(5, 8), torch.tensor([0, 2, 5])

    def call(nodes: Tensor) -> Tensor:
        regions = (nodes + attention(nodes, labels)).flatten(0, 1)
        return score(regions, words, torch.arange(0, 13, 4), word_offsets)

    agrees_compiled(call, [torch.randn(3, 4, 8, requires_grad=True)], "aot_eager")


@pytest.mark.parametrize("name", ["score_matrix", "retrieve", "evaluate"])
def test_scoring_within_a_compiled_function_is_silent(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """It reads values: the graph breaks there, once, and nothing within it is traced."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    v, w = torch.randn(2, 3, 4), torch.randn(10, 3, 4)

    def call(v: Tensor, w: Tensor) -> Tensor:
        found = getattr(cmsei_fast, name)(v * 2, w)
        if name == "score_matrix":
            return found + 1
        return found.scores.sin() if name == "retrieve" else v + found.rsum

    compiled = torch.compile(call, backend="aot_eager")
    with warnings.catch_warnings(), caplog.at_level("WARNING"):
        warnings.simplefilter("error")
        found = compiled(v, w)
    assert torch.equal(found, call(v, w))
    assert not caplog.records
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # before it and after it


def test_an_operator_outside_all_graphs_is_not_traced(caplog: pytest.LogCaptureFixture) -> None:
    """A function that cannot be compiled runs as it is, and the operators that it calls too: no graph, no warning."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    v, w, *offsets = (x.detach() for x in scored())
    options = (torch.tensor(SCORER.scalars()), SCORER.config(), "eager", "float32")

    def call(v: Tensor) -> list[Tensor]:
        out = []
        for _ in range(2):
            torch._dynamo.graph_break()
            out.append(torch.ops.cmsei_fast.pair_score(v, w, *offsets, *options))
        return out

    with warnings.catch_warnings(), caplog.at_level("WARNING"):
        warnings.simplefilter("error")
        found = torch.compile(call, backend="aot_eager")(v)
    for a, b in zip(found, call(v), strict=True):
        assert torch.equal(a, b)
    assert not caplog.records
    assert torch._dynamo.utils.counters["stats"].get("unique_graphs", 0) == 0


FIRST_CALL = """
import sys, torch
from cmsei_fast import PairScorer, pair_score, relation_attention
x, o = torch.randn(4, 8, requires_grad=True), torch.tensor([0, 2, 4])
pair_score(x, x, o, o, scorer=PairScorer.cmsei()).sum().backward()
q = torch.randn(1, 1, 3, 2, requires_grad=True)
relation_attention(q, q, q, torch.ones(1, 3, 3, dtype=torch.long)).sum().backward()
assert "torch._dynamo" not in sys.modules
"""


def test_calls_do_not_import_the_compiler() -> None:
    """It takes as long as torch itself; ``torch.library.custom_op`` imports it at the first call."""
    subprocess.run([sys.executable, "-c", FIRST_CALL], check=True)


ANEW = {
    "a module": 'importlib.reload(sys.modules["cmsei_fast.ops.pair_score"])',
    "what makes operators": 'importlib.reload(sys.modules["cmsei_fast.ops.operator"])',
    "the package": """
for name in [name for name in sys.modules if name.startswith("cmsei_fast")]:
    del sys.modules[name]
""",
}


@pytest.mark.parametrize("anew", ANEW.values(), ids=ANEW)
def test_operators_can_be_read_anew(anew: str) -> None:
    """As notebooks do that follow the source; a function from before it works on, with its gradient."""
    code = f"""
import importlib, sys, torch
from cmsei_fast import PairScorer, pair_score
{anew}
from cmsei_fast.ops.pair_score import PairScorer as Scorer, pair_score as new
o = torch.tensor([0, 2, 4])
for scorer, call in (PairScorer.cmsei(), pair_score), (Scorer.cmsei(), new):
    x = torch.randn(4, 8, requires_grad=True)
    call(x, x, o, o, scorer=scorer).sum().backward()
    assert x.grad.abs().sum() > 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def silently_compiled(call: Callable[..., Tensor], inputs: Sequence[Any], caplog: pytest.LogCaptureFixture) -> int:
    """The number of graphs, of a function that warns of nothing and gives the same to the bit, gradients too."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    found = []
    with warnings.catch_warnings(), caplog.at_level("WARNING"):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The .grad attribute")  # torch's own, of each break in a graph with gradients
        for f in (torch.compile(call, backend="aot_eager"), call):
            out = f(*inputs)
            found.append([out, *torch.autograd.grad(out.sum(), leaves)])
    assert all(map(torch.equal, *found))
    assert not caplog.records
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_padded_batches_within_a_compiled_function_break_its_graph_once_each(caplog: pytest.LogCaptureFixture) -> None:
    lengths = torch.tensor([3, 1])

    def call(v: Tensor, w: Tensor) -> Tensor:
        images, captions = Encoded.from_padded(v * 2), Encoded.from_padded(w * 3, lengths)
        return pair_score(images, captions, scorer=SCORER).sin()

    inputs = [torch.randn(2, 3, 4, requires_grad=True) for _ in range(2)]
    assert silently_compiled(call, inputs, caplog) == 3


@pytest.mark.parametrize("padded", [False, True])
def test_a_compiled_model_breaks_at_its_graphs_and_its_words_alone(
    padded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    made = synthetic_scenes(2, width=16)
    split = split_from_scenes(made.scenes, features=made.features)
    config = ModelConfig(width=16, heads=2, feature_width=16, predicate_names=split.predicate_names, word_width=8)
    torch.manual_seed(0)
    model = CMSEI(config, Vocabulary.build(split.captions))
    images = image_batch(model.aligned(split), range(3))
    if padded:
        images = without_regions(images, torch.arange(int(images.lengths.sum())) != 2)
    assert (len(set(images.lengths.tolist())) > 1) == padded
    captions = caption_batch([model.vocabulary.encode(caption) for caption in split.captions[:4]])
    scale = torch.ones((), requires_grad=True)
    model.regions.features.register_forward_hook(lambda module, inputs, out: out * scale)

    graphs = silently_compiled(lambda scale: model(images, captions), [scale], caplog)
    assert graphs == 6  # regions as they come, reasoning, unit regions; tokens, words; the score


def test_inference_mode_and_no_grad(engine: str) -> None:
    tensors = scored()
    expected = pair_score(*tensors, scorer=SCORER, engine=engine)
    with torch.inference_mode():
        assert torch.equal(pair_score(*tensors, scorer=SCORER, engine=engine), expected)
    with torch.no_grad():
        assert not pair_score(*tensors, scorer=SCORER, engine=engine).requires_grad


def test_a_second_derivative_is_refused() -> None:
    x = scored()
    (d,) = torch.autograd.grad(pair_score(*x, scorer=SCORER).sum(), x[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^pair_score: expected first derivatives only, got a backward pass"):
        d.pow(2).sum().backward()
    y = attended()
    (d,) = torch.autograd.grad(relation_attention(*y).sum(), y[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^relation_attention: expected first derivatives only, got"):
        d.pow(2).sum().backward()


def test_forward_mode_is_refused() -> None:
    """A custom operator drops tangents: the derivative came out as 0."""
    v, w, *offsets = scored()
    x = attended()

    def attend(q: Tensor) -> Tensor:
        return relation_attention(q, *x[1:])

    for f, at in ((lambda v: pair_score(v, w.detach(), *offsets, scorer=SCORER), v), (attend, x[0])):
        at = at.detach()
        with pytest.raises(RuntimeError, match=r"^\w+: expected reverse-mode derivatives only, got forward mode"):
            torch.func.jvp(f, (at,), (torch.ones_like(at),))
        with forward_ad.dual_level(), pytest.raises(RuntimeError, match="got forward mode"):
            f(forward_ad.make_dual(at, torch.ones_like(at)))
        with forward_ad.dual_level():  # of something else
            assert torch.equal(f(at), f(at))


def test_transforms_of_torch_func(engine: str) -> None:
    """``grad``, ``vjp``, ``jacrev`` and ``vmap`` give what a loop of backward passes gives."""
    v, w, *offsets = (x.detach() for x in scored())
    scalars = torch.tensor(SCORER.scalars())

    def scores(v: Tensor, w: Tensor, scalars: Tensor) -> Tensor:
        return pair_score(v, w, *offsets, scorer=SCORER, scalars=scalars, engine=engine)

    q, k, *others = (x.detach() for x in attended())

    def attention(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        return relation_attention(q, k, *others[:2], bias, *others[3:], engine=engine)

    for f, at in ((scores, (v, w, scalars)), (attention, (q, k, others[2]))):
        leaf = at[0].clone().requires_grad_()
        out = f(leaf, *at[1:])
        (expected,) = torch.autograd.grad(out.square().sum(), leaf)
        found = torch.func.grad(lambda *at, f=f: f(*at).square().sum())(*at)
        torch.testing.assert_close(found, expected)
        out, pull = torch.func.vjp(f, *at)
        torch.testing.assert_close(pull(2 * out)[0], expected)
        leaves = at[0].clone().requires_grad_(), at[2].clone().requires_grad_()
        rows = f(leaves[0], at[1], leaves[1]).flatten()[:3]
        wanted = [torch.autograd.grad(x, leaves, retain_graph=True) for x in rows]
        for i, jacobian in enumerate(torch.func.jacrev(lambda *at, f=f: f(*at).flatten()[:3], argnums=(0, 2))(*at)):
            torch.testing.assert_close(jacobian, torch.stack([each[i] for each in wanted]))
        items = torch.stack([at[0], at[0].flip(0), -at[0]], 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = torch.func.vmap(f, (1, None, None), 1)(items, *at[1:])
            slopes = torch.func.vmap(torch.func.grad(lambda *at, f=f: f(*at).square().sum()), (1, None, None))(
                items, *at[1:]
            )
        torch.testing.assert_close(got, torch.stack([f(x, *at[1:]) for x in items.unbind(1)], 1))
        for x, slope in zip(items.unbind(1), slopes, strict=True):
            leaf = x.clone().requires_grad_()
            torch.testing.assert_close(slope, *torch.autograd.grad(f(leaf, *at[1:]).square().sum(), leaf))


def test_transforms_refuse_second_derivatives() -> None:
    v, w, *offsets = (x.detach() for x in scored())
    x = [x.detach() for x in attended()]
    calls = (
        ("pair_score", v, lambda v: pair_score(v, w, *offsets, scorer=SCORER).sum()),
        ("relation_attention", x[0], lambda q: relation_attention(q, *x[1:]).sum()),
    )
    for name, at, f in calls:
        with pytest.raises(RuntimeError, match=rf"^{name}: expected first derivatives only, got a backward pass"):
            torch.func.grad(lambda at, f=f: torch.func.grad(f)(at).square().sum())(at)
        with pytest.raises(RuntimeError, match=rf"^{name}: expected reverse-mode derivatives only, got forward mode"):
            torch.func.hessian(f)(at)


def test_shapes_without_data() -> None:
    v, w, v_offsets, w_offsets = scored()
    meta = pair_score(v.to("meta"), w.to("meta"), v_offsets, w_offsets, scorer=SCORER)
    assert (meta.device.type, meta.shape, meta.dtype) == ("meta", (3, 2), torch.float32)
    q = [x.to("meta") for x in attended(torch.bfloat16)]
    out = relation_attention(*q)
    assert (out.device.type, out.shape, out.dtype) == ("meta", (2, 3, 5, 4), torch.bfloat16)


@pytest.mark.parametrize("compiled", [False, True])
def test_encoded_items_are_their_rows_and_offsets(compiled: bool) -> None:
    torch.manual_seed(0)
    v, w = torch.randn(7, 4), torch.randn(9, 4)
    images, captions = Encoded(v, torch.tensor([2, 4, 1])), Encoded(w, torch.tensor([5, 4]))
    score = PairScore(SCORER)

    def found(of: Any, *sides: Any) -> list[Tensor]:
        for x in (v, w):
            x.requires_grad_()
        scores = of(*sides)
        return [scores, *torch.autograd.grad(scores.square().sum(), [v, w])]

    def of(images: Encoded, captions: Encoded) -> Tensor:
        return score(images, captions) + pair_score(images, captions, scorer=SCORER)

    expected = found(lambda *x: 2 * score(*x), v, w, images.offsets, captions.offsets)
    got = found(torch.compile(of, fullgraph=True, backend="aot_eager") if compiled else of, images, captions)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
    mixed = pair_score(images, w, None, captions.offsets, scorer=SCORER)
    assert torch.equal(mixed, pair_score(v, captions, images.offsets, scorer=SCORER))
