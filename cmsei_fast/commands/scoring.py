"""Scores a split by saved models."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..data import Split
    from ..encoded_file import EncodedFile
    from ..ensemble import MeanStream
    from ..model import CMSEI


def load_models(models: list[str], arguments: argparse.Namespace, device: str) -> list[tuple[str, CMSEI]]:
    """Loads the models as (directory, model), and checks that the engine can score them in the precision.

    Raises:
        OSError, ValueError: a model cannot be read, or the engine or precision is unknown.
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
    """The file of ``--encoded`` for these models and this split; None without the flag.

    Raises:
        OSError, ValueError: the file cannot be read, or was written for something else.
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
    """Encodes images of a split (all, or ``images`` in that order) and captions, and returns their mean scores.

    Encodings that ``kept`` holds are read from it, others are written to it.

    Raises:
        ValueError: naming the model, if the split lacks what the model needs.
    """
    from ..ensemble import MeanStream
    from ..process_group import agreed_engine
    from ..scoring import prepare

    def image_name(i: int) -> str:
        place = i if images is None else images[i]
        return f"{place}, {split.ids[place]}"

    def caption_name(j: int) -> str:
        return f"{j}, “{captions[j]}”"

    problems = []
    for number, (name, model) in enumerate(loaded):
        options: dict[str, Any] = {"progress": arguments.progress, "group": group}
        encode_images = functools.partial(model.encode_images, split, images, **options)
        encode_captions = functools.partial(model.encode_captions, captions, **options)
        try:
            regions = encode_images() if kept is None else kept.images(number, images, encode_images)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        words = encode_captions() if kept is None else kept.captions(number, captions, encode_captions)
        scorer, device = model.scorer, model.words.project.weight.device
        engine = agreed_engine(arguments.engine, device, "pair_score", scorer.config())
        regions, words = (x.to(device) for x in (regions, words))
        problem = prepare(
            regions, words, None, None, scorer, engine, arguments.precision, labels=(image_name, caption_name)
        )
        problems.append(problem)
    if kept is not None:
        kept.save()
    return MeanStream(problems)
