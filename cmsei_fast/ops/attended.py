"""Attended vectors of all pairs, tile by tile, for scores that need the vectors and not only inner products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding
from torch.utils.checkpoint import checkpoint

from cmsei_fast import checks
from cmsei_fast.compiling import outside_graphs
from cmsei_fast.engines.affine import product
from cmsei_fast.engines.gram import attend
from cmsei_fast.engines.same_length import Chunk, ItemsByLength
from cmsei_fast.engines.terms import EPS, Direction, read_terms
from cmsei_fast.scorer import Attention, PairScorer
from cmsei_fast.transforms import is_transformed

# Rows of queries whose attention is one product, and numbers in a tile of attended vectors: few enough for a CPU's
# caches, enough to fill a GPU.
_QUERY_ROWS = {"cpu": 128, "other": 2048}
_TILE = {"cpu": 2**20, "other": 2**25}


class AttendedTile(NamedTuple):
    """Some images with some captions; all images have one number of regions, all captions one number of words.

    Args:
        images: (I,) int64, the places of the images among all.
        captions: (J,) int64, those of the captions.
        queries: t2i: words (1, J, n, D); i2t: regions (I, 1, n, D); float32, or float64 if either side is float64.
        attended: (I, J, n, D) in the same dtype: for each query of each pair, the sum of the context that it attends
            to. It is the tile's own memory, which the receiver may overwrite.
        image_state: (I, …) rows of what was given for these images, or None.
        caption_state: (J, …) likewise for the captions.
        again: whether the tile is recomputed for the gradient, where nothing may be counted twice.
    """

    images: Tensor
    captions: Tensor
    queries: Tensor
    attended: Tensor
    image_state: Tensor | None
    caption_state: Tensor | None
    again: bool


Head = Callable[[AttendedTile], Tensor]


@outside_graphs
def attended_features(
    images: Any,
    captions: Any,
    caption_lengths: Any = None,
    image_lengths: Any = None,
    *,
    attention: Attention | None = None,
    direction: str = "t2i",
    unit: bool = False,
    image_state: Tensor | None = None,
    caption_state: Tensor | None = None,
    all_images: bool = False,
) -> Iterator[AttendedTile]:
    """The attended vectors U = P C of every query of every pair, one tile after the other.

    The vectors of all pairs would take N × M times the memory of a pair's; a tile is a few MB. Where gradients are
    recorded, a tile keeps its graph alive, so use :func:`attended_scores` for training.

    Args:
        images: regions, a tensor padded (N, R, D) or packed (ΣR, D), float16, bfloat16, float32 or float64; or what
            :meth:`cmsei_fast.CMSEI.encode_images` returns.
        captions: words, padded (M, L, D) or packed (ΣL, D), likewise, on the same device.
        caption_lengths: (M,) number of words of each caption; None: L for all. Packed captions need it.
        image_lengths: (N,) number of regions of each image, likewise.
        attention: how P is computed: its ``temperature``, ``norm`` and ``attend`` (not ``"negative_aware"``), with one
            step; the other fields are ignored. None is ``Attention()``, SCAN's t2i.
        direction: ``"t2i"``, where words attend to regions, or ``"i2t"``.
        unit: divide each attended vector by its length (which comes from the Gram matrix and costs little).
        image_state: (N, …) tensor; each tile gets the rows of its images.
        caption_state: (M, …), likewise.
        all_images: put all images into every tile, for operations over all of them (a batch norm); they must have the
            same number of regions.

    Yields:
        Tiles that contain each pair exactly once, in float32, or float64 if either side is float64.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; before the first tile.
    """
    options = (attention, direction, unit, image_state, caption_state, all_images)
    plan = _Plan(images, captions, caption_lengths, image_lengths, *options)
    return (plan.tile(i, j, again=False) for j, parts in plan.columns() for i in parts)


@outside_graphs
def attended_scores(
    images: Any,
    captions: Any,
    caption_lengths: Any = None,
    image_lengths: Any = None,
    *,
    head: Head,
    attention: Attention | None = None,
    direction: str = "t2i",
    unit: bool = False,
    image_state: Tensor | None = None,
    caption_state: Tensor | None = None,
    all_images: bool = False,
) -> Tensor:
    """The scores that a head computes from each pair's attended vectors; differentiable.

    Gradients reach the features, the states and the head's parameters. The backward pass recomputes each tile (and the
    head, with the same random numbers), so that memory holds one tile at a time; within the transforms of
    ``torch.func``, which cannot do that, all tiles are kept.

    Args:
        head: a module or function that takes an :class:`AttendedTile` of I images and J captions and returns their
            scores (I, J).

    The other arguments are those of :func:`attended_features`.

    Returns:
        (N, M) in the dtype of the tiles. N or M may be 0.

    Raises:
        TypeError, ValueError: as :func:`attended_features` does, and for a head that returns something else.
    """
    options = (attention, direction, unit, image_state, caption_state, all_images)
    plan = _Plan(images, captions, caption_lengths, image_lengths, *options)
    if not callable(head):
        raise TypeError(f"head: expected a module or a function, got {type(head).__name__}")
    if 0 in plan.shape:
        return torch.empty(plan.shape, dtype=plan.dtype, device=plan.device)
    differentiable = torch.is_grad_enabled() or is_transformed()  # vmap cannot write into a tensor that it does not map
    return _differentiable_scores(plan, head) if differentiable else _fill_scores(plan, head)


def _fill_scores(plan: _Plan, head: Head) -> Tensor:
    out = torch.empty(plan.shape, dtype=plan.dtype, device=plan.device)
    for j, parts in plan.columns():
        for i in parts:
            out[i.items[:, None], j.items] = _score_tile(head, plan.tile(i, j, again=False), plan.dtype)
    return out


def _differentiable_scores(plan: _Plan, head: Head) -> Tensor:
    """Computes the scores with gradients: every tile is a checkpoint."""
    columns, captions, images = [], [], []
    for j, parts in plan.columns():
        columns.append(torch.cat([_checkpoint_tile(plan, head, i, j) for i in parts]))  # (N, J), images by length
        captions.append(j.items)
        images = [i.items for i in parts]
    scores = torch.cat(columns, 1)
    return scores.index_select(0, torch.cat(images).argsort()).index_select(1, torch.cat(captions).argsort())


def _checkpoint_tile(plan: _Plan, head: Head, images: Chunk, captions: Chunk) -> Tensor:
    runs = 0

    def run() -> Tensor:
        nonlocal runs
        runs += 1
        return _score_tile(head, plan.tile(images, captions, again=runs > 1), plan.dtype)

    return run() if is_transformed() else checkpoint(run, use_reentrant=False)


def _score_tile(head: Head, tile: AttendedTile, dtype: torch.dtype) -> Tensor:
    scores = head(tile)
    shape = (len(tile.images), len(tile.captions))
    if not isinstance(scores, Tensor) or tuple(scores.shape) != shape or not scores.is_floating_point():
        got = f"{scores.dtype} {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"head: expected floating scores of shape {shape} (images, captions of the tile), got {got}")
    return scores.to(dtype)


class _Plan:
    """A call with checked arguments: both sides grouped by length, and the size of a tile."""

    def __init__(
        self,
        images: Any,
        captions: Any,
        caption_lengths: Any,
        image_lengths: Any,
        attention: Attention | None,
        direction: str,
        unit: bool,
        image_state: Tensor | None,
        caption_state: Tensor | None,
        all_images: bool,
    ) -> None:
        images, image_lengths = checks.unpacked("image", images, image_lengths)
        captions, caption_lengths = checks.unpacked("caption", captions, caption_lengths)
        for name, x in (("images", images), ("captions", captions)):
            checks.check_tensor(name, x)
        checks.check_agreement(images, captions)
        lengths = [
            _lengths("image_lengths", image_lengths, "image", images),
            _lengths("caption_lengths", caption_lengths, "caption", captions),
        ]
        if direction not in ("t2i", "i2t"):
            raise ValueError(f"direction: expected 't2i' or 'i2t', got {direction!r}")
        self._asks_words, self._all_images = direction == "t2i", all_images
        attention = _check_attention(attention)
        for name, x, n in (("image", image_state, len(lengths[0])), ("caption", caption_state, len(lengths[1]))):
            _check_state(f"{name}_state", x, n, images.device)
        if all_images and len(lengths[0].unique()) > 1:
            low, high = int(lengths[0].min()), int(lengths[0].max())
            raise ValueError(f"all_images: expected images of one number of regions, got {low} to {high}")
        self.shape = (len(lengths[0]), len(lengths[1]))
        self.device, self._width = images.device, images.shape[-1]
        wide = torch.promote_types(images.dtype, captions.dtype) == torch.float64
        self.dtype = torch.float64 if wide else torch.float32
        self._options = read_direction(attention, self.dtype, self.device)
        self._images = ItemsByLength(images, lengths[0], image_state, self.dtype, gram=unit and self._asks_words)
        self._captions = ItemsByLength(
            captions, lengths[1], caption_state, self.dtype, gram=unit and not self._asks_words
        )

    def columns(self) -> Iterator[tuple[Chunk, list[Chunk]]]:
        """Yields chunks of captions, each with all images in parts: a part and the captions make a tile."""
        if 0 in self.shape:
            return
        kind = self.device.type if self.device.type in _TILE else "other"
        rows, vectors = _QUERY_ROWS[kind], max(1, _TILE[kind] // self._width)
        groups = self._images.whole()
        most = max(g.rows.shape[1] for g in groups)
        if self._asks_words:
            limits = (max(1, vectors // self.shape[0]) if self._all_images else rows, self.shape[1])
        else:
            images = self.shape[0] if self._all_images else max(1, rows // most)
            limits = (vectors * most, max(1, vectors // (images * most)))
        for captions in self._captions.chunks(*limits):
            asking = captions.rows.shape[0] * captions.rows.shape[1]
            parts = []
            for group in groups:
                step = vectors // asking if self._asks_words else rows // group.rows.shape[1]
                parts += group.parts(self.shape[0] if self._all_images else max(1, step))
            yield captions, parts

    def tile(self, images: Chunk, captions: Chunk, *, again: bool) -> AttendedTile:
        """The attended vectors of a part of the images with some captions."""
        queries, context = (captions, images) if self._asks_words else (images, captions)
        with torch.autocast(self.device.type, enabled=False):
            attended = _attended(queries, context, self._options)  # (context, queries, n, D)
        return AttendedTile(
            images.items,
            captions.items,
            queries.rows[None] if self._asks_words else queries.rows[:, None],
            attended if self._asks_words else attended.transpose(0, 1),
            images.state,
            captions.state,
            again,
        )


def _attended(queries: Chunk, context: Chunk, options: Direction) -> Tensor:
    """(X, Y, n, D) for Y items of n queries and X items of m context rows."""
    (y, n, width), (x, m, _) = queries.rows.shape, context.rows.shape
    a = product(queries.rows.flatten(0, 1), context.rows.flatten(0, 1))  # (Y n, X m)
    a = a.view(y, n, x, m).permute(2, 0, 1, 3)  # (X, Y, n, m)
    if options.attend == "hard":
        return _pick_rows(a.argmax(-1), context)
    p = attend(a.contiguous(), options, a.new_full((x,), m)).flatten(1, 2)  # (X, Y n, m)
    if context.gram is not None:  # to unit length
        square = ((p @ context.gram) * p).sum(-1, keepdim=True)  # |U|²
        p = p / square.clamp(min=EPS**2).sqrt()
    return (p @ context.rows).view(x, y, n, width)


def _pick_rows(places: Tensor, context: Chunk) -> Tensor:
    """The context rows (X, Y, n, D) that ``places`` (X, Y, n) are the indices of, within each context item."""
    x, m, width = context.rows.shape
    rows = context.rows.flatten(0, 1)
    if context.gram is not None:  # to unit length
        square = context.gram.diagonal(dim1=1, dim2=2).flatten()  # |C|²
        rows = rows / square.clamp(min=EPS**2).sqrt()[:, None]
    first = torch.arange(0, x * m, m, device=places.device)
    return embedding(places + first[:, None, None], rows).view(*places.shape, width)


def read_direction(attention: Attention, dtype: torch.dtype, device: torch.device) -> Direction:
    """Converts an attention to the form that the engines read."""
    scorer = PairScorer(t2i=attention)
    scalars = torch.tensor(scorer.scalars(), dtype=dtype, device=device)
    direction = read_terms(scalars, scorer.config()).t2i
    assert direction is not None
    return direction


def _check_attention(attention: Any) -> Attention:
    if attention is None:
        return Attention()
    if not isinstance(attention, Attention):
        raise TypeError(f"attention: expected an Attention or None, got {type(attention).__name__}")
    if attention.steps != 1 or attention.attend == "negative_aware":
        got = f"steps={attention.steps}, attend={attention.attend!r}"
        raise ValueError(f"attention: expected one step of softmax, hard or focal attention, got {got}")
    return replace(attention, weight=1.0)


def _lengths(name: str, given: Any, item: str, features: Tensor) -> Tensor:
    """(n,) int64 on the CPU, checked."""
    found = checks.check_lengths(name, given, item, tuple(features.shape))
    if found is None:
        return torch.full((features.shape[0],), features.shape[1], dtype=torch.int64, device="cpu")
    return torch.from_numpy(found)


def _check_state(name: str, state: Any, count: int, device: torch.device) -> None:
    if state is None:
        return
    if not isinstance(state, Tensor):
        raise TypeError(f"{name}: expected a tensor or None, got {type(state).__name__}")
    checks.kind_of(name, state)
    if state.dim() == 0 or state.shape[0] != count or state.device != device:
        raise ValueError(
            f"{name}: expected {count} rows (one per item) on {device}, "
            f"got shape {tuple(state.shape)} on {state.device}"
        )
