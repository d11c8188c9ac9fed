"""Tiny training runs and what they take; one can be a process of its own: ``python training_runs.py OUT JSON``."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from cmsei_fast import CMSEI
from cmsei_fast.data import synthetic_scenes, write_split
from cmsei_fast.data.from_scenes import split_from_scenes
from cmsei_fast.data.vocabulary import Vocabulary
from cmsei_fast.model import ModelConfig
from cmsei_fast.training import TrainConfig, train
from cmsei_fast.training.log import Log, read_log

# Options of `cmsei-fast train`.
SMALL = ["--width", "32", "--heads", "4", "--word-width", "24", "--epochs", "2", "--batch-size", "16", "--quiet"]
# Options of `run` with everything that draws random numbers or stands in a checkpoint.
NOISY = {
    "model": {"dropout": 0.2, "word_dropout": 0.1, "region_dropout": 0.2},
    "average": 0.9,
    "checkpoint_every": 2,
    "loss": "infonce",
    "grounding": 0.5,
}


def tiny_split(groups: int = 4, seed: int = 0):
    made = synthetic_scenes(groups, width=16, captions_per_image=2, seed=seed)
    return split_from_scenes(made.scenes, features=made.features, size=(500, 375))


def write_splits(folder: Path) -> None:
    """``train.h5`` and ``val.h5``, of 20 images each."""
    for name, seed in (("train", 0), ("val", 1)):
        made = synthetic_scenes(5, seed=seed, width=16, captions_per_image=2)
        write_split(folder / f"{name}.h5", split_from_scenes(made.scenes, features=made.features))


def tiny_model(split, **changes) -> CMSEI:
    torch.manual_seed(0)
    parts = {"width": 32, "heads": 4, "word_width": 12, "feature_width": 16, "predicate_names": split.predicate_names}
    return CMSEI(ModelConfig(**(parts | changes)), Vocabulary.build(split.captions))


def config(**training) -> TrainConfig:
    return TrainConfig(**({"epochs": 2, "batch_size": 8, "learning_rate": 0.003, "warmup_steps": 2} | training))


def run(directory, *, resume=False, model=None, validated=True, **training):
    """Trains, and returns the model."""
    split = tiny_split()
    made = tiny_model(split, **(model or {}))
    validation = split if validated else None
    train(made, split, validation, Path(directory), config(**training), resume=resume, device="cpu", progress=False)
    return made


def losses(directory) -> list[float]:
    """The loss of each step, by the log."""
    return [record["loss"] for record in read_log(Path(directory) / "log.jsonl") if "loss" in record]


def threads() -> list[str]:
    """Names of this process's threads, where the system tells."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def main() -> None:
    torch.set_num_threads(1)
    options = json.loads(sys.argv[2])
    kill_at = options.pop("kill_at", None)
    if kill_at is not None:
        write = Log.write

        def write_or_die(self, step, **values):
            write(self, step, **values)
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        Log.write = write_or_die
    run(sys.argv[1], **options)
    assert not [name for name in threads() if "gloo" in name], "the group's threads outlive it"


if __name__ == "__main__":
    main()
