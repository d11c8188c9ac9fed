"""Relation-aware attention: every engine against the reference in float64, values, gradients, edges, bad input."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from conftest import BACKENDS, Backend
from problems import NANS, nan
from torch import Tensor

from cmsei_fast.nn import RelationAttention
from cmsei_fast.ops import relation_attention

pytestmark = pytest.mark.usefixtures("poisoned")


# (B, H, R, d, n_labels)
SHAPES = [(1, 1, 1, 1, 2), (2, 3, 5, 4, 6), (1, 2, 2, 3, 1), (3, 2, 7, 8, 13), (2, 1, 36, 20, 103), (1, 4, 37, 65, 13)]
OPTIONS = list(itertools.product((False, True), repeat=3))
NAMES = ("q", "k", "v", "bias", "value", "confidence")
# Sums are wide whatever the dtype: in bfloat16 and float16 only the output's own rounding is left.
LIMIT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def graph(shape: tuple[int, ...], options: tuple[bool, ...] = (True,) * 3) -> tuple[dict[str, Tensor | None], Tensor]:
    """Float64 inputs and labels; every image's first node has no edge out, its last none in."""
    b, h, r, d, n = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    labels = torch.randint(0, n, (b, r, r), generator=generator)
    labels[:, 0], labels[:, :, -1] = 0, 0
    inputs: dict[str, Tensor | None] = {name: normal(b, h, r, d) for name in "qkv"}
    optional = {
        "bias": normal(n, h),
        "value": normal(n, h, d),
        "confidence": 0.1 + 0.9 * torch.rand(b, r, r, generator=generator, dtype=torch.float64),
    }
    for given, (name, x) in zip(options, optional.items(), strict=True):
        inputs[name] = x if given else None
    return inputs, labels


def run(inputs: dict[str, Tensor | None], labels: Tensor, engine: str, device: str = "cpu") -> dict[str, Tensor]:
    """The output and the gradient of every input given, on the CPU."""
    leaves = {n: None if x is None else x.detach().to(device).requires_grad_() for n, x in inputs.items()}
    out = relation_attention(labels=labels.to(device), engine=engine, **leaves)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).bfloat16()  # exact in every dtype
    given = {n: x for n, x in leaves.items() if x is not None}
    grads = torch.autograd.grad(out, list(given.values()), upstream.to(out))
    return {n: x.detach().cpu() for n, x in zip(("out", *given), (out, *grads), strict=True)}


def cast(inputs: dict[str, Tensor | None], dtype: torch.dtype) -> dict[str, Tensor | None]:
    return {n: None if x is None else x.to(dtype) for n, x in inputs.items()}


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    assert actual.keys() == expected.keys()
    for name, e in expected.items():
        a = actual[name].double()
        assert a.shape == e.shape
        assert torch.isfinite(a).all(), name
        scale = max(1.0, e.abs().max().item())
        assert (a - e).abs().max().item() <= limit * scale, name


CASES = [(s, o) for s in SHAPES[:4] for o in OPTIONS] + [(s, o) for s in SHAPES[4:] for o in (OPTIONS[0], OPTIONS[-1])]


def case_name(case: tuple[tuple[int, ...], tuple[bool, ...]]) -> str:
    given = "".join(letter for letter, x in zip("bvc", case[1], strict=True) if x)
    return "B{}-H{}-R{}-d{}-n{}".format(*case[0]) + f"-{given or 'plain'}"


