"""``cmsei-fast retrieve``: finds images for sentences and captions for images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..version import __version__
from .paths import check_outputs, given_path
from .printable import printable
from .processes import join_processes
from .scoring import encoded_file, load_models, mean_stream
from .scoring_flags import add_encoded_flag, add_scoring_flags, add_thumbnail_flag
from .settings import check_minimum
from .sources import find_image, load_split, read_captions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..data import Split
    from ..model import CMSEI
    from ..report.drawings import Drawings

    Best = list[tuple[int, int, float]]  # (rank, item, score), best first


def add_parser(commands: Any) -> None:
    """Adds the command ``retrieve``."""
    retrieve = commands.add_parser(
        "retrieve",
        help="find the best images of a split for a sentence, or the best captions for an image",
        description="Prints the images of a split that score highest with each sentence, and the captions of the split "
        "that score highest with each image. The scores of several models are averaged (an ensemble).",
    )
    retrieve.add_argument("path", type=given_path, help="split to search (.h5, .jsonl or .jsonl.gz)")
    retrieve.add_argument(
        "--model",
        type=given_path,
        action="append",
        required=True,
        metavar="DIR",
        help="directory of a saved model; repeat it to average the scores of several (an ensemble)",
    )
    retrieve.add_argument(
        "--caption",
        action="append",
        default=[],
        metavar="SENTENCE",
        help="sentence to find images for; may be repeated",
    )
    retrieve.add_argument(
        "--captions-file",
        type=given_path,
        metavar="TXT",
        help="text file of sentences to find images for, one per line",
    )
    retrieve.add_argument(
        "--image",
        action="append",
        default=[],
        help="image to find captions for: its name in the split, or its index, counted from 0; may be repeated",
    )
    retrieve.add_argument(
        "--top", type=int, default=10, metavar="K", help="number of results for each query (default: 10)"
    )
    retrieve.add_argument(
        "--out", "--json", type=given_path, metavar="JSON", help="also write the results to this JSON file"
    )
    add_encoded_flag(retrieve)
    retrieve.add_argument(
        "--page",
        type=given_path,
        metavar="HTML",
        help="also write an HTML page of the results, showing the images or their boxes",
    )
    add_thumbnail_flag(retrieve)
    add_scoring_flags(retrieve)
    retrieve.set_defaults(run=_retrieve)


def _retrieve(arguments: argparse.Namespace) -> int:
    with join_processes(arguments.device, lambda: _sentences(arguments)) as (device, sentences):
        from ..process_group import rank_and_world

        _run(arguments, sentences, str(device), first=rank_and_world()[0] == 0)
    return 0


def _sentences(arguments: argparse.Namespace) -> list[str]:
    """Checks all that can be checked of the flags alone, and returns the sentences to find images for.

    Raises:
        OSError: a file cannot be written, or is missing.
        ValueError: there is no query, a sentence is no valid text, or a number is out of range.
    """
    from ..data.strings import check_strings

    check_minimum("--top", arguments.top, 1)
    check_outputs(
        {"--out": arguments.out, "--page": arguments.page, "--encoded": arguments.encoded},
        {"path": arguments.path, "--captions-file": arguments.captions_file},
    )
    if arguments.images is not None and arguments.page is None:
        raise ValueError("--page: expected a file (--images needs one), got none")
    check_strings(lambda i: "--caption", arguments.caption)
    lines: Sequence[str] = ()
    if arguments.captions_file is not None:
        lines = read_captions("--captions-file", arguments.captions_file)
        check_strings(lambda i: f"{arguments.captions_file}: line {i + 1}", lines)
    if not (arguments.caption or lines or arguments.image):
        if arguments.captions_file is not None:
            raise ValueError(f"{arguments.captions_file}: expected a sentence a line, got an empty file")
        raise ValueError("--caption: expected a sentence (or one of --captions-file and --image), got none")
    return [*arguments.caption, *lines]


def _run(arguments: argparse.Namespace, sentences: list[str], device: str, first: bool) -> None:
    """Retrieves in all processes of ``torchrun``; only the first one writes and prints."""
    from ..process_group import default_group, together
    from ..report.drawings import Drawings
    from ..retrieval.best import find_best

    arguments.progress &= first
    with together():
        split = load_split(arguments.path)
        images = [find_image(split, image) for image in arguments.image]
        if images and not split.captions:
            raise ValueError("--image: expected a split with captions to search, got one without")
        drawings = None if arguments.page is None else Drawings(split, arguments.images)
        loaded = load_models(arguments.model, arguments, device)
    group = default_group()
    kept = encoded_file(arguments, loaded, split, group)
    found: dict[str, Any] = {"path": arguments.path, "model": arguments.model, "version": __version__}

    def best(query: str, captions: Sequence[str], indices: list[int] | None = None) -> Iterator[Best]:
        stream = mean_stream(loaded, arguments, split, captions, indices, group, kept)
        top = find_best(stream, arguments.top, query, progress=arguments.progress, group=group)
        found.update(engine=stream.problems[0].engine, precision=stream.problems[0].precision)
        for items, scores in zip(top.indices.tolist(), top.scores.tolist(), strict=True):
            yield list(zip(range(1, len(items) + 1), items, scores, strict=True))

    if sentences:
        captions = _captions_by_image(split)
        each = zip(sentences, best("caption", sentences), strict=True)
        found["captions"] = [_sentence_result(loaded, split, captions, *x) for x in each]
    if images:
        found["images"] = [
            _image_result(split, *x) for x in zip(images, best("image", split.captions, images), strict=True)
        ]
    if first:
        _show_results(arguments, found, drawings)


def _show_results(arguments: argparse.Namespace, found: dict[str, Any], drawings: Drawings | None) -> None:
    """Writes and prints the results; the files first, for printing fails if the reader has left."""
    from ..data.files import write_text
    from ..data.json_object import write_json
    from ..report.retrieval_page import retrieval_page

    texts = [_format_sentence(x) for x in found.get("captions", ())]
    texts += [_format_image(x) for x in found.get("images", ())]
    try:
        if arguments.out is not None:
            write_json(arguments.out, found)
        if drawings is not None:
            write_text(arguments.page, retrieval_page(found, drawings))
    finally:
        print("\n\n".join(texts))


def _captions_by_image(split: Split) -> list[list[str]]:
    """The captions of each image."""
    out: list[list[str]] = [[] for _ in split.ids]
    for image, caption in zip(split.caption_to_image.tolist(), split.captions, strict=True):
        out[image].append(caption)
    return out


def _sentence_result(
    loaded: Sequence[tuple[str, CMSEI]], split: Split, captions: list[list[str]], sentence: str, best: Best
) -> dict[str, Any]:
    """The images found for a sentence, and its unknown words by model; ``own`` marks images that have the sentence."""
    unknown = {}
    for name, model in loaded:
        if words := list(dict.fromkeys(word for word, known in model.text.spell(sentence) if not known)):
            unknown[name] = words
    images = [
        {"rank": rank, "score": score, "image": i, "name": split.ids[i], "captions": captions[i]}
        | {"own": sentence in captions[i]}
        for rank, i, score in best
    ]
    return {"caption": sentence, "unknown": unknown, "images": images}


def _image_result(split: Split, image: int, best: Best) -> dict[str, Any]:
    """The captions found for an image; ``own`` marks those that are the image's."""
    captions = []
    for rank, j, score in best:
        owner = int(split.caption_to_image[j])
        of = {"image": owner, "name": split.ids[owner], "own": owner == image}
        captions.append({"rank": rank, "score": score, "caption": j, "text": split.captions[j]} | of)
    return {"image": image, "name": split.ids[image], "captions": captions}


