"""Score matrices as the inputs of the packages ``fico-itr`` and ``eccv-caption``; neither is needed to make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import integers, is_whole
from ..retrieval.matrix import checked_matrix
from ..retrieval.metrics import check_map

__all__ = ["eccv_caption_items", "fico_itr_arguments"]


def fico_itr_arguments(scores: Any, captions_per_image: int = 5, *, caption_to_image: Any = None) -> dict[str, Any]:
    """Keyword arguments of ``fico_itr.instance_retrieval``.

    Args:
        scores: (n_image, n_caption) array or tensor.
        captions_per_image: used where there is no map.
        caption_to_image: (n_caption,) integers, the image of each caption.

    Returns:
        ``similarity_matrix``, float64, and ``captions_per_image``, the number or the dictionary of the map.

    Raises:
        TypeError, ValueError: for scores or a map that do not fit.
    """
    matrix = checked_matrix(scores).astype(np.float64, copy=False)
    owner = check_map(matrix.shape[0], matrix.shape[1], captions_per_image, caption_to_image)
    if caption_to_image is None:
        return {"similarity_matrix": matrix, "captions_per_image": captions_per_image}
    return {"similarity_matrix": matrix, "captions_per_image": dict(enumerate(owner.tolist()))}


def eccv_caption_items(
    scores: Any, image_ids: Sequence[int], caption_ids: Sequence[int], k: int | None = None
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """The two arguments of ``eccv_caption.Metrics().compute_all_metrics``: what each image and each caption retrieves.

    Args:
        scores: (n_image, n_caption) numbers or tensor.
        image_ids: (n_image,) MS-COCO's numbers of the images, all different.
        caption_ids: (n_caption,) MS-COCO's numbers of the captions, all different: those of eccv-caption's file
            ``coco_test_ids.npy`` for the 5K test set.
        k: number of items to keep for each, best first; None keeps all, which MS-COCO 1K's metrics need, as they look
            for a fold's items in the whole ranking (about 2 GB for 5K × 25K).

    Returns:
        ({image: captions}, {caption: images}); equal scores are in the order of the matrix.

    Raises:
        TypeError, ValueError: for scores, numbers or a k that do not fit.
    """
    matrix = checked_matrix(scores).astype(np.float64, copy=False)
    id_lists = []
    for name, ids, size in (("image_ids", image_ids, matrix.shape[0]), ("caption_ids", caption_ids, matrix.shape[1])):
        numbers = integers(name, ids)
        if numbers.shape != (size,) or len(np.unique(numbers)) != size:
            raise ValueError(
                f"{name}: expected {size} different numbers, got {len(np.unique(numbers))} in {numbers.shape}"
            )
        id_lists.append([int(x) for x in numbers])
    if k is not None and not is_whole(k):
        raise ValueError(f"k: expected None or an integer >= 1, got {k!r}")
    images, captions = id_lists
    return _ranked_items(matrix, images, captions, k), _ranked_items(matrix.T, captions, images, k)


def _ranked_items(scores: np.ndarray, queries: list[int], items: list[int], k: int | None) -> dict[int, list[int]]:
    out = {}
    for query, row in zip(queries, scores, strict=True):
        order = np.argsort(-row, kind="stable")[:k]
        out[query] = [items[j] for j in order.tolist()]  # the same objects in all lists: 8 bytes an entry
    return out
