"""Flags shared by the commands that score a split."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING

from .paths import given_path
from .progress_flags import add_progress_flags

if TYPE_CHECKING:
    import numpy as np

# (folds, images) of the protocols that papers report, and captions per image.
PROTOCOLS = {"f30k-1k": (1, 1000), "coco-1k": (5, 5000), "coco-5k": (1, 5000)}
CAPTIONS = 5


def add_protocol_flags(parser: argparse.ArgumentParser) -> None:
    """Adds ``--protocol`` and ``--folds``, of which one can be given; :func:`folds_of` reads them."""
    protocol = parser.add_mutually_exclusive_group()
    protocol.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="evaluation protocol: f30k-1k and coco-5k rank all images at once, coco-1k averages five folds (default: "
        "none)",
    )
    protocol.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help="split the images into N consecutive folds of equal size and average over them (default: 1)",
    )


def add_device_flag(parser: argparse.ArgumentParser, purpose: str = "run") -> None:
    """Adds ``--device``, for :func:`cmsei_fast.devices.process_device`."""
    parser.add_argument(
        "--device", help=f"device to {purpose} on: cpu, cuda or cuda:N (default: the GPU if there is one, else cpu)"
    )


def add_scoring_flags(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device``, ``--progress``, ``--quiet`` and the options of :func:`cmsei_fast.score_matrix`."""
    add_device_flag(parser)
    parser.add_argument(
        "--engine",
        default="auto",
        help="engine that computes the scores: auto, reference, eager, native, triton or cuda (default: auto)",
    )
    parser.add_argument(
        "--precision",
        help="what features are rounded to: float32, bfloat16, float16, float64, float8 or int8; sums are in float32, "
        "of float64 in float64 (default: float32)",
    )
    add_progress_flags(parser)


def add_encoded_flag(parser: argparse.ArgumentParser) -> None:
    """Adds ``--encoded``, for :func:`.scoring.encoded_file`."""
    parser.add_argument(
        "--encoded",
        type=given_path,
        metavar="FILE",
        help="file of the encoded split: written where there is none, else read in place of encoding the split again",
    )


def add_thumbnail_flag(parser: argparse.ArgumentParser) -> None:
    """Adds ``--images``, for :class:`cmsei_fast.report.drawings.Drawings`."""
    parser.add_argument(
        "--images",
        type=given_path,
        metavar="DIR",
        help="directory of image files, named as in the split, to show as thumbnails",
    )


def folds_of(arguments: argparse.Namespace) -> int:
    """The number of folds of ``--protocol`` or ``--folds``; 1 without either."""
    folds: int = 1 if arguments.folds is None else arguments.folds
    return folds if arguments.protocol is None else PROTOCOLS[arguments.protocol][0]


def check_protocol(arguments: argparse.Namespace, n_image: int) -> None:
    """Checks that the images can be split into the folds of ``--protocol``; ``--folds`` is checked where it is used.

    Raises:
        ValueError: naming the protocol.
    """
    folds = folds_of(arguments)
    if arguments.protocol is not None and n_image % folds:
        message = f"expected a number of images that {folds} folds divide, got {n_image}"
        raise ValueError(f"--protocol {arguments.protocol}: {message}")


def warn_unusual_counts(arguments: argparse.Namespace, n_image: int, owner: np.ndarray) -> None:
    """Warns on standard error if a protocol is used with other numbers of images or captions than in papers.

    Args:
        arguments: with the flags of :func:`add_protocol_flags`.
        n_image: number of images.
        owner: (n_caption,) image of each caption.
    """
    if arguments.protocol is None:
        return
    if n_image != PROTOCOLS[arguments.protocol][1]:
        _warn_unusual_size(arguments, n_image)
    counts = sorted({*Counter(owner.tolist()).values()})
    if counts != [CAPTIONS]:
        have = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        fewer = f" (convert --max-captions {CAPTIONS} keeps the first {CAPTIONS})" if counts[-1] > CAPTIONS else ""
        print(
            f"cmsei-fast: warning: --protocol {arguments.protocol}: papers have {CAPTIONS} captions of each image, "
            f"this split has {have}; more captions give higher recalls from image to text{fewer}",
            file=sys.stderr,
        )


def _warn_unusual_size(arguments: argparse.Namespace, n_image: int) -> None:
    expected = PROTOCOLS[arguments.protocol][1]
    folds = folds_of(arguments)
    what = f"{expected:,} images" if folds == 1 else f"{expected:,} images ({folds} folds of {expected // folds:,})"
    each = f", {n_image // folds:,} a fold" if folds > 1 else ""
    print(
        f"cmsei-fast: warning: --protocol {arguments.protocol}: papers have {what}, this split has {n_image:,}{each}; "
        "fewer images give higher recalls",
        file=sys.stderr,
    )
