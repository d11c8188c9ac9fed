"""``cmsei-fast train``: a split, a validation split and settings to a run with its best and its last model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .joining import joined
from .paths import given_path
from .resumed import SET_BY_DATA, check_resumed
from .scoring_flags import add_device_flag
from .settings import add_flags, given, read_settings
from .sources import SCORERS, load_split, parse_scorer

if TYPE_CHECKING:
    from ..data import Split
    from ..model import CMSEI
    from ..training import TrainConfig

SECTIONS = ("model", "training")
# Fields of the model without a flag of their own making: what the split has, and the scorer, whose flag names a preset.
_WITHOUT_FLAG = ("feature_width", "object_names", "predicate_names", "scorer")


def add_parser(commands: Any) -> None:
    """Adds ``train`` with a flag for each field of the two configurations."""
    from ..model import ModelConfig
    from ..training import TrainConfig

    train = commands.add_parser(
        "train",
        help="train a model on a split",
        description="Trains a model on a split (HDF5, or JSON lines of scene graphs) and validates it by rSum. The "
        "best and the last model, the log and the newest checkpoint are kept in the run directory. Run it under "
        "torchrun to train in several processes, with the same result as in one. Options override the settings file, "
        "which overrides the defaults.",
    )
    train.add_argument("training", type=given_path, help="split to train on (.h5, .jsonl or .jsonl.gz)")
    train.add_argument("directory", type=given_path, help="run directory to write models, log and checkpoint to")
    train.add_argument(
        "--validation",
        type=given_path,
        metavar="SPLIT",
        help="split to validate on; the model of the highest rSum on it is kept as the best (default: none)",
    )
    train.add_argument(
        "--settings",
        type=given_path,
        metavar="JSON",
        help=f"JSON file with the objects {' and '.join(SECTIONS)}, whose keys are the settings below with "
        "underscores, or the run.json of another run, without what its split and word vectors set",
    )
    train.add_argument(
        "--model",
        type=given_path,
        metavar="DIR",
        help="directory of a saved model to start from (fine-tuning), with its vocabulary; of the model settings, only "
        "the dropouts, the threshold and the scorer may then be others (default: initial weights)",
    )
    train.add_argument(
        "--word-vectors",
        type=given_path,
        metavar="FILE",
        help="file of pretrained word vectors to start from, in GloVe's or word2vec's text format (default: none)",
    )
    train.add_argument(
        "--vocabulary",
        type=given_path,
        metavar="JSON",
        help="vocabulary file with word2idx and idx2word, as SCAN writes it (default: built from the training split)",
    )
    train.add_argument(
        "--scorer",
        choices=SCORERS,
        default=argparse.SUPPRESS,
        help="preset for the score's structure and initial parameters (default: cmsei)",
    )
    train.add_argument(
        "--resume",
        action="store_true",
        help="resume from the newest checkpoint of the run, or start afresh if there is none",
    )
    add_device_flag(train, "train")
    train.add_argument("--quiet", action="store_true", help="do not show progress")
    add_flags(train, TrainConfig, "training")
    add_flags(train, ModelConfig, "model", _WITHOUT_FLAG)
    train.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    with joined(arguments.device, lambda: _settings(arguments)) as (device, (config, own)):
        from ..process_group import rank_and_world, together
        from ..training.loop import begun
        from ..training.run_directory import BEST, LAST
        from ..training.run_record import CONFIG

        with together():
            training = load_split(arguments.training)
            validation = None if arguments.validation is None else load_split(arguments.validation)
            if arguments.model is None:
                model = make_model(training, own, config, arguments.word_vectors, arguments.vocabulary)
            else:
                model = saved_model(arguments.model, own)
        options = (arguments.resume, str(device), not arguments.quiet, arguments.model)
        with begun(model, training, validation, Path(arguments.directory), config, *options) as run:
            for flag, words in (("--model", arguments.model), ("--vocabulary", arguments.vocabulary)):
                if words is not None:
                    _tell_unknown(f"{flag} {words}", model, training)
            began = (Path(arguments.directory) / CONFIG).exists()
            if began and _left(arguments.directory) is None and rank_and_world()[0] == 0:
                told = f"{arguments.directory}: the run has no checkpoint, so it starts afresh"
                print(f"cmsei-fast: warning: {told}", file=sys.stderr)
            arguments.left = lambda: _left(arguments.directory)
            metrics = run()
        if metrics is not None:
            print("validation after the last epoch:")
            print(metrics)
        if rank_and_world()[0] == 0:
            kept = [path for path in (Path(arguments.directory) / name for name in (BEST, LAST)) if path.is_dir()]
            print(f"saved: {', '.join(map(str, kept))}")
    return 0


def _left(directory: str) -> str | None:
    """Where an interrupted run goes on; None without a checkpoint."""
    from ..training.run_directory import CHECKPOINTS, PREFIX, latest_checkpoint

    found = latest_checkpoint(Path(directory) / CHECKPOINTS)
    return None if found is None else f"after step {int(found.name.removeprefix(PREFIX))}"


def _settings(arguments: argparse.Namespace) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration of the training, and the fields of the model's that are given.

    Raises:
        OSError, ValueError: the settings file or a setting is wrong, or not that of the run that is resumed.
    """
    from ..model import ModelConfig
    from ..training import TrainConfig
    from ..training.run_record import PARTS

    if arguments.model is not None:
        for flag, value in (("--word-vectors", arguments.word_vectors), ("--vocabulary", arguments.vocabulary)):
            if value is not None:
                raise ValueError(f"{flag}: expected none beside --model (which has its own), got {value}")
    if Path(arguments.directory).is_file():
        got = f"the file {arguments.directory} (--validation takes a split)"
        raise NotADirectoryError(f"directory: expected a directory for the run, got {got}")
    settings = read_settings(arguments.settings, SECTIONS, PARTS)
    if len(settings) > len(SECTIONS):  # a run's file; whether boxes are used is a setting, too
        of_data = set(SET_BY_DATA) - {"boxes"}
        settings["model"] = {name: x for name, x in settings["model"].items() if name not in of_data}
    of_training = settings["training"] | given(arguments, TrainConfig)
    of_model = settings["model"] | given(arguments, ModelConfig)
    arguments.of_settings = {name for own in settings.values() for name in own if not hasattr(arguments, name)}
    arguments.of_settings |= {f"{section} configuration" for section in SECTIONS}  # no flag makes an unknown name
    config = TrainConfig.from_dict(of_training)
    if arguments.resume:
        check_resumed(arguments.directory, config, of_model, {*of_training, *of_model}, arguments.model)
    return config, of_model


