"""The Triton kernels compiled ahead of time, without a GPU: registers, spills and shared memory within bounds.

What the launches of ``triton_launch`` use at the field's sizes: 36 regions, captions of up to 16 and 32 words.
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from triton_compiler import OLDER, SHARED, Compiled, build
from triton_here import too_old

from cmsei_fast import PairScorer
from cmsei_fast.engines import triton as engine
from cmsei_fast.engines.triton_launch import gradient_stages, launch, pass_warps, turned
from cmsei_fast.engines.triton_pair import passes
from cmsei_fast.engines.triton_pair_vjp import backward_passes
from cmsei_fast.engines.triton_relation import forward_tile
from cmsei_fast.engines.triton_sides import MAX_ROWS

pytestmark = [
    pytest.mark.skipif(engine.interpreted(), reason="Triton interprets its kernels in this process"),
    pytest.mark.skipif(too_old() is not None, reason=str(too_old())),
]

SCAN, CMSEI = passes(PairScorer.scan_t2i().config()), passes(PairScorer.cmsei().config())
GRADIENTS = {
    "scan": backward_passes(PairScorer.scan_t2i().config())[0],
    **dict(
        zip(
            ("cmsei-words-ask", "cmsei-words-levels", "cmsei-regions-ask"),
            backward_passes(PairScorer.cmsei().config()),
            strict=True,
        )
    ),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compiles a pass of the pair score: (kernel's name, arch, options, words, regions, precision), each once."""
    from cmsei_fast.kernels.pair_score import pair_scores
    from cmsei_fast.kernels.pair_score_vjp import pair_gradients

    tmp = tmp_path_factory.mktemp("cubin")

    @functools.cache
    def run(name: str, arch: int, options: tuple, words: int, regions: int, precision: str) -> Compiled:
        kernel = pair_scores if name == "pair_scores" else pair_gradients
        how = launch(name, words, regions)
        chosen = dict(options) | {"C": how.captions, "BL": words, "BR": regions, "GROUPS_PER_PROGRAM": 16}
        chosen["PRECISION"] = precision
        if name == "pair_gradients":
            chosen["SLOTS"] = 64
            chosen.pop("ADD", None)
        chosen["TURNED"] = turned(name, arch, words, chosen)
        warps = pass_warps(name, how, chosen["QUERY"], precision)
        stages = gradient_stages(chosen["QUERY"]) if name == "pair_gradients" else 3
        return build(kernel, arch, warps, {"d_products": "*bf16"}, chosen, tmp, stages)

    return run


@pytest.mark.parametrize("arch", SHARED)
def test_relation_attention(arch: int, tmp_path: Path) -> None:
    """36 nodes, heads 128 wide, every table given."""
    import triton.language as tl
    from cmsei_fast.kernels import relation_attention

    options = {f"HAS_{x}": True for x in ("BIAS", "VALUE", "CONFIDENCE")} | {"BQ": 16, "BK": 64, "BD": 128}
    options |= {"ACC_TYPE": tl.float32, "QK_PRECISION": "tf32", "PRECISION": "tf32", "scale": 128**-0.5}
    options |= {"stride_qd": 1, "stride_kd": 1, "stride_vd": 1}
    types = dict.fromkeys(("q", "k", "v", "out"), "*bf16") | {"labels": "*i32", "heads": "i32"}
    forward = build(relation_attention.relations_forward, arch, 4, types, options, tmp_path)
    assert forward.spills <= ({80: 24, 90: 20, 100: 22}[arch] if OLDER else 0)
    backward = build(relation_attention.relations_backward, arch, 8, types, options, tmp_path)
    for found in (forward, backward):
        assert found.registers > 16, "an empty kernel"
        assert found.shared <= SHARED[arch]
    assert "mma" in forward.ptx


