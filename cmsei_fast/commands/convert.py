"""``cmsei-fast convert``: converts published formats to a split file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .paths import given_path
from .progress_flags import add_progress_flags
from .sources import SPLIT_ENDINGS

if TYPE_CHECKING:
    from ..data import Split
    from ..data.convert import Captions


def add_parser(commands: Any) -> None:
    """Adds the command ``convert`` and a parser for each format."""
    convert = commands.add_parser(
        "convert",
        help="convert features, boxes, scene graphs and captions to a split file",
        description="Reads features, boxes, scene graphs and captions in the formats of other projects and writes one "
        "HDF5 file per split. The file appears only once it is complete; features are streamed, so they need not fit "
        "in memory.",
        epilog="cmsei-fast convert FORMAT --help describes the options of a format.",
    )
    formats = convert.add_subparsers(dest="format", required=True, metavar="FORMAT")

    scan, butd, npz, graph, jsonl = (add(formats) for add in (_add_scan, _add_butd, _add_npz, _add_graph, _add_jsonl))
    for command in (butd, npz, graph):
        command.add_argument(
            "--captions",
            type=given_path,
            metavar="FILE",
            help="captions: Karpathy's dataset_*.json (with --split), MS-COCO's captions_*.json, a text file with one "
            "caption per line (with --ids), or a text file whose lines are an image name, a tab and a caption "
            "(default: no captions)",
        )
        command.add_argument(
            "--ids",
            type=given_path,
            metavar="FILE",
            help="image names for a text file of --captions, one line per caption or one per image",
        )
        command.add_argument(
            "--split",
            metavar="NAME",
            help="which split of dataset_*.json to read; separate several by commas, e.g. train,restval",
        )
        command.add_argument(
            "--max-captions",
            type=_positive,
            metavar="K",
            help="keep the first K captions of each image; papers on MS-COCO keep 5 (default: all)",
        )
    for command in (scan, butd, npz):
        command.add_argument(
            "--dtype",
            choices=("float32", "float16"),
            default="float32",
            help="data type in which to store the features (default: float32)",
        )
    for command in (scan, butd, npz, graph, jsonl):
        command.add_argument(
            "--out", type=given_path, required=True, metavar="FILE", help="split file to write (.h5 or .hdf5)"
        )
        add_progress_flags(command)
        command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Reads the input, writes the split and prints a summary."""
    from ..data import write_split
    from ..data.files import check_target

    check_target(arguments.out, "--out")
    if not arguments.out.endswith(SPLIT_ENDINGS):
        raise ValueError(f"--out: expected a name that ends in {' or '.join(SPLIT_ENDINGS)}, got {arguments.out}")
    split = arguments.read(arguments)
    write_split(arguments.out, split, progress=arguments.progress)
    print(f"{arguments.out}: {split}")
    return 0


def _add_scan(formats: Any) -> argparse.ArgumentParser:
    scan: argparse.ArgumentParser = formats.add_parser(
        "scan",
        help="SCAN's .npy and text files, optionally with GSMN's or CAMERA's boxes",
        description="Reads {split}_ims.npy, {split}_caps.txt and, if they exist, {split}_ids.txt and the boxes with "
        "image sizes ({split}_ims_bbx.npy and {split}_ims_size.npy, or {split}_boxes.npy and {split}_img_sizes.npy).",
    )
    scan.add_argument("directory", type=given_path, help="directory of the files, e.g. data/f30k_precomp")
    scan.add_argument(
        "--split",
        required=True,
        metavar="NAME",
        help="split to read, the prefix of the file names: train, dev, test or testall",
    )
    scan.add_argument(
        "--captions-per-image", type=_positive, default=5, metavar="K", help="number of captions per image (default: 5)"
    )
    scan.add_argument(
        "--id-mapping",
        type=given_path,
        metavar="JSON",
        help="name images after their files: the file names of the numbers in {split}_ids.txt, in id_mapping.json (an "
        "object of numbers and names) or Karpathy's dataset_*.json (default: the numbers are the names)",
    )
    scan.set_defaults(read=_scan)
    return scan


def _scan(arguments: argparse.Namespace) -> Split:
    from ..data.convert import scan_split

    return scan_split(
        arguments.directory,
        arguments.split,
        captions_per_image=arguments.captions_per_image,
        id_mapping=arguments.id_mapping,
        dtype=arguments.dtype,
        progress=arguments.progress,
    )


