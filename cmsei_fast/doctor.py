"""What of the package can run here, why the rest cannot, and whether what runs agrees with the reference."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Iterator

import torch

from . import engines
from .engines import choice
from .ops.pair_score import pair_score
from .ops.relation_attention import relation_attention
from .scorer import Attention, PairScorer
from .version import __version__

# Variable, what it does, when it is read.
ENVIRONMENT = (
    ("CMSEI_ISA", "instruction-set variant of the native engine; the fastest this processor has if unset", "run"),
    ("TRITON_INTERPRET", "1 runs the triton engine in Triton's interpreter, on the CPU too: slow, for tests", "run"),
    ("CMSEI_TRITON_DESIGN", "chunked or fused: design of the triton engine's pair_score; the faster if unset", "run"),
    ("CMSEI_CACHE", "folder of the choices measured on a GPU; the platform's folder for caches if unset", "run"),
    (
        "CMSEI_CONNECT_SECONDS",
        "how long processes of torchrun wait for each other at the start; 120 if unset",
        "run",
    ),
    ("CMSEI_NATIVE", "build the CPU module: 0 no, 1 yes or fail, auto (default) if a C++ compiler is there", "build"),
    ("CMSEI_CUDA", "build the CUDA module: 0 no, 1 yes or fail, auto (default) if nvcc is there", "build"),
    ("CMSEI_CUDA_ARCHS", "GPU architectures to build for; those present, else 80;90a + PTX if unset", "build"),
    ("OMP_NUM_THREADS", "threads, as torch.get_num_threads() tells; torch.set_num_threads() overrides", "run"),
    ("GOMP_SPINCOUNT", "how long torch's threads spin for each other before they sleep; cmsei-fast sets 1000", "run"),
)

# Largest difference to the reference in float64 that the tiny problem may show in float32.
TOLERANCE = 1e-5


def doctor() -> int:
    """Prints the report; 0 if every engine that can run agrees with the reference, else 1."""
    for line in (*_versions(), "", *_engines(), "", *_environment(), ""):
        print(line)
    healthy = True
    print(f"agreement with the reference in float64 (largest difference, at most {TOLERANCE:g})")
    for name in engines.names():
        if engines.unavailable(name) is not None:
            continue
        for where, what, error in _errors(name):
            good = error <= TOLERANCE
            healthy &= good
            print(f"  {name:10} {where:12} {what:19} {error:9.1e}  {'ok' if good else 'WRONG'}")
    print("all is well" if healthy else "an engine disagrees with the reference: please report it with this output")
    return 0 if healthy else 1


def _versions() -> Iterator[str]:
    yield f"cmsei_fast {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield ", ".join(_version(name) for name in ("torch", "numpy", "h5py", "tqdm", "triton"))
    yield f"{torch.get_num_threads()} threads, {os.cpu_count()} logical processors"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(i)
            yield f"GPU {i}: {torch.cuda.get_device_name(i)}, sm_{major}{minor}"
    else:
        yield "no CUDA device that torch can use"


def _version(name: str) -> str:
    try:
        return f"{name} {getattr(importlib.import_module(name), '__version__', '?')}"
    except Exception as error:  # whatever a broken installation raises
        return f"{name} missing ({type(error).__name__})"


def _engines() -> Iterator[str]:
    yield "engines"
    for name in engines.names():
        reason = engines.unavailable(name)
        if reason is not None:
            yield f"  {name:10} cannot run: {reason}"
            continue
        module = engines.get(name)
        operators = [operator for operator in engines.OPERATORS if hasattr(module, operator)]
        line = f"  {name:10} {', '.join(operators)}"
        if hasattr(module, "isas"):
            line += f"; variants {', '.join(module.isas())}; in use {module.current_isa()}"
        if hasattr(module, "limits"):
            line += f"; {module.limits()}"
        for option, values in engines.MISSING_OPTIONS.get(name, {}).items():
            line += f"; without {option} {', '.join(values)}"
        yield line
    chosen = [f"{operator} {engines.choose('cpu', operator)}" for operator in engines.OPERATORS]
    yield f"  auto on the CPU: {', '.join(chosen)}"
    for i in range(torch.cuda.device_count()):
        kind = choice.architecture(torch.device("cuda", i))
        for operator in engines.OPERATORS:
            known = ", ".join(choice.verified(kind, operator)) or "none"
            chosen_here = engines.choose(f"cuda:{i}", operator)
            yield f"  auto on GPU {i}, {operator}: {chosen_here} (verified on {kind}: {known})"


def _environment() -> Iterator[str]:
    yield "environment"
    for name, meaning, when in ENVIRONMENT:
        value = os.environ.get(name)
        yield f"  {name:21} {'unset' if value is None else value:10} {meaning} (read at {when} time)"


def _errors(name: str) -> Iterator[tuple[str, str, float]]:
    """(variant or device, operator, largest difference) of an engine on one tiny problem each."""
    module = engines.get(name)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        variants = module.isas() if hasattr(module, "isas") else [device]
        for variant in variants:
            for operator, compute in (("pair_score", _pair_score_error), ("relation_attention", _attention_error)):
                try:
                    engines.get(name, device, operator)
                except engines.EngineUnavailable:
                    continue
                if hasattr(module, "use_isa"):
                    with module.use_isa(variant):
                        yield variant, operator, compute(name, device)
                else:
                    yield variant, operator, compute(name, device)


def _pair_score_error(engine: str, device: str) -> float:
    generator = torch.Generator().manual_seed(0)
    regions, words = (torch.randn(n, 40, generator=generator) for n in (5 + 1 + 9, 3 + 1 + 7 + 12))
    offsets = torch.tensor([0, 5, 6, 15]), torch.tensor([0, 3, 4, 11, 23])
    worst = 0.0
    presets = (PairScorer.cmsei(), PairScorer.scan_t2i(), PairScorer.scan_i2t(), PairScorer.bfan())
    for scorer in (*presets, PairScorer(Attention(attend="hard"))):
        if engines.lacks(engine, scorer.config()) is not None:
            continue
        expected = pair_score(regions, words, *offsets, scorer=scorer, engine="reference", precision="float64")
        got = pair_score(
            regions.to(device), words.to(device), *offsets, scorer=scorer, engine=engine, precision="float32"
        )
        worst = max(worst, _largest_difference(got, expected))
    return worst


def _attention_error(engine: str, device: str) -> float:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 7, 16, generator=generator) for _ in range(3))
    labels = torch.randint(0, 4, (2, 7, 7), generator=generator)
    bias, value = torch.randn(4, 2, generator=generator), torch.randn(4, 2, 16, generator=generator)
    confidence = torch.rand(2, 7, 7, generator=generator) * 0.9 + 0.1
    inputs = [q, k, v, labels, bias, value, confidence]
    exact = [x.double() if x.is_floating_point() else x for x in inputs]
    expected = relation_attention(*exact, engine="reference")
    return _largest_difference(relation_attention(*(x.to(device) for x in inputs), engine=engine), expected)


def _largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    difference = (got.detach().cpu().double() - expected).abs()
    return float(difference.nan_to_num(nan=float("inf")).max())
