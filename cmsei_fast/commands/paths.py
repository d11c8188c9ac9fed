"""Arguments that name files and directories."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any


def given_path(text: str) -> str:
    """A path as it was given: the ``type`` of every argument that is one.

    Raises:
        argparse.ArgumentTypeError: for an empty string, as of a shell's unset variable. It would mean the current
            directory to whoever makes a path of it.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty string")
    return text


class Once(argparse.Action):
    """The ``action`` of a flag that takes one value where other commands take several: the first is not left out."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Keeps the value; argparse.ArgumentError where there is one."""
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, f"expected one, got {getattr(namespace, self.dest)} and {values}")
        setattr(namespace, self.dest, values)


def check_outputs(written: Mapping[str, str | None], read: Mapping[str, str | None], beside: str = "") -> None:
    """Each file that is written has a place and is no other of the command's files.

    Args:
        written: by flag, each file that the command writes; None where it is not asked for.
        read: by argument, each file that it reads.
        beside: the longest ending of a file that is written beside one of them, under its name and that.

    Raises:
        OSError: a file cannot be written.
        ValueError: two of the files are one, of which the later would take the place of the other.
    """
    from ..data.files import check_target

    others = {os.path.realpath(path): name for name, path in read.items() if path is not None}
    for flag, path in written.items():
        if path is None:
            continue
        check_target(path, flag, beside)
        if (other := others.setdefault(os.path.realpath(path), flag)) != flag:
            raise ValueError(f"{flag}: expected another file than that of {other}, got {path}")
