"""Seeded random features of unit length, of the usual sizes and with MS-COCO's caption lengths."""

from __future__ import annotations

import functools
import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.settings import REGIONS

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_captions_val2017.txt.gz"

# Where the sample is not there: thousandths of the captions of MS-COCO val2017 that have 9, 10, 11, … tokens.
SHORTEST = 9
SHARES = (4, 50, 170, 207, 190, 142, 90, 57, 33, 20, 12, 8, 5, 3, 2, 1, 1, 1, 1, 1)


@functools.cache
def length_pool() -> np.ndarray:
    """Tokens of many MS-COCO captions: words, punctuation, start and end; of the sample, else of the shares."""
    if not SAMPLE.is_file():
        return np.repeat(np.arange(len(SHARES)) + SHORTEST, SHARES)
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as lines:
        captions = [line.rstrip("\n").partition("\t")[2].lower() for line in lines]
    return np.array([len(re.findall(r"\w+|[^\w\s]", caption)) + 2 for caption in captions])


def caption_lengths(count: int, seed: int = 0) -> np.ndarray:
    """(count,) int64 lengths drawn from the pool."""
    return np.random.default_rng(seed).choice(length_pool(), count).astype(np.int64)


def unit_rows(rows: int, width: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """(rows, width), each of length 1; made part by part, so that the peak of memory is the result."""
    x = torch.empty(rows, width, dtype=dtype, device=generator.device)
    for part in x.split(4096):
        drawn = torch.empty(part.shape, device=x.device).normal_(generator=generator)
        part.copy_(drawn / drawn.norm(dim=1, keepdim=True))
    return x


@dataclass(frozen=True)
class Features:
    """Images and captions as an encoder leaves them.

    Args:
        images: (N, R, D).
        words: (ΣL, D) packed.
        lengths: (M,) int64.
    """

    images: Tensor
    words: Tensor
    lengths: np.ndarray

    @property
    def pairs(self) -> int:
        """N × M."""
        return len(self.images) * len(self.lengths)

    @property
    def regions(self) -> Tensor:
        """(ΣR, D), the images' regions one behind another."""
        return self.images.flatten(0, 1)

    @property
    def region_offsets(self) -> Tensor:
        """(N + 1,) int64."""
        return torch.arange(len(self.images) + 1) * self.images.shape[1]

    @property
    def word_offsets(self) -> Tensor:
        """(M + 1,) int64."""
        return torch.from_numpy(np.concatenate([[0], np.cumsum(self.lengths)]))

    def padded(self) -> Tensor:
        """(M, longest, D), 0 in the padding, as the field's code takes captions."""
        return torch.nn.utils.rnn.pad_sequence(self.words.split(self.lengths.tolist()), batch_first=True)

    def to(self, dtype: torch.dtype) -> Features:
        """The same in another dtype."""
        return Features(self.images.to(dtype), self.words.to(dtype), self.lengths)

    def first(self, images: int, captions: int) -> Features:
        """The first images and captions, without a copy."""
        lengths = self.lengths[:captions]
        return Features(self.images[:images], self.words[: int(lengths.sum())], lengths)


def features(
    images: int,
    captions: int,
    width: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Features:
    """Seeded features with MS-COCO's caption lengths and 36 regions an image, drawn where they are to lie."""
    generator = torch.Generator(device).manual_seed(seed)
    lengths = caption_lengths(captions, seed)
    v = unit_rows(images * REGIONS, width, generator, dtype).view(images, REGIONS, width)
    return Features(v, unit_rows(int(lengths.sum()), width, generator, dtype), lengths)
