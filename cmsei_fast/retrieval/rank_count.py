"""Ranks, ties included: keeps the scores of the true pairs first, then counts the scores above and equal to them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..tiling import Grid
from .metrics import FoldRanks, RecallMetrics, combine, split_folds

CACHED = 1 << 18  # scores counted at a time, few enough to stay in a processor's cache for all four comparisons


class RankCount:
    """Ranks of both directions from tiles in any order.

    Call ``add_true_pairs`` for the tiles with true pairs (a caption with its own image), then ``finish_true_pairs``,
    then ``count`` for every needed tile, then ``metrics``.

    Args:
        owner: (M,) int64, the image of each caption, checked by ``check_map``.
        n_image: N.
        folds: number of folds, as for :func:`cmsei_fast.recall_metrics`.
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
        self.true_scores = torch.zeros(len(owner), dtype=dtype, device=device)  # score of each caption with its image
        self.known = torch.zeros(len(owner), dtype=torch.int64, device=device)  # 1 where true_scores is set
        self._best_true = torch.full((n_image,), torch.nan, dtype=dtype, device=device)  # over the image's captions
        self.caption_counts = torch.zeros(2, len(owner), dtype=torch.int64, device=device)  # images above, equal
        self.image_counts = torch.zeros(2, n_image, dtype=torch.int64, device=device)  # captions above, equal

    def true_pair_tiles(self, grid: Grid) -> np.ndarray:
        """(I, J) bool: the tiles with true pairs."""
        out = np.zeros(grid.shape, dtype=bool)
        i = np.searchsorted(grid.image_cuts, self.owner, side="right") - 1
        out[i, np.searchsorted(grid.caption_cuts, np.arange(len(self.owner)), side="right") - 1] = True
        return out

    def needed_tiles(self, grid: Grid) -> np.ndarray:
        """(I, J) bool: the tiles in which an image meets a caption of its fold."""
        folds_by_side = []
        for cuts, fold in ((grid.image_cuts, self._image_fold), (grid.caption_cuts, self._caption_fold)):
            has_fold = np.zeros((len(cuts) - 1, len(self._folds)), dtype=bool)
            has_fold[np.searchsorted(cuts, np.arange(len(fold)), side="right") - 1, fold] = True
            folds_by_side.append(has_fold)
        out: np.ndarray = folds_by_side[0] @ folds_by_side[1].T  # boolean: a sum is an or
        return out

    def add_true_pairs(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Keeps the scores of the true pairs in a tile (images, captions)."""
        images = self.owner[columns]
        indices = np.nonzero((images >= rows.start) & (images < rows.stop))[0]
        selected = torch.from_numpy(indices).to(self._device)
        self.true_scores[columns.start + selected] = tile[
            torch.from_numpy(images[indices] - rows.start).to(self._device), selected
        ]
        self.known[columns.start + selected] = 1

    def true_pairs(self, rows: slice, columns: slice) -> Tensor:
        """(images, captions) bool: the true pairs of a tile."""
        images = torch.arange(rows.start, rows.stop, device=self._device)
        return images[:, None] == torch.from_numpy(self.owner[columns]).to(self._device)

    def undecided(self, rows: slice, columns: slice, tile: Tensor, margin: Tensor) -> Tensor:
        """(images, captions) bool: pairs that :meth:`count` might count differently by their exact scores.

        Those differ from the tile's scores by at most ``margin``.
        """
        best_true = self._best_true[rows, None]
        decided = (tile - self.true_scores[columns]).abs() > margin
        decided &= ((tile - best_true).abs() > margin) | best_true.isnan()
        fold_numbers = (
            torch.from_numpy(x).to(self._device) for x in (self._image_fold[rows], self._caption_fold[columns])
        )
        image_fold, caption_fold = fold_numbers
        return ~decided & (image_fold[:, None] == caption_fold)

    def finish_true_pairs(self) -> None:
        """Finds each image's best true pair; to be called once all true pairs were added.

        Raises:
            RuntimeError: if one was not added.
        """
        if not bool(self.known.all()):
            raise RuntimeError(f"caption {int((self.known == 0).nonzero()[0])}: its image's score was not added")
        owner = torch.from_numpy(self.owner).to(self._device)
        best = torch.full_like(self._best_true, -torch.inf).scatter_reduce(0, owner, self.true_scores, "amax")
        has_caption = torch.bincount(owner, minlength=len(best)) > 0
        self._best_true = best.masked_fill(~has_caption, torch.nan)  # nothing is above or equal to it
        # An image's own captions that reach its best score are no ties: ``ranks`` subtracts them, the best included.
        self._best_own_count = torch.bincount(owner[self.true_scores == best[owner]], minlength=len(best))

    def count(self, rows: slice, columns: slice, tile: Tensor) -> None:
        """Counts the scores of a tile (images, captions) above and equal to those of the true pairs of the same fold.

        Each tile is to be counted once.
        """
        caption_folds = self._caption_fold[columns]
        first, last = self._image_fold[rows.start], self._image_fold[rows.stop - 1]
        for fold in range(first, last + 1):
            fold_columns = np.nonzero(caption_folds == fold)[0]
            if len(fold_columns) == 0:
                continue
            fold_rows = slice(max(rows.start, self._folds[fold].first), min(rows.stop, self._folds[fold].last))
            part = tile[fold_rows.start - rows.start : fold_rows.stop - rows.start]  # (images of the fold, captions)
            if len(fold_columns) == len(caption_folds):
                levels, captions = (
                    self.true_scores[columns],
                    torch.arange(columns.start, columns.stop, device=self._device),
                )
            else:
                selected = torch.from_numpy(fold_columns).to(self._device)
                part, captions = part[:, selected], columns.start + selected
                levels = self.true_scores[captions]
            step = len(part) if self._device.type != "cpu" else max(1, CACHED // len(levels))
            for start in range(0, len(part), step):
                chunk = part[start : start + step]
                images = slice(fold_rows.start + start, fold_rows.start + start + len(chunk))
                self.caption_counts.index_add_(1, captions, _above_and_equal(chunk, levels, 0))
                self.image_counts[:, images] += _above_and_equal(chunk, self._best_true[images, None], 1)

    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) and (M,) float64: ranks of images and captions, once every needed tile has been counted."""
        above, equal = self.caption_counts.cpu().numpy()
        captions = 1 + above + (equal - 1) / 2
        above, equal = self.image_counts.cpu().numpy()
        images = 1 + above + (equal - self._best_own_count.cpu().numpy()) / 2
        images[self._best_true.isnan().cpu().numpy()] = np.nan
        return images, captions

    def metrics(self) -> RecallMetrics:
        """The metrics of :meth:`ranks`."""
        images, captions = self.ranks()
        parts = [FoldRanks(fold, images[fold.first : fold.last], captions[fold.columns]) for fold in self._folds]
        return combine(parts, (len(images), len(captions)), len(self._folds))


def _above_and_equal(scores: Tensor, levels: Tensor, dim: int) -> Tensor:
    """(2, …) int64: how many scores along a dimension are above and equal to the levels."""
    # Sums of int32 are several times faster on the CPU.
    sums = [x.sum(dim, dtype=torch.int32) for x in (scores > levels, scores == levels)]
    return torch.stack(sums).to(torch.int64)
