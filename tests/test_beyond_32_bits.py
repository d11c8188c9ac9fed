"""Rows, heads, images and scores beyond 2³¹ elements, in sparse files of which few pages are ever touched.

On the CPU alone: a GPU's memory is no file's.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cmsei_fast import Attention, PairScorer, engines, pair_score, relation_attention, score_matrix
from cmsei_fast.engines import triton

# Products of a place and one of these strides pass 2³¹, the strides do not. Rows are more than any register or panel
# takes, so that later ones begin beyond 2³¹ too; Triton's interpreter, which is slow, has no such panels.
ROW, ITEM = 2**28 + 64, 2**30 + 64
ROWS, NODES, IMAGES = (12, 18, 1) if triton.interpreted() else (40, 80, 3)
# What a place that wraps goes back by, at most: there are zeros too, not another's memory.
_BEFORE = 2**31
_ELEMENTS = _BEFORE + 40 * ROW


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of zeros, longer than its disk, of which only pages that are written take room."""
    path = tmp_path_factory.mktemp("sparse") / "zeros.bin"
    try:
        with open(path, "wb") as file:
            file.truncate(8 * _ELEMENTS)
        np.memmap(path, np.float64, "r")
    except OSError as error:
        pytest.skip(f"no sparse file of {8 * _ELEMENTS:,} bytes here: {error}")
    return path


def spread(sparse: Path, x: Tensor, strides: tuple[int, ...], start: int = 0) -> Tensor:
    """x with these strides over the file, whose other numbers are 0."""
    kind = np.dtype(str(x.dtype).removeprefix("torch.")) if x.dtype != torch.bfloat16 else np.dtype(np.int16)
    memory = torch.from_numpy(np.memmap(sparse, kind, "r+", shape=(_ELEMENTS,))).view(x.dtype)
    out = memory.as_strided(x.shape, strides, _BEFORE + start)
    out.copy_(x)
    return out


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
SCORERS = {
    "cmsei": PairScorer.cmsei(),
    "scan": PairScorer.scan_t2i(),
    "softmax": PairScorer(i2t=Attention(norm="softmax")),  # pair by pair, where the others go strip by strip
    "hard": PairScorer(t2i=Attention(norm="none", attend="hard", relevance="dot")),
}


