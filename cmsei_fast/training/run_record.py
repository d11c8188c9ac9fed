"""``run.json``: the settings that a run was begun with, and which of them a resumed run may change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..data.json_object import read_json
from ..model import ModelConfig
from .config import TrainConfig

CONFIG = "run.json"
# What the parts of the configuration that are no settings are of, for messages.
_OWNERS = {"data": "training.", "validation": "validation.", "vocabulary": "vocabulary.", "start": "start."}
PARTS = tuple(_OWNERS)
# Who sets parts that no setting gives.
_SET_BY = {
    **dict.fromkeys(("feature_width", "object_names", "predicate_names", "boxes"), "the training split sets it"),
    "trained_words": "pretrained word vectors set it",
    "vocabulary.words": "captions, names, pretrained word vectors or the file of a vocabulary make it",
}
_OTHER_SPLIT = "; so it is another split"
# Settings that a resumed run may change: no step depends on them.
_FREE = ("workers", "checkpoint_every", "validate_every", "patience")


def compared_record(
    directory: Path,
    config: TrainConfig,
    model: ModelConfig,
    data: dict[str, Any],
    resume: bool,
    found: Path | None,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What the file of a run should hold, and what it holds; None where there is none.

    Args:
        directory: of the run.
        config: the numbers; ``model``: what the model is made of.
        data: for JSON, what tells the splits and the vocabulary from others, and what a new run starts from.
        resume: whether the run goes on.
        found: its newest checkpoint, None without one.

    Raises:
        FileExistsError: for a new run in a directory that holds one.
        ValueError: for a resumed run with another configuration or other data than it began with, for a file that is
            no run's, and for checkpoints without it.
    """
    path = directory / CONFIG
    record: dict[str, Any] = {"training": config.to_dict(), "model": model.to_dict(), **data}
    record = json.loads(json.dumps(record))  # as it is read back: a tuple is a list
    if not path.exists():
        if found is not None:
            raise ValueError(f"{path}: expected the configuration of the run, got checkpoints without it")
        return record, None
    if not resume:
        raise FileExistsError(f"{directory}: expected a directory without a run (or resume=True), got one")
    before = read_record(directory)
    assert before is not None
    if found is not None:  # a checkpoint has the weights: where the first ones lie may have changed
        record.pop("start", None)
        record |= {part: before[part] for part in ("start",) if part in before}
    for part in [x for x in record if x in before and x != "start"]:  # an older run has not noted its data
        for name, value in record[part].items():
            if (old := before[part].get(name)) != value and not may_differ(name, old, config):
                name, old, value = first_difference(_OWNERS.get(part, "") + name, old, value)
                why = f"; {_SET_BY[name]}" if name in _SET_BY else _OTHER_SPLIT * (part in ("data", "validation"))
                raise ValueError(f"{name}: expected {old!r:.80} (as the run began), got {value!r:.80}{why}")
    if "validation" in before:  # a run that goes on without it keeps to it
        record.setdefault("validation", before["validation"])
    return record, before


def read_record(directory: Path) -> dict[str, Any] | None:
    """What a run began with, settings that are younger than it with their defaults; None where there is no run.

    Raises:
        OSError: its file cannot be opened.
        ValueError: it is no run's.
    """
    path = directory / CONFIG
    if not path.exists():
        return None
    record = read_json(path)
    if not all(isinstance(record.get(part, {}), dict) for part in ("training", "model", *_OWNERS)):
        raise ValueError(f"{path}: expected the configuration of a run, got another JSON file")
    record["training"] = TrainConfig().to_dict() | record.get("training", {})
    if "model" in record:
        record["model"] = ModelConfig.without_unread(record["model"])
    return record


def first_difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """The first part in which two values differ, by its name, and both; of a scorer one of its numbers."""
    while isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in [*old, *new] if old.get(key) != new.get(key))
        name, old, new = f"{name}.{key}", old.get(key), new.get(key)
    return name, old, new


def may_differ(name: str, old: Any, config: TrainConfig) -> bool:
    """Whether a resumed run learns the same steps though this setting was ``old`` before."""
    if name == "epochs":
        return config.schedule != "cosine" and isinstance(old, int) and config.epochs > old
    return name in _FREE
