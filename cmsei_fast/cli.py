"""The command ``cmsei-fast``: evaluate a file of scene graphs, run a demonstration, diagnose the installation."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .commands import convert
from .scorer import PairScorer
from .version import __version__

if TYPE_CHECKING:
    from .retrieval import RecallMetrics

SCORERS = {"scan_t2i": PairScorer.scan_t2i, "scan_i2t": PairScorer.scan_i2t, "cmsei": PairScorer.cmsei}

BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; its status is 0, 1 (doctor found a disagreement), 2 (bad input) or 130 (interrupted)."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("cmsei-fast: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing to flush at exit
        return 0
    except (OSError, ValueError, TypeError, MemoryError, RuntimeError) as error:
        if not _explains_itself(error):
            raise
        print(f"cmsei-fast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    return status


def _explains_itself(error: Exception) -> bool:
    """Whether the error is one that the user's input or machine can cause; any other RuntimeError is a defect."""
    from .engines import EngineUnavailable

    return not isinstance(error, RuntimeError) or isinstance(error, EngineUnavailable)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cmsei-fast", description="Fast cross-modal scores of images and sentences.")
    parser.add_argument("--version", action="version", version=f"cmsei-fast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    evaluate = commands.add_parser(
        "evaluate",
        help="retrieval on a file of scene graphs",
        description="Scores every image of a JSON-lines file of scene graphs with every caption, both encoded by their "
        "words alone (nothing is trained), and prints recalls in both directions.",
    )
    evaluate.add_argument("path", help="scene graphs, .jsonl or .jsonl.gz")
    evaluate.add_argument("--scorer", choices=SCORERS, default="scan_t2i", help="default: scan_t2i")
    evaluate.add_argument("--json", metavar="OUT", help="write the results to this file too")
    evaluate.set_defaults(run=_evaluate)

    demo = commands.add_parser(
        "demo",
        help="score and evaluate generated scenes",
        description="Generates scenes whose images come in groups with the same objects in different relations, scores "
        "them with each preset and evaluates.",
    )
    demo.add_argument("--groups", type=int, default=60, help="groups of four images (default: 60)")
    demo.add_argument("--seed", type=int, default=0, help="of the scenes (default: 0)")
    demo.set_defaults(run=_demo)

    for command in (evaluate, demo):
        command.add_argument("--engine", default="auto", help="auto (default) or the name of an engine")
        command.add_argument("--precision", help="float32 (default), bfloat16, float16 or float64")
        command.add_argument("--progress", action="store_true", help="show a progress bar")

    convert.add_parser(commands)

    doctor = commands.add_parser("doctor", help="what can run here, what cannot and why, and whether it is right")
    doctor.set_defaults(run=_doctor)
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.json is not None:
        _check_directory(arguments.json)
    from .data import lexical_encoding, read_scenes

    encoding = lexical_encoding(read_scenes(arguments.path))
    metrics, speed = _score(
        arguments,
        SCORERS[arguments.scorer](),
        (encoding.regions, encoding.words, encoding.word_lengths, encoding.region_lengths),
        encoding.caption_to_image,
    )
    n_image, n_caption = len(encoding.region_lengths), len(encoding.word_lengths)
    print(f"{arguments.path}: {n_image} images, {n_caption} captions")
    print(f"{arguments.scorer} on an untrained encoding by words; recalls in percent, a tie counts as half a rank\n")
    print(metrics)
    print(f"{'pairs/s':15}{speed:7.0f}")
    if arguments.json is not None:
        result = {"path": arguments.path, "images": n_image, "captions": n_caption, "scorer": arguments.scorer}
        result |= {"engine": _engine(arguments), "precision": arguments.precision or "float32", "version": __version__}
        _write_json(arguments.json, result | metrics.to_dict() | {"pairs_per_second": speed})
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    import numpy as np

    from .data import synthetic_scenes, tokenize, word_vector

    made = synthetic_scenes(arguments.groups, seed=arguments.seed)
    sentences = [tokenize(caption) for caption in made.scenes.captions]
    width = made.features.shape[2]
    table = {word: word_vector(word, width) for word in sorted({word for sentence in sentences for word in sentence})}
    words = np.stack([table[word] for sentence in sentences for word in sentence])
    lengths = [len(sentence) for sentence in sentences]
    n_image, n_caption = len(made.scenes), len(sentences)
    print(
        f"{n_image} generated images of {made.features.shape[1]} regions, {n_caption} captions of {min(lengths)} to "
        f"{max(lengths)} words"
    )
    print(
        "Images come in groups of four with the same objects in different relations. Nothing is trained here, and\n"
        "words alone do not tell a group's images apart: a quarter of the first places is what can be expected.\n"
    )
    print(f"{'':10}{'image to text':^24}{'text to image':^24}")
    print(f"{'':10}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'rSum':>8}{'pairs/s':>12}")
    for name, preset in SCORERS.items():
        metrics, speed = _score(
            arguments, preset(), (made.features, words, lengths, None), made.scenes.caption_to_image
        )
        recalls = [r for d in (metrics.i2t, metrics.t2i) for r in (d.r1, d.r5, d.r10)]
        print(f"{name:10}{''.join(f'{r:8.1f}' for r in recalls)}{metrics.rsum:8.1f}{speed:12.0f}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import doctor

    return doctor()


def _score(
    arguments: argparse.Namespace, scorer: PairScorer, features: tuple[Any, ...], caption_to_image: Any
) -> tuple[RecallMetrics, float]:
    """Metrics, and pairs scored in a second."""
    from .retrieval import recall_metrics
    from .scoring import score_matrix

    start = time.perf_counter()
    scores = score_matrix(
        *features, scorer=scorer, engine=arguments.engine, precision=arguments.precision, progress=arguments.progress
    )
    seconds = time.perf_counter() - start
    return recall_metrics(scores, caption_to_image=caption_to_image), scores.size / seconds


def _engine(arguments: argparse.Namespace) -> str:
    from .engines import choose

    chosen: str = choose("cpu", "pair_score") if arguments.engine == "auto" else arguments.engine
    return chosen


def _check_directory(path: str) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise ValueError(f"--json: expected a file in an existing directory, got {path}")
    if os.path.isdir(path):
        raise ValueError(f"--json: expected a file, got the directory {path}")


def _write_json(path: str, result: dict[str, Any]) -> None:
    """Writes to a temporary name beside the file, then renames: a reader never sees half of it."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
