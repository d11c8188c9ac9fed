"""The native engine's instruction sets: which ones there are, how one is forced, and threads of any origin in each."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import pytest
import torch
from conftest import BACKENDS, Backend
from problems import Problem, computed, error, magnitude

import cmsei_fast
from cmsei_fast import engines
from cmsei_fast.engines import native
from cmsei_fast.ops import pair_score
from cmsei_fast.scorer import Attention, PairScorer

pytestmark = pytest.mark.skipif(engines.unavailable("native") is not None, reason="needs the native module")

FLAGS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512bf16": {"avx512_bf16"},
    "avx512amx": {"amx_bf16", "amx_tile"},
}
# The product of whole numbers that each of them is given, and what it needs.
WHOLE = {
    "avx2": ("avxvnni", "avx_vnni"),
    "avx512": ("avx512vnni", "avx512_vnni"),
    "avx512bf16": ("avx512vnni", "avx512_vnni"),
    "avx512amx": ("amxint8", "amx_int8"),
}
NATIVE = [backend for backend in BACKENDS if backend.engine == "native"]

# Makes the kernel refuse this process's request for tile registers, then says what there is and scores with it.
REFUSED = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def statement(code, yes, no, value):
    return struct.pack("HBBI", code, yes, no, value)
program = b"".join([
    statement(0x20, 0, 0, 0),           # the call's number
    statement(0x15, 0, 3, 158),         # arch_prctl
    statement(0x20, 0, 0, 16),          # its first argument
    statement(0x15, 0, 1, 0x1023),      # ARCH_REQ_XCOMP_PERM
    statement(0x06, 0, 0, 0x00050001),  # EPERM
    statement(0x06, 0, 0, 0x7FFF0000),  # allowed
])
memory = ctypes.create_string_buffer(program, len(program))
filters = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(memory)))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, filters, 0, 0):
    raise SystemExit(77)
import torch
from cmsei_fast import score_matrix
from cmsei_fast.engines import native
x = torch.ones(1, 2, 4, dtype=torch.bfloat16)
print(*native.isas(), native.current_isa(), score_matrix(x, x, engine="native").isfinite().all().item())
"""


def processor_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )


@pytest.mark.skipif(not processor_flags(), reason="no list of the processor's flags")
def test_what_the_processor_and_the_build_have_is_there() -> None:
    report = json.loads((Path(cmsei_fast.__file__).parent / "build_report.json").read_text())["native"]
    needed: set[str] = set()
    expected = []
    for name in [*report["variants"], *(name for name in report["products"] if name in FLAGS)]:
        needed |= FLAGS.get(name, set())
        if needed <= processor_flags():
            expected.append(name)
    assert native.isas() == expected


@pytest.mark.skipif(not processor_flags(), reason="no list of the processor's flags")
def test_whole_numbers_are_multiplied_where_the_processor_and_the_build_can() -> None:
    products = json.loads((Path(cmsei_fast.__file__).parent / "build_report.json").read_text())["native"]["products"]
    for name in native.isas():
        product, flag = WHOLE.get(name, ("", ""))
        assert native._module().multiplies_int8(name) == (product in products and flag in processor_flags())


@pytest.mark.parametrize(
    ("name", "code"),
    [("avx512amx", "c4e24a5cc4"), ("amxint8", "c4e24b5ec4")],
    ids=["tdpbf16ps", "tdpbssd"],
)
def test_products_of_tile_registers_are_compiled_in_whatever_the_processor(name: str, code: str) -> None:
    """The instruction on registers 0, 4 and 6, as it stands in the module."""
    report = json.loads((Path(cmsei_fast.__file__).parent / "build_report.json").read_text())
    assert (bytes.fromhex(code) in Path(native._module().__file__).read_bytes()) == (
        name in report["native"]["products"]
    )


