"""Converters: each reads a published format as a split whose features stay in their files until it is written."""

from .attach import attach
from .butd import butd_split
from .captions import Captions, caption_lines, caption_table, coco_captions, first_captions, karpathy_captions
from .jsonl import jsonl_split
from .npz import npz_split
from .scan import scan_split
from .scene_graph import scene_graph_split

__all__ = [
    "Captions",
    "attach",
    "butd_split",
    "caption_lines",
    "caption_table",
    "coco_captions",
    "first_captions",
    "jsonl_split",
    "karpathy_captions",
    "npz_split",
    "scan_split",
    "scene_graph_split",
]
