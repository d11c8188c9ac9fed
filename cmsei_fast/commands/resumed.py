"""What ``train --resume`` is given beside what its run began with."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .sources import SCORERS, parse_scorer

if TYPE_CHECKING:
    from ..training import TrainConfig

# Fields of the model that the training split or word vectors set where nothing gives them.
SET_BY_DATA = ("feature_width", "object_names", "predicate_names", "boxes", "trained_words")


def check_resumed(
    directory: str, config: TrainConfig, model: Mapping[str, Any], given: Collection[str], saved: str | None = None
) -> None:
    """The settings are those that the run in the directory began with, or may differ; said before a split is read.

    Args:
        directory: of the run; without one there everything is right.
        config: the training's settings.
        model: fields of the model's that are given, the scorer by its preset's name or its fields.
        given: names of all settings that flags or the file of settings give.
        saved: the saved model that is given; None where the model is made of settings, so that what is not given has
            its default.

    Raises:
        ValueError: naming the flag, the run's value and this one.
    """
    from ..model import ModelConfig
    from ..training.run_record import CONFIG, first_difference, may_differ, read_record

    before = read_record(Path(directory))
    if before is None:
        return
    made = saved is None
    start = before.get("start", {}).get("model", saved)  # a run that is older than this part does not say
    if (start is None) != made:
        told = f"expected {start or 'none'} (as the run began), got {saved or 'none'}"
        raise ValueError(f"--model: {told}; --resume takes the settings of the run")
    asked = dict(model)
    if made:
        defaults = {f.name: f.default for f in fields(ModelConfig) if f.name not in SET_BY_DATA}
        asked = {**defaults, "scorer": "cmsei", **model}
    if "scorer" in asked:
        asked["scorer"] = parse_scorer(asked["scorer"]).to_dict()
    for part, values in (("training", config.to_dict()), ("model", asked)):
        for name, value in _plain(values).items():
            old = before.get(part, {}).get(name, value)
            if old != value and not may_differ(name, old, config):
                if _told(name, old) == _told(name, value):  # two scorers of no preset
                    name, old, value = first_difference(name, old, value)
                got, way = _told(name, value), "--resume takes the settings of the run"
                if name.partition(".")[0] not in given:
                    got += ", the default"
                    way = f"--settings {Path(directory) / CONFIG} gives the settings of the run"
                raise ValueError(
                    f"--{name.replace('_', '-')}: expected {_told(name, old)} (as the run began), got {got}; {way}"
                )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As the file of a run gives them back: a tuple is a list."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _told(name: str, value: Any) -> str:
    """A setting's value as its flag takes it."""
    if name == "scorer":
        return next((preset for preset, make in SCORERS.items() if _plain(make().to_dict()) == value), "another scorer")
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value!r:.80}"
