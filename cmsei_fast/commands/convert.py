"""``cmsei-fast convert``: the field's files to the file of a split."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .paths import given_path
from .sources import SPLIT_ENDINGS

if TYPE_CHECKING:
    from ..data import Split
    from ..data.convert import Captions


def add_parser(commands: Any) -> None:
    """Adds ``convert`` and a parser for each format."""
    convert = commands.add_parser(
        "convert",
        help="make the file of a split from the field's formats",
        description="Writes one HDF5 file a split from features, boxes, scene graphs and captions in the formats of "
        "others. The file appears when it is complete; features are never wholly in memory.",
    )
    formats = convert.add_subparsers(dest="format", required=True, metavar="FORMAT")

    scan, butd, npz, graph, jsonl = (add(formats) for add in (_add_scan, _add_butd, _add_npz, _add_graph, _add_jsonl))
    for command in (butd, npz, graph):
        command.add_argument(
            "--captions",
            type=given_path,
            metavar="FILE",
            help="dataset_*.json (with --split), MS-COCO's captions_*.json, captions a line (with --ids), or name, "
            "tab and caption a line",
        )
        command.add_argument(
            "--ids", type=given_path, metavar="FILE", help="image names, one a caption or one an image, for --captions"
        )
        command.add_argument("--split", help="of the dataset_*.json; several with commas, as train,restval")
    for command in (scan, butd, npz):
        command.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of features")
    for command in (scan, butd, npz, graph, jsonl):
        command.add_argument("--out", type=given_path, required=True, metavar="FILE", help="the split's file, .h5")
        command.add_argument("--progress", action="store_true", help="show bars even where there is no terminal")
        command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reads, writes and says what there is."""
    from ..data import write_split
    from ..data.files import check_target

    check_target(arguments.out, "--out")
    if not arguments.out.endswith(SPLIT_ENDINGS):
        raise ValueError(f"--out: expected a name that ends in {' or '.join(SPLIT_ENDINGS)}, got {arguments.out}")
    arguments.progress = arguments.progress or sys.stderr.isatty()
    split = arguments.read(arguments)
    write_split(arguments.out, split, progress=arguments.progress)
    print(f"{arguments.out}: {split}")
    return 0


def _add_scan(formats: Any) -> argparse.ArgumentParser:
    scan: argparse.ArgumentParser = formats.add_parser(
        "scan",
        help="SCAN's .npy and text files, with GSMN's or CAMERA's boxes",
        description="Reads {split}_ims.npy, {split}_caps.txt and, where they are there, {split}_ids.txt and boxes with "
        "image sizes ({split}_ims_bbx.npy and _ims_size.npy, or _boxes.npy and _img_sizes.npy).",
    )
    scan.add_argument("directory", type=given_path, help="folder of the files, as data/f30k_precomp")
    scan.add_argument("--split", required=True, help="train, dev, test or testall")
    scan.add_argument("--captions-per-image", type=_positive, default=5, metavar="K", help="default: 5")
    scan.set_defaults(read=_scan)
    return scan


def _scan(arguments: argparse.Namespace) -> Split:
    from ..data.convert import scan_split

    return scan_split(
        arguments.directory,
        arguments.split,
        captions_per_image=arguments.captions_per_image,
        dtype=arguments.dtype,
        progress=arguments.progress,
    )


def _add_butd(formats: Any) -> argparse.ArgumentParser:
    butd: argparse.ArgumentParser = formats.add_parser(
        "butd",
        help="bottom-up-attention's .tsv files, base64 in them",
        description="Reads lines of image_id, image_w, image_h, num_boxes, boxes and features (base64 of float32).",
    )
    butd.add_argument("tsv", type=given_path, nargs="+", help="file of image features; several make one split")
    butd.set_defaults(read=_butd)
    return butd


def _butd(arguments: argparse.Namespace) -> Split:
    from ..data.convert import butd_split

    return butd_split(arguments.tsv, _captions(arguments), dtype=arguments.dtype, progress=arguments.progress)


def _add_npz(formats: Any) -> argparse.ArgumentParser:
    npz: argparse.ArgumentParser = formats.add_parser(
        "npz",
        help="a folder of bottom-up-attention.pytorch's .npz files",
        description="Reads a file an image, named after it, with x, bbox, num_bbox, image_h and image_w.",
    )
    npz.add_argument("directory", type=given_path, help="folder of the files")
    npz.set_defaults(read=_npz)
    return npz


