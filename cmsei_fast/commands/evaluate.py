"""``cmsei-fast evaluate``: recalls on a split, of trained models or of an untrained encoding by words."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

from ..version import __version__
from .paths import check_outputs, given_path
from .processes import join_processes
from .scored_split import write_scored_split
from .scoring import encoded_file, load_models, mean_stream
from .scoring_flags import (
    add_encoded_flag,
    add_protocol_flags,
    add_scoring_flags,
    check_protocol,
    folds_of,
    warn_unusual_counts,
)
from .sources import SCORERS, is_split_file, load_split

if TYPE_CHECKING:
    import numpy as np

    from ..data import Split
    from ..retrieval import RecallMetrics
    from ..scorer import PairScorer
    from ..tiling import ScoreTiles, TileStream


def add_parser(commands: Any) -> None:
    """Adds the command ``evaluate``."""
    evaluate = commands.add_parser(
        "evaluate",
        help="compute recalls of trained models, or of an untrained encoding, on a split",
        description="Scores every image of a split with every caption and prints the recalls in both directions. The "
        "scores of several models are averaged (an ensemble). The score matrix is not held in memory: --scores writes "
        "it to a file, and --resume continues an interrupted run. Without --model, the split must be JSON lines of "
        "scene graphs: its images and captions are encoded by their words alone, without training.",
    )
    evaluate.add_argument("path", type=given_path, help="split to evaluate on (.h5, .jsonl or .jsonl.gz)")
    evaluate.add_argument(
        "--model",
        type=given_path,
        action="append",
        metavar="DIR",
        help="directory of a saved model; repeat it to average the scores of several (an ensemble)",
    )
    evaluate.add_argument("--scorer", choices=SCORERS, help="scorer to use without --model (default: scan_t2i)")
    add_protocol_flags(evaluate)
    evaluate.add_argument(
        "--scores",
        type=given_path,
        metavar="NPY",
        help="also save the score matrix, of shape (n_image, n_caption), to this .npy file, and which split it is of "
        "beside it, in NPY.split",
    )
    evaluate.add_argument("--resume", action="store_true", help="continue an unfinished file of --scores")
    add_encoded_flag(evaluate)
    evaluate.add_argument("--json", type=given_path, metavar="OUT", help="also write the results to this JSON file")
    add_scoring_flags(evaluate)
    evaluate.set_defaults(run=_evaluate, flag_for={"out": "--scores"})


def _evaluate(arguments: argparse.Namespace) -> int:
    with join_processes(arguments.device, lambda: _check(arguments)) as (device, folds):
        from ..process_group import rank_and_world

        _run(arguments, str(device), folds, first=rank_and_world()[0] == 0)
    return 0


def _resume_point(scores: str) -> str | None:
    """Says from what an interrupted run continues; None if no scores are saved."""
    from ..score_record import PART

    return f"with what {scores + PART} has" if os.path.exists(scores + PART) else None


def _check(arguments: argparse.Namespace) -> int:
    """Checks all that can be checked of the flags alone, and returns the number of folds."""
    from ..score_record import ENDING

    check_outputs({"--scores": arguments.scores}, {"path": arguments.path}, ENDING)
    others = {"path": arguments.path, "--scores": arguments.scores}
    check_outputs({"--json": arguments.json, "--encoded": arguments.encoded}, others)
    if arguments.scores is not None and not arguments.scores.endswith(".npy"):
        raise ValueError(f"--scores: expected the name of a file that ends in .npy, got {arguments.scores}")
    if arguments.resume and arguments.scores is None:
        raise ValueError("--resume: expected --scores with the file to continue, got none")
    folds = folds_of(arguments)
    if arguments.encoded is not None and not arguments.model:
        raise ValueError("--encoded: expected --model with what encodes the split, got none")
    if arguments.model and arguments.scorer is not None:
        raise ValueError("--scorer: expected none beside --model (a model has its own), got one")
    return folds


def _run(arguments: argparse.Namespace, device: str, folds: int, first: bool) -> None:
    """Evaluates in all processes of ``torchrun``; only the first one writes and prints."""
    from ..process_group import default_group, together

    arguments.progress &= first
    source = "model" if arguments.model else "scorer"
    stream: ScoreTiles
    if arguments.model:
        with together():
            split = _load_checked_split(arguments, folds)
            loaded = load_models(arguments.model, arguments, device)
        kept = encoded_file(arguments, loaded, split, default_group())
        stream = mean_stream(loaded, arguments, split, split.captions, group=default_group(), kept=kept)
        owner = split.caption_to_image
        names: Any = arguments.model
        heading = f"{' + '.join(names)}; recalls in percent, a tie counts as half a rank\n"
    else:
        names = arguments.scorer or "scan_t2i"
        with together():
            stream, owner = _lexical_stream(arguments, SCORERS[names]())
        heading = f"{names} on an untrained encoding by words; recalls in percent, a tie counts as half a rank\n"
    n_image, n_caption = stream.shape
    if first:
        warn_unusual_counts(arguments, n_image, owner)
    if folds > 1:
        heading = f"mean over {folds} folds of {n_image // folds:,} images each, by {heading}"
    start = time.perf_counter()
    metrics, pairs = _measure(arguments, stream, owner, folds)
    speed = pairs / (time.perf_counter() - start)
    if not first:
        return
    try:  # write the files first: printing fails if the reader has left
        if arguments.scores is not None:
            scored = split if arguments.model else load_split(arguments.path)
            write_scored_split(arguments.scores, scored, arguments.path, arguments.model or [names])
        if arguments.json is not None:
            from ..data.json_object import write_json

            result = {"path": arguments.path, "images": n_image, "captions": n_caption, source: names}
            result |= {"engine": stream.problems[0].engine, "precision": stream.problems[0].precision}
            result |= {"version": __version__}
            write_json(arguments.json, result | metrics.to_dict() | {"pairs_per_second": speed})
    finally:
        print(f"{arguments.path}: {n_image} images, {n_caption} captions")
        print(heading)
        print(metrics)
        print(f"{'pairs/s':15}{speed:7.0f}")


def _load_checked_split(arguments: argparse.Namespace, folds: int) -> Split:
    """Loads the split.

    Raises:
        OSError: it cannot be read.
        ValueError: it has no captions, or its images cannot be split into so many folds.
    """
    from ..retrieval.metrics import check_map, split_folds

    split = load_split(arguments.path)
    if not split.captions:
        raise ValueError("split: expected captions to score images with, got none")
    check_protocol(arguments, len(split))
    split_folds(check_map(len(split), split.n_captions, 1, split.caption_to_image), len(split), folds)
    return split


def _measure(
    arguments: argparse.Namespace, stream: ScoreTiles, owner: np.ndarray, folds: int
) -> tuple[RecallMetrics, int]:
    """The recalls and the number of pairs scored; the matrix goes to the file of ``--scores``, or is never whole."""
    from ..distributed import Team
    from ..process_group import default_group
    from ..retrieval import recall_metrics
    from ..retrieval.evaluation import count_ranks
    from ..retrieval.metrics import check_map
    from ..retrieval.rank_count import RankCount
    from ..score_file import write_scores

    n_image, n_caption = stream.shape
    owner = check_map(n_image, n_caption, 1, owner)
    ranks = RankCount(owner, n_image, folds, stream.dtype, stream.device)
    team = Team(default_group(), stream)
    if arguments.scores is None:
        pairs = count_ranks(stream, ranks, arguments.progress, team)
        return ranks.metrics(), pairs
    team.agree(scores=arguments.scores, resume=arguments.resume)
    arguments.resume_point = lambda: _resume_point(arguments.scores)
    scores, pairs = write_scores(stream, arguments.scores, arguments.resume, arguments.progress, team)
    return recall_metrics(scores, caption_to_image=owner, folds=folds), pairs


def _lexical_stream(arguments: argparse.Namespace, scorer: PairScorer) -> tuple[TileStream, np.ndarray]:
    """The scores of the lexical encoding, and (n_caption,) the image of each caption."""
    from ..data import lexical_encoding, read_scenes
    from ..scoring import prepare
    from ..tiling import TileStream

    if is_split_file(arguments.path):
        raise ValueError(
            f"--model: expected a saved model for {arguments.path} (only JSON lines of scene graphs need none), "
            "got none"
        )
    scenes = read_scenes(arguments.path)
    check_protocol(arguments, len(scenes))
    encoding = lexical_encoding(scenes)
    features = (encoding.regions, encoding.words, encoding.word_lengths, encoding.region_lengths)
    return TileStream(prepare(*features, scorer, arguments.engine, arguments.precision)), encoding.caption_to_image
