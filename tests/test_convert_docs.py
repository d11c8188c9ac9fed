"""docs/data-formats.md: its table is the layout, and its commands are ones that the command line takes."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import h5py
import pytest
from splits import random_split

from cmsei_fast import cli
from cmsei_fast.data import Split, layout, write_split

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "data-formats.md"
pytestmark = pytest.mark.skipif(not DOCUMENT.exists(), reason="the documentation is not here")
TEXT = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
COMMANDS = re.findall(r"^    cmsei-fast (convert .*)$", TEXT.replace("\\\n", ""), re.MULTILINE)


def test_the_table_is_the_layout(tmp_path):
    rows = dict(re.findall(r"^\| `(\w+)` \| \(.*?\) \| ([^|]+) \|", TEXT, re.MULTILINE))
    assert set(rows) == {field.name for field in dataclasses.fields(Split)}
    write_split(tmp_path / "s.h5", random_split())
    with h5py.File(tmp_path / "s.h5") as file:
        assert set(file) == set(rows)
        for name, dtype in rows.items():
            if name in layout._STRINGS:
                assert dtype == "UTF-8 string"
                assert h5py.check_string_dtype(file[name].dtype).encoding == "utf-8"
            else:
                assert file[name].dtype.name in dtype.split(" or ")
        assert f'`format` is `"{file.attrs["format"]}"`, `version` is `{file.attrs["version"]}`' in TEXT


def test_every_format_has_a_command():
    assert {command.split()[1] for command in COMMANDS} == {"scan", "butd", "npz", "scene-graph", "jsonl"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_taken(command):
    arguments = cli.build_parser().parse_args(shlex.split(command))
    assert arguments.out.endswith(".h5")
