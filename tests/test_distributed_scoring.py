"""Two processes score together: the bits of one process, an error or a loss in one ends both, a file goes on."""

from __future__ import annotations

import json
import re

import distributed_scoring_runs as runs
import numpy as np
import pytest
import scoring_runs
import torch
from two_processes import two_processes

from cmsei_fast import CMSEI, ModelConfig, cli, engines, score_matrix
from cmsei_fast.commands.sources import load_split
from cmsei_fast.data import Vocabulary, split_from_scenes, synthetic_scenes, write_split
from cmsei_fast.distributed import Team
from cmsei_fast.scoring import prepare
from cmsei_fast.tiling import TileStream

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")


def start_two(*arguments, waits=(0, 1), **environment) -> list[str]:
    """What the two processes print; those that are waited for must end well."""
    printed = []
    with two_processes([*map(str, arguments)], **environment) as processes:
        for rank in waits:
            out, error = processes[rank].communicate(timeout=200)
            assert processes[rank].returncode == 0, error
            printed.append(out)
    return printed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of two processes that computed everything and then failed in many ways, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    return folder, start_two(runs.__file__, folder, "same", "fails")


def test_two_processes_are_one_to_the_bit(finished):
    folder, _ = finished
    with scoring_runs.small_tiles() as scored:
        expected = runs.results()
        alone = sum(scored)
        expected["scores"] = score_matrix(*scoring_runs.features())
    expected |= runs.encoded()
    assert expected.pop("batches") == 5 + 8 + 1
    pairs, batches = [], []
    for rank in (0, 1):
        found = dict(np.load(folder / f"{rank}.npz"))
        pairs.append(int(found.pop("pairs").sum()))
        batches.append(int(found.pop("batches")))
        assert found.keys() == expected.keys()
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
            assert value.dtype == expected[name].dtype
    assert batches == [3 + 4 + 1, 2 + 4]
    assert sum(pairs) == alone  # no tile is scored twice
    assert max(pairs) < 0.6 * alone
    assert sorted(path.name for path in folder.glob("scores*")) == ["scores.npy"]


def test_an_error_in_one_process_ends_both(finished):
    folder, printed = finished
    first, second = (x.splitlines() for x in printed)
    nan = "ValueError: images: expected finite features, got NaN or an infinity in image 11"
    kept = f"; what is finished is in {folder / 'x.npy.part'}, and resume=True goes on with it"
    assert first[:2] == [f"ProcessLost: process 1 of 2 failed: {nan}{x}" for x in ("", kept)]
    assert second[:2] == [nan, nan]
    other = "ValueError: group: expected the same call in every process, got another "
    assert [first[2], second[2]] == [f"{other}k in process {a} than in process {1 - a}" for a in (1, 0)]
    assert first[3].startswith(f"{other}caption_lengths")
    assert first[4:7] == second[4:7]
    if engines.unavailable("native") is None:  # screened; else two lines say that nothing was
        assert [first[7], second[7]] == [f"ProcessLost: process 1 of 2 failed: {nan}", nan]
        assert [first[8], second[8]] == [f"{other}screen in process {a} than in process {1 - a}" for a in (1, 0)]
    assert [first[9], second[9]] == [f"ProcessLost: process 1 of 2 failed: {nan}", nan]
    assert [first[10], second[10]] == [f"{other}candidates in process {a} than in process {1 - a}" for a in (1, 0)]
    assert first[11] == "ProcessLost: process 1 of 2 failed to encode its share"
    assert second[11] == "TypeError: 'NoneType' object is not callable"
    assert [re.sub(r", got .*", "", line) for line in first[4:7]] == [
        "ValueError: out: expected the name of a file that ends in .npy",
        "ValueError: group: expected out= to be the name of a file",
        "TypeError: group: expected None or a group of torch.distributed that this process is in",
    ]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_lost_process_ends_the_run_which_goes_on(tmp_path, how):
    """Killed: the connection breaks. Stopped: the group's timeout ends the wait."""
    (tmp_path / how).touch()
    (printed,) = start_two(runs.__file__, tmp_path, "lost", waits=(0,))
    (tmp_path / "stopped").unlink()
    count, message = printed.splitlines()
    part = tmp_path / "scores.npy.part"
    assert message.startswith("a process of the group is lost, or does not answer: ")
    assert message.endswith(f"; what is finished is in {part}, and resume=True goes on with it")
    assert not (tmp_path / "scores.npy").exists()
    with scoring_runs.small_tiles() as scored:
        expected = np.array(score_matrix(*scoring_runs.features(), engine="eager"))
        tiles = len(scored)
        scored.clear()
        got = score_matrix(*scoring_runs.features(), out=tmp_path / "scores.npy", resume=True, engine="eager")
        assert len(scored) == tiles - int(count) - 3  # process 1 has marked three
    np.testing.assert_array_equal(got, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([how, "scores.npy"])


def test_the_command_under_torchrun(tmp_path):
    made = synthetic_scenes(5, width=16, captions_per_image=2)
    write_split(tmp_path / "x.h5", split_from_scenes(made.scenes, features=made.features))
    split = load_split(str(tmp_path / "x.h5"))
    config = ModelConfig(width=16, heads=2, feature_width=16, predicate_names=split.predicate_names, word_width=16)
    CMSEI(config, Vocabulary.build(split.captions)).save_pretrained(tmp_path / "model")
    command = ["evaluate", f"{tmp_path}/x.h5", "--model", f"{tmp_path}/model", "--device", "cpu"]
    assert cli.main([*command, "--json", f"{tmp_path}/one.json", "--scores", f"{tmp_path}/one.npy"]) == 0
    two = ["--json", f"{tmp_path}/two.json", "--scores", f"{tmp_path}/two.npy"]
    printed = start_two("-m", "cmsei_fast", *command, *two, OMP_NUM_THREADS="1")
    assert "rSum" in printed[0]
    assert printed[1] == ""
    np.testing.assert_array_equal(np.load(tmp_path / "two.npy"), np.load(tmp_path / "one.npy"))
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert a.pop("pairs_per_second") > 0 < b.pop("pairs_per_second")
    assert a == b
    command = ["retrieve", *command[1:], "--caption", split.captions[0], "--caption", "a horse", "--image", "3"]
    assert cli.main([*command, "--out", f"{tmp_path}/one.json"]) == 0
    printed = start_two("-m", "cmsei_fast", *command, "--out", f"{tmp_path}/two.json", OMP_NUM_THREADS="1")
    assert printed[0].count("\nrank ") == 3
    assert printed[1] == ""
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert a == b


def test_tiles_are_dealt_by_work():
    images, captions, m, n = scoring_runs.features()
    problem = prepare(images, captions, m, n, None, "eager", None)
    with scoring_runs.small_tiles():
        stream = TileStream(problem)
    work = Team(None, stream).work()
    i, j = (stream.grid.rows(1), stream.grid.columns(2))
    assert work[1, 2] == n[i].sum() * m[j].sum() + (n[i] ** 2).sum() + (m[j] ** 2).sum()
    for wanted in (np.ones(stream.grid.shape, bool), np.random.default_rng(0).random(stream.grid.shape) < 0.5):
        for size in (1, 2, 3, 7, 200):
            team = Team(None, stream)
            team.size = size
            team.deal(wanted)
            dealt = team._dealt[wanted]
            assert (np.diff(dealt) >= 0).all()
            shares = np.bincount(dealt, work[wanted], minlength=size)
            assert len(shares) == size
            assert abs(shares - work[wanted].sum() / size).max() <= work.max()
