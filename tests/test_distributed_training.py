"""Two processes train as one does."""

from __future__ import annotations

import json
import os

import pytest
import torch
import training_gradients
import training_runs
from safetensors.torch import load_file
from training_runs import NOISY, losses
from two_processes import processes, two_processes

from cmsei_fast import CMSEI, evaluate
from cmsei_fast.training.log import read_log

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")


def start_two(directory, *, finishes=True, program=(training_runs.__file__,), **options) -> list[str]:
    """What the two processes say on standard error."""
    said = []
    with two_processes([*program, str(directory), json.dumps(options)]) as processes:
        for process in processes:
            said.append(process.communicate(timeout=400)[1])
            assert (process.returncode == 0) == finishes, said
    return said


@pytest.mark.parametrize(("loss", "grounding", "all_learn"), [("hinge", 0.0, False), ("infonce", 0.5, True)])
def test_two_processes_are_one(tmp_path, loss, grounding, all_learn):
    """Batches of 7 captions are split 4 and 3; images have captions in both processes.

    Without ``word_residual`` the words' projection has no say, and no gradient in any process. Larger steps would make
    more of the gradients' rounding, which is another where a process has a part of the batch.
    """
    options = {"batch_size": 7, "loss": loss, "grounding": grounding, "epochs": 2, "clip": 0.5, "learning_rate": 0.0003}
    options["model"] = {"word_residual": all_learn}
    model = training_runs.run(tmp_path / "one", **options)
    assert all(p.grad is not None for p in model.parameters()) == all_learn
    assert start_two(tmp_path / "two", **options) == ["", ""]  # no warning of parameters that are used or are not
    expected = losses(tmp_path / "one")
    assert len(expected) == 8
    assert losses(tmp_path / "two") == pytest.approx(expected, abs=1e-5)
    a, b = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two"))
    assert a.keys() == b.keys()
    for name in a:
        # A key's bias shifts all logits of a softmax alike: its gradient is rounding, which Adam scales up to a step.
        if a[name].numel() and not name.endswith("key.bias"):
            assert (a[name] - b[name]).abs().max() <= 1e-5, name


def test_gradients_of_three_uneven_shares_are_of_one_process():
    """A batch of 10 captions is split 4, 3 and 3; in float64 only rounding is left, and images may have fewer regions.

    Steps make more of float32's rounding, which hides what is wrong by less.
    """
    with processes(*[[training_gradients.__file__]] * 3) as group:
        for process in group:
            out, error = process.communicate(timeout=400)
            assert process.returncode == 0, error
            found = [tuple(map(float, line.split())) for line in out.splitlines()]
            assert len(found) == len(training_gradients.CASES)
            assert all(x <= 1e-11 for line in found for x in line), found


def test_two_processes_resume_to_the_bit(tmp_path):
    start_two(tmp_path / "whole", **NOISY)
    start_two(tmp_path / "killed", finishes=False, kill_at=3, **NOISY)
    assert len(losses(tmp_path / "killed")) <= 3
    start_two(tmp_path / "killed", resume=True, **NOISY)
    expected = losses(tmp_path / "whole")
    assert len(expected) == 8
    assert losses(tmp_path / "killed") == expected
    with pytest.raises(ValueError, match=r"^resume: expected 2 processes \(as the run had\), got 1$"):
        training_runs.run(tmp_path / "killed", resume=True, **NOISY)


def test_two_processes_lose_patience_together(tmp_path):
    start_two(tmp_path, patience=1, learning_rate=1e-12, epochs=9, warmup_epochs=0)
    assert len([record for record in read_log(tmp_path / "log.jsonl") if "validation" in record]) == 2
    assert (tmp_path / "last").is_dir()


SHARED_VALIDATION = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import training_runs, torch
from cmsei_fast import tiling
from cmsei_fast.distributed import Team
from cmsei_fast.model import CMSEI
torch.set_num_threads(1)
tiling.TILE_WORK = dict.fromkeys(tiling.TILE_WORK, 1)
shares = []
run = Team.run
def counted(team, wanted, take, *more):
    def note(i, j, tile):
        shares[-1][1] += 1
        return take(i, j, tile)
    shares.append([int(wanted.sum()), 0])
    run(team, wanted, note, *more)