def _format_sentence(found: dict[str, Any]) -> str:
    from ..report.retrieval_page import closest_first, unknown_words

    rows = []
    for x in found["images"]:
        closest, *others = closest_first(found["caption"], x["captions"]) or [""]
        notes = ", ".join(["its own"] * x["own"] + [f"and {len(others)} more"] * bool(others))
        rows.append((x["rank"], f"{x['score']:.4f}", x["image"], x["name"], closest + f" ({notes})" * bool(notes)))
    table = _table(("rank", "score", "image", "name", "closest caption"), rows)
    return "\n".join([*map(printable, (f"“{found['caption']}”", *unknown_words(found))), table])


def _format_image(found: dict[str, Any]) -> str:
    titles = ("rank", "score", "caption", "image", "name", "text")
    rows = [
        (x["rank"], f"{x['score']:.4f}", x["caption"], x["image"], x["name"], x["text"] + " (its own)" * x["own"])
        for x in found["captions"]
    ]
    return f"image {found['image']}, {printable(found['name'])}\n{_table(titles, rows)}"


def _table(titles: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> str:
    """A table as text: the last two columns, a name and a text, aligned left, the others right."""
    cells = [titles, *(tuple(printable(str(x)) for x in row) for row in rows)]
    *wide, name = (max(map(len, column)) for column in list(zip(*cells, strict=True))[:-1])
    return "\n".join(
        "  ".join([*(x.rjust(n) for x, n in zip(row[:-2], wide, strict=True)), row[-2].ljust(name), row[-1]]).rstrip()
        for row in cells
    )
