"""Where words of relations look on real data: at subject and object, by attention and through the graph.

    python -m benchmarks.relation_words FOLDER --model DIR

``FOLDER`` holds ``test.jsonl.gz`` and ``labels.json`` as for ``benchmarks.ablation``; the model is one of its row
"CMSEI, both graphs, K = 2". Of every caption of the test split that has one of the words, whose image's scene graph has
the relation, the first attention step is taken. Shares are told as multiples of an even one (1 is the mean of all
regions, or of all relations of the image), beside each the mean over the caption's other words: what a region gets of
every word says nothing about this one. Writes ``benchmarks/relation_words.json`` and the table of ``docs/explain.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ablation import ROOT, load, replaced
from benchmarks.machine import describe
from cmsei_fast import CMSEI, explain
from cmsei_fast.data import Split
from cmsei_fast.data.files import replacing
from cmsei_fast.report import Explanation
from cmsei_fast.report.relations import relation_shares, strongest_relations

RESULTS, PAGE = ROOT / "benchmarks" / "relation_words.json", ROOT / "docs" / "explain.md"
MARKS = "<!-- relation words: made by python -m benchmarks.relation_words -->", "<!-- end of relation words -->"

LIT = 5  # relations that a word lights up
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
    forwards = [e for e, own in zip(found.edges, chosen, strict=True) if own and not e.reverse]
    subjects = sorted({e.region for e in forwards})
    objects = sorted({e.neighbour for e in forwards} - set(subjects))
    if not subjects or not objects:
        return None
    others = [i for i in range(len(found.words)) if found.words[i].lower() != found.words[word].lower()]
    out = {"relevance": found.t2i[0].relevance}  # (L,) each
    for name, looks in (("attention", found.of_words(0)), ("graph", found.of_words(0, through_graph=True))):
        for kind, regions in (("subject", subjects), ("object", objects)):
            out[f"{name}, {kind}"] = looks[:, regions].mean(1) * looks.shape[1]
    along = found.along_edges(0)  # (L, E)
    out["edges"] = along[:, chosen].mean(1) / along[:, between].mean(1)
    relations = [relation for relation in strongest_relations(found) if relation.kind == "semantic"]
    shares = relation_shares(found, relations, 0)  # (L, relations)
    lit = np.argsort(shares.mean(0) - shares, axis=1, kind="stable")[:, :LIT]  # as lit_relations
    out["lit"] = 100 * np.isin([relation.name for relation in relations], list(names))[lit].mean(1)
    own = {name: float(values[word]) for name, values in out.items()}
    return own | {f"{name} (others)": float(values[others].mean()) for name, values in out.items()}


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
    """The table, a row a word."""
    columns = {
        "relevance": "relevance",
        "attention, subject": "attention: subject",
        "attention, object": "object",
        "graph, subject": "through the graph: subject",
        "graph, object": "object",
        "edges": "its edges",
        "lit": "of five lit, %",
    }
    lines = [
        f"| word (captions) | images with the relation | {' | '.join(columns.values())} |",
        f"|---|---:|{'---:|' * len(columns)}",
    ]
    for row in record["rows"]:
        cells = []
        for name in columns:
            digits = 0 if name == "lit" else 2
            cells.append(f"{row[name]:.{digits}f} ({row[f'{name} (others)']:.{digits}f})")
        first = f"{row['word']} ({row['captions']})"
        lines.append(f"| {first} | {row['images with the relation']:.0f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _, test = load(arguments.folder)
    machine = {key: describe()[key] for key in ("python", "torch")}
    record = {**machine, "rows": run(CMSEI.from_pretrained(arguments.model), test, WORDS)}
    with replacing(RESULTS) as temporary:
        Path(temporary).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    table = render(record)
    with replacing(PAGE) as temporary:
        Path(temporary).write_text(replaced(PAGE.read_text(encoding="utf-8"), table, MARKS), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