def make_model(
    split: Split,
    settings: dict[str, Any],
    config: TrainConfig,
    word_vectors: str | None = None,
    vocabulary: str | None = None,
) -> CMSEI:
    """A model with its initial weights for a split.

    Args:
        split: gives the widths and names; its captions the vocabulary.
        settings: fields of :class:`ModelConfig`, the scorer by its preset's name or its fields.
        config: gives the seed, the rarest word and how many pretrained words are kept.
        word_vectors: file of pretrained vectors. Words that it has and the captions do not have are kept as they are:
            their vectors do not learn.
        vocabulary: file of a vocabulary to use in place of the captions' words.

    Raises:
        OSError: a file cannot be opened.
        ValueError: naming the setting or the file and what is wrong, as vectors of none of the vocabulary's words.
    """
    import torch

    from ..data import Vocabulary
    from ..data.vocabulary import SPECIAL
    from ..data.word_vectors import read_word_vectors
    from ..model import CMSEI, ModelConfig

    if vocabulary is not None:
        words = Vocabulary.load(vocabulary)
    else:
        # Each name counts as often as a word must occur.
        names = [*split.object_names, *split.predicate_names] * config.min_count
        words = Vocabulary.build([*split.captions, *names], config.min_count)
    vectors = None
    if word_vectors is not None:
        vectors = read_word_vectors(word_vectors, words.index, config.vector_limit)
        if vectors.keys().isdisjoint(words.words[len(SPECIAL) :]):
            got = f"those of others: {', '.join([*vectors][:3])}" if vectors else "none of them"
            raise ValueError(f"{word_vectors}: expected vectors of words of the vocabulary, got {got}")
        count = len(words)
        words = Vocabulary([*words.words, *(word for word in vectors if word not in words)])
        settings = {"trained_words": count, **settings}
    of_the_split = {
        "feature_width": 0 if split.features is None else int(split.features.shape[1]),
        "object_names": () if split.labels is None else split.object_names,
        "predicate_names": split.predicate_names,
    }
    if split.boxes is None or split.sizes is None:
        settings = {"boxes": False, **settings}
    scorer = parse_scorer(settings.get("scorer", "cmsei"))
    _check_relations(settings.get("relations", ModelConfig.relations), split)
    model_config = ModelConfig.from_dict({**of_the_split, **settings, "scorer": scorer})
    torch.manual_seed(config.seed)
    model = CMSEI(model_config, words)
    if vectors is not None or model_config.word_residual:
        model.words.load(vectors or {})
    return model


def saved_model(directory: str, settings: dict[str, Any]) -> CMSEI:
    """A saved model to train on.

    Args:
        directory: of the model.
        settings: fields of :class:`ModelConfig`, the scorer by its preset's name or its fields; those that the weights
            depend on are as the model has them.

    Raises:
        OSError, ValueError: the model cannot be read, or has other settings.
    """
    from ..model.pretrained import load

    if "scorer" in settings:
        settings = {**settings, "scorer": parse_scorer(settings["scorer"])}
    try:
        return load(directory, changes=settings)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _tell_unknown(source: str, model: CMSEI, split: Split) -> None:
    """Tells on standard error how many words of the captions the model reads as the unknown one.

    Args:
        source: the flag that the vocabulary comes from, and what it was given.
        model: with the vocabulary.
        split: has the captions.
    """
    from ..process_group import rank_and_world

    if model.config.transformer is not None or rank_and_world()[0] != 0:
        return
    vocabulary = model.vocabulary
    words = {word for caption in split.captions for word in vocabulary.tokenizer(caption)}
    unknown = sorted(word for word in words if not vocabulary.knows(word))
    if unknown:
        shown = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        print(
            f"cmsei-fast: warning: {source}: {len(unknown)} of the {len(words)} words of the captions are "
            f"not in its vocabulary: {shown}",
            file=sys.stderr,
        )


def _check_relations(relations: Any, split: Split) -> None:
    """A clear word before any work where a graph cannot be made of the split."""
    has = {"spatial": split.boxes is not None, "semantic": split.relations is not None}
    lacking = {"spatial": "boxes", "semantic": "scene graphs"}
    for kind in relations if isinstance(relations, (list, tuple)) else ():
        if has.get(kind) is False:
            possible = ["--relations alone (none)", *(f"--relations {kind}" for kind in has if has[kind])]
            raise ValueError(
                f"relations: expected graphs that the split has, got {kind!r} and a split without {lacking[kind]}; "
                f"try {' or '.join(possible)}"
            )
