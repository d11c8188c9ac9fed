"""The k best items for each query from streamed tiles: exact, in one order whatever the order of the tiles."""

from __future__ import annotations

import torch
from torch import Tensor


class TopK:
    """The k highest scores of each query, the highest first; of equal scores, the lower item comes first.

    Tiles may come in any order, each pair at most once, and one process's results may be merged into another's: the
    result is the same.

    Args:
        n_query, n_item: numbers of queries and of items; k > n_item keeps n_item.
        dtype, device: of the scores.
    """

    def __init__(self, n_query: int, n_item: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self.k = min(k, n_item)
        # Until a query has k items, the free places hold the index n_item and the score -inf.
        self.indices = torch.full((n_query, self.k), n_item, dtype=torch.int64, device=device)  # (Q, k)
        self.scores = torch.full((n_query, self.k), -torch.inf, dtype=dtype, device=device)  # (Q, k)

    def floor(self, queries: slice, least: Tensor) -> Tensor:
        """(queries,) lower bounds on the k-th best scores, once items with scores of at least ``least`` are merged.

        An item with a lower score than its query's bound cannot be among the k best.

        Args:
            queries: a run of queries.
            least: (queries, n) lower bounds on the scores of n items.
        """
        least = torch.cat([self.scores[queries], least], 1)
        return least.topk(self.k, dim=1).values[:, -1] if self.k else least.new_full((len(least),), torch.inf)

    def update(self, queries: slice, items: slice, tile: Tensor) -> None:
        """Merges the scores (queries, items) of a tile."""
        self.merge(queries, *_highest(tile, self.k, items.start))

    def merge(self, queries: slice, scores: Tensor, indices: Tensor) -> None:
        """Merges scores (queries, n) of the items ``indices`` (queries, n), none of which was merged before."""
        indices = torch.cat([self.indices[queries], indices], 1)
        scores = torch.cat([self.scores[queries], scores], 1)
        indices, order = indices.sort(dim=1)
        scores, best = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        self.scores[queries] = scores[:, : self.k]
        self.indices[queries] = indices.gather(1, best)[:, : self.k]


def _highest(tile: Tensor, k: int, start: int) -> tuple[Tensor, Tensor]:
    """Scores and indices (Q, min(k, n)) of the k highest in each row of a tile (Q, n), in any order.

    Of equal scores the lower index is kept. Indices count from ``start``.
    """
    if not 0 < k < tile.shape[1]:  # every item, or none
        places = torch.arange(start, start + tile.shape[1], device=tile.device)[:k]
        return tile[:, :k], places.expand(len(tile), -1)
    scores, order = tile.topk(k, dim=1, sorted=False)
    # topk takes any of the scores that equal the k-th. Only where it leaves some out does a row have to be sorted.
    tied = ((tile >= scores.amin(1, keepdim=True)).sum(1) > k).nonzero()[:, 0]
    if len(tied):
        best, first = tile[tied].sort(dim=1, descending=True, stable=True)
        scores[tied], order[tied] = best[:, :k], first[:, :k]
    return scores, order + start
