"""``cmsei-fast evaluate``: retrieval on a split, by trained models or by an untrained encoding of words."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING, Any

from ..version import __version__
from .sources import SCORERS, is_split_file, load_split

if TYPE_CHECKING:
    import numpy as np

    from ..data import Split
    from ..scorer import PairScorer

# Folds of the protocols that papers report.
PROTOCOLS = {"f30k-1k": 1, "coco-1k": 5, "coco-5k": 1}


def add_parser(commands: Any) -> None:
    """Adds ``evaluate``."""
    evaluate = commands.add_parser(
        "evaluate",
        help="recalls of trained models, or of an untrained encoding, on a split",
        description="Scores every image of a split with every caption and prints recalls in both directions. Several "
        "models are an ensemble: their score matrices are averaged. Without a model, images and captions of JSON lines "
        "of scene graphs are encoded by their words alone (nothing is trained).",
    )
    evaluate.add_argument("path", help="split: .h5, .jsonl or .jsonl.gz")
    evaluate.add_argument("--model", action="append", metavar="DIR", help="a saved model; more than one is an ensemble")
    evaluate.add_argument("--scorer", choices=SCORERS, help="without a model (default: scan_t2i)")
    protocol = evaluate.add_mutually_exclusive_group()
    protocol.add_argument("--protocol", choices=PROTOCOLS, help="f30k-1k and coco-5k: all images; coco-1k: five folds")
    protocol.add_argument("--folds", type=int, help="mean over so many equal runs of images (default: 1)")
    evaluate.add_argument("--scores", metavar="NPY", help="save the score matrix (n_image, n_caption) here")
    evaluate.add_argument("--json", metavar="OUT", help="write the results to this file too")
    evaluate.add_argument("--device", help="of the models; default: the GPU if there is one")
    add_scoring_flags(evaluate)
    evaluate.set_defaults(run=_evaluate)


def add_scoring_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of :func:`cmsei_fast.score_matrix`."""
    parser.add_argument("--engine", default="auto", help="auto (default) or the name of an engine")
    parser.add_argument("--precision", help="float32 (default), bfloat16, float16 or float64")
    parser.add_argument("--progress", action="store_true", help="show a progress bar")


def _evaluate(arguments: argparse.Namespace) -> int:
    for flag, path in (("--json", arguments.json), ("--scores", arguments.scores)):
        if path is not None:
            check_file(flag, path)
    folds = PROTOCOLS.get(arguments.protocol, arguments.folds or 1)
    if arguments.model and arguments.scorer is not None:
        raise ValueError("--scorer: expected none beside --model (a model has its own), got one")
    from ..retrieval import recall_metrics

    by = "model" if arguments.model else "scorer"
    if arguments.model:
        split = load_split(arguments.path)
        scores, seconds = scores_by_models(arguments, split)
        owner, what = split.caption_to_image, " + ".join(arguments.model)
        named: Any = arguments.model
        heading = f"{what}; recalls in percent, a tie counts as half a rank\n"
    else:
        named = arguments.scorer or "scan_t2i"
        scores, seconds, owner = _by_words(arguments, SCORERS[named]())
        heading = f"{named} on an untrained encoding by words; recalls in percent, a tie counts as half a rank\n"
    metrics = recall_metrics(scores, caption_to_image=owner, folds=folds)
    n_image, n_caption = scores.shape
    speed = scores.size / seconds
    print(f"{arguments.path}: {n_image} images, {n_caption} captions")
    print(heading)
    print(metrics)
    print(f"{'pairs/s':15}{speed:7.0f}")
    if arguments.scores is not None:
        _save(arguments.scores, scores)
    if arguments.json is not None:
        result = {"path": arguments.path, "images": n_image, "captions": n_caption, by: named}
        result |= {"engine": engine_name(arguments), "precision": arguments.precision or "float32"}
        result |= {"version": __version__}
        write_json(arguments.json, result | metrics.to_dict() | {"pairs_per_second": speed})
    return 0


def scores_by_models(arguments: argparse.Namespace, split: Split) -> tuple[np.ndarray, float]:
    """The mean of the models' score matrices, and the seconds that scoring took."""
    import torch

    from ..model import CMSEI
    from ..scoring import score_matrix

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    models = [CMSEI.from_pretrained(directory, device) for directory in arguments.model]
    total: Any = None
    seconds = 0.0
    for model in models:
        images = model.encode_images(split, progress=arguments.progress)
        captions = model.encode_captions(split.captions, progress=arguments.progress)
        start = time.perf_counter()
        scores = score_matrix(
            images,
            captions,
            scorer=model.scorer,
            engine=arguments.engine,
            precision=arguments.precision,
            progress=arguments.progress,
        )
        seconds += time.perf_counter() - start
        total = scores if total is None else total.add_(scores)
    matrix: np.ndarray = (total / len(models)).cpu().numpy()
    return matrix, seconds


def _by_words(arguments: argparse.Namespace, scorer: PairScorer) -> tuple[np.ndarray, float, Any]:
    """Scores of the lexical encoding, the seconds, and the image of each caption."""
    from ..data import lexical_encoding, read_scenes

    if is_split_file(arguments.path):
        raise ValueError(
            f"--model: expected a saved model for {arguments.path} (only scene graphs go without), got none"
        )
    encoding = lexical_encoding(read_scenes(arguments.path))
    features = (encoding.regions, encoding.words, encoding.word_lengths, encoding.region_lengths)
    scores, seconds = timed_scores(arguments, scorer, features)
    return scores, seconds, encoding.caption_to_image


def timed_scores(arguments: argparse.Namespace, scorer: PairScorer, features: tuple[Any, ...]) -> tuple[Any, float]:
    """The score matrix, and the seconds that it took."""
    from ..scoring import score_matrix

    start = time.perf_counter()
    scores = score_matrix(
        *features, scorer=scorer, engine=arguments.engine, precision=arguments.precision, progress=arguments.progress
    )
    return scores, time.perf_counter() - start


def engine_name(arguments: argparse.Namespace) -> str:
    """The engine behind ``--engine`` on the CPU."""
    from ..engines import choose

    chosen: str = choose("cpu", "pair_score") if arguments.engine == "auto" else arguments.engine
    return chosen


def check_file(flag: str, path: str) -> None:
    """A file can be written there.

    Raises:
        ValueError: naming the flag, if the directory does not exist or the path is one.
    """
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise ValueError(f"{flag}: expected a file in an existing directory, got {path}")
    if os.path.isdir(path):
        raise ValueError(f"{flag}: expected a file, got the directory {path}")


def write_json(path: str, result: dict[str, Any]) -> None:
    """Writes the file whole or not at all."""
    from ..data.files import replacing

    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
        file.write("\n")


def _save(path: str, scores: np.ndarray) -> None:
    import numpy as np

    from ..data.files import replacing

    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, scores, allow_pickle=False)
