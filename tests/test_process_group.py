"""Processes that a launcher started: bad input in one ends all, they wait for each other so long and no longer."""

from __future__ import annotations

import time

import pytest
import torch
from training_runs import SMALL, tiny_model, tiny_split, write_splits
from two_processes import free_port, two_processes

from cmsei_fast.exchange import Exchange, ProcessLost
from cmsei_fast.process_group import process_group, together

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("group")
    write_splits(out)
    tiny_model(tiny_split()).eval().save_pretrained(out / "model")
    return out


def run_two(folder, *commands) -> list[str]:
    """What two processes say of their error, each its own command line; they must end soon, with one line each."""
    said = []
    started = (["-m", "cmsei_fast", *command] for command in commands)
    with two_processes(*started, cwd=folder, OMP_NUM_THREADS="1") as processes:
        for process in processes:
            said.append(process.communicate(timeout=100)[1])  # torch's own wait is 1,800 s
            assert process.returncode == 2, said
    assert [text.count("\n") for text in said] == [1, 1], said
    return [text.removeprefix("cmsei-fast: error: ").rstrip("\n") for text in said]


TRAIN = [*SMALL, "--device", "cpu"]
EVALUATE = ["evaluate", "val.h5", "--model", "model"]


@pytest.mark.parametrize(
    ("bad", "good", "failing", "message"),
    [
        ([*EVALUATE, "--json", "no/x.json"], EVALUATE, 0, "FileNotFoundError: --json: expected a file in an existing "),
        (["train", "no.h5", "run", *TRAIN], ["train", "train.h5", "run", *TRAIN], 1, "FileNotFoundError: "),
        ([*EVALUATE, "--device", "cuda:77"], [*EVALUATE, "--device", "cpu"], 0, "ValueError: --device: expected an a"),
    ],
    ids=["a flag", "a file", "a device"],
)
def test_bad_input_in_one_process_ends_both(folder, bad, good, failing, message):
    commands = [good, good]
    commands[failing] = bad
    said = run_two(folder, *commands)
    other = said[1 - failing]
    assert other.startswith(f"process {failing} of 2 failed: {message}"), said
    assert not said[failing].startswith("process ")
    assert not (folder / "run").exists()


def test_processes_with_other_settings_do_not_train(folder):
    said = run_two(folder, *(["train", "train.h5", "other", *TRAIN, "--seed", seed] for seed in "12"))
    expected = "group: expected the same call in every process, got another training.seed in process"
    assert said == [f"{expected} {1 - rank} than in process {rank}" for rank in (0, 1)]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_nobody_waits_long_for_who_does_not_come(monkeypatch, rank):
    """As where the launcher is killed: process 0 holds what the others connect to, or the launcher does."""
    port = str(free_port())
    named = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**named, "CMSEI_CONNECT_SECONDS": "1"}.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    message = rf"^expected the processes of the group to meet at 127\.0\.0\.1:{port} within 1 s, got none or not all: "
    with pytest.raises(ProcessLost, match=message), process_group("cpu"):
        pytest.fail("there is no group")
    assert time.monotonic() - start < 300  # torch waits 1,800 s
    assert not torch.distributed.is_initialized()
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(ProcessLost, match=r"environment variable MASTER_ADDR expected"), process_group("cpu"):
        pytest.fail("there is no group")
    for text in ("soon", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("CMSEI_CONNECT_SECONDS", text)
        with pytest.raises(ValueError, match=r"^CMSEI_CONNECT_SECONDS: expected a number of seconds above 0, got "):
            process_group("cpu").__enter__()


def test_who_was_interrupted_is_told_without_words(monkeypatch):
    """Ctrl-C has no message."""
    said = []
    exchange = Exchange(None)
    exchange.size = 2
    monkeypatch.setattr(exchange, "sum_", lambda told: None)
    monkeypatch.setattr(exchange, "texts", said.append)
    for error in (KeyboardInterrupt(), ValueError("x: y")):
        exchange.exchange(0, error)
    assert said == ["KeyboardInterrupt", "ValueError: x: y"]


def test_a_process_alone_meets_nobody():
    with pytest.raises(KeyError), together():
        raise KeyError
    with process_group("cpu") as device, together():
        assert device == torch.device("cpu")


DIES = """
import os, torch
from cmsei_fast.exchange import ProcessLost
from cmsei_fast.process_group import process_group
from cmsei_fast.training.distributed import average_gradients, gather_rows
with process_group("cpu"):
    if os.environ["RANK"] == "1":
        os._exit(1)
    x = torch.nn.Parameter(torch.ones(2))
    x.grad = torch.ones(2)
    for call in (lambda: average_gradients([x]), lambda: gather_rows(x, [2, 2])):
        try:
            call()
        except ProcessLost as error:
            print(str(error).split(":")[0])
"""


def test_a_process_that_dies_in_a_step_of_training_is_told(folder):
    with two_processes(["-c", DIES]) as processes:
        told = processes[0].communicate(timeout=100)[0]
    assert told == "a process of the group is lost, or does not answer\n" * 2