@pytest.mark.skipif(Backend("native", isa="avx512amx") not in NATIVE, reason="no tile registers")
def test_without_permission_for_tile_registers_the_others_remain() -> None:
    done = python(REFUSED)
    if done.returncode == 77:
        pytest.skip("system calls cannot be refused here")
    others = [name for name in native.isas() if name != "avx512amx"]
    assert done.stdout.split() == [*others, others[-1], "True"], done.stderr


@pytest.mark.parametrize("variant", NATIVE, ids=str)
def test_the_environment_forces_a_variant(variant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMSEI_ISA", str(variant.isa))
    assert native.current_isa() == variant.isa
    assert native.unavailable() is None


def test_a_variant_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMSEI_ISA", "avx1024")
    assert native.unavailable() == f"CMSEI_ISA=avx1024: this processor and build have {', '.join(native.isas())}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "scorer",
    [PairScorer.cmsei(), PairScorer.scan_t2i(), PairScorer.maxsim(), PairScorer.naaf(0.3)],
    ids=["cmsei", "scan_t2i", "maxsim", "naaf"],
)
@pytest.mark.parametrize("variant", NATIVE, ids=str)
@pytest.mark.usefixtures("threads")
def test_same_bits_for_any_number_of_threads(variant: Backend, scorer: PairScorer, dtype: torch.dtype) -> None:
    """Groups of images that are no multiple of a tile's rows, captions that are none of its columns."""
    problem = Problem(scorer, (7, 36, 5, 1, 37, 36) * 8, (3, 13, 1, 17, 2) * 12, 65)
    found = []
    with variant.forced():
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(computed(problem, "native", dtype))
    for field in ("scores", "d_regions", "d_words", "d_scalars"):
        for other in found[1:]:
            assert torch.equal(getattr(found[0], field), getattr(other, field)), field


@pytest.mark.parametrize("width", [1100, 600])
@pytest.mark.parametrize("scorer", [PairScorer.scan_t2i(), PairScorer.maxsim()], ids=["scan_t2i", "maxsim"])
@pytest.mark.parametrize("variant", NATIVE, ids=str)
@pytest.mark.usefixtures("threads")
def test_same_bits_where_threads_share_the_width(variant: Backend, scorer: PairScorer, width: int) -> None:
    """Few rows for many threads: each then multiplies some of the features' columns."""
    problem = Problem(scorer, (7, 36, 5, 1, 37, 36), (13, 1, 17, 30), width)
    found = []
    with variant.forced():
        for count in (1, 4, 9):
            torch.set_num_threads(count)
            found.append(computed(problem, "native", torch.float32))
    for field in ("d_regions", "d_words"):
        for other in found[1:]:
            assert torch.equal(getattr(found[0], field), getattr(other, field)), field


@pytest.mark.parametrize("matches", [3, 1000], ids=["few", "many"])
@pytest.mark.parametrize("variant", NATIVE, ids=str)
def test_bfloat16_gradients_come_from_the_products_of_the_scores(variant: Backend, matches: int) -> None:
    """Pair by pair, cut out of the panels, or tile by tile: those of the same numbers in float32, then rounded."""
    problem = Problem(PairScorer.cmsei(), (36, 5, 37, 20, 7, 36), (3, 13, 1, 40, 17, 9), 70)
    v, w, v_offsets, w_offsets = problem.tensors()
    upstream = torch.zeros(36)
    upstream[:matches] = torch.linspace(0.5, 1.5, 36)[:matches]
    found = []
    with variant.forced():
        for dtype in (torch.float32, torch.bfloat16):
            leaves = [x.bfloat16().to(dtype).requires_grad_() for x in (v, w)]
            scores = pair_score(*leaves, v_offsets, w_offsets, scorer=problem.scorer, engine="native")
            found.append(torch.autograd.grad(scores, leaves, upstream.view(6, 6).to(scores.dtype)))
    for wide, low in zip(*found, strict=True):
        assert error(low.float(), wide) <= 2**-8 * magnitude(wide)


