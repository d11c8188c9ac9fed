"""Messages between the processes of a torch.distributed group: how far each is, and which failed with what error.

An error in one process ends all of them at the next exchange, and nobody waits longer than that for a lost process.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_MESSAGE_BYTES = 512


class ProcessLost(RuntimeError):
    """Another process of the group failed, was killed or does not answer; the message says what is known."""


def place_in(group: Any) -> tuple[int, int]:
    """This process's number in a group of torch.distributed, and how many there are; (0, 1) for None.

    Raises:
        TypeError: for another group, or one that this process is not in.
    """
    if group is None:
        return 0, 1
    import torch.distributed as dist

    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"group: expected None or a group of torch.distributed that this process is in, got {type(group).__name__}"
        )
    return dist.get_rank(group), dist.get_world_size(group)


def exchange_device(group: Any, device: torch.device) -> torch.device:
    """Where tensors must be to go to the other processes, for those that are on a device."""
    if group is None:
        return torch.device("cpu")
    import torch.distributed as dist

    backend = dist.get_backend(group)
    if device.type == "cuda" and backend != "gloo":
        return device
    return torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")


class Exchange:
    """Messages between the processes of a group; without a group, this process is alone.

    Args:
        group: of torch.distributed, with NCCL or gloo; None is this process alone.
        device: of the work; messages are sent from it where the group needs that.

    Raises:
        TypeError: for another group, or one that this process is not in.
    """

    def __init__(self, group: Any, device: torch.device | str = "cpu") -> None:
        self._group = group
        self.rank, self.size = place_in(group)
        self._device = exchange_device(group, torch.device(device))

    @property
    def alone(self) -> bool:
        """Whether no other process shares the run."""
        return self.size == 1

    @contextmanager
    def together(self) -> Iterator[None]:
        """Waits for all processes at the end of the block; an error in one of them ends all.

        Raises:
            ProcessLost: if another process failed or is lost.
        """
        try:
            yield
        except BaseException as error:
            self.exchange(0, error)
            raise
        self.exchange(0)

    def sum_(self, *tensors: Tensor) -> None:
        """Replaces each tensor by the sum over all processes."""
        if self.alone:
            return
        import torch.distributed as dist

        with raise_process_lost():
            for tensor in tensors:
                moved = tensor.to(self._device)
                dist.all_reduce(moved, group=self._group)
                tensor.copy_(moved)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, of one shape and dtype, in their order."""
        if self.alone:
            return [tensor]
        import torch.distributed as dist

        with raise_process_lost():
            moved = tensor.to(self._device).contiguous()
            parts = [torch.empty_like(moved) for _ in range(self.size)]
            dist.all_gather(parts, moved, group=self._group)
            return [part.to(tensor.device) for part in parts]

    def same(self, call: Mapping[str, Any]) -> None:
        """Checks that all processes have the same in every part, by the CRC-32 of its ``repr``.

        Raises:
            ValueError: in every process, naming what differs and in which.
        """
        codes = torch.tensor([zlib.crc32(repr(x).encode()) for x in call.values()], device="cpu")
        for rank, theirs in enumerate(self.gather(codes)):
            if different := [name for name, same in zip(call, (theirs == codes).tolist(), strict=True) if not same]:
                raise ValueError(
                    f"group: expected the same call in every process, got another {' and '.join(different)} "
                    f"in process {rank} than in process {self.rank}"
                )

    def texts(self, text: str) -> list[str]:
        """The texts of all processes, in their order, each cut to 512 bytes."""
        return [_text(message) for message in self.gather(_packed(text))]

    def exchange(self, pairs: int, error: BaseException | None = None) -> int:
        """Pairs of all processes; raises where another process has an error and this one has none."""
        if self.alone:
            return pairs
        message = torch.zeros(1 + self.size, dtype=torch.int64, device="cpu")
        message[0] = pairs
        message[1 + self.rank] = error is not None
        try:
            self.sum_(message)
            total, *failed = message.tolist()
            if any(failed):
                text = "" if error is None else f"{type(error).__name__}: {error}".removesuffix(": ")
                messages = self.texts(text)
        except ProcessLost:
            if error is None:
                raise
            return pairs  # the error of this process is the one to raise
        if error is None and any(failed):
            first = failed.index(1)
            raise ProcessLost(f"process {first} of {self.size} failed: {messages[first]}")
        return total


@contextmanager
def raise_process_lost() -> Iterator[None]:
    """Raises :class:`ProcessLost` in place of an error of torch.distributed in the block."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(f"a process of the group is lost, or does not answer: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message (torch's go on with a trace), or its type if there is no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _packed(text: str) -> Tensor:
    data = text.encode()[:_MESSAGE_BYTES]
    return torch.tensor([*data, *bytes(_MESSAGE_BYTES - len(data))], dtype=torch.uint8, device="cpu")


def _text(message: Tensor) -> str:
    return bytes(message.tolist()).rstrip(b"\0").decode(errors="replace")
