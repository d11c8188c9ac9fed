"""How a model is trained, as one frozen dataclass that JSON and command-line flags can fill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

PRECISIONS = ("float32", "bfloat16", "float16")
LOSSES = ("infonce", "hinge")
SCHEDULES = ("step", "cosine", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """The numbers of a training run (§5 of the mathematics).

    Args:
        epochs: passes over the captions.
        batch_size: captions a step, over all processes; their images come with them, each once.
        learning_rate: of AdamW, at its height.
        scalar_rate: factor of the learning rate for the score's weights, temperatures and gates and the loss's scale.
        weight_decay: of matrices; vectors and scalars have none.
        warmup_steps: steps of linear growth of the learning rate.
        schedule: ``"step"`` multiplies the rate by ``decay`` after every ``decay_epochs``, ``"cosine"`` takes it to 1 %
            of its height, ``"constant"`` leaves it.
        decay: factor of ``"step"``.
        decay_epochs: epochs between two decays.
        clip: largest norm of the gradient.
        loss: ``"infonce"`` or ``"hinge"`` (hardest negative).
        scale: factor of the scores in InfoNCE, one over the temperature, at most 148; learned.
        smoothing: label smoothing of InfoNCE, in [0, 1).
        margin: of the hinge.
        grounding: weight of a loss that asks a caption's words of relations to look at both ends of the relation in the
            image's scene graph (``cmsei_fast.training.grounding_loss``; no part of the paper); 0 is none.
        warmup_epochs: epochs of the hinge over the sum of negatives, a larger number, before the hardest (VSE++).
        average: decay of the running average of the weights that is validated and saved, in [0, 1); 0 is none.
        precision: ``"float32"``; ``"bfloat16"`` and ``"float16"`` train under autocast (float16 on GPUs alone, its loss
            scaled).
        seed: of the initial weights, the order of captions and all dropout.
        min_count: words rarer than that in the training captions are unknown; those with a pretrained vector stay.
        vector_limit: words of the pretrained vectors that are kept though no training caption has them.
        neighbours: so many images that follow each other in the split come into a batch together, one caption of each
            (hard negatives, where a split lists alike images side by side).
        validate_every: epochs between two validations.
        checkpoint_every: steps between two checkpoints within an epoch; 0 writes them at its end alone.
        workers: processes that read batches.

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
    checkpoint_every: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 2, "decay_epochs": 1, "min_count": 1, "validate_every": 1, "neighbours": 1}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type == "int":
                low = least.get(f.name, 0)
                if isinstance(value, bool) or not isinstance(value, int) or value < low:
                    raise ValueError(f"{f.name}: expected an integer >= {low}, got {value!r}")
            elif f.type == "float":
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    raise ValueError(f"{f.name}: expected a finite number, got {value!r}")
                object.__setattr__(self, f.name, float(value))
        for name in ("learning_rate", "scalar_rate", "clip", "scale", "decay"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a number > 0, got {getattr(self, name)!r}")
        if self.scale > 148:  # InfoNCE holds it below exp(5), where it would no longer learn
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
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise ValueError(f"training configuration: expected any of {', '.join(sorted(known))}, got {name!r}")
        return cls(**values)
