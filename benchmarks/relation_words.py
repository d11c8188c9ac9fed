"""What the words for relations attend to on real data: subject and object, directly and through the graph.

    python -m benchmarks.relation_words train FOLDER --word-vectors FILE --runs RUNS [--seeds 0 1 2] [--weights 0 0.1]
    python -m benchmarks.relation_words table RUNS

``train`` takes a folder with ``val.jsonl.gz``, ``test.jsonl.gz`` and ``labels.json`` as ``benchmarks.ablation`` does.
It trains the row "CMSEI, both graphs, K = 2" of that study with each weight of grounding, and leaves each run's
directory and a JSON file of what its model shows. It skips a run that is done or that another process has claimed, and
does not train a model again. ``table`` collects the runs into ``benchmarks/relation_words.json`` and the tables of
``docs/explain.md``.

The captions are those of the test split that have one of the words and whose image's scene graph has the relation; of
each, the first attention step is taken. Shares are multiples of an even share: 1 is the mean of all regions, or of all
relations of the image. Beside each stands the mean over the caption's other words, since what a region gets from every
word says nothing about this one. "To both" counts the captions in which the word gives subjects and objects, each,
more than an even share and more than the mean of its sentence.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runs
from benchmarks.ablation import MODEL, ROWS, TRAINING, data_flags, load
from benchmarks.pages import ROOT
from cmsei_fast import CMSEI, evaluate, explain
from cmsei_fast.commands.train import make_model
from cmsei_fast.data import Split
from cmsei_fast.report import Explanation
from cmsei_fast.report.relations import MAX_HIGHLIGHTED, relation_shares, strongest_relations
from cmsei_fast.training import train
from cmsei_fast.training.run_directory import LAST
from cmsei_fast.training.run_record import CONFIG

RESULTS, PAGE = ROOT / "benchmarks" / "relation_words.json", ROOT / "docs" / "explain.md"
MARKS = "<!-- relation words: made by python -m benchmarks.relation_words table -->", "<!-- end of relation words -->"

# Word of the captions -> predicates of the scene graphs.
WORDS = {
    "wearing": ("wearing", "wears"),
    "holding": ("holding",),
    "walking": ("walking on", "walking in"),
    "riding": ("riding",),
    "sitting": ("sitting on",),
}


def measure(found: Explanation, word: int, predicates: Iterable[str]) -> dict[str, float] | None:
    """Shares of one word and, with ``" (others)"`` behind the name, of the other words; None without such a relation.

    A region that is both a subject and an object counts as a subject.
    """
    names = set(predicates)
    between = np.array([e.kind == "semantic" and e.region != e.neighbour for e in found.edges])
    chosen = np.array([e.name in names for e in found.edges]) & between
    forwards = [e for e, is_chosen in zip(found.edges, chosen, strict=True) if is_chosen and not e.reverse]
    subjects = sorted({e.region for e in forwards})
    objects = sorted({e.neighbour for e in forwards} - set(subjects))
    if not subjects or not objects:
        return None
    others = [i for i in range(len(found.words)) if found.words[i].lower() != found.words[word].lower()]
    out = {"relevance": found.t2i[0].relevance}  # (L,) each
    for name, attention in (("attention", found.of_words(0)), ("graph", found.of_words(0, through_graph=True))):
        both = np.ones(len(attention), dtype=bool)
        for kind, regions in (("subject", subjects), ("object", objects)):
            share = attention[:, regions].mean(1) * attention.shape[1]
            out[f"{name}, {kind}"] = share
            both &= share > max(1.0, share.mean())
        out[f"{name}, both ends"] = 100.0 * both
    along = found.along_edges(0)  # (L, E)
    out["edges"] = along[:, chosen].mean(1) / along[:, between].mean(1)
    relations = [relation for relation in strongest_relations(found) if relation.kind == "semantic"]
    shares = relation_shares(found, relations, 0)  # (L, relations)
    # As highlighted_relations does.
    highlighted = np.argsort(shares.mean(0) - shares, axis=1, kind="stable")[:, :MAX_HIGHLIGHTED]
    out["lit"] = 100 * np.isin([relation.name for relation in relations], list(names))[highlighted].mean(1)
    of_this_word = {name: float(values[word]) for name, values in out.items()}
    return of_this_word | {f"{name} (others)": float(values[others].mean()) for name, values in out.items()}


def run(model: CMSEI, test: Split, words: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    """A row a word: the means over all its captions."""
    rows = []
    for word, predicates in words.items():
        places = [test.predicate_names.index(name) for name in predicates if name in test.predicate_names]
        images = [test.subset(np.array([i])) for i in range(len(test))]
        having = [bool(np.isin(image.relations[:, 1], places).any()) for image in images]
        measured = []
        for image, has in zip(images, having, strict=True):
            for caption in image.captions if has else ():
                if word not in caption.split():
                    continue
                found = explain(model, image, caption)
                shares = measure(found, found.find_word(word), predicates)
                if shares is not None:
                    measured.append(shares)
        row = {"word": word, "captions": len(measured), "images with the relation": 100 * float(np.mean(having))}
        if measured:
            row |= {name: float(np.mean([shares[name] for shares in measured])) for name in measured[0]}
        rows.append(row)
    return rows


def render(record: dict[str, Any]) -> str:
    """For each weight of grounding a table with a row a word, the mean of its seeds, below their rSum."""
    tables = []
    for weight in sorted({run["grounding"] for run in record["runs"]}):
        weight_runs = [run for run in record["runs"] if run["grounding"] == weight]
        loss = f"Trained with grounding of weight {weight:g}" if weight else "Trained by retrieval alone"
        sums = [run["rSum"] for run in weight_runs]
        seeds = f"{len(sums)} seed{'s' if len(sums) > 1 else ''}"
        rows = [_mean(rows) for rows in zip(*(run["rows"] for run in weight_runs), strict=True)]
        tables.append(f"{loss} ({seeds}, rSum {runs.mean_and_spread(sums)}):\n\n{_table(rows)}")
    return "\n\n".join(tables)


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One word's row over several models."""
    word, *numbers = rows[0]
    return {word: rows[0][word], **{name: statistics.mean(row[name] for row in rows) for name in numbers}}


