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
from .commands.flag_names import use_flag_names
from .version import __version__

BAD_INPUT = 2
INTERRUPTED = 130
_SPIN_COUNT = "1000"  # GNU OpenMP's own value where threads outnumber the processors
_MAX_MESSAGE = 1200  # characters of an error: room for two long paths and a sentence about them


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, 1 (doctor found a disagreement), 2 (bad input) or 130 (interrupted)."""
    _open_streams()
    if argv is None:
        _yield_processors()
    try:
        with _escape_unencodable():
            return _run_and_report(argv)
    except KeyboardInterrupt:  # a second one during the first's message: torchrun sends one after Ctrl-C
        return INTERRUPTED


def _yield_processors() -> None:
    """Lets torch's threads sleep soon where they wait for each other, unless the environment says how they wait.

    Beside another busy process a thread that spins takes the processor from the one it waits for: training on two
    processors beside one took 1.5 to 2 times as long. OpenMP reads this as torch is loaded, after this.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


def _run_and_report(argv: Sequence[str] | None) -> int:
    """Runs the command, returns its status, and prints why it failed if it did."""
    arguments = argparse.Namespace()
    try:
        return _run(argv, arguments)
    except KeyboardInterrupt:
        _print_message("interrupted" + _resume_hint(arguments))
        return INTERRUPTED
    except BrokenPipeError:  # the reader left
        return 0
    except (OSError, ValueError, TypeError, MemoryError, RuntimeError, ImportError) as error:
        if not _is_expected(error):
            raise
        message = _message(error)
        if "parser" in arguments:
            message = use_flag_names(message, arguments)
        # The same command would fail again, or for as long as another runs.
        lasting = (ValueError, TypeError, BlockingIOError)
        if not isinstance(error, lasting) and "--resume" not in message:
            message += _resume_hint(arguments)
        _print_message(f"error: {_one_line(message)}")
        return BAD_INPUT
    finally:
        for stream in (sys.stdout, sys.stderr):
            _drop_unwritten(stream)


def _resume_hint(arguments: argparse.Namespace) -> str:
    """Says how to continue the command after an interrupt or a full disk; "" where ``--resume`` cannot.

    A command that can be resumed sets ``arguments.resume_point``, a function that says where the run continues.
    """
    point = arguments.resume_point() if "resume_point" in arguments else None
    if point is None:
        return ""
    return f"; the same command {'' if arguments.resume else 'with --resume '}goes on {point}"


def _run(argv: Sequence[str] | None, arguments: argparse.Namespace) -> int:
    """Runs the command, flushes standard output and returns the status; ``--help`` raises SystemExit after flushing.

    Args:
        argv: words of the command line.
        arguments: filled with the parsed arguments.
    """
    try:
        vars(arguments).update(vars(_parse(argv)))
        status: int = arguments.run(arguments)
    except (OSError, SystemExit):
        _flush()
        raise
    _flush()
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; an unknown argument is reported by the parser of its command, not the main one."""
    arguments, unknown = build_parser().parse_known_args(argv)
    if unknown:
        hint = _suggest_flags(unknown, arguments.parser) or _suggest_caption(unknown, arguments)
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return arguments


def _suggest_flags(unknown: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Names the flags that the unknown ones resemble; "" if there are none."""
    flags = re.findall(r"(?<![\w-])--[\w-]+", parser.format_usage())
    names = [text.partition("=")[0].replace("_", "-") for text in unknown if text.startswith("--")]
    found = [close[0] for name in names if (close := difflib.get_close_matches(name, flags, 1, 0.8))]
    return f"; there is {', '.join(dict.fromkeys(found))}" if found else ""


def _suggest_caption(unknown: Sequence[str], arguments: argparse.Namespace) -> str:
    """Shows how to pass a sentence that came without ``--caption`` or without quotes; "" for other arguments."""
    bare = [text for text in unknown if not text.startswith("-")]
    if not bare or "caption" not in arguments:
        return ""
    before = [arguments.caption] if isinstance(arguments.caption, str) else arguments.caption or []
    return f"; a sentence is given as --caption {shlex.quote(' '.join([*before, *bare]))}"


def _flush() -> None:
    """Flushes standard output.

    Raises:
        OSError: naming standard output, if it cannot be written; BrokenPipeError is passed on as it is.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def _drop_unwritten(stream: TextIO) -> None:
    """Discards what a standard stream could not write: the interpreter would try again at exit and complain."""
    try:
        stream.flush()
    except OSError:
        number = stream.fileno()
        saved, null = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        try:
            stream.flush()
        finally:
            os.dup2(saved, number)
            os.close(saved)
            os.close(null)


def _print_message(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed: the status says enough
        print(f"cmsei-fast: {text}", file=sys.stderr)


def _open_streams() -> None:
    """Opens closed standard streams (``>&-``) on the null device: the next file opened would take their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        file = os.open(os.devnull, os.O_RDWR)
        if file != number:  # another file has taken it
            os.close(file)
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 - stays open


@contextlib.contextmanager
def _escape_unencodable() -> Iterator[None]:
    """Writes characters that standard output's encoding lacks as escapes, as standard error does, inside the block.

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
    """Reports errors in one line, without the usage, and adds itself to the parsed arguments as ``parser``."""

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
    """Joins the lines, and cuts the middle of a message that quotes a damaged file at length."""
    text = " ".join(text.split())
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE * 3 // 4]} … {text[-(_MAX_MESSAGE // 4) :]}"


def _is_expected(error: Exception) -> bool:
    """Whether the user's input or machine can cause the error; any other RuntimeError is a bug."""
    from .distributed import ProcessLost
    from .engines import EngineUnavailable

    return not isinstance(error, RuntimeError) or isinstance(error, (EngineUnavailable, ProcessLost))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the parsed arguments have ``run``, the function of the command."""
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
