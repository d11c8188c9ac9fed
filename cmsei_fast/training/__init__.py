"""Training: losses, the loop, checkpoints and what makes many processes one."""

from .config import TrainConfig
from .loop import train
from .losses import InfoNCE, hinge_loss

__all__ = ["InfoNCE", "TrainConfig", "hinge_loss", "train"]