def _table(rows: list[dict[str, Any]]) -> str:
    columns = {
        "relevance": "relevance",
        "attention, subject": "attention to subjects",
        "attention, object": "to objects",
        "attention, both ends": "to both, % of captions",
        "graph, subject": "through the graph to subjects",
        "graph, object": "to objects",
        "graph, both ends": "to both, % of captions",
        "edges": "along its relations",
        "lit": "own among five highlighted, %",
    }
    lines = [
        f"| word (captions) | images with the relation | {' | '.join(columns.values())} |",
        f"|---|---:|{'---:|' * len(columns)}",
    ]
    for row in rows:
        cells = []
        for name in columns:
            digits = 0 if name == "lit" or name.endswith("ends") else 2
            cells.append(f"{row[name]:.{digits}f} ({row[f'{name} (others)']:.{digits}f})")
        first = f"{row['word']} ({row['captions']})"
        lines.append(f"| {first} | {row['images with the relation']:.0f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure_run(directory: Path, test: Split) -> dict[str, Any]:
    """Measures a run's last model on the split; returns its rows, rSum and weight of grounding."""
    model = CMSEI.from_pretrained(directory / LAST)
    settings = json.loads((directory / CONFIG).read_text(encoding="utf-8"))["training"]
    images, captions = model.encode_images(test), model.encode_captions(test.captions)
    metrics = evaluate(images, captions, scorer=model.scorer, caption_to_image=test.caption_to_image)
    numbers = {"seed": settings["seed"], "grounding": settings["grounding"], "rSum": metrics.rsum}
    return {**numbers, "rows": run(model, test, WORDS)}


def train_run(directory: Path, weight: float, seed: int, training: Split, word_vectors: str) -> None:
    """Trains one model, unless its files are there."""
    if (directory / LAST).exists():
        return
    _, scorer, relations = ROWS["full-2"]
    config = replace(TRAINING, seed=seed, grounding=weight)
    settings = {**MODEL, "scorer": scorer.to_dict(), "relations": relations}
    train(make_model(training, settings, config, word_vectors), training, None, directory, config, progress=False)


def train_and_measure(
    directory: Path, weight: float, seed: int, training: Split, test: Split, word_vectors: str
) -> dict[str, Any]:
    """Trains a model, unless its files are there, and measures it."""
    train_run(directory, weight, seed, training, word_vectors)
    return measure_run(directory, test)


def collect(folder: Path) -> dict[str, Any]:
    """All runs of a folder, ready for JSON."""
    return {"runs": runs.read(folder)}


def _flags(trained: argparse.ArgumentParser) -> None:
    data_flags(trained)
    trained.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.1])


def main() -> None:
    table = partial(runs.tabulate, collect, render, RESULTS, PAGE, MARKS)
    arguments = runs.parse_arguments(__doc__, _flags, table)
    if arguments is None:
        return
    training, test = load(arguments.folder)
    wanted = {
        name: partial(train_and_measure, arguments.runs / name, weight, seed, training, test, arguments.word_vectors)
        for seed in arguments.seeds
        for weight in arguments.weights
        for name in [f"{weight:g}-{seed}"]
    }
    runs.make(arguments.runs, wanted, _summary_line, threads=1)


def _summary_line(found: dict[str, Any]) -> str:
    return f"weight {found['grounding']:g}, seed {found['seed']}: rSum {found['rSum']:.1f}"


if __name__ == "__main__":
    main()
