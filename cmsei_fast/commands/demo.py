"""``cmsei-fast demo``: trains and evaluates on generated scenes, with and without graphs."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .paths import given_path
from .progress_flags import add_progress_flags
from .settings import check_minimum

if TYPE_CHECKING:
    from ..data import Split, SyntheticScenes
    from ..model import CMSEI
    from ..report.demo_page import Row

# (title, preset, graphs)
MODELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("SCAN t2i", "scan_t2i", ()),
    ("CMSEI without graphs", "cmsei", ()),
    ("CMSEI, spatial graph", "cmsei", ("spatial",)),
    ("CMSEI, semantic graph", "cmsei", ("semantic",)),
    ("CMSEI", "cmsei", ("spatial", "semantic")),
)
GROUPS, EPOCHS, BATCH = 600, 3, 64
TEST_GROUPS = 60
CAPTIONS_PER_IMAGE = 3


def add_parser(commands: Any) -> None:
    """Adds the command ``demo``."""
    demo = commands.add_parser(
        "demo",
        help="train and evaluate small models on generated scenes, with and without graphs",
        description="Generates scenes in groups of four that have the same objects in different relations, trains "
        "SCAN and CMSEI with and without its graphs, and evaluates them on unseen scenes. Prints a table of the "
        "results and writes an HTML page with the table and some retrievals. Takes one to two minutes on two processor "
        "cores.",
    )
    demo.add_argument(
        "--groups", type=int, default=GROUPS, metavar="N", help=f"groups of four images to train on (default: {GROUPS})"
    )
    demo.add_argument(
        "--epochs", type=int, default=EPOCHS, metavar="N", help=f"epochs to train each model for (default: {EPOCHS})"
    )
    demo.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed for the scenes and the weights (default: 0)"
    )
    demo.add_argument(
        "--page",
        type=given_path,
        default="cmsei-fast-demo.html",
        metavar="HTML",
        help="file to write the page to (default: cmsei-fast-demo.html)",
    )
    demo.add_argument(
        "--directory",
        type=given_path,
        metavar="DIR",
        help="keep the runs (logs, checkpoints, models) in this directory (default: discard them)",
    )
    add_progress_flags(demo)
    demo.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from ..data import synthetic_scenes
    from ..data.files import check_target, write_text
    from ..progress import Steps
    from ..report.demo_page import demo_page

    check_target(arguments.page, "--page")
    check_minimum("--groups", arguments.groups, 1)
    check_minimum("--epochs", arguments.epochs, 1)
    check_minimum("--seed", arguments.seed, 0)
    kept = None if arguments.directory is None else Path(arguments.directory)
    names = [f"{number}-{title.lower().replace(' ', '-')}" for number, (title, *_) in enumerate(MODELS)]
    if kept is not None and (existing := [name for name in names if (kept / name).exists()]):
        raise FileExistsError(f"--directory: expected one without the runs of a demo, got {kept} with {existing[0]}")
    started = time.perf_counter()
    options: dict[str, Any] = {"captions_per_image": CAPTIONS_PER_IMAGE}
    training = synthetic_scenes(arguments.groups, seed=2 * arguments.seed, **options)
    test = synthetic_scenes(TEST_GROUPS, seed=2 * arguments.seed + 1, **options)
    n_caption = len(test.scenes.captions)
    print(
        f"{len(training.scenes)} generated images to learn from, {len(test.scenes)} with {n_caption} captions to "
        "test.\nA region is a noisy feature of an object and its colour. Images come in groups of four with the same\n"
        "objects in different relations: two stories (who does what to whom, a scene graph) times two places\n"
        "(where something is, boxes). A caption tells both, so a model without graphs must guess among the four.\n"
    )
    print(
        f"{'percent right':24}{'in its group':>14}{'which story':>14}{'which place':>14}{'rSum':>9}{'trained in':>13}"
    )
    print(f"{'chance':24}{25:14.1f}{50:14.1f}{50:14.1f}{100 * 32 / len(test.scenes):9.1f}")
    rows = []
    bar = Steps(len(MODELS), "model", "all models") if arguments.progress else None
    with tempfile.TemporaryDirectory() as scratch, bar or contextlib.nullcontext():
        for name, model in zip(names, MODELS, strict=True):
            directory = (kept or Path(scratch)) / name
            row = train_and_test(
                model,
                training,
                test,
                directory,
                epochs=arguments.epochs,
                seed=arguments.seed,
                progress=arguments.progress,
            )
            rows.append(row)
            figures = "".join(f"{x:14.1f}" for x in (row.group, row.story, row.place))
            line = f"{row.title:24}{figures}{row.rsum:9.1f}{row.seconds:11.0f} s"
            if bar is None:
                print(line, flush=True)
            else:
                bar.print_result(line)
                bar.update()
    write_text(arguments.page, demo_page(rows, test))
    print(f"\n{arguments.page}: this table and some retrievals. {time.perf_counter() - started:.0f} s in all.")
    return 0


def train_and_test(
    model: tuple[str, Any, tuple[str, ...]],
    training: SyntheticScenes,
    test: SyntheticScenes,
    directory: Path,
    *,
    epochs: int,
    seed: int,
    batch_size: int = BATCH,
    progress: bool = False,
) -> Row:
    """Trains one model and tests it.

    Args:
        model: its title, its scorer (a preset's name or ``PairScorer.to_dict()``) and its graphs.
        training: scenes to learn from.
        test: scenes to test on.
        directory: of the run; created.
        epochs: of the training.
        seed: of the weights, the order of captions and all dropout.
        batch_size: captions of a step.
        progress: show a bar for each epoch.
    """
    from ..report.demo_page import Row
    from ..retrieval import recall_metrics
    from ..retrieval.groups import group_accuracy
    from ..scoring import score_matrix
    from ..training import TrainConfig, train

    title, scorer, relations = model
    train_split, test_split = _split(training), _split(test)
    config = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=3e-3,
        schedule="cosine",
        loss="infonce",
        neighbours=4,  # keeps a group together in a batch
        seed=seed,
    )
    network = _model(train_split, scorer, relations, seed)
    start = time.perf_counter()
    train(network, train_split, None, directory, config, progress=progress)
    seconds = time.perf_counter() - start
    images, captions = network.encode_images(test_split), network.encode_captions(test_split.captions)
    scores = score_matrix(images, captions, scorer=network.scorer).cpu().numpy()
    owner = test_split.caption_to_image
    return Row(
        title,
        group_accuracy(scores, owner, test.group),
        group_accuracy(scores, owner, 2 * test.group + test.place),
        group_accuracy(scores, owner, 2 * test.group + test.story),
        recall_metrics(scores, caption_to_image=owner).rsum,
        seconds,
        scores,
    )


def _split(generated: SyntheticScenes) -> Split:
    from ..data import split_from_scenes
    from ..data.synthetic import ACTIONS, CANVAS

    return split_from_scenes(
        generated.scenes, features=generated.features, predicate_names=sorted(ACTIONS), size=CANVAS
    )


def _model(split: Split, scorer: Any, relations: tuple[str, ...], seed: int) -> CMSEI:
    import torch

    from ..data import Vocabulary
    from ..model import CMSEI, ModelConfig
    from .sources import parse_scorer

    config = ModelConfig(
        width=128,
        feature_width=int(split.features.shape[1]),
        predicate_names=split.predicate_names,
        boxes=False,  # only the spatial graph may know where things are
        relations=relations,
        word_width=256,
        word_residual=True,
        scorer=parse_scorer(scorer),
    )
    torch.manual_seed(seed)
    model = CMSEI(config, Vocabulary.build(split.captions))
    model.words.load({})
    return model