SIDE_BY_SIDE = [
    Attention(norm=norm, aggregate=aggregate)
    for norm in ("l2norm", "clipped_l2norm", "l1norm", "clipped_l1norm")
    for aggregate in ("mean", "sum", "max", "lse")
]
SIDE_BY_SIDE += [
    Attention(aggregate=aggregate, attend=attend, relevance=relevance)
    for attend, relevance in (("softmax", "dot"), ("hard", "dot"), ("hard", "cosine"))
    for aggregate in ("mean", "lse")
]


@pytest.mark.parametrize("t2i", SIDE_BY_SIDE, ids=lambda a: f"{a.norm}.{a.aggregate}.{a.attend}.{a.relevance}")
@pytest.mark.parametrize("variant", NATIVE, ids=str)
def test_many_captions_side_by_side(variant: Backend, t2i: Attention) -> None:
    """More words than are worked on together, in captions that end anywhere, one of them longer than all of that."""
    lengths = (*(1 + (i * 7) % 19 for i in range(45)), 300, 1, 16, 32, 128, 129)
    scorer = PairScorer(t2i=t2i)
    problem = Problem(scorer, (36, 1, 5, 49), lengths, 24)
    v, w, v_offsets, w_offsets = problem.tensors()
    expected = pair_score(v, w, v_offsets, w_offsets, scorer=scorer, engine="reference")
    with variant.forced():
        for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            actual = pair_score(v.to(dtype), w.to(dtype), v_offsets, w_offsets, scorer=scorer, engine="native")
            assert error(actual.double(), expected) <= limit * magnitude(expected)


TWO_SIDED = {
    "cmsei": PairScorer.cmsei(),
    "three_steps": PairScorer(
        Attention(norm="l1norm", aggregate="lse", steps=3), Attention(0.5, 4.0, "l2norm", steps=2, relevance="dot")
    ),
    "i2t_largest": PairScorer(i2t=Attention(norm="clipped_l1norm", aggregate="max", steps=2)),
    "chosen": PairScorer(
        Attention(aggregate="lse", attend="hard"),
        Attention(0.5, aggregate="max", attend="hard", relevance="dot"),
        alignment=1.0,
    ),
    "i2t_chosen": PairScorer(i2t=Attention(aggregate="guided", attend="hard"), word_image=0.5),
    "guide_that_overflows": PairScorer(
        t2i=Attention(aggregate="guided"), object_sentence=1.0, word_image=2.0, guide_temperature=300.0
    ),
    "alignment": PairScorer(alignment=1.0),
    "no_direction": PairScorer(object_sentence=0.5, word_image=1.0, alignment=1.5),
}


@pytest.mark.parametrize("scorer", TWO_SIDED.values(), ids=TWO_SIDED)
@pytest.mark.parametrize("variant", NATIVE, ids=str)
def test_many_images_and_captions_side_by_side(variant: Backend, scorer: PairScorer) -> None:
    """Items that end anywhere in a register on both sides, some of them longer than all that is worked on together."""
    images = (*(1 + (i * 11) % 41 for i in range(27)), 36, 36, 16, 300, 5)
    captions = (*(1 + (i * 7) % 19 for i in range(45)), 300, 1, 16, 32, 129)
    problem = Problem(scorer, images, captions, 24)
    v, w, v_offsets, w_offsets = problem.tensors()
    expected = pair_score(v.double(), w.double(), v_offsets, w_offsets, scorer=scorer, engine="eager")
    with variant.forced():
        for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            actual = pair_score(v.to(dtype), w.to(dtype), v_offsets, w_offsets, scorer=scorer, engine="native")
            assert error(actual.double(), expected) <= limit * magnitude(expected)


