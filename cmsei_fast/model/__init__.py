"""The CMSEI model: regions, graphs over them, words, and the interaction that scores them."""

from .cmsei import CMSEI
from .config import ModelConfig

__all__ = ["CMSEI", "ModelConfig"]
