"""The command ``cmsei-fast``; each of its subcommands is a file in ``commands/``."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

from .commands import convert, demo, doctor, evaluate, explain, report, retrieve, train
from .commands.told_flags import told_by_flags
from .version import __version__

BAD_INPUT = 2
INTERRUPTED = 130
_SPINS = "1000"  # what GNU OpenMP takes itself where its threads outnumber the processors
_MOST_SAID = 1200  # characters of an error: more than two long paths and what is said about them


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; its status is 0, 1 (doctor found a disagreement), 2 (bad input) or 130 (interrupted)."""
    _open_streams()
    if argv is None:
        _yield_processors()
    try:
        with _every_character():
            return _status(argv)
    except KeyboardInterrupt:  # a second one while the first is told, as torchrun sends it after a terminal's Ctrl-C
        return INTERRUPTED


def _yield_processors() -> None:
    """Torch's threads sleep soon where they wait for each other, unless the environment says how they wait.

    Beside another busy process a thread that spins takes the processor from the one it waits for: training on two
    processors beside one took 1.5 to 2 times as long. OpenMP reads this as torch is loaded, after this.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def _status(argv: Sequence[str] | None) -> int:
    """Runs the command and tells how it ended, if not well."""
    arguments = argparse.Namespace()
    try:
        return _run(argv, arguments)
    except KeyboardInterrupt:
        _tell("interrupted" + _how_to_go_on(arguments))
        return INTERRUPTED
    except BrokenPipeError:  # the reader left
        return 0
    except (OSError, ValueError, TypeError, MemoryError, RuntimeError, ImportError) as error:
        if not _explains_itself(error):
            raise
        message = _message(error)
        if "parser" in arguments:
            message = told_by_flags(message, arguments)
        faults = (ValueError, TypeError, BlockingIOError)  # that the same command has again, or while another runs
        if not isinstance(error, faults) and "--resume" not in message:
            message += _how_to_go_on(arguments)
        _tell(f"error: {_one_line(message)}")
        return BAD_INPUT
    finally:
        for stream in (sys.stdout, sys.stderr):
            _drop_unwritten(stream)


def _how_to_go_on(arguments: argparse.Namespace) -> str:
    """How the command goes on after an interrupt or a full disk; "" where ``--resume`` has nothing to go on with.

    A command that is at work has ``left``, which says it.
    """
    left = arguments.left() if "left" in arguments else None
    if left is None:
        return ""
    return f"; the same command {'' if arguments.resume else 'with --resume '}goes on {left}"


def _run(argv: Sequence[str] | None, arguments: argparse.Namespace) -> int:
    """The command's status, once what it printed is written; the help's ``SystemExit`` too comes after that.

    Args:
        argv: words of the command line.
        arguments: is given what they say.
    """
    try:
        vars(arguments).update(vars(_parsed(argv)))
        status: int = arguments.run(arguments)
    except (OSError, SystemExit):
        _flush()
        raise
    _flush()
    return status


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; those that a command does not know are told with its own name, whose help has the right ones."""
    arguments, unknown = build_parser().parse_known_args(argv)
    if unknown:
        told = _meant(unknown, arguments.parser) or _asked(unknown, arguments)
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}{told}")
    return arguments


def _meant(unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """The flags that unknown ones are spelled like."""
    flags = re.findall(r"(?<![\w-])--[\w-]+", parser.format_usage())
    asked = [text.partition("=")[0].replace("_", "-") for text in unknown if text.startswith("--")]
    found = [near[0] for text in asked if (near := difflib.get_close_matches(text, flags, 1, 0.8))]
    return f"; there is {', '.join(dict.fromkeys(found))}" if found else ""


def _asked(unknown: Sequence[str], arguments: argparse.Namespace) -> str:
    """How a sentence is given that came without its flag, or in words of its own behind it."""
    bare = [text for text in unknown if not text.startswith("-")]
    if not bare or "caption" not in arguments:
        return ""
    before = [arguments.caption] if isinstance(arguments.caption, str) else arguments.caption or []
    return f"; a sentence is given as --caption {shlex.quote(' '.join([*before, *bare]))}"


def _flush() -> None:
    """Writes what was printed.

    Raises:
        OSError: it cannot be written, by standard output's name; BrokenPipeError as it came.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def _drop_unwritten(stream: TextIO) -> None:
    """Gives what a standard stream did not take to nobody: the interpreter's exit would try again, and say so."""
    try:
        stream.flush()
    except OSError:
        number = stream.fileno()
        own, nobody = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nobody, number)
        try:
            stream.flush()
        finally:
            os.dup2(own, number)
            os.close(own)
            os.close(nobody)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: the status says it
        print(f"cmsei-fast: {text}", file=sys.stderr)


def _open_streams() -> None:
    """Gives standard streams that were closed (``>&-``) to nobody: the next file opened would have their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        file = os.open(os.devnull, os.O_RDWR)
        if file != number:  # taken by another file by now
            os.close(file)
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 - for good


@contextlib.contextmanager
def _every_character() -> Iterator[None]:
    """Inside the block standard output writes what its encoding lacks as standard error does, by its number.

    A caption that a terminal cannot show must not end a command that is done.
    """
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line: the usage of ``train`` alone has twenty. What it parses has it as ``parser``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} ({self.prog} --help tells more)\n")


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename2 is None:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
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
