"""Arguments that name files and directories."""

from __future__ import annotations

import argparse


def given_path(text: str) -> str:
    """A path as it was given: the ``type`` of every argument that is one.

    Raises:
        argparse.ArgumentTypeError: for an empty string, as of a shell's unset variable. It would mean the current
            directory to whoever makes a path of it.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty string")
    return text
