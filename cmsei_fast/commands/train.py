"""``cmsei-fast train``: trains a model on a split."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..known_fields import check_known
from .paths import given_path
from .processes import join_processes
from .progress_flags import add_progress_flags
from .resumed import SET_BY_DATA, check_resumed
from .scoring_flags import add_device_flag
from .settings import add_flags, given_fields, read_settings
from .sources import SCORERS, load_split, parse_scorer

if TYPE_CHECKING:
    from ..data import Split
    from ..model import CMSEI
    from ..training import TrainConfig

SECTIONS = ("model", "training")
# Fields without a generated flag: three come from the split, and ``--scorer`` takes the name of a preset.
_NO_FLAG = ("feature_width", "object_names", "predicate_names", "scorer")


def add_parser(commands: Any) -> None:
    """Adds the command ``train`` with a flag for each field of the two configurations."""
    from ..model import ModelConfig
    from ..training import TrainConfig

    train = commands.add_parser(
        "train",
        help="train a model on a split",
        description="Trains a model on a split (HDF5, or JSON lines of scene graphs) and validates it by rSum. The "
        "best and the last model, the log and the newest checkpoint are kept in the run directory. Run it under "
        "torchrun to share the work of each step among several processes. Options override the settings file, "
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
    add_progress_flags(train, in_logs=True)
    add_flags(train, TrainConfig, "training")
    add_flags(train, ModelConfig, "model", _NO_FLAG)
    train.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    with join_processes(arguments.device, lambda: _settings(arguments)) as (device, (config, model_settings)):
        from ..process_group import rank_and_world, together
        from ..training.loop import prepared_run
        from ..training.run_directory import BEST, LAST
        from ..training.run_record import CONFIG

        with together():
            training = load_split(arguments.training)
            validation = None if arguments.validation is None else load_split(arguments.validation)
            if arguments.model is None:
                model = make_model(training, model_settings, config, arguments.word_vectors, arguments.vocabulary)
            else:
                model = saved_model(arguments.model, model_settings)
        options = (arguments.resume, str(device), arguments.progress, arguments.model)
        with prepared_run(model, training, validation, Path(arguments.directory), config, *options) as run:
            for flag, words in (("--model", arguments.model), ("--vocabulary", arguments.vocabulary)):
                if words is not None:
                    _warn_unknown_words(f"{flag} {words}", model, training)
            has_run = (Path(arguments.directory) / CONFIG).exists()
            if has_run and _resume_point(arguments.directory) is None and rank_and_world()[0] == 0:
                message = f"{arguments.directory}: the run has no checkpoint, so it starts afresh"
                print(f"cmsei-fast: warning: {message}", file=sys.stderr)
            arguments.resume_point = lambda: _resume_point(arguments.directory)
            metrics = run()
        if metrics is not None:
            print("validation after the last epoch:")
            print(metrics)
        if rank_and_world()[0] == 0:
            kept = [path for path in (Path(arguments.directory) / name for name in (BEST, LAST)) if path.is_dir()]
            print(f"saved: {', '.join(map(str, kept))}")
    return 0


def _resume_point(directory: str) -> str | None:
    """Says where an interrupted run continues; None without a checkpoint."""
    from ..training.run_directory import CHECKPOINTS, PREFIX, latest_checkpoint

    found = latest_checkpoint(Path(directory) / CHECKPOINTS)
    return None if found is None else f"after step {int(found.name.removeprefix(PREFIX))}"


def _settings(arguments: argparse.Namespace) -> tuple[TrainConfig, dict[str, Any]]:
    """The training configuration, and the fields of the model configuration that were given.

    Raises:
        OSError, ValueError: the settings file or a setting is wrong, or differs from that of the resumed run.
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
    if len(settings) > len(SECTIONS):  # the run.json of a run; "boxes" is also a setting
        data_fields = set(SET_BY_DATA) - {"boxes"}
        settings["model"] = {name: x for name, x in settings["model"].items() if name not in data_fields}
    training_settings = settings["training"] | given_fields(arguments, TrainConfig)
    model_settings = settings["model"] | given_fields(arguments, ModelConfig)
    arguments.set_by_file = {name for section in settings.values() for name in section if not hasattr(arguments, name)}
    arguments.set_by_file |= {f"{section} configuration" for section in SECTIONS}  # unknown names come from the file
    config = TrainConfig.from_dict(training_settings)
    check_known("model configuration", model_settings, ModelConfig)
    if arguments.resume:
        check_resumed(
            arguments.directory, config, model_settings, {*training_settings, *model_settings}, arguments.model
        )
    return config, model_settings


