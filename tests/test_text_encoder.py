"""Text encoders: the GRU against torch's own on each caption alone, and a tiny transformer with random weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from training_runs import run, tiny_model, tiny_split

from cmsei_fast import CMSEI
from cmsei_fast.data.batches import caption_batch

SPLIT = tiny_split(1)
WORDS = ["a", "red", "dog", "near", "the", "fence", "."]


def test_gru_is_the_mean_of_both_directions():
    model = tiny_model(SPLIT).eval()
    tokens = [[4, 5, 6], [7], [8, 9, 10, 11, 4]]
    encoded = model.text(caption_batch(tokens), model.words)
    assert encoded.lengths.tolist() == [3, 1, 5]
    for own, rows in zip(tokens, encoded.rows.split([3, 1, 5]), strict=True):
        forwards, backwards = model.text.gru(model.words(torch.tensor([own])))[0][0].chunk(2, -1)
        torch.testing.assert_close(rows, (forwards + backwards) / 2, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = transformers.BertTokenizerFast(str(path / "vocab.txt"), model_max_length=8)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=10,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).to(torch.bfloat16).save_pretrained(path)  # as many are kept
    tokenizer.save_pretrained(path)
    return str(path)


def test_transformer_leaves_out_special_tokens_and_padding(bert):
    model = tiny_model(SPLIT, transformer=bert)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    captions = ["a red unicorn", "", "dog", "a red dog near the fence . a red dog"]
    encoded = model.encode_captions(captions)
    assert encoded.lengths.tolist() == [3, 2, 1, 6]  # unknown words stay, and what an empty caption has; cut at 8
    for caption, rows in zip(captions, encoded.rows.split(encoded.lengths.tolist()), strict=True):
        torch.testing.assert_close(model.encode_captions([caption]).rows, rows, atol=1e-5, rtol=0)
    assert torch.equal(model.encode_captions(["a dog"]).rows, model.encode_captions(["A  DOG"]).rows)


def test_transformer_is_saved_with_the_model(bert, tmp_path):
    model = tiny_model(SPLIT, transformer=bert)
    model.save_pretrained(tmp_path)
    back = CMSEI.from_pretrained(tmp_path)
    captions = ["a red dog", "the fence"]
    assert torch.equal(back.encode_captions(captions).rows, model.encode_captions(captions).rows)
    assert not list(tmp_path.rglob("*.bin"))


def test_word_dropout_that_a_transformer_was_saved_with_is_passed_over(bert, tmp_path):
    """It was taken once, and never read."""
    model = run(tmp_path, epochs=1, model={"transformer": bert, "relations": ()})
    for path in (tmp_path / "last" / "config.json", tmp_path / "run.json"):
        record = json.loads(path.read_text())
        record["model"]["word_dropout"] = 0.1
        path.write_text(json.dumps(record))
    back = CMSEI.from_pretrained(tmp_path / "last")
    assert torch.equal(back.encode_captions(["a dog"]).rows, model.eval().encode_captions(["a dog"]).rows)
    run(tmp_path, epochs=2, model={"transformer": bert, "relations": ()}, resume=True)
    assert json.loads((tmp_path / "run.json").read_text())["model"]["word_dropout"] == 0


def test_no_such_transformer(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(OSError, match="absent"):
        tiny_model(SPLIT, transformer=str(tmp_path / "absent"))


OFFLINE = """
import sys
from training_runs import tiny_model, tiny_split
model = tiny_model(tiny_split(1), transformer="some/bert")
print(len(model.encode_captions(["a red dog"]).rows))
try:
    tiny_model(tiny_split(1), transformer="other/bert")
except OSError as error:
    print(error)
"""


def test_without_the_hub_its_cache_is_used_or_one_error_told_at_once(bert, tmp_path):
    """The library alone repeats its requests, and waits longer each time."""
    cached = tmp_path / "hub" / "models--some--bert"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(bert, cached / "snapshots" / ("0" * 40))
    nowhere = "http://127.0.0.1:1"
    environment = os.environ | {
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": nowhere,
        "PYTHONPATH": os.path.dirname(__file__),
    }
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_CACHE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", OFFLINE]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert "Retrying" not in told.stderr
    rows, error = told.stdout.splitlines()
    assert rows == "3"
    expected = "a directory, or the name of a model of the Hugging Face hub that is in its cache"
    assert error.startswith(f"transformer: expected {expected}, got 'other/bert', and {nowhere} cannot be reached (")


def test_a_transformer_spells_the_tokens_that_it_gives_rows_for(bert):
    model = tiny_model(SPLIT, transformer=bert)
    for caption, expected in (
        ("A red unicorn.", [("a", True), ("red", True), ("[UNK]", False), (".", True)]),
        ("a red dog near the fence . a red dog", [(word, True) for word in WORDS[:6]]),
    ):
        assert model.text.spell(caption) == expected
        assert len(model.encode_captions([caption]).rows) == len(expected)
    assert len(model.text.spell("")) == len(model.encode_captions([""]).rows)