def _add_butd(formats: Any) -> argparse.ArgumentParser:
    butd: argparse.ArgumentParser = formats.add_parser(
        "butd",
        help="bottom-up-attention's .tsv files",
        description="Reads tab-separated lines of image_id, image_w, image_h, num_boxes, boxes and features, the last "
        "two as base64 of float32.",
    )
    butd.add_argument(
        "tsv", type=given_path, nargs="+", help=".tsv file of image features; several files make one split"
    )
    butd.set_defaults(read=_butd)
    return butd


def _butd(arguments: argparse.Namespace) -> Split:
    from ..data.convert import butd_split

    return butd_split(arguments.tsv, _captions(arguments), dtype=arguments.dtype, progress=arguments.progress)


def _add_npz(formats: Any) -> argparse.ArgumentParser:
    npz: argparse.ArgumentParser = formats.add_parser(
        "npz",
        help="a directory of bottom-up-attention.pytorch's .npz files",
        description="Reads one file per image, named after the image, with x, bbox, num_bbox, image_h and image_w.",
    )
    npz.add_argument("directory", type=given_path, help="directory of the .npz files")
    npz.set_defaults(read=_npz)
    return npz


def _npz(arguments: argparse.Namespace) -> Split:
    from ..data.convert import npz_split

    return npz_split(arguments.directory, _captions(arguments), dtype=arguments.dtype, progress=arguments.progress)


def _add_graph(formats: Any) -> argparse.ArgumentParser:
    graph: argparse.ArgumentParser = formats.add_parser(
        "scene-graph",
        help="Scene-Graph-Benchmark's custom_prediction.json",
        description="Writes a split without features, or with --onto adds labels and relations to a split that has "
        "features.",
    )
    graph.add_argument(
        "prediction", type=given_path, help="predicted boxes, labels and relations (custom_prediction.json)"
    )
    graph.add_argument("info", type=given_path, help="image files and names of the classes (custom_data_info.json)")
    graph.add_argument(
        "--onto", type=given_path, metavar="SPLIT", help="split file whose regions are given the labels and relations"
    )
    graph.add_argument(
        "--overlap",
        type=float,
        metavar="IOU",
        help="least intersection over union, in (0, 1], for a box to match a region of --onto (default: 0.5)",
    )
    graph.add_argument(
        "--unscaled",
        action="store_true",
        help="with --onto: boxes are in pixels of the original image, not of the image as scaled for the detector "
        "(shorter side 600)",
    )
    graph.add_argument(
        "--max-boxes", type=_positive, metavar="K", help="keep the first K boxes of each image (default: all)"
    )
    graph.add_argument(
        "--max-relations",
        type=_positive,
        default=100,
        metavar="K",
        help="keep the first K relations of each image (default: 100)",
    )
    graph.add_argument(
        "--min-score",
        type=float,
        default=0.0,
        metavar="SCORE",
        help="drop relations with a score below this (default: 0)",
    )
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
    if base is not None and base.boxes is None:
        raise ValueError(f"--onto: expected a split with boxes, to find its regions by, got {arguments.onto} without")
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
        help="scene graphs and captions as JSON lines",
        description="Reads one JSON object per image with image, labels, boxes, relations, captions and, if known, "
        "its size.",
    )
    jsonl.add_argument("path", type=given_path, help="file of scene graphs (.jsonl or .jsonl.gz)")
    jsonl.add_argument(
        "--names",
        type=given_path,
        metavar="JSON",
        help="JSON file with the lists objects and predicates of all names (default: the names that occur)",
    )
    jsonl.set_defaults(read=_jsonl)
    return jsonl


def _jsonl(arguments: argparse.Namespace) -> Split:
    from ..data.convert import jsonl_split

    return jsonl_split(arguments.path, arguments.names)


def _captions(arguments: argparse.Namespace) -> Captions | None:
    from ..data.convert import first_captions

    if arguments.captions is None and arguments.max_captions is not None:
        raise ValueError("--max-captions: expected --captions with it, got none")
    captions = _all_captions(arguments)
    if captions is None or arguments.max_captions is None:
        return captions
    return first_captions(captions, arguments.max_captions)


def _all_captions(arguments: argparse.Namespace) -> Captions | None:
    from ..data.convert import caption_lines, caption_table, coco_captions, karpathy_captions

    path, ids, split = arguments.captions, arguments.ids, arguments.split
    dataset = path is not None and path.endswith(".json")
    for name, value, wanted in (("--ids", ids, path is not None and not dataset), ("--split", split, dataset)):
        if value is not None and not wanted:
            kind = "a dataset_*.json" if name == "--split" else "a text file"
            raise ValueError(f"{name}: expected {kind} as --captions with it, got {path or 'none'}")
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
