"""Tiles scored with rounded features first, and exactly only where that does not decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import engines
from ..tiling import Part, Problem, TileStream, call_engine, check_scores
from .margin import factors, unbounded
from .pace import Pace

SCREENS = ("bfloat16",)
# What gathering and packing a word's row costs, in inner products; measured on shares of 3 to 40 % of a tile.
_GATHER = 100


def check_screen(screen: object, problem: Problem) -> None:
    """Raises ValueError where a problem's scores cannot be screened so."""
    if screen is None:
        return
    if screen not in SCREENS:
        raise ValueError(f'screen: expected None or "bfloat16", got {screen!r}')
    if (what := unbounded(problem.scorer)) is not None:
        raise ValueError(
            "screen: expected a scorer made of largest inner products (attend='hard', relevance='dot', steps=1, a "
            f"plain aggregate, no cross-level terms), as PairScorer.maxsim() is, got {what}"
        )
    if problem.precision not in ("float32", "float64"):
        raise ValueError(f"screen: expected precision 'float32' or 'float64' to save, got {problem.precision!r}")
    if not hasattr(engines.get(problem.engine), "pair_score_listed"):
        raise ValueError(
            "screen: expected an engine that gives a pair the same bits in any tile, which is 'native', "
            f"got {problem.engine!r}"
        )


@dataclass(frozen=True)
class Rounded:
    """A tile's features rounded, and the factors (images, …) and (captions, …) of the pairs' margins."""

    part: Part
    images: Tensor
    captions: Tensor

    def some(self, side: str, items: slice) -> Rounded:
        """As :meth:`Part.some`."""
        part = self.part.some(side, items)
        if side == "image":
            return Rounded(part, self.images[items], self.captions)
        return Rounded(part, self.images, self.captions[items])


class ScreenedTile:
    """One tile, or some of its queries: its scores within a margin, and those of some pairs exactly.

    Attributes:
        rows, columns: its images and captions.
        whole: its exact scores (images, captions), once all were needed.
    """

    def __init__(self, screen: Screen, part: Part, screened: bool = True, rounded: Rounded | None = None) -> None:
        self.rows, self.columns = part.rows, part.columns
        self.whole: Tensor | None = None
        self._screen, self._part, self._screened, self._low = screen, part, screened, rounded

    @property
    def pairs(self) -> int:
        """Number of its pairs."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)

    def pieces(self, side: str) -> Iterator[ScreenedTile]:
        """Yields the tile in pieces of its images or captions, each to be settled before the next.

        Some of them are not screened, where all exact scores are found faster.
        """
        run = self.rows if side == "image" else self.columns
        work = float(len(self._part.regions)) * len(self._part.words)
        for queries, screened in self._screen.pace.pieces(run.stop - run.start, work, self._rounded):
            low = self._low.some(side, queries) if screened and self._low is not None else None
            yield ScreenedTile(self._screen, self._part.some(side, queries), screened, low)

    def near(self) -> tuple[Tensor, Tensor]:
        """Scores (images, captions) and their margins from the exact ones; infinite or NaN where nothing is known."""
        problem, low = self._screen.problem, self._rounded()
        scores = call_engine("pair_score", problem, low.part, "bfloat16").to(problem.dtype)
        self._screen.screened += scores.numel()
        margin = (low.images @ low.captions.T).to(problem.dtype)
        return scores, margin

    def exact(self, wanted: Tensor) -> Tensor:
        """Scores (n,) of the pairs that ``wanted`` (images, captions) marks, row by row: the bits of the whole tile.

        Raises:
            ValueError: for one that is not finite.
        """
        problem, part = self._screen.problem, self._part
        if not wanted.any():
            return torch.empty(0, dtype=problem.dtype, device=wanted.device)
        if self._scattered(wanted):
            scores = call_engine("pair_score_listed", problem, part, None, wanted)
            check_scores(scores, part, problem, wanted)
            self._screen.rescored += len(scores)
            return scores
        return self._all()[wanted]

    def settled(self, undecided: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:
        """Scores, exact where ``undecided(scores, margin)`` is True, and that mask; None where all are exact."""
        if not self._screened:
            return self._all(), None
        scores, margin = self.near()
        wanted = undecided(scores, margin)
        scores[wanted] = self.exact(wanted)
        return scores, wanted

    def _rounded(self) -> Rounded:
        if self._low is None:
            part = self._part
            regions, words = part.regions.to(torch.bfloat16), part.words.to(torch.bfloat16)
            self._low = Rounded(
                Part(part.rows, part.columns, regions, part.region_offsets, words, part.word_offsets),
                self._screen.factors("image", part.rows, part.regions, regions, part.region_offsets),
                self._screen.factors("caption", part.columns, part.words, words, part.word_offsets),
            )
        return self._low

    def _all(self) -> Tensor:
        self.whole = self._screen.score(self._part)
        self._screen.rescored += self.whole.numel()
        return self.whole

    def _scattered(self, wanted: Tensor) -> bool:
        """Whether to score the pairs one image after the other costs less than the whole tile.

        In inner products, of rows with each other too. Rows of captions are gathered again for every image.
        """
        regions, words = (x.diff().double() for x in (self._part.region_offsets, self._part.word_offsets))
        chosen = wanted.to(torch.float32)
        gathered = chosen @ words.float()  # (images,) words
        alone = regions @ gathered.double() + _GATHER * gathered.sum() + (chosen.sum(0).double() * words.square()).sum()
        once = regions.square()
        whole = regions.sum() * words.sum() + once.sum() + words.square().sum()
        return bool(alone + once[wanted.any(1)].sum() < whole)


class Screen:
    """The tiles of a stream, screened where that pays.

    Attributes:
        pace: whether it does.
        screened, rescored: pairs scored with rounded features, and exactly, so far.
    """

    def __init__(self, stream: TileStream) -> None:
        self.problem, self.score, self.grid = stream.problem, stream.score, stream.grid
        self.pace = Pace()
        self.screened = self.rescored = 0
        self._parts = stream.parts
        self._factors: dict[tuple[str, int, int], Tensor] = {}  # of a run of images or captions

    def tiles(self, wanted: np.ndarray) -> Iterator[tuple[int, int, ScreenedTile]]:
        """Yields (i, j, tile) as :meth:`TileStream.tiles` does."""
        for i, j, part in self._parts(wanted):
            yield i, j, ScreenedTile(self, part)

    def factors(self, side: str, items: slice, rows: Tensor, rounded: Tensor, offsets: Tensor) -> Tensor:
        """:func:`margin.factors` of some images or captions, computed once."""
        key = side, items.start, items.stop
        if key not in self._factors:
            self._factors[key] = factors(self.problem.scorer, side, rows, rounded, offsets)
        return self._factors[key]
