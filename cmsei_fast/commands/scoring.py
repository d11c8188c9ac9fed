"""The scores of saved models on a split."""

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

    def image(i: int) -> str:
        place = i if images is None else images[i]
        return f"{place}, {split.ids[place]}"

    def caption(j: int) -> str:
        return f"{j}, “{captions[j]}”"

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
        problem = prepare(regions, words, None, None, scorer, engine, arguments.precision, told=(image, caption))
        problems.append(problem)
    if kept is not None:
        kept.save()
    return MeanStream(problems)
