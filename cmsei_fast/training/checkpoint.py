"""Checkpoints, each in its own directory: tensors as safetensors, numbers as JSON."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..data.files import errors_naming, errors_renamed, remove_directory, temporary_name
from ..data.json_object import read_json
from ..model.pretrained import save_tensors
from .run_directory import PREFIX

FORMAT = "cmsei_fast checkpoint"
VERSION = 1
TENSORS, STATE = "tensors.safetensors", "state.json"


def write_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Writes ``folder/step-…`` and then removes older checkpoints: at any moment one of them is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PREFIX}{step:09d}"
    new = Path(temporary_name(target))
    try:
        record = {"format": FORMAT, "version": VERSION, "step": step, **state}
        with errors_renamed(new, target):
            new.mkdir()
            save_tensors(tensors, new / TENSORS)
            with errors_naming(new / STATE):
                (new / STATE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            for path in (new / TENSORS, new / STATE):
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        if target.exists():
            remove_directory(target)
        new.rename(target)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_directory(new)
        raise
    remove_others(folder, target)
    return target


def remove_others(folder: Path, kept: Path) -> None:
    """Removes all checkpoints but one, and what a process that was stopped has left of any."""
    for old in folder.iterdir():
        if old != kept and old.name.startswith((PREFIX, ".")):
            with contextlib.suppress(OSError):
                remove_directory(old)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a checkpoint.

    Raises:
        OSError: a file is missing.
        ValueError: naming the file that is damaged or of another format.
    """
    state = read_json(path / STATE)
    if state.get("format") != FORMAT or state.get("version") != VERSION:
        raise ValueError(f"{path / STATE}: expected a {FORMAT} of version {VERSION}, got another file")
    try:
        tensors = load_file(path / TENSORS)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path / TENSORS}: expected safetensors, got a damaged file ({error})") from None
    return tensors, state


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by ``optimizer.<parameter>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": torch.as_tensor(x) for i, own in state.items() for name, x in own.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives an optimiser over the same parameters what :func:`pack_optimizer` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, x in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".", 2)
            state.setdefault(int(i), {})[name] = x
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's generators (of the CPU, and of the GPU that is used)."""
    out = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        out["random.cuda"] = torch.cuda.get_rng_state(device)
    return out


def restore_random_state(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Sets torch's generators to what :func:`random_state` took."""
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
