"""Arguments that name files and directories."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any


def given_path(text: str) -> str:
    """Returns the path unchanged: the ``type`` of every path argument.

    Raises:
        argparse.ArgumentTypeError: for an empty string, as of an unset shell variable: ``Path`` would make it the
            current directory.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty string")
    return text


class Once(argparse.Action):
    """The ``action`` of a flag that takes one value here and several elsewhere: a second one is an error."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Stores the value; argparse.ArgumentError if there is one already."""
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, f"expected one, got {getattr(namespace, self.dest)} and {values}")
        setattr(namespace, self.dest, values)


def check_outputs(written: Mapping[str, str | None], read: Mapping[str, str | None], beside: str = "") -> None:
    """Checks that each output can be written and is none of the command's other files.

    Args:
        written: the files that the command writes, by flag; None for a flag that was not given.
        read: the files that it reads, by argument.
        beside: the longest suffix that the command appends to an output's name for files beside it.

    Raises:
        OSError: a file cannot be written.
        ValueError: two of the files are the same, so that one would overwrite the other.
    """
    from ..data.files import check_target

    others = {os.path.realpath(path): name for name, path in read.items() if path is not None}
    for flag, path in written.items():
        if path is None:
            continue
        check_target(path, flag, beside)
        if (other := others.setdefault(os.path.realpath(path), flag)) != flag:
            raise ValueError(f"{flag}: expected another file than that of {other}, got {path}")