def _npz(arguments: argparse.Namespace) -> Split:
    from ..data.convert import npz_split

    return npz_split(arguments.directory, _captions(arguments), dtype=arguments.dtype, progress=arguments.progress)


def _add_graph(formats: Any) -> argparse.ArgumentParser:
    graph: argparse.ArgumentParser = formats.add_parser(
        "scene-graph",
        help="Scene-Graph-Benchmark's custom_prediction.json",
        description="Makes a split without features, or adds labels and relations to one that has features (--onto).",
    )
    graph.add_argument("prediction", type=given_path, help="custom_prediction.json")
    graph.add_argument("info", type=given_path, help="custom_data_info.json")
    graph.add_argument(
        "--onto", type=given_path, metavar="SPLIT", help="a split's file whose regions get the labels and relations"
    )
    graph.add_argument("--overlap", type=float, help="of boxes that are one, with --onto (default: 0.5)")
    graph.add_argument("--unscaled", action="store_true", help="boxes are in the image's own pixels, not 600 to 1000")
    graph.add_argument("--max-boxes", type=_positive, metavar="K", help="the first K boxes of an image (default: all)")
    graph.add_argument(
        "--max-relations", type=_positive, default=100, metavar="K", help="the first K of an image (default: 100)"
    )
    graph.add_argument("--min-score", type=float, default=0.0, help="of a relation (default: 0)")
    graph.set_defaults(read=_scene_graph)
    return graph


def _scene_graph(arguments: argparse.Namespace) -> Split:
    from ..data import open_split
    from ..data.convert import attach, scene_graph_split

    for flag, value in (("--overlap", arguments.overlap), ("--unscaled", arguments.unscaled or None)):
        if arguments.onto is None and value is not None:
            raise ValueError(f"{flag}: expected none without --onto (no boxes are matched), got one")
    if arguments.onto is not None and arguments.captions is not None:
        raise ValueError("--captions: expected none with --onto, whose file has captions")
    captions = _captions(arguments)
    base = None if arguments.onto is None else open_split(arguments.onto)
    graphs = scene_graph_split(
        arguments.prediction,
        arguments.info,
        captions,
        max_boxes=arguments.max_boxes,
        max_relations=arguments.max_relations,
        min_score=arguments.min_score,
        progress=arguments.progress,
    )
    if base is None:
        return graphs
    overlap = 0.5 if arguments.overlap is None else arguments.overlap
    return attach(base, graphs, overlap=overlap, scaled=not arguments.unscaled)


def _add_jsonl(formats: Any) -> argparse.ArgumentParser:
    jsonl: argparse.ArgumentParser = formats.add_parser(
        "jsonl",
        help="scene graphs as JSON lines, captions included",
        description="Reads an object an image with image, labels, boxes, relations, captions and, if known, its size.",
    )
    jsonl.add_argument("path", type=given_path, help=".jsonl or .jsonl.gz")
    jsonl.add_argument(
        "--names",
        type=given_path,
        metavar="JSON",
        help="a JSON file with the lists objects and predicates (default: those that occur)",
    )
    jsonl.set_defaults(read=_jsonl)
    return jsonl


def _jsonl(arguments: argparse.Namespace) -> Split:
    from ..data.convert import jsonl_split

    return jsonl_split(arguments.path, arguments.names)


def _captions(arguments: argparse.Namespace) -> Captions | None:
    from ..data.convert import caption_lines, caption_table, coco_captions, karpathy_captions

    path, ids, split = arguments.captions, arguments.ids, arguments.split
    dataset = path is not None and path.endswith(".json")
    for name, value, wanted in (("--ids", ids, path is not None and not dataset), ("--split", split, dataset)):
        if value is not None and not wanted:
            kind = "a dataset_*.json" if name == "--split" else "a text file"
            raise ValueError(f"{name}: expected {kind} as --captions with it, got {path}")
    if path is None:
        return None
    if dataset:
        return coco_captions(path) if split is None else karpathy_captions(path, split.split(","))
    return caption_table(path) if ids is None else caption_lines(path, ids)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return value
