"""Commands that the processes of ``torchrun`` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@contextmanager
def joined(device: str | None, check: Callable[[], T]) -> Iterator[tuple[torch.device, T]]:
    """The processes as one group: this one's device, and what ``check`` gives once it is right in all of them.

    Args:
        device: of ``--device``.
        check: everything that the flags alone tell; a single process does it before torch is imported.

    Raises:
        ProcessLost: another process failed, or did not come; what ``check`` raises.
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
