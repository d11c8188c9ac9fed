"""Data sets: splits and their files, scene graphs as JSON lines, vocabularies, generated scenes, lexical encoding."""

from .from_scenes import split_from_scenes
from .layout import open_split, write_split
from .lexical import LexicalEncoding, lexical_encoding, tokenize, word_vector
from .rows import MappedRows
from .scenes import Scene, SceneSet, read_scenes
from .split import Split
from .synthetic import SyntheticScenes, synthetic_scenes
from .vocabulary import Vocabulary

__all__ = [
    "LexicalEncoding",
    "MappedRows",
    "Scene",
    "SceneSet",
    "Split",
    "SyntheticScenes",
    "Vocabulary",
    "lexical_encoding",
    "open_split",
    "read_scenes",
    "split_from_scenes",
    "synthetic_scenes",
    "tokenize",
    "word_vector",
    "write_split",
]
