"""``cmsei-fast doctor``: which engines can run here and whether their scores are right."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the command ``doctor``."""
    doctor = commands.add_parser(
        "doctor",
        help="check which engines can run on this machine and whether their scores are right",
        description="Lists the engines that can run on this machine and why the others cannot, and the environment "
        "variables that are set; then checks each engine against the reference on a small problem. The exit status "
        "is 1 if an engine disagrees.",
    )
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from ..doctor import doctor

    return doctor()
