"""An error of the package as a command tells it: arguments of Python by the flags that stand for them."""

from __future__ import annotations

import argparse
import re
from typing import Any

# Names of flags that messages also have for what is in the data, or for what no flag sets.
_OF_DATA = {"caption", "caption_to_image", "captions", "ids", "image", "images", "model", "names", "scores", "words"}


def told_by_flags(text: str, arguments: argparse.Namespace) -> str:
    """The message with ``name: …``, ``name=value`` and other names of arguments as the command line has them.

    Args:
        text: of an error that the command raised.
        arguments: the command's, with ``parser``; where they are there, ``of_settings``, names that the file of
            ``--settings`` gave and no flag, which are told by that file, and ``of_python``, flags of other names.
    """
    flags = _flags(arguments.parser)
    of_settings, others = getattr(arguments, "of_settings", ()), getattr(arguments, "of_python", {})

    def owner(found: re.Match[str]) -> str:
        name = found["name"]
        if name in of_settings:
            return f"{arguments.settings}: {name}{found['place']}:"
        if name in others:
            return f"{others[name]}{found['place']}:"
        return f"{flags[name].option_strings[0]}:" if name in flags and name not in _OF_DATA else found[0]

    def value(found: re.Match[str]) -> str:
        name, given = found["name"], found["value"]
        if name not in flags:
            return found[0]
        flag = flags[name].option_strings[0]
        if flags[name].nargs == 0:
            return flag if given == "True" else f"leaving out {flag}"
        return f"{flag} {given}"

    def mentioned(found: re.Match[str]) -> str:
        name = found["name"]
        return flags[name].option_strings[0] if name in flags else found[0]

    text = re.sub(r"(?:^|(?<=Error: ))(?P<name>[a-z][a-z_ ]*)(?P<place>(?:\[\d+\])?):", owner, text)
    text = re.sub(r"(?<![\w./-])(?P<name>[a-z][a-z_]*)=(?P<quote>'?)(?P<value>[\w.-]*\w)(?P=quote)", value, text)
    return re.sub(r"(?<=\()lower (?P<name>[a-z][a-z_]*)(?=\))", lambda found: f"lower {mentioned(found)}", text)


def _flags(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The actions of the parser's flags by their names in Python."""
    return {action.dest: action for action in parser._actions if action.option_strings}
