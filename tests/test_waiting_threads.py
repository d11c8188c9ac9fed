"""How long the threads of torch spin before they sleep: the command line says it, unless the environment does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
PROGRAM = """
import json, os, sys
from cmsei_fast import cli

sys.argv[0] = "cmsei-fast"
try:
    cli.main()
except SystemExit:
    assert "torch" not in sys.modules  # which reads the environment as it is loaded
    print(json.dumps({name: os.environ.get(name) for name in sys.argv[2:]}))
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, [None, "1000"]),
        ({"GOMP_SPINCOUNT": "20"}, [None, "20"]),
        ({"OMP_WAIT_POLICY": "active"}, ["active", None]),
    ],
    ids=["nothing", "spins", "policy"],
)
def test_the_command_line_lets_threads_sleep(given, found):
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | given
    command = [sys.executable, "-c", PROGRAM, "--version", *WAITING]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout.splitlines()[-1]).values()) == found


def test_a_call_of_main_leaves_the_environment_alone(monkeypatch):
    from cmsei_fast import cli

    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert not {*WAITING} & os.environ.keys()
