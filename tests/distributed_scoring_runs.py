"""One of two processes that score together: ``python distributed_scoring_runs.py FOLDER WHAT…``, started by a test."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import scoring_runs
import torch
import torch.distributed as dist

from cmsei_fast import CMSEI, ModelConfig, PairScorer, engines, evaluate, retrieve, score_file, score_matrix
from cmsei_fast import distributed as sharing
from cmsei_fast.data import Vocabulary, split_from_scenes, synthetic_scenes
from cmsei_fast.model import cmsei
from cmsei_fast.retrieval import candidates, screen_timing

OWNER = np.random.default_rng(5).permutation(np.arange(30) % 12)


def tied() -> tuple[np.ndarray, ...]:
    """Features in which items repeat, so that many scores tie."""
    images, captions, m, n = scoring_runs.features()
    of_image, of_caption = np.arange(12) % 3, np.arange(30) % 3
    return images[of_image], captions[of_caption], m[of_caption], n[of_image]


def chosen(query: str) -> np.ndarray:
    """Candidates for each query, five of the 12 images or of the 30 captions."""
    asks, items = (30, 12) if query == "caption" else (12, 30)
    rng = np.random.default_rng(7)
    return np.stack([rng.permutation(items)[:5] for _ in range(asks)])


def results(group=None) -> dict[str, np.ndarray]:
    """Everything that a group computes, of distinct features and of ones with ties; a group screens, one does not."""
    out = {}
    for name, features, k, folds in (("distinct", scoring_runs.features(), 4, 1), ("tied", tied(), 100, 3)):
        for query in ("caption", "image"):
            best = retrieve(*features, k=k, query=query, engine="eager", group=group)
            out |= {f"{name} {query} {x}": getattr(best, x) for x in ("indices", "scores")}
            best = retrieve(*features, k=k, query=query, candidates=chosen(query), engine="eager", group=group)
            out |= {f"{name} candidates {query} {x}": getattr(best, x) for x in ("indices", "scores")}
        found = evaluate(*features, caption_to_image=OWNER, folds=folds, engine="eager", group=group)
        out |= {f"{name} ranks {x}": getattr(found, x).ranks for x in ("i2t", "t2i")}
        out[f"{name} numbers"] = np.array([found.rsum, found.i2t.mean_rank, found.t2i.median_rank])
        if engines.unavailable("native") is not None:
            continue
        options = {"scorer": PairScorer.maxsim("mean"), "engine": "native", "group": group}
        options["screen"] = None if group is None else "bfloat16"
        for query in ("caption", "image"):
            best = retrieve(*features, k=k, query=query, **options)
            out |= {f"{name} screened {query} {x}": getattr(best, x) for x in ("indices", "scores")}
        found = evaluate(*features, caption_to_image=OWNER, folds=folds, **options)
        out |= {f"{name} screened ranks {x}": getattr(found, x).ranks for x in ("i2t", "t2i")}
    return out


def same(folder: Path, rank: int) -> None:
    """All results, the pairs that this process scored for them, and a score matrix in a file."""
    with scoring_runs.small_tiles() as scored:
        sharing.TILES_A_ROUND = candidates._CALLS_A_ROUND = 3
        if rank == 1:
            screen_timing.clock = lambda: (
                0.0
            )  # nothing pays: one process screens where the other, by its clock, may not
        found = results(dist.group.WORLD)
        found["pairs"] = np.array(scored)
        found |= encoded(dist.group.WORLD)
        found["scores"] = score_matrix(*scoring_runs.features(), out=folder / "scores.npy", group=dist.group.WORLD)
        np.savez(folder / f"{rank}.npz", **found)


def screened(*features, screen="bfloat16", **options):
    """The least of what screens; nothing where they cannot be had."""
    if engines.unavailable("native") is None:
        evaluate(
            *features, scorer=PairScorer.maxsim(), engine="native", caption_to_image=OWNER, screen=screen, **options
        )


def encoded(group=None) -> dict[str, np.ndarray]:
    """A split as a small model encodes it, in five batches of images and eight of captions."""
    made = synthetic_scenes(5, width=16, captions_per_image=2)
    split = split_from_scenes(made.scenes, features=made.features)
    torch.manual_seed(0)
    parts = {"width": 16, "heads": 2, "feature_width": 16, "word_width": 16}
    model = CMSEI(ModelConfig(predicate_names=split.predicate_names, **parts), Vocabulary.build(split.captions))
    seen: list[int] = []
    for name in ("embed_images", "embed_captions"):
        real = getattr(model, name)
        setattr(model, name, lambda batch, real=real: seen.append(1) or real(batch))
    images = model.encode_images(split, batch_size=-(-len(split) // 5), group=group)
    captions = model.encode_captions(split.captions, batch_size=-(-len(split.captions) // 8), group=group)
    few = model.encode_images(split, [3], group=group)  # a process has nothing to do
    out = {
        f"encoded {a} {b}": getattr(x, b).numpy()
        for a, x in (("images", images), ("captions", captions), ("one", few))
        for b in ("rows", "lengths")
    }
    return out | {"batches": np.array(len(seen))}


def error_of(call) -> str:
    try:
        call()
    except (ValueError, TypeError, sharing.ProcessLost) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def fails(folder: Path, rank: int) -> None:
    """Process 1 meets a NaN that process 0 never reads; then both ask for different things."""
    images, captions, m, n = scoring_runs.features()
    images[11, 0, 0] = np.nan
    group = dist.group.WORLD
    with scoring_runs.small_tiles():
        sharing.TILES_A_ROUND = 3
        calls = [
            lambda: retrieve(images, captions, m, n, k=2, engine="eager", group=group),
            lambda: score_matrix(images, captions, m, n, out=folder / "x.npy", engine="eager", group=group),
            lambda: retrieve(images, captions, m, n, k=2 + rank, engine="eager", group=group),
            lambda: evaluate(images[:10], captions, m - rank * (m > 1), n[:10], captions_per_image=3, group=group),
            lambda: score_matrix(images, captions, m, n, out=folder / "x.bin", group=group),
            lambda: score_matrix(images, captions, m, n, group=group),
            lambda: retrieve(images, captions, m, n, group="world"),
            lambda: screened(images, captions, m, n, group=group),
            lambda: screened(*scoring_runs.features(), screen="bfloat16" if rank else None, group=group),
            lambda: retrieve(images, captions, m, n, candidates=chosen("caption"), engine="eager", group=group),
            lambda: retrieve(
                *scoring_runs.features(), candidates=(chosen("caption") + rank) % 12, engine="eager", group=group
            ),
        ]
        for call in calls:
            print(error_of(call), flush=True)
        caption_batch = cmsei.caption_batch
        if rank == 1:
            cmsei.caption_batch = None
        print(error_of(lambda: encoded(group)), flush=True)
        cmsei.caption_batch = caption_batch


def lost(folder: Path, rank: int) -> None:
    """Process 1 is killed, or stopped, when it has written three tiles.

    Only once it has stopped is the group's timeout a short one: nothing else that a busy machine makes slow meets it.
    """
    killed = (folder / "kill").exists()
    score_matrix(*scoring_runs.features(), engine="eager")  # no first call keeps the other one waiting
    group, stopped = dist.group.WORLD, folder / "stopped"
    dist.barrier(group)
    write = score_file.ScoreFile.write

    def write_or_die(self, i, j, tile):
        if rank == 1 and len(scored) == 4:
            stopped.touch()
            os.kill(os.getpid(), signal.SIGKILL if killed else signal.SIGSTOP)
        if rank == 0 and len(scored) == 4 and not killed:
            while not stopped.exists():
                time.sleep(0.01)
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1), group)
        return write(self, i, j, tile)

    score_file.ScoreFile.write = write_or_die
    with scoring_runs.small_tiles() as scored:
        sharing.TILES_A_ROUND = 3
        try:
            score_matrix(*scoring_runs.features(), out=folder / "scores.npy", engine="eager", group=group)
        except sharing.ProcessLost as error:
            print(f"{len(scored)}\n{error}", flush=True)
            os._exit(0)  # leaving the group may wait for the process that is stopped


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=100))
    for what in sys.argv[2:]:
        {"same": same, "fails": fails, "lost": lost}[what](Path(sys.argv[1]), dist.get_rank())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
