"""The CUDA module: its kernel's text run on the host, what the compiler made of it, and, on a GPU, its results."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_on_host import COMPILER, RelationCall, RelationModule, engine_on_host, library

from cmsei_fast.engines import cuda

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / f"cmsei_fast-{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
SPEC = importlib.util.find_spec("cmsei_fast._cuda")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernel cannot be run on the host")
needs_module = pytest.mark.skipif(SPEC is None, reason="cmsei_fast._cuda is not built (no nvcc, or CMSEI_CUDA=0)")
needs_gpu = pytest.mark.skipif(SPEC is None or not torch.cuda.is_available(), reason="no CUDA GPU, or no CUDA module")


@pytest.fixture(scope="module")
def host():
    return library("relation")


def problem(shape, labels, seed=0, density=0.7, value=True, bias=True, confidence=True, dtype=np.float32):
    """Random inputs of one call, as numpy arrays; confidence None and so on where not wanted."""
    batch, heads, nodes, channels = shape
    random = np.random.default_rng(seed)
    q, k, v = (random.standard_normal((batch, heads, nodes, channels)).astype(dtype) for _ in range(3))
    label = random.integers(1, max(labels, 2), (batch, nodes, nodes)).astype(np.int32)
    label[random.random(label.shape) > density] = 0
    label[:, -1, :] = 0  # a node without an edge
    return {
        "q": q,
        "k": k,
        "v": v,
        "labels": label,
        "bias": random.standard_normal((labels, heads)).astype(dtype) if bias else None,
        "value": random.standard_normal((labels, heads, channels)).astype(dtype) if value else None,
        "confidence": random.uniform(0.05, 1.0, label.shape).astype(dtype) if confidence else None,
    }


def expected(q, k, v, labels, bias, value, confidence):
    """The definition, literally, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])  # (B, H, R, R)
    if bias is not None:
        logits += np.asarray(bias, np.float64)[labels].transpose(0, 3, 1, 2)
    if confidence is not None:
        logits += np.log(np.asarray(confidence, np.float64))[:, None]
    edge = (labels != 0)[:, None]
    logits = np.where(edge, logits, -np.inf)
    top = logits.max(-1, keepdims=True)
    weights = np.where(edge, np.exp(logits - np.where(np.isinf(top), 0, top)), 0)
    total = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total != 0)
    carried = np.where(edge[..., None], weights[..., None] * v[:, :, None], 0)  # along the edges alone
    out = carried.sum(-2)
    if value is not None:
        out += np.einsum("bhij,bijhd->bhid", weights, np.asarray(value, np.float64)[labels])
    return out


def run_on_host(host, inputs, *, kind="float32", strided=False, **options):
    """The kernel's answer and whether it binned labels; inputs that are strided have gaps in all their dimensions."""
    dtype = getattr(torch, kind)
    held = {name: None if x is None else torch.from_numpy(x) for name, x in inputs.items()}
    for name in ("q", "k", "v"):
        x = held[name].to(dtype)
        if strided:
            gaps = torch.full((x.shape[0], x.shape[2] + 1, x.shape[1], 2 * x.shape[3] + 1), torch.nan, dtype=dtype)
            gaps[:, :-1, :, 1::2] = x.transpose(1, 2)
            x = gaps[:, :-1, :, 1::2].transpose(1, 2)
        held[name] = x
    module = RelationModule(host, **options)
    with engine_on_host(module):
        out = cuda.relation_attention(**held)
    return out.to(torch.float64 if kind == "float64" else torch.float32).numpy(), bool(module.forward[0])


SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 2, 36, 64),
    (2, 1, 37, 33),
    (1, 1, 41, 128),
    (1, 1, 50, 130),
    (1, 1, 49, 256),
    (1, 2, 121, 16),
    (1, 1, 577, 4),
]


@needs_compiler
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_kernel_on_host_matches_the_definition(host, shape, kind):
    inputs = problem(shape, labels=13, dtype=np.float64 if kind == "float64" else np.float32)
    if kind == "bfloat16":
        for name in ("q", "k", "v"):
            inputs[name] = torch.from_numpy(inputs[name]).to(torch.bfloat16).float().numpy()
    out, binned = run_on_host(host, inputs, kind=kind)
    assert binned
    tolerance = {"float32": 2e-5, "float64": 1e-12, "bfloat16": 2e-2}[kind]
    np.testing.assert_allclose(out, expected(**inputs), rtol=tolerance, atol=tolerance)
    assert not out[:, :, -1].any()  # the node without an edge


