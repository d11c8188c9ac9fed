"""The flags ``--progress`` and ``--quiet`` of the commands that can take long."""

from __future__ import annotations

import argparse

from ..progress import on_terminal


def add_progress_flags(parser: argparse.ArgumentParser, *, in_logs: bool = False) -> None:
    """Adds ``--progress`` and ``--quiet``, which set ``arguments.progress``; without them a terminal shows progress.

    Args:
        parser: of the command.
        in_logs: whether progress is shown without the flags where standard error is no terminal, too.
    """
    default = "always" if in_logs else "on a terminal"
    parser.set_defaults(progress=in_logs or on_terminal())
    flags = parser.add_mutually_exclusive_group()
    flags.add_argument(
        "--progress",
        action="store_true",
        default=argparse.SUPPRESS,
        help=f"show progress on standard error even if it is not a terminal, e.g. in a log (default: {default})",
    )
    flags.add_argument(
        "--quiet", action="store_false", dest="progress", default=argparse.SUPPRESS, help="do not show progress"
    )
