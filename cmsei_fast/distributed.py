"""One run over the tiles, alone or shared by the processes of a torch.distributed group.

Every process holds the same call. Each scores a run of the tiles that is as long as the others' in work, and meets them
every few tiles in one small exchange: who is how far, and whether one failed. So an error in one process ends all of
them, and nobody waits longer than that for a process that is lost.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .encoded import Encoded
from .progress import Progress
from .tiling import ScoreTiles

# Tiles of one process between two exchanges: at most half a minute, as a tile takes half a second or less.
TILES_A_ROUND = 64
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


def _exchange_device(group: Any, device: torch.device) -> torch.device:
    """Where tensors must be to go to the other processes, for those that are on a device."""
    if group is None:
        return torch.device("cpu")
    import torch.distributed as dist

    backend = dist.get_backend(group)
    if device.type == "cuda" and backend != "gloo":
        return device
    return torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")


def encoded_by_all(encode: Callable[[], Encoded], group: Any) -> Encoded:
    """What every process of a group has encoded, one process after the other, in each of them.

    Raises:
        ProcessLost: where another process failed or is lost; what ``encode`` raises, in the process that it fails in.
    """
    rank, size = place_in(group)
    if size == 1:
        return encode()
    import torch.distributed as dist

    try:
        mine = encode()
    except BaseException:
        with contextlib.suppress(ProcessLost):  # the error of this process is the one to raise
            _sizes(-1, -1, group, torch.device("cpu"))
        raise
    device = _exchange_device(group, mine.rows.device)
    sizes = _sizes(len(mine), len(mine.rows), group, mine.rows.device)
    if (failed := (sizes[:, 0] < 0).nonzero()).numel():
        raise ProcessLost(f"process {int(failed[0])} of {size} failed to encode its share")
    own = mine.lengths.to(device), mine.rows.to(device)
    out = []
    for part, ends in zip(own, sizes.cumsum(0).T.tolist(), strict=True):
        whole = part.new_empty(ends[-1], *part.shape[1:])
        for sender, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if sender == rank:
                whole[first:last] = part
            if first < last:
                with _lost():
                    dist.broadcast(whole[first:last], dist.get_global_rank(group, sender), group=group)
        out.append(whole)
    return Encoded(out[1].to(mine.rows.device), out[0].cpu())


def _sizes(items: int, rows: int, group: Any, device: torch.device) -> Tensor:
    """(P, 2) int64 on the CPU: items and rows of every process."""
    import torch.distributed as dist

    mine = torch.tensor([items, rows], device=_exchange_device(group, device))
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    with _lost():
        dist.all_gather(parts, mine, group=group)
    return torch.stack(parts).cpu()


def dealt(work: np.ndarray, size: int) -> np.ndarray:
    """The process, of so many, of each piece of work, in order: a run of about the same work for each; int64."""
    middle = np.cumsum(work).reshape(work.shape) - work / 2
    return np.minimum(middle * size / max(work.sum(), 1.0), size - 1).astype(np.int64)


class Team:
    """The processes of a group, or one process without a group.

    Args:
        group: of torch.distributed, with NCCL or gloo; None is this process alone.
        stream: what is scored. Its tiles are dealt to the processes.

    Raises:
        TypeError: for another group, or one that this process is not in.
    """

    def __init__(self, group: Any, stream: ScoreTiles) -> None:
        self._stream, self._group = stream, group
        self.rank, self.size = place_in(group)
        self._device = _exchange_device(group, stream.device)
        self._dealt = np.zeros(stream.grid.shape, dtype=np.int64)  # (I, J) process of each tile

    @property
    def alone(self) -> bool:
        """Whether no other process shares the run."""
        return self.size == 1

    def agree(self, **more: Any) -> None:
        """Checks that every process makes the same call, by what can be known without reading the features.

        Raises:
            ValueError: in every process, naming what differs and in which.
        """
        if self.alone:
            return
        grid = self._stream.grid
        call: dict[str, Any] = {"images and captions": self._stream.shape}
        for items in (self._stream.problems[0].images, self._stream.problems[0].captions):
            call[f"{items.item}_lengths"] = zlib.crc32(np.ascontiguousarray(items.row_offsets).tobytes())
        for name in ("scorer", "engine", "precision"):
            call[name] = [getattr(problem, name) for problem in self._stream.problems]
        call |= {"tiles": zlib.crc32(np.concatenate([grid.image_cuts, grid.caption_cuts]).tobytes()), **more}
        codes = torch.tensor([zlib.crc32(repr(x).encode()) for x in call.values()], device="cpu")
        for rank, theirs in enumerate(self.gather(codes)):
            if different := [name for name, same in zip(call, (theirs == codes).tolist(), strict=True) if not same]:
                raise ValueError(
                    f"group: expected the same call in every process, got another {' and '.join(different)} "
                    f"in process {rank} than in process {self.rank}"
                )

    def deal(self, wanted: np.ndarray) -> None:
        """Deals tiles (I, J) bool: row by row, each process a run of about the same work."""
        self._dealt = dealt(np.where(wanted, self.work(), 0.0), self.size)

    def work(self) -> np.ndarray:
        """(I, J) inner products that each tile takes: regions with words, and both sides' items within themselves."""
        grid, problem = self._stream.grid, self._stream.problems[0]
        rows, squares = [], []
        for items, cuts in ((problem.images, grid.image_cuts), (problem.captions, grid.caption_cuts)):
            lengths = np.diff(items.row_offsets).astype(np.float64)
            total, square = (np.concatenate([[0.0], np.cumsum(x)])[cuts] for x in (lengths, lengths**2))
            rows.append(np.diff(total))
            squares.append(np.diff(square))
        out: np.ndarray = rows[0][:, None] * rows[1] + squares[0][:, None] + squares[1]
        return out

    def run(
        self,
        wanted: np.ndarray,
        take: Callable[[int, int, Any], int],
        bar: Progress | None,
        source: Callable[[np.ndarray], Iterator[tuple[int, int, Any]]] | None = None,
    ) -> None:
        """Gives this process's share of the tiles (I, J) bool to ``take``, which returns the pairs that are done by it.

        Args:
            wanted: it may differ between processes in the tiles of the other ones.
            take: called with (i, j, scores).
            bar: of the process that shows the progress of all.
            source: what gives the tiles, instead of the stream's scores.

        Raises:
            ProcessLost: if another process failed or is lost.
        """
        mine = wanted & (self._dealt == self.rank)
        tiles = (source or self._stream.tiles)(mine)
        self.go_through(int(mine.sum()), TILES_A_ROUND, (take(*tile) for tile in tiles), bar)

    def go_through(self, most: int, a_round: int, steps: Iterator[int], bar: Progress | None) -> None:
        """Goes through this process's steps, and meets the other processes after so many of them.

        Args:
            most: steps that there are, or more.
            a_round: steps between two meetings, the same in every process.
            steps: each gives the pairs that are done by it.
            bar: of the process that shows the progress of all.

        Raises:
            ProcessLost: if another process failed or is lost.
        """
        meetings = self._most(-(-most // a_round))
        pairs = count = 0
        try:
            for done in steps:
                pairs += done
                count += 1
                if self.alone or count % a_round == 0:
                    pairs, meetings = self._meet(pairs, bar), meetings - 1
            while meetings > 0 and not self.alone:
                pairs, meetings = self._meet(pairs, bar), meetings - 1
        except ProcessLost:
            raise
        except BaseException as error:
            self._exchange(0, error)
            raise

    @contextmanager
    def together(self) -> Iterator[None]:
        """At the end of the block all processes meet; an error in it is raised there, and ends the others.

        Raises:
            ProcessLost: if another process failed or is lost.
        """
        try:
            yield
        except BaseException as error:
            self._exchange(0, error)
            raise
        self._exchange(0)

    def bar(self, progress: bool, total: int, done: int = 0) -> Progress | None:
        """What shows the progress, in the first process."""
        return Progress(total, done) if progress and self.rank == 0 else None

    def sum_(self, *tensors: Tensor) -> None:
        """Each tensor becomes the sum of all processes' tensors."""
        if self.alone:
            return
        import torch.distributed as dist

        with _lost():
            for tensor in tensors:
                moved = tensor.to(self._device)
                dist.all_reduce(moved, group=self._group)
                tensor.copy_(moved)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, of one shape and dtype, in their order."""
        if self.alone:
            return [tensor]
        import torch.distributed as dist

        with _lost():
            moved = tensor.to(self._device).contiguous()
            parts = [torch.empty_like(moved) for _ in range(self.size)]
            dist.all_gather(parts, moved, group=self._group)
            return [part.to(tensor.device) for part in parts]

    def _most(self, number: int) -> int:
        return max(int(x) for x in self.gather(torch.tensor([number], device="cpu")))

    def _meet(self, pairs: int, bar: Progress | None) -> int:
        """Exchanges how far this process is; gives 0, the pairs that are yet to be told."""
        done = self._exchange(pairs)
        if bar is not None and done:
            bar.update(done)
        return 0

    def _exchange(self, pairs: int, error: BaseException | None = None) -> int:
        """Pairs of all processes; raises where another process has an error and this one has none."""
        if self.alone:
            return pairs
        told = torch.zeros(1 + self.size, dtype=torch.int64, device="cpu")
        told[0] = pairs
        told[1 + self.rank] = error is not None
        try:
            self.sum_(told)
            total, *failed = told.tolist()
            if any(failed):
                text = "" if error is None else f"{type(error).__name__}: {error}"
                messages = self.gather(_packed(text))
        except ProcessLost:
            if error is None:
                raise
            return pairs  # the error of this process is the one to raise
        if error is None and any(failed):
            first = failed.index(1)
            raise ProcessLost(f"process {first} of {self.size} failed: {_text(messages[first])}")
        return total


@contextmanager
def _lost() -> Iterator[None]:
    """An error of the transport is a process that is lost."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProcessLost(f"a process of the group is lost, or does not answer: {reason}") from error


def _packed(text: str) -> Tensor:
    data = text.encode()[:_MESSAGE_BYTES]
    return torch.tensor([*data, *bytes(_MESSAGE_BYTES - len(data))], dtype=torch.uint8, device="cpu")


def _text(message: Tensor) -> str:
    return bytes(message.tolist()).rstrip(b"\0").decode(errors="replace")
