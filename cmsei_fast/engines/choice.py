"""What ``engine="auto"`` picks on a GPU: the fastest engine in the measurements, once it agrees with ``eager``."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

# {"sm_90": {"pair_score": ["triton"], …}}, fastest first; ``python -m benchmarks.table`` writes it from GPUs' results.
VERIFIED = Path(__file__).with_name("verified.json")

# Largest difference to eager, relative to the largest number there, that the tiny problem may show in float32.
TOLERANCE = 1e-4
# The same in bfloat16, float16 and int8: features are rounded alike, but an engine may multiply them by other
# instructions than in float32.
ROUNDED_TOLERANCE = 1e-3
# The same in float8: instructions of e4m3 keep about 14 bits of a sum 128 deep.
FLOAT8_TOLERANCE = 5e-3

# (engine, device, operator) that :func:`agrees` has checked.
_checked: set[tuple[str, str, str]] = set()


def verified(architecture: str, operator: str) -> list[str]:
    """Engines that committed results show to be right and faster than eager on this architecture, fastest first."""
    return list(_verified().get(architecture, {}).get(operator, ()))


@functools.lru_cache(maxsize=1)
def _verified() -> dict[str, dict[str, list[str]]]:
    return json.loads(VERIFIED.read_text(encoding="utf-8"))


def architecture(device: torch.device) -> str:
    """``"sm_90"`` and the like of a CUDA device."""
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


@functools.lru_cache(maxsize=64)
def agrees(name: str, device: str, operator: str) -> bool:
    """Whether an engine computes what eager does on a tiny problem there; one warning says so where it does not."""
    from cmsei_fast import engines

    try:
        why = None
        for problem, tolerance in _PROBLEMS[operator]:
            found, expected = (problem(engines.get(n, device, operator), torch.device(device)) for n in (name, "eager"))
            off = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
            if not off <= tolerance:
                why = f"differs from eager by {off:.1e} on a tiny problem"
    except Exception as error:  # whatever a compiler or a driver raises: auto must go on
        why = f"failed on a tiny problem ({type(error).__name__}: {error})"
    if why is not None:
        warnings.warn(f"engine {name!r} {why} on {device}: engine='auto' uses 'eager' for {operator}", stacklevel=2)
    return why is None


def _difference(actual: Tensor, expected: Tensor) -> float:
    difference = (actual.double() - expected.double()).abs().nan_to_num(nan=float("inf"))
    return float(difference.max() / expected.double().abs().max().clamp(min=1))


def _pair_score(module: ModuleType, device: torch.device, precision: str = "float32") -> tuple[Tensor, ...]:
    """Scores of four images and captions, and in float32 their gradients."""
    from cmsei_fast.engines.eight_bits import round_for_engine
    from cmsei_fast.scorer import PairScorer

    generator = torch.Generator().manual_seed(0)
    regions, words = (torch.randn(n, 40, generator=generator, device="cpu").to(device) for n in (51, 33))
    region_offsets, word_offsets = (torch.tensor(x, device="cpu") for x in ([0, 5, 6, 42, 51], [0, 3, 4, 21, 33]))
    scorer = PairScorer.cmsei()
    scalars = torch.tensor(scorer.scalars(), device="cpu")
    regions, words, precision = round_for_engine(module, regions, words, precision)
    inputs = regions, words, region_offsets, word_offsets, scalars, scorer.config()
    if precision != "float32":
        return (module.pair_score(*inputs, precision),)
    grad = torch.ones(4, 4, device=device)
    return (module.pair_score(*inputs, precision), *module.pair_score_backward(grad, *inputs, precision))


def _relation_attention(module: ModuleType, device: torch.device) -> tuple[Tensor, ...]:
    """Output and gradients of two graphs of 19 nodes."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(2, 3, 19, 24, generator=generator, device="cpu").to(device) for _ in range(4))
    labels = torch.randint(0, 5, (2, 19, 19), generator=generator, device="cpu").to(device)
    bias, value = (torch.randn(*size, generator=generator, device="cpu").to(device) for size in ((5, 3), (5, 3, 24)))
    confidence = (torch.rand(2, 19, 19, generator=generator, device="cpu") * 0.9 + 0.1).to(device)
    inputs = q, k, v, labels, bias, value, confidence
    return (module.relation_attention(*inputs), *module.relation_attention_backward(grad, *inputs))


# Problems, and the difference that each may show. Rounded features have problems of their own, since an engine may
# score them with other kernels.
_PROBLEMS = {
    "pair_score": (
        (_pair_score, TOLERANCE),
        (functools.partial(_pair_score, precision="bfloat16"), ROUNDED_TOLERANCE),
        (functools.partial(_pair_score, precision="float16"), ROUNDED_TOLERANCE),
        (functools.partial(_pair_score, precision="float8"), FLOAT8_TOLERANCE),
        (functools.partial(_pair_score, precision="int8"), ROUNDED_TOLERANCE),
    ),
    "relation_attention": ((_relation_attention, TOLERANCE),),
}


def fastest(device: torch.device, operator: str) -> str:
    """The engine of ``"auto"`` on a CUDA device: the first verified one that can run and agrees with eager, else eager.

    Nothing can be checked while a CUDA graph is captured: only engines that were checked before are then chosen.
    """
    from cmsei_fast import engines

    if device.type != "cuda" or not torch.cuda.is_available():
        return "eager"
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    capturing = torch.cuda.is_current_stream_capturing()
    for name in verified(architecture(device), operator):
        key = name, str(device), operator
        if (
            name not in engines.names()
            or engines.unavailable(name, device) is not None
            or (capturing and key not in _checked)
        ):
            continue
        _checked.add(key)
        if agrees(*key):
            return name
    return "eager"