Team.run = counted
for name, items in (("encode_images", 3), ("encode_captions", 5)):
    def encode(self, *arguments, whole=getattr(CMSEI, name), items=items, **options):
        return whole(self, *arguments, batch_size=items, **options)
    setattr(CMSEI, name, encode)
training_runs.run(sys.argv[2], **json.loads(sys.argv[3]))
with open(f"{sys.argv[2]}/shares.{os.environ['RANK']}", "w") as file:
    json.dump(shares, file)
"""


def test_a_validation_is_shared_and_the_same_to_the_bit(tmp_path):
    """What two processes measured after the last epoch is what one measures of the model they saved then."""
    start_two(tmp_path / "two", program=("-c", SHARED_VALIDATION, os.path.dirname(training_runs.__file__)), epochs=2)
    records = [r for r in read_log(tmp_path / "two" / "log.jsonl") if "validation" in r]
    model = CMSEI.from_pretrained(tmp_path / "two" / "last")
    split = training_runs.tiny_split()
    images, captions = model.encode_images(split, batch_size=3), model.encode_captions(split.captions, batch_size=5)
    alone = evaluate(images, captions, scorer=model.scorer, caption_to_image=split.caption_to_image)
    assert len(records) == 2
    assert records[-1]["validation"] == alone.to_dict()
    shares = [json.loads((tmp_path / "two" / f"shares.{rank}").read_text()) for rank in "01"]
    assert len(shares[0]) == len(shares[1]) == 4  # of two validations, the true pairs and the others
    for (wanted, zero), (_, one) in zip(shares[0][::2], shares[1][::2], strict=True):
        assert min(zero, one) > 0
        assert zero + one == wanted


MIXED = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import training_runs, torch
from cmsei_fast.engines import native
torch.set_num_threads(1)
if os.environ["RANK"] == "1":
    native.unavailable = lambda: "not built here"
else:
    native.unavailable = lambda: None
    native.pair_score = native.pair_score_backward = None  # what uses them fails
training_runs.run(sys.argv[2], **json.loads(sys.argv[3]))
"""


def test_processes_of_which_one_lacks_the_fastest_engine(tmp_path):
    """They would score a validation with other engines, and stop at it: all use the one that all have."""
    program = ("-c", MIXED, os.path.dirname(training_runs.__file__))
    first, second = start_two(tmp_path / "two", program=program, batch_size=7, epochs=1)
    for operator in ("relation_attention", "pair_score"):
        told = f"engine 'auto' is native in process 0, eager in process 1: all of them use 'eager' for {operator}\n"
        assert told in first
    assert second == ""
    assert any("validation" in record for record in read_log(tmp_path / "two" / "log.jsonl"))


OWN_GROUP = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch.distributed as dist
dist.init_process_group("gloo")
import training_runs, torch
from cmsei_fast.training.distributed import gather_rows
torch.set_num_threads(1)
training_runs.run(sys.argv[2], **json.loads(sys.argv[3]))
rank = dist.get_rank()
rows = torch.arange(6.0).view(3, 2)[: 3 - rank].mul(1 + rank).requires_grad_()
gathered = gather_rows(rows, [3, 2])
assert gathered.tolist() == [[0, 1], [2, 3], [4, 5], [0, 2], [4, 6]]
(gathered * torch.arange(5.0)[:, None] * (1 + rank)).sum().backward()
assert rows.grad[:, 0].tolist() == rows.grad[:, 1].tolist() == [[0, 3, 6], [9, 12]][rank]
dist.destroy_process_group()
assert not [name for name in training_runs.threads() if "gloo" in name], "the group's threads outlive it"
"""


def test_a_group_that_was_there_before_the_package(tmp_path):
    """The user's own group may be older than the import of cmsei_fast, and ends when it is destroyed."""
    options = {"batch_size": 7, "epochs": 1}
    training_runs.run(tmp_path / "one", **options)
    start_two(tmp_path / "two", program=("-c", OWN_GROUP, os.path.dirname(training_runs.__file__)), **options)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