@pytest.mark.parametrize(("arch", "most"), [(80, 99), (90, 99), (100, 227)])
@pytest.mark.parametrize(("dtype", "nodes", "width"), [("fp32", 64, 128), ("fp32", 64, 256), ("fp64", 64, 256)])
def test_relation_attention_of_wide_heads_fits(
    arch: int, most: int, dtype: str, nodes: int, width: int, tmp_path: Path
) -> None:
    """Forward, what has no other kernel, fits GPUs of 99 KB, whose instructions are sm_80's, too."""
    import triton.language as tl
    from cmsei_fast.kernels import relation_attention

    if dtype == "fp64" and arch == 100:
        pytest.skip("takes 20 s to compile")
    bytes_ = 8 if dtype == "fp64" else 4
    queries, keys = forward_tile(nodes, width, bytes_)
    options = {f"HAS_{x}": True for x in ("BIAS", "VALUE", "CONFIDENCE")} | {"BQ": queries, "BK": keys, "BD": width}
    how = "ieee" if dtype == "fp64" else "tf32x3"
    options |= {"ACC_TYPE": tl.float64 if dtype == "fp64" else tl.float32, "QK_PRECISION": how, "PRECISION": how}
    types = dict.fromkeys(("q", "k", "v", "out", "bias", "value", "confidence"), f"*{dtype}")
    types |= {"labels": "*i32"}
    options |= {"stride_qd": 1, "stride_kd": 1, "stride_vd": 1, "scale": width**-0.5}
    found = build(relation_attention.relations_forward, arch, 4, types, options, tmp_path)
    assert found.registers > 16, "an empty kernel"
    assert found.shared <= most * 1024


