"""Compares the settings of ``train --resume`` with those that the run began with."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .sources import SCORERS, parse_scorer

if TYPE_CHECKING:
    from ..training import TrainConfig

# Fields of the model that the training split or word vectors set unless they are given.
SET_BY_DATA = ("feature_width", "object_names", "predicate_names", "boxes", "trained_words")


def check_resumed(
    directory: str, config: TrainConfig, model: Mapping[str, Any], given: Collection[str], saved: str | None = None
) -> None:
    """Checks the settings against those of the run in the directory, before any split is read.

    Args:
        directory: directory of the run; if it holds none, nothing is checked.
        config: training settings.
        model: model settings that were given; the scorer is the name of a preset or a dictionary of fields.
        given: names of all settings that flags or the settings file give.
        saved: directory of the saved model to start from; None if the model is built from settings, where those not
            given have their defaults.

    Raises:
        ValueError: naming the flag and both values, if a setting differs that must not.
    """
    from ..model import ModelConfig
    from ..training.run_record import CONFIG, first_difference, may_differ, read_record

    before = read_record(Path(directory))
    if before is None:
        return
    from_settings = saved is None
    start = before.get("start", {}).get("model", saved)  # older runs have no such entry
    if (start is None) != from_settings:
        message = f"expected {start or 'none'} (as the run began), got {saved or 'none'}"
        raise ValueError(f"--model: {message}; --resume takes the settings of the run")
    settings = dict(model)
    if from_settings:
        defaults = {f.name: f.default for f in fields(ModelConfig) if f.name not in SET_BY_DATA}
        settings = {**defaults, "scorer": "cmsei", **model}
    if "scorer" in settings:
        settings["scorer"] = parse_scorer(settings["scorer"]).to_dict()
    for part, values in (("training", config.to_dict()), ("model", settings)):
        for name, value in _plain(values).items():
            old = before.get(part, {}).get(name, value)
            if old != value and not may_differ(name, old, config):
                if _format(name, old) == _format(name, value):  # two custom scorers
                    name, old, value = first_difference(name, old, value)
                got, advice = _format(name, value), "--resume takes the settings of the run"
                if name.partition(".")[0] not in given:
                    got += ", the default"
                    advice = f"--settings {Path(directory) / CONFIG} gives the settings of the run"
                raise ValueError(
                    f"--{name.replace('_', '-')}: expected {_format(name, old)} (as the run began), got {got}; {advice}"
                )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they are read back from JSON: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _format(name: str, value: Any) -> str:
    """A setting's value as it is written on the command line."""
    if name == "scorer":
        return next((preset for preset, make in SCORERS.items() if _plain(make().to_dict()) == value), "another scorer")
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value!r:.80}"