@needs_compiler
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("confidence", [False, True])
def test_kernel_on_host_with_and_without_tables(host, bias, value, confidence):
    inputs = problem((1, 2, 45, 12), labels=5, bias=bias, value=value, confidence=confidence, seed=1)
    out, _ = run_on_host(host, inputs)
    np.testing.assert_allclose(out, expected(**inputs), rtol=2e-5, atol=2e-5)


@needs_compiler
def test_kernel_on_host_takes_any_strides(host):
    inputs = problem((2, 3, 43, 8), labels=4, seed=2)
    out, _ = run_on_host(host, inputs, strided=True)
    np.testing.assert_allclose(out, expected(**inputs), rtol=2e-5, atol=2e-5)


@needs_compiler
def test_kernel_on_host_with_more_labels_than_bins(host):
    inputs = problem((1, 1, 44, 10), labels=300, seed=3)
    out, binned = run_on_host(host, inputs)
    assert not binned
    np.testing.assert_allclose(out, expected(**inputs), rtol=2e-5, atol=2e-5)


@needs_compiler
def test_kernel_on_host_when_blocks_walk_over_several_tiles(host):
    inputs = problem((3, 2, 50, 6), labels=4, seed=4)
    out, _ = run_on_host(host, inputs, grid=2, shared_limit=12 * 1024)
    np.testing.assert_allclose(out, expected(**inputs), rtol=2e-5, atol=2e-5)


@needs_compiler
@pytest.mark.parametrize("labels", [4, 300])
def test_kernel_on_host_does_not_depend_on_the_order_of_threads(host, labels):
    inputs = problem((1, 3, 101, 72), labels=labels, seed=9)
    forward, _ = run_on_host(host, inputs, grid=2)
    backward, _ = run_on_host(host, inputs, grid=2, reverse=True)
    np.testing.assert_array_equal(forward, backward)


@needs_compiler
def test_kernel_on_host_survives_large_logits(host):
    inputs = problem((1, 1, 90, 8), labels=3, seed=5)
    inputs["q"] = inputs["q"] * 200
    out, _ = run_on_host(host, inputs)
    np.testing.assert_allclose(out, expected(**inputs), rtol=2e-3, atol=2e-3)


@needs_compiler
@pytest.mark.parametrize("bad", [-1, 4, 1 << 30])
def test_kernel_on_host_marks_a_label_outside_the_tables(host, bad):
    inputs = problem((1, 1, 42, 8), labels=4, seed=6)
    want = expected(**inputs)
    inputs["labels"][0, 3, 41] = bad
    out, _ = run_on_host(host, inputs)
    assert np.isnan(out[0, 0, 3]).all()
    others = np.arange(42) != 3
    np.testing.assert_allclose(out[:, :, others], want[:, :, others], rtol=2e-5, atol=2e-5)


@needs_compiler
@pytest.mark.parametrize("poisoned", ["q", "k", "v"])
def test_kernel_on_host_does_not_hide_nan(host, poisoned):
    inputs = problem((1, 1, 44, 8), labels=3, density=1.1, seed=7)
    inputs[poisoned][0, 0, 2, 5] = np.nan
    out, _ = run_on_host(host, inputs)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected(**inputs)))


@needs_compiler
@pytest.mark.parametrize("shared_limit", [64 * 1024, 99 * 1024, 163 * 1024, 227 * 1024])
@pytest.mark.parametrize(("rows_per_warp", "element"), [(12, 4), (4, 8)])
def test_every_output_row_belongs_to_one_warp(host, shared_limit, rows_per_warp, element):
    library = RelationModule(host).library
    for nodes in (1, 2, 11, 12, 13, 36, 47, 48, 49, 100, 577, 1000):
        for channels in (1, 64, 128, 256):
            for labels in (0, 13, 256, 4096):
                call = RelationCall(0, 2, 3, nodes, channels, labels, value=int(labels > 0))
                counts = np.zeros((2, 3, nodes), np.int32)
                place = counts.ctypes.data_as(ctypes.c_void_p)
                sizes = ctypes.c_int64(element), ctypes.byref(call), ctypes.c_int64(shared_limit)
                warps = library.relation_cover(rows_per_warp, *sizes, place)
                if element == 8 and channels == 256 and shared_limit == 64 * 1024:
                    assert warps == -1  # a tile of keys alone is larger
                    continue
                assert warps >= 1
                assert (counts == 1).all()


@needs_module
def test_module_imports_without_a_gpu():
    code = "import cmsei_fast._cuda as c; print(c.architectures, c.device_count()[0], c.runtime_version() > 11000)"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=ROOT.anchor
    )
    assert re.fullmatch(r"[0-9af;]+ 0 True", done.stdout.strip())


