"""One process against two, with one thread each: ``python -m benchmarks.distributed <rounds> [<images>]`` prints JSON.

Both evaluate the same features. Each process has its own core; the second sleeps while the first works alone.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import torch
import torch.distributed as dist

from benchmarks.captions import features
from benchmarks.pages import ROOT
from benchmarks.paired import timed
from benchmarks.settings import SIZES
from cmsei_fast import PairScorer, evaluate

PROCESSES = 2


def main() -> None:
    """Starts the processes, or runs as one of them."""
    if "RANK" in os.environ:
        print(json.dumps(measure(*map(int, sys.argv[1:]))))
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "benchmarks.distributed", *sys.argv[1:]]
    started = [
        subprocess.Popen(command, cwd=ROOT, env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(PROCESSES)
    ]
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit(1)
    print(printed[0].splitlines()[-1])


def measure(rounds: int, images: int = SIZES.shared[0]) -> dict[str, object]:
    """Seconds of each round, alone and together, as the first process sees them, with five captions an image.

    ``processor_alone`` and ``processor_together`` (of the process that took most) are the seconds that the processor
    worked on it: where something else runs on the machine, they show what the split itself costs.
    """
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < PROCESSES:
        raise RuntimeError(f"expected {PROCESSES} cores, got {len(cores)}")
    os.sched_setaffinity(0, {cores[rank]})
    torch.set_num_threads(1)
    problem = features(images, 5 * images, SIZES.width)

    def run(count: int, group: object) -> object:
        part = problem.first(count, 5 * count)
        return evaluate(
            part.images, part.words, part.lengths, scorer=PairScorer.scan_t2i(), engine="native", group=group
        )

    everything = len(problem.images)
    run(4, dist.group.WORLD)
    found: dict[str, list[float]] = {x: [] for x in ("alone", "together", "processor_alone", "processor_together")}
    for _ in range(rounds):
        dist.barrier()
        before = time.process_time()
        found["together"].append(timed(lambda: run(everything, dist.group.WORLD)))
        most = torch.tensor(time.process_time() - before)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        found["processor_together"].append(float(most))
        if rank == 0:
            before = time.process_time()
            found["alone"].append(timed(lambda: run(everything, None)))
            found["processor_alone"].append(time.process_time() - before)
    dist.barrier()
    dist.destroy_process_group()
    return {**found, "pairs": problem.pairs, "width": SIZES.width}


if __name__ == "__main__":
    main()
