"""Tiles scored with rounded features first; only the pairs that this leaves undecided are scored exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import engines
from ..tiling import Part, Problem, TileStream, call_engine, check_scores
from .margin import factors, unbounded_setting
from .screen_timing import ScreenTiming

SCREENS = ("bfloat16",)
# Cost of gathering and packing a word's row, in inner products; measured where 3 to 40 % of a tile's pairs were wanted.
_GATHER = 100


def check_screen(screen: object, problem: Problem) -> None:
    """Raises ValueError if ``screen`` is wrong or the problem's scores cannot be screened."""
    if screen is None:
        return
    if screen not in SCREENS:
        raise ValueError(f'screen: expected None or "bfloat16", got {screen!r}')
    if (setting := unbounded_setting(problem.scorer)) is not None:
        raise ValueError(
            "screen: expected a scorer made of largest inner products (attend='hard', relevance='dot', steps=1, a "
            f"plain aggregate, no cross-level terms), as PairScorer.maxsim() is, got {setting}"
        )
    if problem.precision not in ("float32", "float64"):
        raise ValueError(f"screen: expected precision 'float32' or 'float64' to save, got {problem.precision!r}")
    if not hasattr(engines.get(problem.engine), "pair_score_listed"):
        raise ValueError(
            "screen: expected an engine that gives a pair the same bits in any tile, which is 'native', "
            f"got {problem.engine!r}"
        )


@dataclass(frozen=True)
class RoundedPart:
    """A tile's rounded features, and the factors (images, …) and (captions, …) whose inner products are the margins."""

    part: Part
    image_factors: Tensor
    caption_factors: Tensor

    def some(self, side: str, items: slice) -> RoundedPart:
        """Some of the images or captions, as :meth:`Part.some`."""
        part = self.part.some(side, items)
        if side == "image":
            return RoundedPart(part, self.image_factors[items], self.caption_factors)
        return RoundedPart(part, self.image_factors, self.caption_factors[items])


class ScreenedTile:
    """One tile, or some of its queries, with approximate scores and their margins, and exact scores of chosen pairs.

    Attributes:
        rows, columns: the tile's images and captions.
        exact_scores: (images, captions) exact scores, once the whole tile was scored exactly, else None.
    """

    def __init__(self, screen: Screen, part: Part, screened: bool = True, rounded: RoundedPart | None = None) -> None:
        self.rows, self.columns = part.rows, part.columns
        self.exact_scores: Tensor | None = None
        self._screen, self._part, self._screened, self._rounded = screen, part, screened, rounded

    @property
    def pairs(self) -> int:
        """Number of pairs in the tile."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)

    def pieces(self, side: str) -> Iterator[ScreenedTile]:
        """Yields the tile in pieces of its images or captions; :meth:`resolve` each before taking the next.

        Pieces are not screened where scoring them exactly is faster.
        """
        items = self.rows if side == "image" else self.columns
        tile_work = float(len(self._part.regions)) * len(self._part.words)
        for queries, screened in self._screen.timing.pieces(items.stop - items.start, tile_work, self._round):
            rounded = self._rounded.some(side, queries) if screened and self._rounded is not None else None
            yield ScreenedTile(self._screen, self._part.some(side, queries), screened, rounded)

    def approximate(self) -> tuple[Tensor, Tensor]:
        """Approximate scores (images, captions), and margins (images, captions) within which the exact scores lie.

        A margin is infinite or NaN where nothing is known about the error.
        """
        problem, rounded = self._screen.problem, self._round()
        scores = call_engine("pair_score", problem, rounded.part, "bfloat16").to(problem.dtype)
        self._screen.screened += scores.numel()
        margin = (rounded.image_factors @ rounded.caption_factors.T).to(problem.dtype)
        return scores, margin

    def exact(self, wanted: Tensor) -> Tensor:
        """Exact scores (n,) of the pairs that ``wanted`` (images, captions) marks, row by row.

        They have the same bits as in a tile that is scored as a whole.

        Raises:
            ValueError: if a score is not finite.
        """
        problem, part = self._screen.problem, self._part
        if not wanted.any():
            return torch.empty(0, dtype=problem.dtype, device=wanted.device)
        if self._single_pairs_cost_less(wanted):
            scores = call_engine("pair_score_listed", problem, part, None, wanted)
            check_scores(scores, part, problem, wanted)
            self._screen.rescored += len(scores)
            return scores
        return self._score_whole()[wanted]

    def resolve(self, undecided: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor | None]:
        """Scores (images, captions), exact where ``undecided(scores, margin)`` is True, and that mask.

        The mask is None if all scores are exact.
        """
        if not self._screened:
            return self._score_whole(), None
        scores, margin = self.approximate()
        wanted = undecided(scores, margin)
        scores[wanted] = self.exact(wanted)
        return scores, wanted

    def _round(self) -> RoundedPart:
        if self._rounded is None:
            part = self._part
            regions, words = part.regions.to(torch.bfloat16), part.words.to(torch.bfloat16)
            self._rounded = RoundedPart(
                Part(part.rows, part.columns, regions, part.region_offsets, words, part.word_offsets),
                self._screen.factors("image", part.rows, part.regions, regions, part.region_offsets),
                self._screen.factors("caption", part.columns, part.words, words, part.word_offsets),
            )
        return self._rounded

    def _score_whole(self) -> Tensor:
        self.exact_scores = self._screen.score(self._part)
        self._screen.rescored += self.exact_scores.numel()
        return self.exact_scores

    def _single_pairs_cost_less(self, wanted: Tensor) -> bool:
        """Whether scoring only the wanted pairs, image by image, costs less than scoring the whole tile.

        Costs are counted in inner products, those between rows of one item included. For every image, the rows of its
        captions are gathered again.
        """
        n_regions, n_words = (x.diff().double() for x in (self._part.region_offsets, self._part.word_offsets))
        mask = wanted.to(torch.float32)
        gathered_words = mask @ n_words.float()  # (images,) number of words to gather
        pairs_cost = (
            n_regions @ gathered_words.double()
            + _GATHER * gathered_words.sum()
            + (mask.sum(0).double() * n_words.square()).sum()
        )
        image_squares = n_regions.square()
        tile_cost = n_regions.sum() * n_words.sum() + image_squares.sum() + n_words.square().sum()
        return bool(pairs_cost + image_squares[wanted.any(1)].sum() < tile_cost)


class Screen:
    """The tiles of a stream, screened where that is faster.

    Attributes:
        timing: decides where to screen.
        screened, rescored: numbers of pairs scored with rounded features, and exactly, so far.
    """

    def __init__(self, stream: TileStream) -> None:
        self.problem, self.score, self.grid = stream.problem, stream.score, stream.grid
        self.timing = ScreenTiming()
        self.screened = self.rescored = 0
        self._parts = stream.parts
        self._factors: dict[tuple[str, int, int], Tensor] = {}  # by side and slice of its items

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