@needs_module
def test_module_refuses_what_it_cannot_do():
    import cmsei_fast._cuda as module

    nothing = [(0, (0, 0, 0, 0))] * 3, (0, 0, 0, 0), 0, 0, 0
    with pytest.raises(ValueError, match="type: expected float32, float16, bfloat16 or float64, got int8"):
        module.relation_attention("int8", (1, 1, 1, 1), 0, *nothing)
    with pytest.raises(RuntimeError, match="relation_attention: expected a head width from 1 to 256, got 257"):
        module.relation_attention("float32", (1, 1, 1, 257), 0, *nothing)


@needs_module
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_engine_says_why_it_cannot_run():
    assert re.search("this build of torch has no CUDA|torch sees no CUDA GPU", cuda.unavailable())
    import cmsei_fast._cuda as module

    nothing = [(0, (0, 0, 0, 0))] * 3, (0, 0, 0, 0), 0, 0, 0
    with pytest.raises(RuntimeError, match=r"relation_attention: CUDA error \d+ \(.+\) while choosing the device"):
        module.relation_attention("float32", (1, 1, 1, 1), 0, *nothing)


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("80;90a", (8, 0), True),
        ("80;90a", (8, 9), True),
        ("80;90a", (9, 0), True),
        ("80;90a", (10, 0), True),
        ("80;90a", (7, 5), False),
        ("86;90a", (8, 0), False),
        ("90a", (8, 9), False),
        ("90a", (10, 0), True),
        ("90a;120", (10, 0), False),
        ("120", (9, 0), False),
    ],
)
def test_which_gpus_the_code_runs_on(architectures, capability, runs):
    assert cuda._has_code(architectures.split(";"), *capability) is runs


def disassembler() -> str | None:
    """cuobjdump of the CUDA toolkit, or the one that triton brings."""
    if found := shutil.which("cuobjdump"):
        return found
    triton = importlib.util.find_spec("triton")
    bundled = triton and Path(triton.submodule_search_locations[0]) / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(bundled) if bundled and os.access(bundled, os.X_OK) else None


@needs_module
@pytest.mark.skipif(disassembler() is None, reason="no cuobjdump, neither of CUDA nor of triton")
def test_module_holds_code_for_each_architecture():
    import cmsei_fast._cuda as module

    listing = subprocess.run(
        [disassembler(), "-lelf", "-lptx", SPEC.origin], capture_output=True, text=True, check=True
    )
    architectures = module.architectures.split(";")
    for name in architectures:
        assert f".sm_{name}.cubin" in listing.stdout
    plain = [name for name in architectures if name.isdigit()]
    assert f"sm_{max(int(name.rstrip('af')) for name in plain or architectures)}.ptx" in listing.stdout


@needs_module
@pytest.mark.skipif(not BUILD.is_dir(), reason="built elsewhere: the compiler's report is not here")
def test_kernels_spill_no_register():
    reports = sorted((BUILD / "cuda").glob("*.ptxas.txt"))
    assert reports
    spills = [line for report in reports for line in report.read_text().splitlines() if "spill stores" in line]
    assert spills
    assert all("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in line for line in spills)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 8, 100, 128)], ids=lambda shape: "x".join(map(str, shape)))
def test_gpu_matches_the_definition(shape, dtype):
    inputs = {name: torch.from_numpy(x) for name, x in problem(shape, labels=13, dtype=np.float64).items()}
    typed = {name: x if name == "labels" else x.to(dtype) for name, x in inputs.items()}
    want = expected(**{name: x if name == "labels" else x.double() for name, x in typed.items()})
    out = cuda.relation_attention(**{name: x.cuda() for name, x in typed.items()})
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12, torch.float16: 4e-3, torch.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(out.double().cpu().numpy(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@needs_gpu
def test_gpu_strides_streams_and_repeats():
    inputs = problem((2, 4, 77, 48), labels=300, seed=8)
    want = expected(**inputs)
    placed = {name: torch.from_numpy(x).cuda() for name, x in inputs.items()}
    for name in ("q", "k", "v"):
        placed[name] = placed[name].transpose(1, 2).contiguous().transpose(1, 2)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        outs = [cuda.relation_attention(**placed) for _ in range(3)]
        torch.cuda.current_stream().synchronize()
    np.testing.assert_allclose(outs[0].cpu().numpy(), want, rtol=2e-5, atol=2e-5)
    assert all(torch.equal(outs[0], out) for out in outs)
