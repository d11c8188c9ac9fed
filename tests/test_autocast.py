"""Both operators under autocast: as with features rounded to its dtype."""

from __future__ import annotations

import pytest
import torch
from operator_inputs import SCORER, attended, scored
from torch import Tensor

from cmsei_fast.ops import pair_score, relation_attention


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_pair_score(dtype: torch.dtype, engine: str) -> None:
    v, w, v_offsets, w_offsets = scored()
    name = str(dtype).removeprefix("torch.")
    expected = pair_score(v, w, v_offsets, w_offsets, scorer=SCORER, engine=engine, precision=name)
    plain = pair_score(v, w, v_offsets, w_offsets, scorer=SCORER, engine=engine)
    with torch.autocast("cpu", dtype=dtype):
        actual = pair_score(v, w, v_offsets, w_offsets, scorer=SCORER, engine=engine)
        asked = pair_score(v, w, v_offsets, w_offsets, scorer=SCORER, engine=engine, precision="float32")
        inside = torch.autograd.grad(actual.sum(), (v, w), retain_graph=True)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)
    assert torch.equal(asked, plain)
    assert not torch.equal(actual, plain)
    outside = torch.autograd.grad(expected.sum(), (v, w))
    for x, y in zip(inside, outside, strict=True):
        assert x.dtype == torch.float32
        assert torch.equal(x, y)


def test_autocast_leaves_float64_alone(engine: str) -> None:
    tensors = scored(torch.float64)
    expected = pair_score(*tensors, scorer=SCORER, engine=engine)
    *rest, labels, bias, value, confidence = attended(torch.float64)
    expected_attention = relation_attention(*rest, labels, bias, value, confidence, engine=engine)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pair_score(*tensors, scorer=SCORER, engine=engine), expected)
        actual = relation_attention(*rest, labels, bias, value, confidence, engine=engine)
        assert torch.equal(actual, expected_attention)


def test_autocast_relation_attention(engine: str) -> None:
    q, k, v, *others = attended()
    expected = relation_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), *others, engine=engine)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = relation_attention(q, k.bfloat16(), v, *others, engine=engine)
        inside = torch.autograd.grad(actual.sum(), (q, others[1]), retain_graph=True)
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, expected)
    outside = torch.autograd.grad(expected.sum(), (q, others[1]))
    assert all(torch.equal(x, y) and x.dtype == torch.float32 for x, y in zip(inside, outside, strict=True))


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_takes_sides_of_two_dtypes(other: torch.dtype, engine: str) -> None:
    """A projection's output is in autocast's dtype, a normalisation's in float32."""
    v, w, v_offsets, w_offsets = scored()
    v = v.detach().to(other).requires_grad_()
    expected = pair_score(v.float(), w, v_offsets, w_offsets, scorer=SCORER, engine=engine, precision="bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = pair_score(v, w, v_offsets, w_offsets, scorer=SCORER, engine=engine)
    assert torch.equal(actual, expected)
    found = [torch.autograd.grad(x.sum(), (v, w)) for x in (actual, expected)]
    assert [x.dtype for x in found[0]] == [other, torch.float32]
    assert all(map(torch.equal, *found))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(TypeError, match=r"^words: expected float16, .* got torch\.int32$"),
    ):
        pair_score(v, w.int(), v_offsets, w_offsets, scorer=SCORER, engine=engine)


def test_autocast_compiled() -> None:
    torch._dynamo.reset()
    tensors = scored()

    def call(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return pair_score(*tensors, scorer=SCORER)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), call(*tensors), atol=1e-6, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_autocast_on_cuda() -> None:
    v, w, v_offsets, w_offsets = scored()
    v, w = v.cuda(), w.cuda()
    expected = pair_score(v, w, v_offsets, w_offsets, scorer=SCORER, precision="bfloat16")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.equal(pair_score(v, w, v_offsets, w_offsets, scorer=SCORER), expected)
