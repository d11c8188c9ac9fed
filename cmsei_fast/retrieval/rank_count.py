"""Ranks, ties included: the scores of the true pairs first, then how many others are above or equal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..tiling import Grid
from .metrics import FoldRanks, RecallMetrics, combine, split_folds

CACHED = 1 << 18  # scores that a processor's cache holds while they are compared four times


class RankCount:
    """Ranks of both directions from tiles in any order: ``add_own``, ``settle``, ``count``, then ``metrics``.

    Args:
        owner: (M,) int64, the image of each caption, checked by ``check_map``.
        n_image: N.
        folds: as :func:`cmsei_fast.recall_metrics` has them.
        dtype, device: of the scores.

    Raises:
        ValueError: if the folds do not divide the images or one of them has no caption.
    """

    def __init__(self, owner: np.ndarray, n_image: int, folds: int, dtype: torch.dtype, device: torch.device) -> None:
        self._folds = split_folds(owner, n_image, folds)
        self.owner, self.folds = owner, folds
        self._image_fold = np.repeat(np.arange(folds), n_image // folds)
        self._caption_fold = self._image_fold[owner]
        self._device = device
        self.own = torch.zeros(len(owner), dtype=dtype, device=device)  # score of each caption with its image
        self.known = torch.zeros(len(owner), dtype=torch.int64, device=device)  # 1 where own is there
        self._best = torch.full((n_image,), torch.nan, dtype=dtype, device=device)  # of the image's captions
        self.captions = torch.zeros(2, len(owner), dtype=torch.int64, device=device)  # images above, equal
        self.images = torch.zeros(2, n_image, dtype=torch.int64, device=device)  # captions above, equal

    def own_tiles(self, grid: Grid) -> np.ndarray:
        """(I, J) bool: the tiles with true pairs."""
        out = np.zeros(grid.shape, dtype=bool)
        i = np.searchsorted(grid.image_cuts, self.owner, side="right") - 1
        out[i, np.searchsorted(grid.caption_cuts, np.arange(len(self.owner)), side="right") - 1] = True
        return out

    def needed_tiles(self, grid: Grid) -> np.ndarray:
        """(I, J) bool: the tiles in which an image meets a caption of its fold."""
        sides = []
        for cuts, fold in ((grid.image_cuts, self._image_fold), (grid.caption_cuts, self._caption_fold)):
            there = np.zeros((len(cuts) - 1, len(self._folds)), dtype=bool)
            there[np.searchsorted(cuts, np.arange(len(fold)), side="right") - 1, fold] = True
            sides.append(there)
        out: np.ndarray = sides[0] @ sides[1].T  # boolean: a sum is an or
        return out

    def add_own(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Notes the scores of the true pairs in a tile (images, captions)."""
        image = self.owner[columns]
        mine = np.nonzero((image >= rows.start) & (image < rows.stop))[0]
        at = torch.from_numpy(mine).to(self._device)
        self.own[columns.start + at] = tile[torch.from_numpy(image[mine] - rows.start).to(self._device), at]
        self.known[columns.start + at] = 1

    def own_pairs(self, rows: slice, columns: slice) -> Tensor:
        """(images, captions) bool: the true pairs of a tile."""
        images = torch.arange(rows.start, rows.stop, device=self._device)
        return images[:, None] == torch.from_numpy(self.owner[columns]).to(self._device)

    def undecided(self, rows: slice, columns: slice, tile: Tensor, margin: Tensor) -> Tensor:
        """(images, captions) bool: pairs that :meth:`count` may count otherwise with scores within margin of tile's."""
        best = self._best[rows, None]
        decided = (tile - self.own[columns]).abs() > margin
        decided &= ((tile - best).abs() > margin) | best.isnan()
        folds = (torch.from_numpy(x).to(self._device) for x in (self._image_fold[rows], self._caption_fold[columns]))
        of_image, of_caption = folds
        return ~decided & (of_image[:, None] == of_caption)

    def settle(self) -> None:
        """All true pairs are there.

        Raises:
            RuntimeError: if one is not.
        """
        if not bool(self.known.all()):
            raise RuntimeError(f"caption {int((self.known == 0).nonzero()[0])}: its image's score was not added")
        owner = torch.from_numpy(self.owner).to(self._device)
        best = torch.full_like(self._best, -torch.inf).scatter_reduce(0, owner, self.own, "amax")
        asks = torch.bincount(owner, minlength=len(best)) > 0
        self._best = best.masked_fill(~asks, torch.nan)  # nothing is above or equal to it
        # An image's own captions as good as its best are no ties; nor is a caption's image with itself.
        self._best_own = torch.bincount(owner[self.own == best[owner]], minlength=len(best))

    def count(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Counts what a tile (images, captions) has above and equal to the true pairs, within the folds. Each once."""
        folds = self._caption_fold[columns]
        first, last = self._image_fold[rows.start], self._image_fold[rows.stop - 1]
        for fold in range(first, last + 1):
            mine = np.nonzero(folds == fold)[0]
            if len(mine) == 0:
                continue
            run = slice(max(rows.start, self._folds[fold].first), min(rows.stop, self._folds[fold].last))
            part = tile[run.start - rows.start : run.stop - rows.start]  # (images of the fold, captions)
            if len(mine) == len(folds):
                own, which = self.own[columns], torch.arange(columns.start, columns.stop, device=self._device)
            else:
                at = torch.from_numpy(mine).to(self._device)
                part, which = part[:, at], columns.start + at
                own = self.own[which]
            step = len(part) if self._device.type != "cpu" else max(1, CACHED // len(own))
            for start in range(0, len(part), step):
                few = part[start : start + step]
                images = slice(run.start + start, run.start + start + len(few))
                self.captions.index_add_(1, which, _above_and_equal(few, own, 0))
                self.images[:, images] += _above_and_equal(few, self._best[images, None], 1)

    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) and (M,) float64: ranks of images and captions once every tile that is needed has been counted."""
        above, equal = self.captions.cpu().numpy()
        captions = 1 + above + (equal - 1) / 2
        above, equal = self.images.cpu().numpy()
        images = 1 + above + (equal - self._best_own.cpu().numpy()) / 2
        images[self._best.isnan().cpu().numpy()] = np.nan
        return images, captions

    def metrics(self) -> RecallMetrics:
        """The metrics of :meth:`ranks`."""
        images, captions = self.ranks()
        parts = [FoldRanks(f, images[f.first : f.last], captions[f.columns]) for f in self._folds]
        return combine(parts, (len(images), len(captions)), len(self._folds))


def _above_and_equal(scores: Tensor, level: Tensor, dim: int) -> Tensor:
    """(2, …) int64: how many along a dimension. Sums of int32 are several times faster on the CPU."""
    found = [x.sum(dim, dtype=torch.int32) for x in (scores > level, scores == level)]
    return torch.stack(found).to(torch.int64)
