"""Devices by name."""

from __future__ import annotations

import os

import torch


def process_device(device: torch.device | str | None = None) -> torch.device:
    """The device of that name; None is the GPU if there is one. A GPU without a number is the one of this process.

    Raises:
        ValueError: for a device that is not here, or that has no float64.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected cpu, cuda or cuda:N, got {str(device)!r}") from None
    if chosen.type == "cuda":
        number = int(os.environ.get("LOCAL_RANK", "0")) if chosen.index is None else chosen.index
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if number >= count:
            has = f"GPUs that torch can use: {count}"
            raise ValueError(f"device: expected an available device ({has}), got {str(device)!r}")
        return torch.device("cuda", number)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if chosen.type != "cpu" and (accelerator is None or accelerator.type != chosen.type):
        raise ValueError(f"device: expected an available device that holds data, got {str(device)!r}")
    if chosen.type == "mps":
        raise ValueError(f"device: expected a device that has float64, such as cpu or cuda, got {str(device)!r}")
    return chosen
