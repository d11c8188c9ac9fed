"""``cmsei-fast report``: one page about a finished evaluation, of a run or of any saved score matrix."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import __version__
from .scoring import add_protocol_flags, add_scoring_flags, folds_of, stream_of_models, tell_size
from .settings import check_least
from .sources import load_split

if TYPE_CHECKING:
    import numpy as np

    from ..data import Split
    from ..tiling import Problem


def add_parser(commands: Any) -> None:
    """Adds ``report``."""
    report = commands.add_parser(
        "report",
        help="one HTML page about an evaluation: recalls with intervals, ranks, worst and best queries, training",
        description="Writes a page that needs nothing outside itself. Of a run, its model is evaluated on --split (or "
        "--scores is what it gave); of any other model, --scores alone is enough.",
    )
    report.add_argument("run_directory", nargs="?", metavar="RUN", help="directory of a training run")
    report.add_argument("--split", help="what is evaluated, and shown: .h5, .jsonl or .jsonl.gz")
    report.add_argument("--scores", metavar="NPY", help="a saved score matrix (n_image, n_caption); read in blocks")
    report.add_argument("--which", choices=("best", "last"), help="model of the run (default: best, if there is one)")
    report.add_argument("--captions", metavar="TXT", help="without a split: the captions, one a line")
    owner = report.add_mutually_exclusive_group()
    owner.add_argument("--captions-per-image", type=int, help="without a split: how many (default: 5)")
    owner.add_argument("--caption-to-image", metavar="FILE", help="without a split: .npy or text, an image a caption")
    add_protocol_flags(report)
    report.add_argument("--images", metavar="DIR", help="image files by the names in the split, for thumbnails")
    report.add_argument("--queries", type=int, default=5, help="worst and best of each direction (default: 5)")
    report.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    report.add_argument("--out", metavar="HTML", help="default: report.html, in the run's directory if there is one")
    add_scoring_flags(report)
    report.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from ..data.files import check_target, write_text
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
    check_target(out, "--out")
    split = None if arguments.split is None else load_split(arguments.split)
    drawings = Drawings(split, arguments.images)
    saved = None if arguments.scores is None else _saved_scores(arguments.scores, split, arguments.split)
    captions = _captions(arguments, split)
    folds = folds_of(arguments)
    shape = saved.shape if saved is not None else (len(split), split.n_captions)  # type: ignore[arg-type,union-attr]
    owner = _owner(arguments, split, shape)
    split_folds(owner, shape[0], folds)
    tell_size(arguments, shape[0])
    if captions is not None and len(captions) != shape[1]:
        raise ValueError(f"--captions: expected {shape[1]} lines (as the scores have captions), got {len(captions)}")

    about: dict[str, Any] = {
        "split": arguments.split or "none",
        "protocol": arguments.protocol or f"{folds} fold{'s' * (folds > 1)}",
    }
    if saved is not None:
        scores, scorer = saved, None
        about |= {"scores": f"{arguments.scores}, {saved.dtype}"}
    else:
        assert run is not None
        assert split is not None
        model = str(run.model(arguments.which))
        scores, problem = _scored(arguments, model, split)
        about |= {"model": model, "engine": problem.engine, "precision": problem.precision}
        scorer = problem.scorer.to_dict()
    metrics = recall_metrics(scores, caption_to_image=owner, folds=folds)
    about |= {"cmsei_fast": __version__}
    if scorer is None and run is not None and run.validations:
        scorer = run.validations[-1].get("scorer")
    what = Evaluation(
        title=_title(arguments),
        scores=scores,
        metrics=metrics,
        caption_to_image=owner,
        captions=captions,
        drawings=drawings,
        about=about,
        run=run,
        scorer=scorer,
        seed=arguments.seed,
        shown=arguments.queries,
    )
    write_text(out, evaluation_page(what))
    print(metrics)
    print(f"\n{out}: the report")
    return 0


def _title(arguments: argparse.Namespace) -> str:
    name = Path(arguments.run_directory or arguments.scores).name
    return f"Retrieval: {name} on {Path(arguments.split).name}" if arguments.split else f"Retrieval: {name}"


def _check_flags(arguments: argparse.Namespace) -> None:
    """What can be said before anything is read."""
    if arguments.run_directory is None and arguments.scores is None:
        raise ValueError("RUN: expected the directory of a run, or --scores with a saved matrix, got neither")
    if arguments.scores is None and arguments.split is None:
        raise ValueError("--split: expected the split to evaluate the run on (or --scores), got none")
    if arguments.split is not None:
        for name in ("captions", "captions_per_image", "caption_to_image"):
            if getattr(arguments, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag}: expected none beside --split (a split has its captions), got one")
    of_the_model = {name: getattr(arguments, name) for name in ("which", "device", "engine", "precision")}
    for name, value in of_the_model.items():
        if arguments.scores is not None and value not in (None, "auto"):
            raise ValueError(f"--{name}: expected none beside --scores (no model is run), got {value}")
    check_least("--queries", arguments.queries, 0)
    check_least("--seed", arguments.seed, 0)
    check_least("--captions-per-image", arguments.captions_per_image, 1)
    check_least("--folds", arguments.folds, 1)


def _saved_scores(path: str, split: Split | None, name: str | None) -> np.ndarray:
    """The matrix, memory-mapped; its shape is the split's where there is one."""
    import numpy as np

    if not Path(path).is_file():
        raise FileNotFoundError(f"--scores: expected a .npy file, got {path} ({_absent(path)})")
    try:
        scores: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise ValueError(
            f"{path}: expected a .npy file of one floating matrix, got another or a pickled one{_as_matrix(path)}"
        ) from None
    if not isinstance(scores, np.ndarray) or scores.ndim != 2 or scores.dtype.kind != "f":
        got = f"{scores.dtype} {scores.shape}" if isinstance(scores, np.ndarray) else f"an archive{_as_matrix(path)}"
        raise ValueError(f"{path}: expected a floating matrix (n_image, n_caption), got {got}")
    if split is not None and scores.shape != (shape := (len(split), split.n_captions)):
        hint = " (its transpose has it)" if scores.shape == shape[::-1] else ""
        raise ValueError(f"{path}: expected shape {shape} (images, captions of {name}), got {scores.shape}{hint}")
    return scores