@pytest.mark.parametrize("scorer", TWO_SIDED.values(), ids=TWO_SIDED)
@pytest.mark.parametrize("variant", NATIVE, ids=str)
def test_gradients_of_many_pairs_are_the_sums_of_those_of_few(variant: Backend, scorer: PairScorer) -> None:
    """Side by side as above, where a third of the pairs has none, and pair by pair, a twelfth of all at a time."""
    images = (*(1 + (i * 11) % 41 for i in range(13)), 36, 36, 16, 300, 5)
    captions = (*(1 + (i * 7) % 19 for i in range(25)), 300, 1, 16, 32, 129)
    problem = Problem(scorer, images, captions, 24)
    v, w, v_offsets, w_offsets = problem.tensors()
    leaves = [x.requires_grad_() for x in (v, w, torch.tensor(scorer.scalars(), dtype=torch.float64))]
    upstream, place = problem.upstream(), torch.arange(len(images) * len(captions)).view(len(images), -1)
    upstream[place % 3 == 1] = 0
    with variant.forced():
        scores = pair_score(v, w, v_offsets, w_offsets, scorer=scorer, scalars=leaves[2], engine="native")
        found = [
            torch.autograd.grad(scores, leaves, part, retain_graph=True)
            for part in (upstream, *(torch.where(place % 12 == k, upstream, 0.0) for k in range(12)))
        ]
    for whole, *parts in zip(*found, strict=True):
        expected = torch.stack(parts).sum(0)
        assert error(whole, expected) <= 1e-10 * magnitude(expected)


@pytest.mark.parametrize("variant", NATIVE, ids=str)
def test_calls_from_threads_of_the_caller(variant: Backend) -> None:
    """Several at once, none of them the thread that loaded the module."""
    problem = Problem(PairScorer.scan_t2i(), (36, 36, 20), (13, 7), 70)
    v, w, v_offsets, w_offsets = problem.tensors()
    v, w = v.bfloat16(), w.bfloat16()
    expected = pair_score(v.double(), w.double(), v_offsets, w_offsets, scorer=problem.scorer, engine="reference")
    found: dict[int, torch.Tensor] = {}

    def call(number: int) -> None:
        for _ in range(20):
            found[number] = pair_score(v, w, v_offsets, w_offsets, scorer=problem.scorer, engine="native")

    with variant.forced():
        callers = [threading.Thread(target=call, args=(number,)) for number in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len(found) == 3
    for scores in found.values():
        assert error(scores.double(), expected) <= 1e-5
        assert torch.equal(scores, found[0])


@pytest.mark.skipif(platform.system() != "Linux", reason="fork is what Linux does")
@pytest.mark.parametrize("variant", NATIVE, ids=str)
def test_a_forked_process_scores_as_its_parent(variant: Backend) -> None:
    done = python(
        "import os, torch; from cmsei_fast import score_matrix\n"
        "torch.manual_seed(0); x = torch.randn(3, 36, 40).bfloat16()\n"
        "torch.set_num_threads(2)\n"
        "from cmsei_fast.engines import native; native.isas()\n"
        "child = os.fork()\n"
        "s = score_matrix(x, x, engine='native')\n"
        "os.environ['OUT'] = str(s.double().sum().item())\n"
        "if child == 0: print(os.environ['OUT'], flush=True); os._exit(0)\n"
        "os.waitpid(child, 0); print(os.environ['OUT'])\n",
        CMSEI_ISA=str(variant.isa),
    )
    first, second = done.stdout.split()
    assert first == second, done.stderr


def test_a_module_built_of_other_sources_is_told_and_not_called(monkeypatch):
    """As after an update of a checkout that was not built again: it takes other arguments."""
    other = types.ModuleType("cmsei_fast._native")
    vars(other).update(vars(native._module()))
    other.pair_score_f64 = other.similarity_f64
    monkeypatch.setattr(native, "_module", lambda: other)
    with pytest.warns(UserWarning, match=r"built from other sources than this package \(pair_score_f64 takes 9 argum"):
        assert "`pip install -e .` builds it again" in engines.unavailable("native")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert engines.choose("cpu", "pair_score") == "eager"
    with pytest.raises(engines.EngineUnavailable, match="built from other sources"):
        engines.get("native")
