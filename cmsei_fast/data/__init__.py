"""Data sets: the JSON-lines scene-graph reader, the untrained lexical encoding and generated scenes."""

from .lexical import LexicalEncoding, lexical_encoding, tokenize, word_vector
from .scenes import Scene, SceneSet, read_scenes
from .synthetic import SyntheticScenes, synthetic_scenes

__all__ = [
    "LexicalEncoding",
    "Scene",
    "SceneSet",
    "SyntheticScenes",
    "lexical_encoding",
    "read_scenes",
    "synthetic_scenes",
    "tokenize",
    "word_vector",
]