def make_model(
    split: Split,
    settings: dict[str, Any],
    config: TrainConfig,
    word_vectors: str | None = None,
    vocabulary: str | None = None,
) -> CMSEI:
    """Makes a model with initial weights for a split.

    Args:
        split: its features give the width, its names and captions the vocabulary.
        settings: fields of :class:`ModelConfig`; the scorer is the name of a preset or a dictionary of fields.
        config: gives ``seed``, ``min_count`` and ``vector_limit``.
        word_vectors: file of pretrained vectors. The vectors of words that no caption has are not trained.
        vocabulary: file of a vocabulary to use instead of the captions' words.

    Raises:
        OSError: a file cannot be opened.
        ValueError: naming the setting or the file and what is wrong with it.
    """
    import torch

    from ..data import Vocabulary
    from ..data.vocabulary import SPECIAL
    from ..data.word_vectors import read_word_vectors
    from ..model import CMSEI, ModelConfig

    if vocabulary is not None:
        words = Vocabulary.load(vocabulary)
    else:
        # Repeated, so that the names pass min_count.
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
    split_settings = {
        "feature_width": 0 if split.features is None else int(split.features.shape[1]),
        "object_names": () if split.labels is None else split.object_names,
        "predicate_names": split.predicate_names,
    }
    if split.boxes is None or split.sizes is None:
        settings = {"boxes": False, **settings}
    scorer = parse_scorer(settings.get("scorer", "cmsei"))
    _check_relations(settings.get("relations", ModelConfig.relations), split)
    model_config = ModelConfig.from_dict({**split_settings, **settings, "scorer": scorer})
    torch.manual_seed(config.seed)
    model = CMSEI(model_config, words)
    if vectors is not None or model_config.word_residual:
        model.words.load(vectors or {})
    return model


def saved_model(directory: str, settings: dict[str, Any]) -> CMSEI:
    """Loads a saved model to fine-tune.

    Args:
        directory: directory of the model.
        settings: fields of :class:`ModelConfig` to change; the scorer is the name of a preset or a dictionary of
            fields. Fields that the weights depend on must be the model's.

    Raises:
        OSError, ValueError: the model cannot be read, or a field cannot be changed.
    """
    from ..model.pretrained import load

    if "scorer" in settings:
        settings = {**settings, "scorer": parse_scorer(settings["scorer"])}
    try:
        return load(directory, changes=settings)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _warn_unknown_words(source: str, model: CMSEI, split: Split) -> None:
    """Warns on standard error of caption words that are not in the model's vocabulary.

    Args:
        source: the flag that the vocabulary comes from, and its value.
        model: the model with the vocabulary.
        split: the split with the captions.
    """
    from ..process_group import rank_and_world

    if model.config.transformer is not None or rank_and_world()[0] != 0:
        return
    vocabulary = model.vocabulary
    words = {word for caption in split.captions for word in vocabulary.tokenizer(caption)}
    unknown = sorted(word for word in words if not vocabulary.knows(word))
    if unknown:
        examples = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        print(
            f"cmsei-fast: warning: {source}: {len(unknown)} of the {len(words)} words of the captions are "
            f"not in its vocabulary: {examples}",
            file=sys.stderr,
        )


def _check_relations(relations: Any, split: Split) -> None:
    """Checks that the split has what the graphs are made of."""
    has = {"spatial": split.boxes is not None, "semantic": split.relations is not None}
    lacking = {"spatial": "boxes", "semantic": "scene graphs"}
    for kind in relations if isinstance(relations, (list, tuple)) else ():
        if has.get(kind) is False:
            possible = ["--relations alone (none)", *(f"--relations {kind}" for kind in has if has[kind])]
            raise ValueError(
                f"relations: expected graphs that the split has, got {kind!r} and a split without {lacking[kind]}; "
                f"try {' or '.join(possible)}"
            )
