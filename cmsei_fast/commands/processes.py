"""Starts a command in the processes of ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@contextmanager
def join_processes(device: str | None, check: Callable[[], T]) -> Iterator[tuple[torch.device, T]]:
    """Joins the processes into a group; yields this one's device and what ``check`` returns once it passes in all.

    Args:
        device: of ``--device``.
        check: checks all that can be checked of the flags alone; a single process calls it before importing torch.

    Raises:
        ProcessLost: another process failed or did not start; and whatever ``check`` raises.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        checked = check()
        from ..process_group import process_group

        with process_group(device) as chosen:
            yield chosen, checked
        return
    from ..process_group import process_group, together

    with process_group(device) as chosen:
        with together():
            checked = check()
        yield chosen, checked