@functools.cache
def truth(case: tuple[tuple[int, ...], tuple[bool, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
    """From inputs in the dtype, the reference goes on in float64: what is measured is the engine, not the rounding."""
    inputs, labels = graph(*case)
    return run(cast(cast(inputs, dtype), torch.float64), labels, "reference")


@pytest.mark.parametrize("dtype", LIMIT, ids=str)
@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_against_reference(
    case: tuple[tuple[int, ...], tuple[bool, ...]], dtype: torch.dtype, backend: Backend
) -> None:
    inputs, labels = graph(*case)
    actual = run(cast(inputs, dtype), labels, backend.engine, backend.device)
    assert all(x.dtype == dtype for x in actual.values())
    compare(actual, truth(case, dtype), LIMIT[dtype])


@pytest.mark.parametrize("shape", [(2, 2, 1, 17, 5), (2, 2, 1, 64, 13), (2, 1, 2, 33, 16), (1, 2, 5, 65, 17)], ids=str)
def test_more_labels_than_nodes(shape: tuple[int, ...], backend: Backend) -> None:
    inputs, _ = graph(shape)
    b, _, r, _, n = shape
    labels = torch.randint(1, n, (b, r, r), generator=torch.Generator().manual_seed(1))
    actual = run(cast(inputs, torch.float32), labels, backend.engine, backend.device)
    compare(actual, run(cast(cast(inputs, torch.float32), torch.float64), labels, "reference"), LIMIT[torch.float32])


@pytest.mark.parametrize("edges", [1.0, 0.1])
def test_logits_of_a_million(edges: float, backend: Backend) -> None:
    """That float32 holds exactly: what such logits lose is their own rounding, and nothing behind it."""
    b, h, r, d, n = 1, 2, 36, 16, 12
    generator = torch.Generator().manual_seed(0)

    def whole(*size: int) -> Tensor:
        return torch.randint(-3, 4, size, generator=generator, dtype=torch.float64)

    inputs, _ = graph((b, h, r, d, n), (True, True, False))
    inputs |= {"q": whole(b, h, r, d), "k": whole(b, h, r, d), "bias": 2.5 * whole(n, h)}
    inputs["q"][..., 0], inputs["k"][..., 0] = 1000, 4000  # q · k / √d is 10⁶ and some quarters
    labels = torch.randint(1, n, (b, r, r), generator=generator)
    labels *= torch.rand(labels.shape, generator=generator) < edges
    inputs = cast(inputs, torch.float32)
    expected = run(cast(inputs, torch.float64), labels, "reference")
    actual = run(inputs, labels, backend.engine, backend.device)
    for found in (expected, actual):
        found["q"][..., 0] = found["k"][..., 0] = 0  # thousands times sums that cancel
    compare(actual, expected, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_against_pytorch(dtype: torch.dtype, backend: Backend) -> None:
    """Against dense attention in the dtype by PyTorch: at most twice its error, plus the rounding of the output."""
    inputs, labels = graph(SHAPES[4])
    expected = run(inputs, labels, "reference")["out"]
    q, k, v, bias, value, confidence = (inputs[n].to(dtype) for n in NAMES)
    logits = q @ k.mT / q.shape[-1] ** 0.5 + bias[labels].permute(0, 3, 1, 2) + confidence.log()[:, None]
    p = logits.masked_fill((labels == 0)[:, None], -torch.inf).softmax(-1).nan_to_num(0)
    carried = v[:, :, None] + value[labels].permute(0, 3, 1, 2, 4)
    literal = (p[..., None] * carried).sum(-2).double()
    actual = run(cast(inputs, dtype), labels, backend.engine, backend.device)["out"].double()
    floor = torch.finfo(dtype).eps * expected.abs().max().item()
    assert (actual - expected).abs().max() <= 2 * (literal - expected).abs().max() + floor


def test_gradcheck(engine: str) -> None:
    inputs, labels = graph((1, 2, 4, 3, 3))

    def attend(*leaves: Tensor) -> Tensor:
        return relation_attention(*leaves[:3], labels, *leaves[3:], engine=engine)

    leaves = [inputs[n].requires_grad_() for n in NAMES]
    leaves[5] = (inputs["confidence"].detach() * 0.9).requires_grad_()  # differences must not step over 1
    assert torch.autograd.gradcheck(attend, leaves, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_labels_of_any_integer_dtype(dtype: torch.dtype, backend: Backend) -> None:
    inputs, labels = graph(SHAPES[1])
    expected = run(inputs, labels, "reference")
    compare(run(inputs, labels.to(dtype), backend.engine, backend.device), expected, 1e-12)


@pytest.mark.parametrize("label", [2**31, 2**32, 2**63 - 1])
def test_labels_of_64_bits(label: int, backend: Backend) -> None:
    """Without tables any label but 0 is an edge, one whose lower 32 bits are 0 too."""
    inputs, labels = graph(SHAPES[3])
    inputs = inputs | {"bias": None, "value": None}
    expected = run(inputs, labels, "reference")
    compare(run(inputs, torch.where(labels == 0, 0, label), backend.engine, backend.device), expected, 1e-12)


def test_strides_of_any_kind(backend: Backend) -> None:
    inputs, labels = graph(SHAPES[3])
    expected = run(inputs, labels, "reference")
    b, _, r, _, _ = SHAPES[3]
    strided = dict(inputs)
    strided["q"] = inputs["q"].transpose(1, 2).contiguous().transpose(1, 2)
    strided["k"] = torch.stack([inputs["k"], torch.full_like(inputs["k"], torch.nan)], -1)[..., 0]
    strided["v"] = inputs["v"].flip(2).contiguous().flip(2).permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    strided["bias"] = inputs["bias"].T.contiguous().T
    strided["value"] = inputs["value"].permute(2, 1, 0).contiguous().permute(2, 1, 0)
    strided["confidence"] = inputs["confidence"].mT.contiguous().mT
    assert not any(x.is_contiguous() for x in strided.values())
    compare(run(strided, labels.mT.contiguous().mT, backend.engine, backend.device), expected, 1e-12)
    inputs["confidence"] = torch.tensor(0.5, dtype=torch.float64).expand(b, r, r)
    spread = run(inputs, labels, backend.engine, backend.device)
    compare(spread, run(inputs, labels, "reference"), 1e-12)


def test_a_node_without_an_edge_gets_zero(backend: Backend) -> None:
    inputs, labels = graph(SHAPES[3])
    labels[1] = 0
    found = run(inputs, labels, backend.engine, backend.device)
    assert torch.equal(found["out"][:, :, 0], torch.zeros_like(found["out"][:, :, 0]))
    assert torch.equal(found["out"][1], torch.zeros_like(found["out"][1]))
    for name in "qkv":
        assert torch.equal(found[name][1], torch.zeros_like(found[name][1])), name
    nothing = run(inputs, torch.zeros_like(labels), backend.engine, backend.device)
    assert all(torch.equal(x, torch.zeros_like(x)) for x in nothing.values())


def test_padding_never_takes_part(backend: Backend) -> None:
    """NaN in a node without edges, in the confidence where there is no edge, in label 0's bias and value: no trace."""
    inputs, labels = graph(SHAPES[3])
    labels[0, 5], labels[0, :, 5] = 0, 0
    expected = run(inputs, labels, "reference")
    dirty = {n: x.clone() for n, x in inputs.items()}
    for name in "qkv":
        dirty[name][0, :, 5] = torch.nan
    dirty["confidence"][labels == 0] = torch.nan
    dirty["bias"][0], dirty["value"][0] = torch.nan, torch.nan
    compare(run(dirty, labels, backend.engine, backend.device), expected, 1e-12)


@pytest.mark.parametrize("made_by", NANS)
@pytest.mark.parametrize("dtype", LIMIT, ids=str)
def test_what_asks_with_nan_gets_nan_alone(dtype: torch.dtype, made_by: str, backend: Backend) -> None:
    inputs, labels = graph(SHAPES[3])
    labels[0, 5, 2] = 1
    given = {name: x.to(dtype, copy=True) for name, x in inputs.items()}
    expected = run(given, labels, backend.engine, backend.device)["out"]
    assert expected.isfinite().all()
    given["q"][0, 1, 5, 3] = nan(made_by, dtype)
    found = run(given, labels, backend.engine, backend.device)["out"]
    assert found[0, 1, 5].isnan().all()
    found[0, 1, 5] = expected[0, 1, 5]
    compare({"out": found}, {"out": expected}, LIMIT[dtype])


@pytest.mark.parametrize("shape", [SHAPES[3], SHAPES[-1]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_asks_for_nothing_but_minus_infinity_gets_nan(dtype: torch.dtype, shape, backend: Backend) -> None:
    """An infinite query, say; not the 0 of a node without an edge, nor what all weights alike would give."""
    inputs, labels = graph(shape)
    given = {name: x.to(dtype, copy=True) for name, x in inputs.items()}
    given["k"][..., 0] = given["k"][..., 0].abs() + 0.1
    labels[0, 1], labels[0, 1, 0] = 0, 1
    expected = run(given, labels, backend.engine, backend.device)["out"]
    assert expected.isfinite().all()
    given["q"][0, :, 1, 0] = -torch.inf
    for more in (False, True):
        if more:
            labels[0, 1] = 1
        found = run(given, labels, backend.engine, backend.device)["out"]
        assert found[0, :, 1].isnan().all()
        found[0, :, 1] = expected[0, :, 1]
        compare({"out": found}, {"out": expected}, LIMIT[dtype])


def with_one(name: str, made_by: str, engine: str, device: str, own: torch.dtype) -> dict[str, Tensor]:
    """The output and all gradients, float64 on the CPU, where one of the inputs has a number that is not finite."""
    inputs, labels = graph(SHAPES[-1])
    labels[0, :, 5], labels[0, [2, 20], 5] = 0, torch.tensor([3, 4])
    upstream = torch.randn(inputs["q"].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    bad = torch.tensor(torch.inf, dtype=own) if made_by == "inf" else nan(made_by, own)
    given = {n: x.to(own, copy=True) for n, x in (*inputs.items(), ("upstream", upstream))}
    given[name][0, 1, 5, 3] = bad
    leaves = {n: given[n].to(device).requires_grad_() for n in NAMES}
    out = relation_attention(labels=labels.to(device), engine=engine, **leaves)
    grads = torch.autograd.grad(out, list(leaves.values()), given["upstream"].to(device))
    return dict(zip(("out", *NAMES), (x.detach().double().cpu() for x in (out, *grads)), strict=True))


@functools.cache
def defined_with_one(name: str, made_by: str) -> dict[str, Tensor]:
    """The same by the reference, all in float64."""
    return with_one(name, made_by, "reference", "cpu", torch.float64)


# triton's programs multiply what one of their queries has an edge to for all of them (docs/engines.md).
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b.engine != "triton"], ids=str, indirect=True)
@pytest.mark.parametrize("made_by", [*NANS, "inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["q", "k", "v", "upstream"])
def test_what_is_not_finite_stays_on_its_edges(name: str, dtype: torch.dtype, made_by: str, backend: Backend) -> None:
    """A row that has no edge to it is as it would be without; scores and gradients that have get it, as defined."""
    expected = defined_with_one(name, made_by)
    actual = with_one(name, made_by, backend.engine, backend.device, dtype)
    wrong = {n: ~x.isfinite() for n, x in expected.items() if n != "value" or name != "upstream"}
    assert any(x.any() for x in wrong.values())
    for n, x in wrong.items():
        lost = ~actual[n].isfinite()
        assert torch.equal(lost, x), n
    clean = [{n: each[n].masked_fill(x, 0) for n, x in wrong.items()} for each in (actual, expected)]
    compare(*clean, LIMIT[dtype])


def test_mixed_dtypes_of_the_tables(backend: Backend) -> None:
    inputs, labels = graph(SHAPES[3])
    mixed = cast(inputs, torch.float32) | {"value": inputs["value"], "bias": inputs["bias"].bfloat16()}
    expected = run({n: x.double() for n, x in mixed.items()}, labels, "reference")
    found = run(mixed, labels, backend.engine, backend.device)
    assert [found[n].dtype for n in ("out", "value", "bias")] == [torch.float32, torch.float64, torch.bfloat16]
    bias, expected_bias = ({"bias": x.pop("bias")} for x in (found, expected))
    compare(found, expected, 1e-5)
    compare(bias, expected_bias, 8e-3)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 2, 0, 4), (2, 0, 3, 4)], ids=str)
def test_nothing_to_attend(shape: tuple[int, ...], backend: Backend) -> None:
    b, _, r, _ = shape
    q = torch.zeros(shape, device=backend.device, requires_grad=True)
    labels = torch.ones(b, r, r, dtype=torch.int64, device=backend.device)
    out = relation_attention(q, q, q, labels, engine=backend.engine)
    assert out.shape == shape
    assert torch.autograd.grad(out.sum(), q)[0].shape == shape


@pytest.mark.parametrize("native", [b for b in BACKENDS if b.engine == "native"], ids=str)
@pytest.mark.usefixtures("threads")
def test_same_bits_for_any_number_of_threads(native: Backend) -> None:
    inputs, labels = graph((5, 3, 36, 20, 13))
    inputs = cast(inputs, torch.float32)
    found = []
    with native.forced():
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(run(inputs, labels, "native"))
    for name, x in found[0].items():
        assert torch.equal(x, found[1][name]), name
        assert torch.equal(x, found[2][name]), name


def test_same_bits_every_time(engine: str) -> None:
    inputs, labels = graph(SHAPES[4])
    first, second = (run(cast(inputs, torch.float32), labels, engine) for _ in range(2))
    assert all(torch.equal(x, second[name]) for name, x in first.items())


def _call(**changes: object) -> dict:
    inputs, labels = graph((2, 3, 5, 4, 6))
    return inputs | {"labels": labels} | changes


ONES = torch.ones(2, 5, 5, dtype=torch.float64)
BAD = {
    "q-type": ({"q": 1}, TypeError, "q: expected a tensor, got int"),
    "q-dtype": (
        {"q": torch.ones(2, 3, 5, 4, dtype=torch.int64)},
        TypeError,
        "q: expected float16, bfloat16, float32 or float64, got torch.int64",
    ),
    "q-rank": (
        {"q": torch.ones(3, 5, 4, dtype=torch.float64)},
        ValueError,
        "q: expected 4 dimensions (B, H, R, d), got shape (3, 5, 4)",
    ),
    "k-dtype": (
        {"k": torch.ones(2, 3, 5, 4)},
        TypeError,
        "k: expected dtype torch.float64 (as q), got torch.float32",
    ),
    "v-shape": (
        {"v": torch.ones(2, 3, 6, 4, dtype=torch.float64)},
        ValueError,
        "v: expected shape (2, 3, 5, 4) (as q), got (2, 3, 6, 4)",
    ),
    "labels-dtype": ({"labels": ONES}, TypeError, "labels: expected an integer dtype, got torch.float64"),
    "labels-shape": (
        {"labels": torch.ones(2, 5, 4, dtype=torch.int64)},
        ValueError,
        "labels: expected shape (2, 5, 5) (B, R, R), got (2, 5, 4)",
    ),
    "labels-high": (
        {"labels": torch.full((2, 5, 5), 6)},
        ValueError,
        "labels: expected integers below 6 (n_labels), got 6",
    ),
    "labels-negative": ({"labels": torch.full((2, 5, 5), -1)}, ValueError, "labels: expected integers >= 0, got -1"),
    "bias-shape": (
        {"bias": torch.ones(6, 2, dtype=torch.float64)},
        ValueError,
        "bias: expected shape (n_labels, 3) (n_labels, H), got (6, 2)",
    ),
    "value-shape": (
        {"value": torch.ones(6, 3, dtype=torch.float64)},
        ValueError,
        "value: expected shape (n_labels, 3, 4) (n_labels, H, d), got (6, 3)",
    ),
    "value-dtype": (
        {"value": torch.ones(6, 3, 4, dtype=torch.int32)},
        TypeError,
        "value: expected float16, bfloat16, float32 or float64, got torch.int32",
    ),
    "value-labels": (
        {"value": torch.ones(7, 3, 4, dtype=torch.float64)},
        ValueError,
        "value: expected 6 labels (as bias), got 7",
    ),
    "confidence-shape": (
        {"confidence": ONES[:, :4]},
        ValueError,
        "confidence: expected shape (2, 5, 5) (B, R, R), got (2, 4, 5)",
    ),
    "confidence-zero": (
        {"confidence": 0 * ONES},
        ValueError,
        "confidence: expected values in (0, 1] on every edge, got 0",
    ),
    "confidence-high": (
        {"confidence": 1.5 * ONES},
        ValueError,
        "confidence: expected values in (0, 1] on every edge, got 1.5",
    ),
    "confidence-nan": (
        {"confidence": torch.nan * ONES},
        ValueError,
        "confidence: expected values in (0, 1] on every edge, got nan",
    ),
    "bias-device": (
        {"bias": torch.ones(6, 3, device="meta")},
        ValueError,
        "bias: expected device cpu (as q), got meta",
    ),
}


@pytest.mark.parametrize(("changes", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input(changes: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        relation_attention(**_call(**changes))
    assert str(caught.value) == message


def test_module_is_the_operator_between_projections(backend: Backend) -> None:
    torch.manual_seed(0)
    module = RelationAttention(12, 3, 6, engine=backend.engine).to(backend.device, torch.float64)
    nodes = torch.randn(2, 5, 12, dtype=torch.float64, device=backend.device, requires_grad=True)
    labels = torch.randint(0, 6, (2, 5, 5), device=backend.device)
    labels[0, 2] = 0
    confidence = torch.full((2, 5, 5), 0.5, device=backend.device)
    out = module(nodes, labels, confidence)
    assert out.shape == nodes.shape
    assert torch.equal(out[0, 2], torch.zeros_like(out[0, 2]))
    out.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    again = RelationAttention(12, 3, 6, engine="reference").to(backend.device, torch.float64)
    again.load_state_dict(module.state_dict())
    torch.testing.assert_close(again(nodes, labels, confidence), out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, 5, 6), "dim: expected a multiple of heads = 5, got 12"),
        ((12, 0, 6), "heads: expected an integer of at least 1, got 0"),
        ((12, 3, 6.0), "n_labels: expected an integer of at least 1, got 6.0"),
    ],
)
def test_module_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        RelationAttention(*arguments)


def test_module_refuses_nodes_of_another_width() -> None:
    layer = RelationAttention(12, 3, 6)
    for call in (layer, layer.probabilities, layer.contributions):
        with pytest.raises(ValueError, match=r"^nodes: expected shape \(B, R, 12\), got \(2, 5, 8\)$"):
            call(torch.zeros(2, 5, 8), torch.zeros(2, 5, 5, dtype=torch.int64))