@pytest.mark.parametrize("name", ["relations_forward", "relations_backward"])
def test_the_scale_is_a_double_where_sums_are(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Triton passes a Python float as float32, an error of 2e-8 in the logits, unless it is a compile-time number."""
    from cmsei_fast.kernels import relation_attention

    kernel, launched = getattr(relation_attention, name), []

    class Recorder:
        def __getitem__(self, grid: object) -> Any:
            return lambda *args, **options: launched.append(dict(zip(kernel.arg_names, args, strict=False)) | options)

    monkeypatch.setattr(relation_attention, name, Recorder())
    q = torch.ones(1, 1, 2, 3, dtype=torch.float64)
    labels = torch.ones(1, 2, 2, dtype=torch.int64)
    run = engine.relation_attention if name == "relations_forward" else engine.relation_attention_backward
    run(*([q] * (3 if name == "relations_forward" else 4)), labels)

    numbers = {p.name for p in kernel.params if p.is_constexpr}
    options = {n: x for n, x in launched[0].items() if n in numbers} | {"stride_qd": 1, "stride_kd": 1, "stride_vd": 1}
    tensors = {n: "*fp64" for n, x in launched[0].items() if isinstance(x, torch.Tensor) and x.dtype == torch.float64}
    types = tensors | dict.fromkeys(("labels", "bias", "value", "confidence"), "*i32")
    ptx = build(kernel, 80, launched[0]["num_warps"], types, options, tmp_path).ptx
    assert f"0d{struct.pack('>d', 3**-0.5).hex().upper()}" in ptx


def key(options: dict[str, Any]) -> tuple:
    return tuple(sorted(options.items()))


@pytest.mark.parametrize("options", [SCAN[0], CMSEI[0], CMSEI[1]], ids=["scan", "cmsei-words-ask", "cmsei-regions-ask"])
@pytest.mark.parametrize(("arch", "words"), [(80, 32), (90, 16), (90, 32), (90, 64), (100, 16), (100, 32)])
def test_forward_does_not_spill(compiled: Any, arch: int, options: dict[str, Any], words: int) -> None:
    found = compiled("pair_scores", arch, key(options), words, 64, "tf32")
    assert found.spills <= (4 if OLDER and (arch, words, options["QUERY"]) == (100, 32, 1) else 0)
    assert found.registers > 16, "an empty kernel"
    assert found.shared <= SHARED[arch] // 3, "three programs fit a multiprocessor"


@pytest.mark.parametrize(
    ("arch", "options", "words"),
    [(80, CMSEI[1], 16), (90, CMSEI[0], 32), (100, CMSEI[0], 32)],
    ids=lambda x: x if isinstance(x, int) else f"query-{x['QUERY']}",
)
def test_forward_in_float32_does_not_spill(compiled: Any, arch: int, options: dict[str, Any], words: int) -> None:
    found = compiled("pair_scores", arch, key(options), words, 64, "tf32x3")
    assert found.spills == 0
    assert found.registers > 16, "an empty kernel"


@pytest.mark.parametrize("options", [SCAN[0], CMSEI[0], CMSEI[1]], ids=["scan", "cmsei-words-ask", "cmsei-regions-ask"])
def test_the_large_product_is_a_warpgroups(compiled: Any, options: dict[str, Any]) -> None:
    assert "wgmma.mma_async" in compiled("pair_scores", 90, key(options), 16, 64, "tf32").ptx
    assert "mma.sync" in compiled("pair_scores", 80, key(options), 16, 64, "tf32").ptx


@pytest.mark.parametrize("arch", SHARED)
def test_the_largest_items_fit(compiled: Any, arch: int) -> None:
    """As ``triton_sides.MAX_ROWS`` promises, in the precision that takes most."""
    gradients = {80: 104, 90: 91, 100: 25}[arch]
    for name, options, most in (
        ("pair_scores", CMSEI[0], 0),
        ("pair_gradients", GRADIENTS["cmsei-words-ask"], gradients),
    ):
        found = compiled(name, arch, key(options), MAX_ROWS, MAX_ROWS, "tf32x3")
        assert found.spills <= most, name
        assert found.shared <= SHARED[arch], name
        assert found.tensor <= 512, name
        assert found.registers > 16, "an empty kernel"


OTHERS = {"focal": PairScorer.bfan("prob"), "aware": PairScorer.naaf(), "hard": PairScorer.chan()}


@pytest.mark.parametrize("scorer", OTHERS.values(), ids=OTHERS)
def test_other_attention_does_not_spill(compiled: Any, scorer: PairScorer) -> None:
    forward, backward = (f(scorer.config())[0] for f in (passes, backward_passes))
    assert compiled("pair_scores", 90, key(forward), 16, 64, "tf32").spills == 0
    assert compiled("pair_gradients", 90, key(backward), 16, 64, "tf32").spills == 0


def test_maxsim_multiplies_nothing(compiled: Any) -> None:
    """A hard choice whose relevance is the inner product needs no Gram matrix."""
    ptx = compiled("pair_scores", 90, key(passes(PairScorer.maxsim().config())[0]), 16, 64, "tf32").ptx
    assert "mma" not in ptx
    assert "max" in ptx


@pytest.mark.parametrize("options", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("arch", SHARED)
def test_backward_does_not_spill(compiled: Any, arch: int, options: dict[str, Any]) -> None:
    found = compiled("pair_gradients", arch, key(options), 16, 64, "tf32")
    assert found.spills <= (3 if OLDER and arch == 100 and options == GRADIENTS["scan"] else 0)
    assert found.registers > 16, "an empty kernel"
    assert found.shared <= SHARED[arch]


@pytest.mark.parametrize(
    ("arch", "name", "words", "precision", "most"),
    [
        (80, "scan", 32, "tf32", 0),
        *((arch, f"cmsei-{who}-ask", 32, "tf32", 0) for arch in SHARED for who in ("words", "regions")),
        *((arch, "cmsei-words-ask", 16, "tf32x3", 0) for arch in SHARED),
        (90, "cmsei-regions-ask", 16, "tf32x3", 0),
        (80, "cmsei-words-ask", 32, "tf32x3", 7 if OLDER else 0),
        (100, "cmsei-words-ask", 32, "tf32x3", 0),
        (100, "cmsei-regions-ask", 32, "tf32x3", 0),
        (80, "cmsei-words-ask", 64, "tf32", 37 if OLDER else 35),
        (90, "cmsei-words-ask", 64, "tf32", 20 if OLDER else 27),
    ],
)
def test_backward_of_longer_captions_and_of_float32(
    compiled: Any, arch: int, name: str, words: int, precision: str, most: int
) -> None:
    """What fits the registers stays there, and what does not is no more than measured."""
    assert compiled("pair_gradients", arch, key(GRADIENTS[name]), words, 64, precision).spills <= most
