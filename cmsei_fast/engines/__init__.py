"""The registry of engines, which all compute the same operators: finds them by name and says which can run."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from cmsei_fast.engines.choice import fastest
from cmsei_fast.scorer import AGGREGATES, ATTENDS, I2T_ATTEND, NORMS, RELEVANCES, T2I_ATTEND

OPERATORS = ("pair_score", "relation_attention")

# Device types an engine's tensors may be on; None: any that torch has.
_DEVICES: dict[str, tuple[str, ...] | None] = {
    "reference": None,
    "eager": None,
    "native": ("cpu",),
    "triton": ("cuda",),
    "cuda": ("cuda",),
}

# Values of an Attention's options that an engine's pair_score cannot compute yet: {engine: {option: values}}. Empty
# because every engine has every option; an engine that is behind lists here what it lacks (docs/extending.md).
MISSING_OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {}


class EngineUnavailable(RuntimeError):
    """An engine asked for by name that cannot run here: the message says why and what to do."""


def names() -> tuple[str, ...]:
    """Names of all engines, whether they can run here or not."""
    return tuple(_DEVICES)


def unavailable(name: str, device: torch.device | str | None = None) -> str | None:
    """Why the engine cannot run here; None where it can. Never raises for a known name.

    Args:
        name: one of :func:`names`.
        device: which of several GPUs is meant; None, or another kind of device, means the current GPU.

    Raises:
        ValueError: for a name that is not in :func:`names`.
    """
    check_name(name)
    try:
        module = _module(name)
    except ImportError as error:
        return f"cmsei_fast.engines.{name} cannot be imported ({error})"
    if device is not None and _DEVICES[name] == ("cuda",) and (there := torch.device(device)).type == "cuda":
        return module.unavailable(there)
    return module.unavailable()


def lacks(name: str, config: list[int]) -> str | None:
    """The first option of a scorer (its ``config()``) that an engine's pair_score cannot compute, or None."""
    missing = MISSING_OPTIONS.get(name)
    if not missing:
        return None
    for direction, place, attend in (("t2i", 0, T2I_ATTEND), ("i2t", 4, I2T_ATTEND)):
        active, norm, aggregate = config[place : place + 3]
        used = {
            "norm": NORMS[norm],
            "aggregate": AGGREGATES[aggregate],
            "attend": ATTENDS[config[attend]],
            "relevance": RELEVANCES[config[attend + 1]],
        }
        for option, values in missing.items() if active else ():
            if used[option] in values:
                return f"{option}={used[option]!r} ({direction})"
    return None


def get(
    name: str,
    device: torch.device | str | None = None,
    operator: str | None = None,
    config: list[int] | None = None,
) -> ModuleType:
    """The module of an engine that can run here.

    Args:
        name: one of :func:`names`.
        device: where the tensors are; None leaves that unchecked.
        operator: ``"pair_score"`` or ``"relation_attention"``; None leaves that unchecked.
        config: ``PairScorer.config()`` of what is to be scored; None leaves that unchecked.

    Raises:
        ValueError: for a name that is not in :func:`names`.
        EngineUnavailable: if it cannot run here, not on that device, or has no such operator or option.
    """
    reason = unavailable(name, device)
    if reason is not None:
        raise EngineUnavailable(f"engine {name!r} cannot run here: {reason}. {_advice(name)}")
    devices = _devices(name)
    if device is not None and devices is not None and (kind := torch.device(device).type) not in devices:
        raise EngineUnavailable(
            f"engine {name!r} cannot run here: it takes tensors on {' or '.join(devices)}, got tensors on {kind}. "
            f"Move them to {devices[0]} or ask for engine='auto'"
        )
    module = _module(name)
    if operator is not None and not hasattr(module, operator):
        raise EngineUnavailable(f"engine {name!r} cannot run here: it has no {operator}. {_advice(name)}")
    if config is not None and (lacking := lacks(name, config)) is not None:
        raise EngineUnavailable(f"engine {name!r} cannot run here: it has no {lacking}. Ask for engine='auto'")
    return module


def choose(device: torch.device | str, operator: str, config: list[int] | None = None) -> str:
    """The engine that ``engine="auto"`` means, for a scorer with this ``config()`` where one is given.

    On the CPU it is native if that is built; on a CUDA GPU, what :func:`cmsei_fast.engines.choice.fastest` finds. It is
    eager elsewhere, and wherever the chosen engine lacks one of the scorer's options.

    Raises:
        ValueError: for an operator that is not in ``OPERATORS``.
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator: expected one of {', '.join(OPERATORS)}, got {operator!r}")
    device = torch.device(device)
    if device.type == "cpu" and unavailable("native") is None and hasattr(_module("native"), operator):
        name = "native"
    else:
        name = fastest(device, operator)
    return name if config is None or lacks(name, config) is None else "eager"


def resolve(name: str, device: torch.device | str, operator: str, config: list[int] | None = None) -> ModuleType:
    """The module behind an ``engine=`` argument, ``"auto"`` included; raises as :func:`get` does."""
    return get(choose(device, operator, config) if name == "auto" else name, device, operator, config)


def check_name(name: str) -> None:
    """Raises ValueError for a name that is not in :func:`names`."""
    if name not in _DEVICES:
        raise ValueError(f"engine: expected 'auto' or one of {', '.join(names())}, got {name!r}")


def _devices(name: str) -> tuple[str, ...] | None:
    """Device types the engine takes; its module may know better than the table (an interpreter runs on the CPU)."""
    module = _module(name)
    return module.devices() if hasattr(module, "devices") else _DEVICES[name]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _advice(name: str) -> str:
    if name == "eager":
        return "Ask for engine='reference'"
    return "Ask for engine='auto', or run `cmsei-fast doctor` to see what is missing"