def _as_matrix(path: str) -> str:
    """The line of Python that makes a matrix of a file in which the field's scripts leave scores; "" for any other."""
    with open(path, "rb") as file:
        begins = file.read(128)
    if begins.startswith(b"\x93NUMPY") and b"'|O'" in begins:  # VSE∞'s code and its kin: {'npts': …, 'sims': …}
        form, trust = f"np.load({path!r}, allow_pickle=True).item()['sims']", ", if you trust the file"
    elif begins.startswith(b"PK"):  # torch.save, as in IMRAM's
        form, trust = f"torch.load({path!r}, weights_only=False)", ", if you trust the file"
    elif path.endswith(".txt"):  # numpy.savetxt, as in ESL's
        form, trust = f"np.loadtxt({path!r})", ""
    else:
        return ""
    return f"; this makes one{trust}: np.save('scores.npy', {form})"


def _absent(path: str) -> str:
    return "a directory" if Path(path).is_dir() else "no such file"


def _check_count(shape: tuple[int, ...], captions_per_image: int) -> None:
    """So many captions an image, where nothing else says whose they are.

    Raises:
        ValueError: it is another number, which the message tells where there is one.
    """
    n_image, n_caption = shape
    if n_caption == n_image * captions_per_image or not n_image or not n_caption:
        return
    if n_image == n_caption * captions_per_image:
        hint = "its transpose has it"
    elif n_caption % n_image == 0:
        hint = f"--captions-per-image {n_caption // n_image} would fit"
    else:
        hint = "--caption-to-image or --split tells whose each is"
    raise ValueError(
        f"captions_per_image: expected {captions_per_image} captions for each of {n_image} images "
        f"({n_image * captions_per_image}), got {n_caption} ({hint})"
    )


def _captions(arguments: argparse.Namespace, split: Split | None) -> tuple[str, ...] | None:
    if split is not None:
        return split.captions
    if arguments.captions is None:
        return None
    if not Path(arguments.captions).is_file():
        raise FileNotFoundError(
            f"--captions: expected a text file, got {arguments.captions} ({_absent(arguments.captions)})"
        )
    try:
        # Not splitlines: a caption may hold one of Unicode's other line ends.
        lines = Path(arguments.captions).read_text(encoding="utf-8-sig").split("\n")
        return tuple(lines[:-1] if lines[-1] == "" else lines)
    except UnicodeDecodeError as error:
        raise ValueError(f"{arguments.captions}: expected UTF-8 text, got {error}") from None


def _owner(arguments: argparse.Namespace, split: Split | None, shape: tuple[int, ...]) -> np.ndarray:
    """(n_caption,) int64, the image of each caption: as the split or a file says, else so many for each image."""
    from ..retrieval.metrics import check_map

    each = 5 if arguments.captions_per_image is None else arguments.captions_per_image
    if split is None and arguments.caption_to_image is None:
        _check_count(shape, each)
    return check_map(shape[0], shape[1], each, _map(arguments, split))


def _map(arguments: argparse.Namespace, split: Split | None) -> Any:
    """The split's map or that of the file, None without either.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold integers.
    """
    import numpy as np

    if split is not None:
        return split.caption_to_image
    path = arguments.caption_to_image
    if path is None:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"--caption-to-image: expected .npy or text, got {path} ({_absent(path)})")
    try:
        if path.endswith(".npy"):
            return np.load(path, allow_pickle=False)
        return np.array([int(x) for x in Path(path).read_text(encoding="utf-8").split()], dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"{path}: expected an integer for each caption, got {error}") from None


def _scored(arguments: argparse.Namespace, model: str, split: Split) -> tuple[np.ndarray, Problem]:
    """The matrix (n_image, n_caption) of the saved model, and what was computed, by which engine."""
    from ..devices import own_device
    from ..scoring import score

    stream = stream_of_models([model], arguments, split, str(own_device(arguments.device)))
    return score(stream, progress=arguments.progress).cpu().numpy(), stream.problems[0]
