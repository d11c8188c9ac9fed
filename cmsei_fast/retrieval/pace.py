"""Which of two ways of scoring is faster here, by the clock, at a small cost of trying the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

# Of a tile's queries, one part in so many tries each way.
SLICES = 24
# Share of the time that may be lost on trying the slower way again.
TRIALS = 0.02
# A slice of few captions overstates what exact scores of single pairs cost: so much slower is not yet too slow.
DOUBT = 1.25


def clock() -> float:
    """CPU seconds of this thread, which does its share of all parallel work; other load on the machine is left out."""
    return time.thread_time()


class Pace:
    """Screening or not: both are timed on a slice of the first tile, and the faster one goes on.

    The way in use gives way when a whole tile shows it slower than the other one last was. Both are tried on slices
    again whenever all that was lost in this manner is a small share of the time. Times decide how the scores are found,
    never what they are.

    Attributes:
        screened: the way in use.
    """

    def __init__(self) -> None:
        self.screened = True
        self._rates: dict[bool, float] = {}  # seconds of a unit of work when each way was last timed
        self._spent = self._lost = 0.0

    def pieces(self, n: int, work: float, prepare: Callable[[], object]) -> Iterator[tuple[slice, bool]]:
        """Yields (queries, whether to screen) that make up a tile of n; the time until the next is the piece's.

        Args:
            n: queries of the tile, from 1.
            work: of the tile, in any unit, > 0.
            prepare: what all screened pieces need; called before both ways are timed.
        """
        first = 0
        if self._trial_is_due():
            step, tried = max(1, n // SLICES), []
            start = clock()
            prepare()
            prepared = self._took(start)
            for screened in (not self.screened, self.screened)[:n]:
                start = clock()
                yield slice(first, first + step), screened
                part, seconds = step * work / n, self._took(start)
                tried.append((part, seconds))
                self._rates[screened] = seconds / part + screened * prepared / work
                first += step
            self.screened = self._faster(DOUBT)
            best = self._rates[self.screened]
            self._lost += (not self.screened) * prepared + sum(max(0.0, t - part * best) for part, t in tried)
        if first < n:
            start = clock()
            yield slice(first, n), self.screened
            part, seconds = (n - first) * work / n, self._took(start)
            self._rates[self.screened] = seconds / part
            self.screened = self._faster(1.0)
            self._lost += max(0.0, seconds - part * self._rates[self.screened])

    def _trial_is_due(self) -> bool:
        return len(self._rates) < 2 or self._lost <= TRIALS * self._spent

    def _faster(self, doubt: float) -> bool:
        """Whether screening is, or might be."""
        screened, exact = (self._rates.get(x) for x in (True, False))
        return exact is None or (screened is not None and screened < doubt * exact)

    def _took(self, start: float) -> float:
        seconds = clock() - start
        self._spent += seconds
        return seconds
