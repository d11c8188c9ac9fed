"""The command ``cmsei-fast``; what it can do is in ``commands/``, a file each."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .commands import convert, demo, doctor, evaluate, explain, report, retrieve, train
from .version import __version__

BAD_INPUT = 2
INTERRUPTED = 130
_MOST_SAID = 1200  # characters of an error: more than two long paths and what is said about them


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; its status is 0, 1 (doctor found a disagreement), 2 (bad input) or 130 (interrupted)."""
    _open_streams()
    arguments = build_parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("cmsei-fast: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing to flush at exit
        return 0
    except (OSError, ValueError, TypeError, MemoryError, RuntimeError, ImportError) as error:
        if not _explains_itself(error):
            raise
        print(f"cmsei-fast: error: {_one_line(_message(error))}", file=sys.stderr)
        return BAD_INPUT
    return status


def _open_streams() -> None:
    """Gives standard streams that were closed (``>&-``) to nobody: the next file opened would have their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        file = os.open(os.devnull, os.O_RDWR)
        if file != number:  # taken by another file by now
            os.close(file)
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 - for good
    # As standard error does it: a caption that the terminal's encoding lacks must not end a command that is done.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line: the usage of ``train`` alone has twenty."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} ({self.prog} --help tells more)\n")


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None and error.filename2 is None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


def _one_line(text: str) -> str:
    """Without line breaks, and without the middle where it quotes a damaged file at length."""
    text = " ".join(text.split())
    return text if len(text) <= _MOST_SAID else f"{text[: _MOST_SAID * 3 // 4]} … {text[-(_MOST_SAID // 4) :]}"


def _explains_itself(error: Exception) -> bool:
    """Whether the error is one that the user's input or machine can cause; any other RuntimeError is a defect."""
    from .distributed import ProcessLost
    from .engines import EngineUnavailable

    return not isinstance(error, RuntimeError) or isinstance(error, (EngineUnavailable, ProcessLost))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it parses has ``run``, the command itself."""
    parser = _Parser(
        prog="cmsei-fast",
        description="Image-sentence retrieval by fine-grained cross-attention: trains, evaluates and explains models.",
        epilog="cmsei-fast COMMAND --help describes the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"cmsei-fast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    for module in (demo, convert, train, evaluate, retrieve, explain, report, doctor):
        module.add_parser(commands)
    return parser