@pytest.mark.parametrize("far", ["regions", "words"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows(engine: str, sparse: Path, dtype: str, far: str) -> None:
    """Scores and gradients of rows far apart are those of the same rows side by side."""
    generator = torch.Generator().manual_seed(0)
    regions, words = (torch.randn(ROWS, 34, generator=generator).to(DTYPES[dtype]) for _ in range(2))
    offsets = torch.tensor([0, 1, 3, ROWS // 2, ROWS])
    for scorer in list(SCORERS.values())[: 1 if triton.interpreted() else None]:

        def found(v: Tensor, w: Tensor, scorer: PairScorer = scorer) -> list[Tensor]:
            v, w = v.detach().requires_grad_(), w.detach().requires_grad_()
            scores = pair_score(v, w, offsets, offsets, scorer=scorer, engine=engine)
            return [scores, *torch.autograd.grad((scores * scores.detach()).sum(), (v, w))]

        near = found(regions, words)
        apart = {"regions": regions, "words": words}
        apart[far] = spread(sparse, apart[far], (ROW, 1))
        for x, y in zip(found(**dict(zip("vw", apart.values(), strict=True))), near, strict=True):
            assert y.isfinite().all()
            assert y.any()
            torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("axis", ["image", "head", "row", "start"])
@pytest.mark.parametrize("dense", [False, True], ids=["few_edges", "all_edges"])
def test_relation_attention(engine: str, sparse: Path, axis: str, dense: bool) -> None:
    """Attention and gradients of queries, keys and values far apart along one axis are those of dense ones."""
    generator = torch.Generator().manual_seed(0)
    n = NODES
    q, k, v, grad = (torch.randn(IMAGES, 3, n, 8, generator=generator) for _ in range(4))
    one = torch.eye(n, dtype=torch.int64)
    few, many = (
        (one + 2 * one.roll(1, 1)).expand(IMAGES, n, n),
        torch.randint(0, 5, (IMAGES, n, n), generator=generator),
    )
    labels = many if dense else few
    tables = [torch.randn(5, 3, generator=generator), torch.randn(5, 3, 8, generator=generator)]
    strides = {"image": (ITEM, 8 * n, 8, 1), "head": (8 * n, ITEM, 8, 1), "row": (24, 8, 2**32 // n // 8 * 8, 1)}
    strides["start"] = 24 * n, 8 * n, 8, 1

    def found(*qkv: Tensor, out: Tensor) -> list[Tensor]:
        qkv = tuple(x.detach().requires_grad_() for x in qkv)
        result = relation_attention(*qkv, labels, *tables, engine=engine)
        return [result, *torch.autograd.grad(result, qkv, out)]

    near = found(q, k, v, out=grad)
    starts = itertools.count(2 * ITEM if axis == "start" else 0, 8192)
    far = [spread(sparse, x, strides[axis], next(starts)) for x in (q, k, v, grad)]
    for x, y in zip(found(*far[:3], out=far[3]), near, strict=True):
        assert y.isfinite().all()
        assert y.any()
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.skipif(engines.unavailable("native") is not None, reason="the compiled module is not here")
@pytest.mark.parametrize("scorer", SCORERS)
def test_native_scores(sparse: Path, scorer: str) -> None:
    """The kernels' own scores, and the gradients that come back for them, in rows far apart."""
    from cmsei_fast import _native
    from cmsei_fast.engines import native

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4 * 60, 8, generator=generator)  # no tile holds all of them
    offsets = torch.arange(5) * 60
    numbers = SCORERS[scorer].config(), SCORERS[scorer].scalars()
    sides = [native._items(rows, offsets)] * 2
    for name in native.isas():
        near = torch.empty(4, 4)
        far = spread(sparse, torch.full((4, 4), float("nan")), (ITEM, 1))
        for out in (near, far):
            _native.pair_score_f32(*sides, 8, *numbers, out.data_ptr(), out.stride(0), 1, name, False)
        assert near.isfinite().all()
        assert torch.equal(near, far)
        some = near * torch.zeros(4, 4).index_put_((torch.tensor([2, 3]), torch.tensor([1, 0])), torch.ones(2))
        for grad in (some, near):  # few pairs and many go back in ways of their own
            results = []
            for upstream in (grad, spread(sparse, grad, (ITEM, 1))):
                own = [torch.empty_like(rows), torch.empty_like(rows), torch.empty(len(numbers[1]), dtype=torch.double)]
                where = [upstream.data_ptr(), upstream.stride(0), *(x.data_ptr() for x in own)]
                _native.pair_score_backward_f32(*sides, 8, *numbers, *where, 1, name)
                results.append(own)
            for x, y in zip(*results, strict=True):
                assert x.isfinite().all()
                assert torch.equal(x, y)


def test_part_of_a_large_matrix(engine: str, sparse: Path) -> None:
    """Scores go into a few columns of a memmap with more than 2³¹ numbers, which features lie in as well."""
    generator = np.random.default_rng(0)
    images, captions = (generator.standard_normal((3, n, 8), dtype=np.float32) for n in (4, 5))
    expected = score_matrix(images, captions, [5, 3, 1], engine=engine)
    whole = np.memmap(sparse, np.float32, "r+", shape=(5, ITEM))
    part = whole[:3, ITEM - 128 : ITEM - 125]
    out = score_matrix(images, captions, [5, 3, 1], engine=engine, out=part)
    assert out is part
    np.testing.assert_array_equal(whole[:3, ITEM - 128 : ITEM - 125], expected)
    far = np.lib.stride_tricks.as_strided(whole, (3, 4, 8), (4 * ITEM, 32, 4))
    far[:] = images
    np.testing.assert_array_equal(score_matrix(far, captions, [5, 3, 1], engine=engine), expected)


@pytest.mark.skipif(engines.unavailable("native") is not None, reason="the compiled module is not here")
def test_more_edges_than_native_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that may have 2³¹ edges are eager's, not memory that a wrapped count points to."""
    from cmsei_fast.engines import eager, native

    name = "relation_attention"
    monkeypatch.setattr(eager, name, lambda *_: "eager's")
    monkeypatch.setattr(eager, f"{name}_backward", lambda *_: "eager's")
    nodes = 46341
    q, labels = (
        torch.zeros(1, 1, 1, 1).expand(1, 1, nodes, 1),
        torch.zeros(1, dtype=torch.int32).expand(1, nodes, nodes),
    )
    rest = labels, None, None, None
    assert native.relation_attention(q, q, q, *rest) == "eager's"
    assert native.relation_attention_backward(q, q, q, q, *rest) == "eager's"


def test_rows_of_more_than_32_bits(engine: str, sparse: Path) -> None:
    """The stride itself passes 2³², and would be 64 in 32 bits."""
    generator = torch.Generator().manual_seed(0)
    rows, words = torch.randn(2, 8, generator=generator), torch.randn(3, 8, generator=generator)
    call = {"scorer": PairScorer.scan_t2i(), "engine": engine}
    cuts = torch.tensor([0, 2]), torch.tensor([0, 3])
    far = spread(sparse, rows, (4 * 2**30 + 64, 1))
    assert torch.equal(pair_score(far, words, *cuts, **call), pair_score(rows, words, *cuts, **call))
