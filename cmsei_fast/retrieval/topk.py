"""The k best items for each query from streamed tiles: exact, in one order whatever the order of the tiles."""

from __future__ import annotations

import torch
from torch import Tensor


class TopK:
    """The k highest scores of each query, from the highest on; of equal ones the lower item first.

    Scores may come in tiles in any order, each pair at most once; two of these may be merged: the result is the same.

    Args:
        n_query, n_item: what is asked for what; k > n_item keeps n_item.
        dtype, device: of the scores.
    """

    def __init__(self, n_query: int, n_item: int, k: int, dtype: torch.dtype, device: torch.device) -> None:
        self.k = min(k, n_item)
        # A query that has not met k items yet has n_item with -inf in their places.
        self.indices = torch.full((n_query, self.k), n_item, dtype=torch.int64, device=device)  # (Q, k)
        self.scores = torch.full((n_query, self.k), -torch.inf, dtype=dtype, device=device)  # (Q, k)

    def floor(self, queries: slice, least: Tensor) -> Tensor:
        """(queries,) that the k-th best score will be at least, once items with scores of at least (queries, n) are in.

        No item with a lower score can come in.
        """
        least = torch.cat([self.scores[queries], least], 1)
        return least.topk(self.k, dim=1).values[:, -1] if self.k else least.new_full((len(least),), torch.inf)

    def update(self, queries: slice, items: slice, tile: Tensor) -> None:
        """Takes the scores (queries, items) of a tile in."""
        best, order = tile.sort(dim=1, descending=True, stable=True)
        self.merge(queries, best[:, : self.k], order[:, : self.k] + items.start)

    def merge(self, queries: slice, scores: Tensor, indices: Tensor) -> None:
        """Takes scores (queries, n) of the items indices (queries, n) in; none of them is here already."""
        indices = torch.cat([self.indices[queries], indices], 1)
        scores = torch.cat([self.scores[queries], scores], 1)
        indices, order = indices.sort(dim=1)
        scores, best = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        self.scores[queries] = scores[:, : self.k]
        self.indices[queries] = indices.gather(1, best)[:, : self.k]
