"""The settings of a training run, as one frozen dataclass that JSON and command-line flags can fill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..known_fields import check_known, to_plain_scalars

PRECISIONS = ("float32", "bfloat16", "float16")
LOSSES = ("infonce", "hinge")
SCHEDULES = ("step", "cosine", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run.

    Args:
        epochs: number of passes over the captions.
        batch_size: captions in a step, over all processes; each of their images is included once.
        learning_rate: peak learning rate of AdamW.
        scalar_rate: factor on the learning rate for the weights, temperatures and gates of the score and the scale of
            the loss.
        weight_decay: weight decay of matrices; vectors and scalars have none.
        warmup_steps: steps over which the learning rate grows linearly to its peak.
        schedule: learning-rate schedule: ``"step"`` multiplies the rate by ``decay`` every ``decay_epochs`` epochs,
            ``"cosine"`` lowers it to 1 % of its peak, ``"constant"`` keeps it.
        decay: factor on the learning rate at each decay of the ``"step"`` schedule.
        decay_epochs: epochs between two decays of the ``"step"`` schedule.
        clip: largest norm of the gradient; a larger one is scaled down to it.
        loss: loss function, ``"infonce"`` or ``"hinge"`` (with the hardest negatives).
        scale: initial factor on the scores in InfoNCE, the inverse of the temperature, at most 148; it is learned.
        smoothing: label smoothing of InfoNCE, in [0, 1).
        margin: margin of the hinge loss.
        grounding: weight of a loss that asks a caption's relation words to attend to both ends of the relation in the
            image's scene graph (``cmsei_fast.training.grounding_loss``; not part of the paper); 0 turns it off.
        warmup_epochs: first epochs, in which the hinge loss sums all negatives instead of taking the hardest (VSE++);
            the sum is a larger number.
        average: decay of the running average of the weights, in [0, 1); the average is what is validated and saved. 0
            turns it off.
        precision: precision to train in: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` under autocast (float16 on
            GPUs only, with its loss scaled).
        seed: random seed for the initial weights, the order of captions and all dropout, below 2⁶³.
        min_count: least number of occurrences in the training captions for a word to enter the vocabulary;
            ``vector_limit`` may keep rarer ones.
        vector_limit: number of words, from the start of the file of pretrained vectors, to keep even if no training
            caption has them; these vectors are not trained.
        neighbours: number of consecutive images of the split to put in a batch together, with one caption each; gives
            hard negatives where the split lists similar images side by side.
        validate_every: epochs between two validations.
        patience: number of validations in a row without a higher rSum than the best before, after which training ends;
            0 trains all epochs.
        checkpoint_every: steps between two checkpoints within an epoch; 0 writes one only at its end.
        workers: number of processes that load batches; 0 loads them in the training process.

    Raises:
        TypeError, ValueError: naming the field, what it takes and what it was given.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 5e-4
    scalar_rate: float = 10.0
    weight_decay: float = 0.01
    warmup_steps: int = 20
    schedule: str = "step"
    decay: float = 0.1
    decay_epochs: int = 15
    clip: float = 2.0
    loss: str = "hinge"
    scale: float = 20.0
    smoothing: float = 0.0
    margin: float = 0.2
    grounding: float = 0.0
    warmup_epochs: int = 1
    average: float = 0.0
    precision: str = "float32"
    seed: int = 0
    min_count: int = 1
    vector_limit: int = 50_000
    neighbours: int = 1
    validate_every: int = 1
    patience: int = 0
    checkpoint_every: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        to_plain_scalars(self)
        least = {"epochs": 1, "batch_size": 2, "decay_epochs": 1, "min_count": 1, "validate_every": 1, "neighbours": 1}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type == "int":
                low = least.get(f.name, 0)
                if isinstance(value, bool) or not isinstance(value, int) or value < low:
                    raise ValueError(f"{f.name}: expected an integer >= {low}, got {value!r}")
                if value >= 2**63:  # of the seed, torch takes no more
                    raise ValueError(f"{f.name}: expected an integer < 2**63, got {value!r}")
            elif f.type == "float":
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    raise ValueError(f"{f.name}: expected a finite number, got {value!r}")
                object.__setattr__(self, f.name, float(value))
        for name in ("learning_rate", "scalar_rate", "clip", "scale", "decay"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a number > 0, got {getattr(self, name)!r}")
        if self.scale > 148:  # InfoNCE holds it below exp(5)
            raise ValueError(f"scale: expected a number <= 148, got {self.scale!r}")
        for name in ("weight_decay", "margin", "grounding"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)!r}")
        for name in ("smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {getattr(self, name)!r}")
        for name, known in (("schedule", SCHEDULES), ("loss", LOSSES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Factor of the learning rate at a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "constant":
            return warm
        if self.schedule == "step":
            return warm * self.decay ** (step // (self.decay_epochs * steps_per_epoch))
        part = min(1.0, step / (self.epochs * steps_per_epoch))
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: for an unknown key, and as the constructor does.
        """
        check_known("training configuration", values, cls)
        return cls(**values)
