"""What commands that score a split share: their flags, and the scores of saved models."""

from __future__ import annotations

import argparse
import functools
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from .paths import given_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ..data import Split
    from ..encoded_file import EncodedFile
    from ..ensemble import MeanStream
    from ..model import CMSEI

# Folds and images of the protocols that papers report, and captions of an image.
PROTOCOLS = {"f30k-1k": (1, 1000), "coco-1k": (5, 5000), "coco-5k": (1, 5000)}
CAPTIONS = 5


def add_protocol_flags(parser: argparse.ArgumentParser) -> None:
    """``--protocol`` or ``--folds``; :func:`folds_of` reads them."""
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


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """``--device``, for :func:`cmsei_fast.devices.own_device`."""
    parser.add_argument(
        "--device", help="device to run on: cpu, cuda or cuda:N (default: the GPU if there is one, else cpu)"
    )


def add_scoring_flags(parser: argparse.ArgumentParser) -> None:
    """The device of the models, and flags of :func:`cmsei_fast.score_matrix`."""
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
    parser.add_argument(
        "--progress", action="store_true", help="show progress: a bar on a terminal, else a line every ten seconds"
    )


def add_encoded_flag(parser: argparse.ArgumentParser) -> None:
    """``--encoded``, for :func:`encoded_file`."""
    parser.add_argument(
        "--encoded",
        type=given_path,
        metavar="FILE",
        help="file of the encoded split: written where there is none, else read in place of encoding the split again",
    )


def add_thumbnail_flag(parser: argparse.ArgumentParser) -> None:
    """``--images``, for :class:`cmsei_fast.report.drawings.Drawings`."""
    parser.add_argument(
        "--images",
        type=given_path,
        metavar="DIR",
        help="directory of image files, named as in the split, to show as thumbnails",
    )


def folds_of(arguments: argparse.Namespace) -> int:
    """The folds of ``--protocol`` or ``--folds``; one without either."""
    folds: int = 1 if arguments.folds is None else arguments.folds
    return folds if arguments.protocol is None else PROTOCOLS[arguments.protocol][0]


def tell_counts(arguments: argparse.Namespace, n_image: int, owner: np.ndarray) -> None:
    """Warns on standard error of a protocol on other numbers than papers report it for.

    Args:
        arguments: with the flags of :func:`add_protocol_flags`.
        n_image: number of images.
        owner: (n_caption,) image of each caption.
    """
    if arguments.protocol is None:
        return
    if n_image != PROTOCOLS[arguments.protocol][1]:
        _tell_size(arguments, n_image)
    counts = sorted({*Counter(owner.tolist()).values()})
    if counts != [CAPTIONS]:
        have = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        fewer = f" (convert --max-captions {CAPTIONS} keeps the first {CAPTIONS})" if counts[-1] > CAPTIONS else ""
        print(
            f"cmsei-fast: warning: --protocol {arguments.protocol}: papers have {CAPTIONS} captions of each image, "
            f"this split has {have}; more captions give higher recalls from image to text{fewer}",
            file=sys.stderr,
        )


def _tell_size(arguments: argparse.Namespace, n_image: int) -> None:
    expected = PROTOCOLS[arguments.protocol][1]
    folds = folds_of(arguments)
    what = f"{expected:,} images" if folds == 1 else f"{expected:,} images ({folds} folds of {expected // folds:,})"
    each = f", {n_image // folds:,} a fold" if folds > 1 else ""
    print(
        f"cmsei-fast: warning: --protocol {arguments.protocol}: papers have {what}, this split has {n_image:,}{each}; "
        "fewer images give higher recalls",
        file=sys.stderr,
    )


def stream_of_models(
    models: list[str], arguments: argparse.Namespace, split: Split, device: str, group: Any = None
) -> MeanStream:
    """The models' mean scores, tile by tile, once the split is encoded by each; a group shares the encoding.

    Args:
        models: directories of saved models, at least one.
        arguments: with the flags of :func:`add_scoring_flags`, but for the device, and of :func:`add_encoded_flag`.
        split: what is scored.
        device: of the models.
        group: of torch.distributed, or None.

    Raises:
        ValueError: for a split without captions, an unknown engine or precision, or a split that lacks what a model is
            built on, naming the model; what :func:`encoded_file` refuses.
        EngineUnavailable: if the engine cannot run here. All but what a model lacks is told before any is encoded.
    """
    if not split.captions:
        raise ValueError("split: expected captions to score images with, got none")
    loaded = load_models(models, arguments, device)
    kept = encoded_file(arguments, loaded, split, group)
    return mean_stream(loaded, arguments, split, split.captions, group=group, kept=kept)


def load_models(models: list[str], arguments: argparse.Namespace, device: str) -> list[tuple[str, CMSEI]]:
    """The models with their directories, once it is known that the engine can score in the precision.

    Raises:
        OSError, ValueError: a model cannot be read; an unknown engine or precision.
        EngineUnavailable: if the engine cannot run here.
    """
    import torch

    from .. import engines
    from ..checks import check_precision
    from ..model import CMSEI

    check_precision(arguments.precision, torch.float32)
    loaded = [(name, CMSEI.from_pretrained(name, device)) for name in models]
    for _, model in loaded:
        engines.resolve(arguments.engine, device, "pair_score", model.scorer.config())
    return loaded


def encoded_file(
    arguments: argparse.Namespace, loaded: Sequence[tuple[str, CMSEI]], split: Split, group: Any = None
) -> EncodedFile | None:
    """What ``--encoded`` keeps of the split by these models; None without it.

    Raises:
        OSError, ValueError: the file cannot be read, or is of something else.
    """
    if arguments.encoded is None:
        return None
    from ..encoded_file import EncodedFile

    return EncodedFile(arguments.encoded, [model for _, model in loaded], split, group)


def mean_stream(
    loaded: Sequence[tuple[str, CMSEI]],
    arguments: argparse.Namespace,
    split: Split,
    captions: Sequence[str],
    images: Sequence[int] | None = None,
    group: Any = None,
    kept: EncodedFile | None = None,
) -> MeanStream:
    """The mean scores of a split's images, all or some in this order, with the captions, once each model encoded them.

    What ``kept`` has is not encoded, and what it lacks is written to it.

    Raises:
        ValueError: for a split that lacks what a model is built on, naming the model.
    """
    from ..encoded import Encoded
    from ..ensemble import MeanStream
    from ..process_group import agreed_engine
    from ..scoring import prepare

    problems = []
    for number, (name, model) in enumerate(loaded):
        options: dict[str, Any] = {"progress": arguments.progress, "group": group}
        of_images = functools.partial(model.encode_images, split, images, **options)
        of_captions = functools.partial(model.encode_captions, captions, **options)
        try:
            regions = of_images() if kept is None else kept.images(number, images, of_images)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        words = of_captions() if kept is None else kept.captions(number, captions, of_captions)
        scorer, own = model.scorer, model.words.project.weight.device
        engine = agreed_engine(arguments.engine, own, "pair_score", scorer.config())
        regions, words = (Encoded(x.rows.to(own), x.lengths) for x in (regions, words))
        problems.append(prepare(regions, words, None, None, scorer, engine, arguments.precision))
    if kept is not None:
        kept.save()
    return MeanStream(problems)
