"""The progress of a long run: a bar on a terminal, plain lines where the output goes to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

# Seconds between two lines.
EVERY = 10.0
# Of a bar with figures, which have a speed of their own: together they fit into 80 columns.
_WITH_FIGURES = "{desc}: {n_fmt}/{total_fmt} {bar} {elapsed}<{remaining}{postfix}"


class Progress:
    """Counts pairs on standard error: pairs per second and the time that is left.

    Args:
        total: pairs of the whole run.
        done: pairs that an earlier run has left, which count as done but not for the speed.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self._total, self._first, self._done = total, done, done
        self._bar: Any = None
        self._start = time.monotonic()
        self._next = self._start  # the first tile says that the run has begun
        if on_terminal():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit="pair", unit_scale=True)

    def update(self, pairs: int) -> None:
        """Adds pairs that are done."""
        self._done += pairs
        if self._bar is not None:
            self._bar.update(pairs)
        elif time.monotonic() >= self._next or self._done == self._total:
            self._next = time.monotonic() + EVERY
            _print(self.line(time.monotonic() - self._start))

    def line(self, seconds: float) -> str:
        """The line to print that many seconds after the start."""
        speed = (self._done - self._first) / max(seconds, 1e-9)
        share = 100 * self._done // max(self._total, 1)
        out = f"{share:3d} % of {self._total:,} pairs, {speed:,.0f} pairs/s"
        left = (self._total - self._done) / max(speed, 1e-9)
        return f"{out}, {duration(left)} left" if self._done < self._total else f"{out}, done in {duration(seconds)}"

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


class Steps:
    """Counts the steps of a stage on standard error, with whatever figures come with them; a context manager.

    Args:
        total: steps of the stage; ``done`` of them are behind.
        unit: one of them.
        title: the stage.
    """

    def __init__(self, total: int, unit: str, title: str, done: int = 0) -> None:
        self._total, self._unit, self._title, self._done = total, unit, title, done
        self._bar: Any = None
        self._next = time.monotonic() + EVERY
        if on_terminal():
            from tqdm import tqdm

            # A bar within another one vanishes when it is full.
            self._bar = tqdm(total=total, initial=done, unit=unit, desc=title, leave=None)

    def update(self, steps: int = 1, figures: Mapping[str, str] | None = None) -> None:
        """More steps are done; figures are shown with their names."""
        self._done += steps
        figures = figures or {}
        if self._bar is not None:
            if figures:
                self._bar.bar_format = _WITH_FIGURES
            self._bar.set_postfix(figures, refresh=False)
            self._bar.update(steps)
        elif time.monotonic() >= self._next or self._done == self._total:
            self._next = time.monotonic() + EVERY
            shown = "".join(f", {name} {value}" for name, value in figures.items())
            _print(f"{self._title}: {self._unit} {self._done:,} of {self._total:,}{shown}")

    def print_result(self, line: str) -> None:
        """Prints a line on standard output, above the bar."""
        if self._bar is not None:
            self._bar.clear()
        print(line, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


def on_terminal() -> bool:
    """Whether standard error is one. A program without a console has none, and a script's own may lack the method."""
    isatty = getattr(sys.stderr, "isatty", None)
    return isatty is not None and isatty()


def _print(line: str) -> None:
    """Prints a line on standard error, if there is one: print would take standard output in its place."""
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as ``"1:02:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
