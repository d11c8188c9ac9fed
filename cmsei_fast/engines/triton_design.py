"""Chooses the design of the pair score's forward pass: for large problems on a GPU by measurement, else a fixed one.

``chunked``: a library multiplies a chunk that fits the L2 cache, then a kernel scores it (``triton_pair``).
``fused``, with a tile's size, as in ``fused 128x256``: one persistent kernel, a tile at a time (``triton_fused``).
"""

from __future__ import annotations

import os
import warnings
from typing import TypeAlias

import torch
from torch import Tensor

from cmsei_fast.engines import triton_fused, triton_pair
from cmsei_fast.engines.triton_launch import choices, seconds

Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[int], str]

VARIABLE = "CMSEI_TRITON_DESIGN"
DESIGNS = ("chunked", "fused")
FIXED = "chunked"  # if nothing is measured, because a library's product is fast on every GPU

# Problems of at least so many pairs measure the choice; smaller ones take less time than a measurement.
MEASURED_PAIRS = 1 << 20
# Images and captions of the part that is measured: 1.3 million pairs, about 10 ms each time at best.
_PART = (512, 2560)


def requested_design() -> str | None:
    """The design that the environment variable names, None if it is unset or empty."""
    return os.environ.get(VARIABLE, "").strip().lower() or None


def problem() -> str | None:
    """Says what is wrong with the environment variable; None if it is valid."""
    if (design := requested_design()) in (None, *DESIGNS):
        return None
    return f"{VARIABLE}: expected one of {', '.join(DESIGNS)}, or unset for the faster, got {design!r}"


def describe() -> str:
    """The choice as ``cmsei-fast doctor`` shows it."""
    if (design := requested_design()) is not None:
        return f"pair_score by the design {design!r} ({VARIABLE})"
    if torch.cuda.is_available():
        measured = choices(torch.cuda.current_device()).found
        fastest = {_candidate_names(key)[index] for key, index in measured.items() if key.startswith("design ")}
        if fastest:
            return f"pair_score by the design measured fastest: so far {', '.join(sorted(fastest))}"
    return f"pair_score by the design {FIXED!r}, on a GPU from {MEASURED_PAIRS} pairs on by the fastest measured"


def _key(candidates: list[triton_fused.Tile | None], inputs: Inputs) -> str:
    """The key of a stored choice: the candidates' names, and the properties of the problem that affect their speed."""
    regions, _, region_offsets, word_offsets, _, config, precision = inputs
    names = "|".join(FIXED if x is None else x.name for x in candidates)
    return (
        f"design {names} of {precision} D={regions.shape[1]} R={_mean(region_offsets)} L={_mean(word_offsets)} {config}"
    )


def _candidate_names(key: str) -> list[str]:
    """The candidates' names in a key of :func:`_key`."""
    return key.removeprefix("design ").split(" of ")[0].split("|")


def pair_score(
    regions: Tensor,
    words: Tensor,
    region_offsets: Tensor,
    word_offsets: Tensor,
    scalars: Tensor,
    config: list[int],
    precision: str,
) -> Tensor:
    """Scores (N, M); arguments as ``triton_pair.pair_score`` takes them."""
    inputs = regions, words, region_offsets, word_offsets, scalars, config, precision
    candidates: list[triton_fused.Tile | None] = [None, *_fitting_tiles(region_offsets, word_offsets, precision)]
    design = requested_design()
    if design is None:
        return _score(candidates[_fastest_index(candidates, inputs)], inputs)
    if design == "chunked":
        return _score(None, inputs)
    if len(candidates) == 1:
        reason = triton_fused.too_large(triton_fused.TILES[precision][0], region_offsets, word_offsets)
        warnings.warn(f"{VARIABLE}=fused: {reason}; the design chunked is used", stacklevel=2)
        return _score(None, inputs)
    return _score(candidates[1], inputs)


def _fitting_tiles(region_offsets: Tensor, word_offsets: Tensor, precision: str) -> list[triton_fused.Tile]:
    return [x for x in triton_fused.TILES[precision] if triton_fused.too_large(x, region_offsets, word_offsets) is None]


def _score(tile: triton_fused.Tile | None, inputs: Inputs) -> Tensor:
    return triton_pair.pair_score(*inputs) if tile is None else triton_fused.pair_score(*inputs, tile)


def _fastest_index(candidates: list[triton_fused.Tile | None], inputs: Inputs) -> int:
    """Index of the candidate that is fastest on the first items, or of the fixed choice."""
    regions, words, region_offsets, word_offsets, scalars, config, precision = inputs
    pairs = (len(region_offsets) - 1) * (len(word_offsets) - 1)
    if not regions.is_cuda or pairs < MEASURED_PAIRS:
        return candidates.index(None)
    stored = choices(torch.cuda.current_device() if regions.device.index is None else regions.device.index)
    key = _key(candidates, inputs)
    if torch.cuda.is_current_stream_capturing():  # nothing can be measured: an earlier choice, or the fixed one
        known_index = stored.known(key, candidates)
        return candidates.index(None) if known_index is None else known_index
    part_v, part_w = (x[: n + 1] for x, n in zip((region_offsets, word_offsets), _PART, strict=True))
    part = regions[: int(part_v[-1])], words[: int(part_w[-1])], part_v, part_w, scalars, config, precision
    return stored.best(key, candidates, lambda tile: seconds(lambda: _score(tile, part)))


def _mean(offsets: Tensor) -> int:
    """Padded size of an item with the mean number of rows, so that similar problems share a choice."""
    mean = float(offsets[-1]) / (len(offsets) - 1)
    return max(16, 1 << (int(mean) - 1).bit_length())
