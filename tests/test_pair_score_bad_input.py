"""Bad input to the pair score, with the exact error it raises; engines that are missing, and the one that auto is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmsei_fast import Encoded, engines
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import PairScorer


def _call(**changes: object) -> dict:
    call = {
        "regions": torch.randn(6, 4),
        "words": torch.randn(5, 4),
        "region_offsets": torch.tensor([0, 2, 6]),
        "word_offsets": torch.tensor([0, 5]),
        "scorer": PairScorer.scan_t2i(),
    }
    return call | changes


BAD = {
    "regions-type": (_call(regions=[1.0]), TypeError, "regions: expected a tensor, got list"),
    "regions-dtype": (
        _call(regions=torch.ones(6, 4, dtype=torch.int32)),
        TypeError,
        "regions: expected float16, bfloat16, float32 or float64, got torch.int32",
    ),
    "regions-rank": (
        _call(regions=torch.randn(1, 6, 4)),
        ValueError,
        "regions: expected 2 dimensions (rows, D), got shape (1, 6, 4); "
        "cmsei_fast.Encoded.from_padded packs padded items",
    ),
    "padded-without-offsets": (
        _call(words=torch.randn(1, 5, 4), word_offsets=None),
        ValueError,
        "words: expected 2 dimensions (rows, D), got shape (1, 5, 4); "
        "cmsei_fast.Encoded.from_padded packs padded items",
    ),
    "array-without-offsets": (
        _call(words=np.ones((5, 4)), word_offsets=None),
        TypeError,
        "words: expected a tensor, got ndarray",
    ),
    "words-dtype": (
        _call(words=torch.randn(5, 4).bfloat16()),
        TypeError,
        "words: expected dtype torch.float32 (as regions), got torch.bfloat16; words.to(regions.dtype) has it",
    ),
    "words-width": (
        _call(words=torch.randn(5, 3)),
        ValueError,
        "words: expected a last dimension of 4 (as regions), got 3",
    ),
    "words-device": (
        _call(words=torch.randn(5, 4, device="meta")),
        ValueError,
        "words: expected device cpu (as regions), got meta",
    ),
    "no-width": (
        _call(regions=torch.randn(6, 0), words=torch.randn(5, 0)),
        ValueError,
        "regions: expected a last dimension of at least 1, got 0",
    ),
    "offsets-beside-encoded": (
        _call(regions=Encoded(torch.randn(6, 4), torch.tensor([2, 4]))),
        TypeError,
        "region_offsets: expected None (regions are encoded and have theirs), got Tensor",
    ),
    "no-offsets": (
        _call(word_offsets=None),
        TypeError,
        "word_offsets: expected a tensor beside words that are not Encoded, got None",
    ),
    "encoded-lengths-device": (
        _call(words=Encoded(torch.randn(5, 4), torch.tensor([5], device="meta")), word_offsets=None),
        ValueError,
        "words.lengths: expected a tensor on the CPU, got one on meta",
    ),
    "encoded-float-lengths": (
        _call(words=Encoded(torch.randn(5, 4), torch.tensor([5.0])), word_offsets=None),
        TypeError,
        "words.lengths: expected dtype torch.int64, got torch.float32",
    ),
    "offsets-dtype": (
        _call(region_offsets=torch.tensor([0, 2, 6], dtype=torch.int32)),
        TypeError,
        "region_offsets: expected dtype torch.int64, got torch.int32",
    ),
    "offsets-rank": (
        _call(word_offsets=torch.tensor([[0, 5]])),
        ValueError,
        "word_offsets: expected shape (items + 1,), got (1, 2)",
    ),
    "offsets-none": (
        _call(word_offsets=torch.zeros(0, dtype=torch.int64)),
        ValueError,
        "word_offsets: expected shape (items + 1,), got (0,)",
    ),
    "offsets-start": (
        _call(region_offsets=torch.tensor([1, 2, 6])),
        ValueError,
        "region_offsets: expected the first offset to be 0, got 1",
    ),
    "offsets-lengths": (
        _call(region_offsets=torch.tensor([2, 4])),
        ValueError,
        "region_offsets: expected the first offset to be 0, got 2; "
        "these are lengths, which cmsei_fast.Encoded(regions, lengths) makes offsets of",
    ),
    "offsets-list": (
        _call(region_offsets=[2, 4]),
        TypeError,
        "region_offsets: expected a tensor, got list; "
        "cmsei_fast.Encoded(regions, lengths) makes offsets of lengths of any kind",
    ),
    "offsets-end": (
        _call(region_offsets=torch.tensor([0, 2, 5])),
        ValueError,
        "region_offsets: expected the last offset to be 6, the rows of regions, got 5",
    ),
    "offsets-beyond": (
        _call(word_offsets=torch.tensor([0, 7])),
        ValueError,
        "word_offsets: expected the last offset to be 5, the rows of words, got 7",
    ),
    "offsets-empty-item": (
        _call(region_offsets=torch.tensor([0, 2, 2, 6])),
        ValueError,
        "region_offsets: expected every item to own at least one row of regions, got 0 for item 1 (2 to 2)",
    ),
    "offsets-descend": (
        _call(region_offsets=torch.tensor([0, 4, 2, 6])),
        ValueError,
        "region_offsets: expected every item to own at least one row of regions, got -2 for item 1 (4 to 2)",
    ),
    "scorer": (_call(scorer="scan"), TypeError, "scorer: expected a PairScorer, got str"),
    "scalars-type": (_call(scalars=[1.0] * 10), TypeError, "scalars: expected a tensor, got list"),
    "scalars-shape": (
        _call(scalars=torch.ones(12)),
        ValueError,
        "scalars: expected shape (10,), as this scorer's scalars(), got (12,)",
    ),
    "scalars-device": (
        _call(scalars=torch.ones(10, device="meta")),
        ValueError,
        "scalars: expected a tensor on the CPU (as regions), got one on meta",
    ),
    "scalars-dtype": (
        _call(scalars=torch.ones(10, dtype=torch.int64)),
        TypeError,
        "scalars: expected float16, bfloat16, float32 or float64, got torch.int64",
    ),
    "engine": (
        _call(engine="fast"),
        ValueError,
        f"engine: expected 'auto' or one of {', '.join(engines.names())}, got 'fast'",
    ),
    "precision": (
        _call(precision="tf32"),
        ValueError,
        "precision: expected None or one of float32, bfloat16, float16, float64, float8, int8, got 'tf32'",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input(call: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        pair_score(**call)
    assert str(caught.value) == message


def test_an_engine_that_cannot_run_says_why_and_what_to_do() -> None:
    missing = [n for n in engines.names() if engines.unavailable(n) is not None]
    for engine in missing:
        with pytest.raises(engines.EngineUnavailable, match=f"engine '{engine}' cannot run here: .*engine='auto'"):
            pair_score(**_call(engine=engine))


def test_an_engine_that_is_missing_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmsei_fast.engines import eager

    monkeypatch.setattr(eager, "unavailable", lambda: "it is broken")
    with pytest.raises(engines.EngineUnavailable, match=r"^engine 'eager' cannot run here: it is broken\. Ask for"):
        pair_score(**_call(engine="eager"))


def test_auto_is_native_where_it_is_built_and_eager_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected = "native" if engines.unavailable("native") is None else "eager"
    assert engines.choose("cpu", "pair_score") == engines.choose("cpu", "relation_attention") == expected
    assert engines.choose("cuda", "pair_score") == "eager"
    call = _call()
    assert torch.equal(pair_score(**call), pair_score(**call, engine=expected))
    with pytest.raises(ValueError, match="operator: expected one of pair_score, relation_attention, got 'x'"):
        engines.choose("cpu", "x")
