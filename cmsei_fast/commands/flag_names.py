"""Puts flag names in place of Python argument names in error messages."""

from __future__ import annotations

import argparse
import re

# Flags whose names also stand for parts of the data, or for things that no flag sets: ``images: …`` is left as it is.
_DATA_NAMES = {"caption", "caption_to_image", "captions", "ids", "image", "images", "model", "names", "scores", "words"}


def use_flag_names(message: str, arguments: argparse.Namespace) -> str:
    """Rewrites an error message so that it names command-line flags instead of Python arguments.

    Replaces ``name: …`` at the start of the message or after ``Error: ``, ``name=value``, and ``(lower name)``.

    Args:
        message: of an error that the command raised.
        arguments: the parsed command line, with its ``parser``. It may also have ``set_by_file``, the names of the
            settings that only the file of ``--settings`` gave, for which the message names that file, and
            ``flag_for``, flags by the Python arguments that they are not named after.
    """
    flags = {action.dest: action for action in arguments.parser._actions if action.option_strings}
    set_by_file, flag_for = getattr(arguments, "set_by_file", ()), getattr(arguments, "flag_for", {})

    def replace_prefix(match: re.Match[str]) -> str:
        name = match["name"]
        if name in set_by_file:
            return f"{arguments.settings}: {name}{match['index']}:"
        if name in flag_for:
            return f"{flag_for[name]}{match['index']}:"
        return f"{flags[name].option_strings[0]}:" if name in flags and name not in _DATA_NAMES else match[0]

    def replace_assignment(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if name not in flags:
            return match[0]
        flag = flags[name].option_strings[0]
        if flags[name].nargs == 0:
            return flag if value == "True" else f"leaving out {flag}"
        return f"{flag} {value}"

    def replace_advice(match: re.Match[str]) -> str:
        name = match["name"]
        return f"lower {flags[name].option_strings[0]}" if name in flags else match[0]

    message = re.sub(r"(?:^|(?<=Error: ))(?P<name>[a-z][a-z_ ]*)(?P<index>(?:\[\d+\])?):", replace_prefix, message)
    assignment = r"(?<![\w./-])(?P<name>[a-z][a-z_]*)=(?P<quote>'?)(?P<value>[\w.-]*\w)(?P=quote)"
    message = re.sub(assignment, replace_assignment, message)
    return re.sub(r"(?<=\()lower (?P<name>[a-z][a-z_]*)(?=\))", replace_advice, message)
