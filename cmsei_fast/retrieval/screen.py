"""Tiles that are scored with rounded features first, and exactly only where that does not decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from .. import engines
from ..tiling import Part, Problem, TileStream, call_engine, check_scores
from .margin import factors, unbounded

SCREENS = ("bfloat16",)


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


class ScreenedTile:
    """One tile: its scores within a margin, and those of some pairs exactly."""

    def __init__(
        self, screen: Screen, part: Part, rounded: tuple[Tensor, Tensor], sides: tuple[Tensor, Tensor]
    ) -> None:
        self._screen, self._part, self._rounded, self._sides = screen, part, rounded, sides

    def near(self) -> tuple[Tensor, Tensor]:
        """Scores (images, captions) and their margins from the exact ones; infinite or NaN where nothing is known."""
        part, problem = self._part, self._screen.problem
        low = Part(part.rows, part.columns, self._rounded[0], part.region_offsets, self._rounded[1], part.word_offsets)
        scores = call_engine("pair_score", problem, low, "bfloat16").to(problem.dtype)
        self._screen.screened += scores.numel()
        margin = (self._sides[0] @ self._sides[1].T).to(problem.dtype)
        return scores, margin

    def exact(self, wanted: Tensor) -> Tensor:
        """Scores (n,) of the pairs that ``wanted`` (images, captions) marks, row by row: the bits of the whole tile.

        Raises:
            ValueError: for one that is not finite.
        """
        problem, part = self._screen.problem, self._part
        if not wanted.any():
            return torch.empty(0, dtype=problem.dtype)
        if self._scattered(wanted):
            scores = call_engine("pair_score_listed", problem, part, None, wanted)
            check_scores(scores, part, wanted)
            self._screen.rescored += len(scores)
            return scores
        self._screen.rescored += wanted.numel()
        return self._screen.score(part)[wanted]

    def settled(self, undecided: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Scores, exact where ``undecided(scores, margin)`` is True, and that mask."""
        scores, margin = self.near()
        wanted = undecided(scores, margin)
        scores[wanted] = self.exact(wanted)
        return scores, wanted

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


# What gathering and packing a word's row costs, in inner products.
_GATHER = 16


class Screen:
    """The tiles of a stream, screened.

    Attributes:
        screened, rescored: pairs scored with rounded features, and exactly, so far.
    """

    def __init__(self, stream: TileStream) -> None:
        self.problem, self.score, self.grid = stream.problem, stream.score, stream.grid
        self.screened = self.rescored = 0
        self._parts = stream.parts
        self._factors: dict[tuple[str, int], Tensor] = {}  # of the images or captions from a first one on

    def tiles(self, wanted: np.ndarray) -> Iterator[tuple[int, int, ScreenedTile]]:
        """Yields (i, j, tile) as :meth:`TileStream.tiles` does."""
        for i, j, part in self._parts(wanted):
            with torch.no_grad():
                rounded = part.regions.to(torch.bfloat16), part.words.to(torch.bfloat16)
                images = self._side("image", part.rows.start, part.regions, rounded[0], part.region_offsets)
                captions = self._side("caption", part.columns.start, part.words, rounded[1], part.word_offsets)
                yield i, j, ScreenedTile(self, part, rounded, (images, captions))

    def _side(self, side: str, first: int, rows: Tensor, rounded: Tensor, offsets: Tensor) -> Tensor:
        if (side, first) not in self._factors:
            self._factors[side, first] = factors(self.problem.scorer, side, rows, rounded, offsets)
        return self._factors[side, first]
