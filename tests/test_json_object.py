"""Files of one JSON object: whatever else is in one, every reader says so in one line that names the file."""

from __future__ import annotations

import pytest

from cmsei_fast.commands.settings import read_settings
from cmsei_fast.data.json_object import read_json
from cmsei_fast.model import ModelConfig
from cmsei_fast.report.run_files import read_run
from cmsei_fast.training import TrainConfig
from cmsei_fast.training.checkpoint import read_checkpoint
from cmsei_fast.training.run_record import compared_record

DAMAGED = {
    "empty": (b"", "malformed JSON: "),
    "truncated": (b'{"a": ', "malformed JSON: "),
    "not text": (b"\xff{}", "malformed JSON: 'utf-8' codec"),
    "deep": (b"[" * 100_000, "JSON nested too deeply"),
    "list": (b"[1]", "list"),
}


def resumed(directory) -> None:
    compared_record(directory, TrainConfig(), ModelConfig(relations=()), {}, True, None)


READERS = {
    "plain": ("object.json", lambda path: read_json(path)),
    "settings": ("settings.json", lambda path: read_settings(str(path), ("model", "training"))),
    "run of a report": ("run.json", lambda path: read_run(str(path.parent))),
    "resumed run": ("run.json", lambda path: resumed(path.parent)),
    "checkpoint": ("state.json", lambda path: read_checkpoint(path.parent)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_object_is_told_with_the_file(tmp_path, reader, name):
    (tmp_path / "log.jsonl").touch()
    file, read = READERS[reader]
    content, got = DAMAGED[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected") as error:
        read(path)
    assert str(error.value).startswith(f"{path}: expected one JSON object, got {got}")


def test_an_object_is_read_with_a_byte_order_mark_or_without(tmp_path):
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "o.json").write_bytes(mark + '{"a": "é"}'.encode())
        assert read_json(tmp_path / "o.json") == {"a": "é"}


@pytest.mark.parametrize(
    ("content", "key"),
    [('{"training": {"epochs": 3, "epochs": 5}}', "epochs"), ('{"model": {}, "training": {}, "model": {}}', "model")],
    ids=["setting", "section"],
)
def test_a_setting_that_is_there_twice(tmp_path, content, key):
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="expected") as error:
        read_settings(str(path), ("model", "training"))
    assert str(error.value) == f"{path}: expected each key once, got {key!r} twice"


def test_another_object_in_place_of_a_runs_configuration(tmp_path):
    (tmp_path / "run.json").write_text('{"training": 5}')
    with pytest.raises(ValueError, match=r"run\.json: expected the configuration of a run, got another JSON file$"):
        resumed(tmp_path)
