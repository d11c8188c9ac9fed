"""``cmsei-fast report``: writes a page about a run's evaluation or about any saved score matrix."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import __version__
from .paths import check_outputs, given_path
from .saved_scores import average_scores, captions_of, owner_of
from .scored_split import scored_by
from .scoring import encoded_file, load_models, mean_stream
from .scoring_flags import (
    add_encoded_flag,
    add_protocol_flags,
    add_scoring_flags,
    add_thumbnail_flag,
    check_protocol,
    folds_of,
    warn_unusual_counts,
)
from .settings import check_minimum
from .sources import load_split

if TYPE_CHECKING:
    import numpy as np

    from ..data import Split


def add_parser(commands: Any) -> None:
    """Adds the command ``report``."""
    report = commands.add_parser(
        "report",
        help="write an HTML page about an evaluation: recalls with intervals, ranks, worst and best queries, training",
        description="Writes a self-contained HTML page about an evaluation. Given a run, its model is evaluated on "
        "--split, unless --scores holds its scores; for any other model, --scores alone is enough.",
    )
    report.add_argument(
        "run_directory", type=given_path, nargs="?", metavar="RUN", help="run directory of cmsei-fast train"
    )
    report.add_argument("--split", type=given_path, help="split to evaluate on and to show (.h5, .jsonl or .jsonl.gz)")
    report.add_argument(
        "--scores",
        type=given_path,
        action="append",
        metavar="NPY",
        help="saved score matrix, a .npy file of shape (n_image, n_caption), to report on instead of running a model; "
        "repeat it to average several (an ensemble)",
    )
    report.add_argument(
        "--which",
        choices=("best", "last"),
        help="which model of the run to evaluate (default: best if there is one, else last)",
    )
    report.add_argument(
        "--captions", type=given_path, metavar="TXT", help="without --split: text file of the captions, one per line"
    )
    owner = report.add_mutually_exclusive_group()
    owner.add_argument(
        "--captions-per-image", type=int, metavar="K", help="without --split: number of captions per image (default: 5)"
    )
    owner.add_argument(
        "--caption-to-image",
        type=given_path,
        metavar="FILE",
        help="without --split: .npy or text file with the image index of each caption, counted from 0",
    )
    add_encoded_flag(report)
    add_protocol_flags(report)
    add_thumbnail_flag(report)
    report.add_argument(
        "--queries",
        type=int,
        default=5,
        metavar="N",
        help="number of worst and of best queries to show in each direction (default: 5)",
    )
    report.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed for the bootstrap confidence intervals (default: 0)",
    )
    report.add_argument(
        "--out",
        type=given_path,
        metavar="HTML",
        help="file to write the page to (default: report.html, in the run directory if one is given)",
    )
    add_scoring_flags(report)
    report.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from ..data.files import write_text
    from ..report.drawings import Drawings
    from ..report.evaluation_page import Evaluation, evaluation_page
    from ..report.extras import require
    from ..report.run_files import read_run
    from ..retrieval import recall_metrics
    from ..retrieval.metrics import split_folds

    _check_flags(arguments)
    home = arguments.run_directory
    out = arguments.out or (str(Path(home) / "report.html") if home else "report.html")
    require("report")
    run = None if home is None else read_run(home)
    read = {
        "--split": arguments.split,
        "--captions": arguments.captions,
        "--caption-to-image": arguments.caption_to_image,
    }
    for path in arguments.scores or [None]:
        check_outputs({"--out": out, "--encoded": arguments.encoded}, {**read, "--scores": path})
    split = None if arguments.split is None else load_split(arguments.split)
    drawings = Drawings(split, arguments.images)
    saved = None if arguments.scores is None else average_scores(arguments.scores, split, arguments.split)
    scored_by_models = None if saved is None or split is None else scored_by(arguments.scores, split, arguments.split)
    assumed = saved is not None and split is not None and scored_by_models is None
    captions = captions_of(arguments, split)
    folds = folds_of(arguments)
    shape = saved.shape if saved is not None else (len(split), split.n_captions)  # type: ignore[arg-type,union-attr]
    if arguments.caption_to_image is not None:
        arguments.flag_for = {"caption_to_image": arguments.caption_to_image}
    owner = owner_of(arguments, split, shape)
    check_protocol(arguments, shape[0])
    split_folds(owner, shape[0], folds)
    warn_unusual_counts(arguments, shape[0], owner)
    if captions is not None and len(captions) != shape[1]:
        raise ValueError(f"--captions: expected {shape[1]} lines (as the scores have captions), got {len(captions)}")

    if saved is not None:
        scores, scorer = saved, None if run is None else run.scorer()
        mean = f"mean of {len(arguments.scores)}: " if len(arguments.scores) > 1 else ""
        about = {"scores": f"{mean}{', '.join(arguments.scores)}, {saved.dtype}"}
        about |= {"scored by": ", ".join(scored_by_models)} if scored_by_models else {}
    else:
        assert run is not None
        assert split is not None
        scores, scorer, about = _score(arguments, str(run.model(arguments.which)), split)
    metrics = recall_metrics(scores, caption_to_image=owner, folds=folds)
    protocol = arguments.protocol or f"{folds} fold{'s' * (folds > 1)}"
    evaluation = Evaluation(
        title=_title(arguments),
        scores=scores,
        metrics=metrics,
        caption_to_image=owner,
        captions=captions,
        drawings=drawings,
        about={
            "split": f"{arguments.split or 'none'}{' (assumed: nothing beside the scores says it)' * assumed}",
            "protocol": protocol,
            **about,
            "cmsei_fast": __version__,
        },
        run=run,
        scorer=scorer,
        seed=arguments.seed,
        shown=arguments.queries,
    )
    write_text(out, evaluation_page(evaluation))
    print(metrics)
    if assumed:
        paths = ", ".join(arguments.scores)
        print(f"\nnames and captions are those of {arguments.split}: nothing beside {paths} says its split")
    print(f"\n{out}: the report")
    return 0


def _title(arguments: argparse.Namespace) -> str:
    paths = arguments.scores or []
    if arguments.run_directory and len(paths) < 2:  # a mean of several belongs to no single run
        paths = [arguments.run_directory]
    name = " + ".join(Path(path).name for path in paths)
    return f"Retrieval: {name} on {Path(arguments.split).name}" if arguments.split else f"Retrieval: {name}"


def _check_flags(arguments: argparse.Namespace) -> None:
    """Checks the flags before anything is read."""
    if arguments.run_directory is None and arguments.scores is None:
        raise ValueError("RUN: expected the directory of a run, or --scores with a saved matrix, got neither")
    if arguments.run_directory is not None and Path(arguments.run_directory).is_file():
        got = f"the file {arguments.run_directory} (--scores takes a matrix)"
        raise NotADirectoryError(f"RUN: expected the directory of a run, got {got}")
    if arguments.scores is None and arguments.split is None:
        raise ValueError("--split: expected the split to evaluate the run on (or --scores), got none")
    if arguments.split is not None:
        for name in ("captions", "captions_per_image", "caption_to_image"):
            if getattr(arguments, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag}: expected none beside --split (a split has its captions), got one")
    model_flags = {name: getattr(arguments, name) for name in ("which", "device", "engine", "precision", "encoded")}
    for name, value in model_flags.items():
        if arguments.scores is not None and value not in (None, "auto"):
            raise ValueError(f"--{name}: expected none beside --scores (no model is run), got {value}")
    check_minimum("--queries", arguments.queries, 0)
    check_minimum("--seed", arguments.seed, 0)
    check_minimum("--captions-per-image", arguments.captions_per_image, 1)
    check_minimum("--folds", arguments.folds, 1)


def _score(
    arguments: argparse.Namespace, model: str, split: Split
) -> tuple[np.ndarray, dict[str, Any], dict[str, str]]:
    """Scores the split: the matrix (n_image, n_caption), the scorer, and the page's facts about both."""
    from ..devices import process_device
    from ..scoring import score

    if not split.captions:
        raise ValueError("split: expected captions to score images with, got none")
    loaded = load_models([model], arguments, str(process_device(arguments.device)))
    stream = mean_stream(loaded, arguments, split, split.captions, kept=encoded_file(arguments, loaded, split))
    scores = score(stream, progress=arguments.progress).cpu().numpy()
    problem = stream.problems[0]
    about = {"model": model, "engine": problem.engine, "precision": problem.precision}
    return scores, problem.scorer.to_dict(), about
