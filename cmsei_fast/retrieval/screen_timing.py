"""Times scoring with and without screening and chooses the faster way, at a small cost for trying the slower one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

# In a trial, each way of scoring gets one slice of a tile's queries, of this many.
SLICES = 24
# A new trial may start only while the time lost by the slower way is at most this share of all time spent.
TRIAL_SHARE = 0.02
# In a slice of few captions, exact scores of single pairs cost more than in a whole tile: after a trial, screening goes
# on if it took less than this many times as long as exact scores.
TRIAL_TOLERANCE = 1.25


def clock() -> float:
    """CPU seconds of this thread, which does its share of all parallel work; other load on the machine is left out."""
    return time.thread_time()


class ScreenTiming:
    """Decides whether to screen: times both ways on slices of the first tile and goes on with the faster one.

    The other way takes over when a whole tile turns out slower than the other way last was. Both are tried on slices
    again whenever the time lost so far is a small share of the time spent. Times decide how the scores are computed;
    the scores themselves do not depend on it.

    Attributes:
        screened: whether screening is in use.
    """

    def __init__(self) -> None:
        self.screened = True
        self._rates: dict[bool, float] = {}  # screened or not: seconds per unit of work, last timed
        self._spent = self._lost = 0.0

    def pieces(self, n: int, work: float, prepare: Callable[[], object]) -> Iterator[tuple[slice, bool]]:
        """Yields pieces (queries, whether to screen) that make up a tile, and times each until the next is asked for.

        Args:
            n: number of queries of the tile, at least 1.
            work: work of the tile, in any unit, > 0.
            prepare: computes what all screened pieces need; called before both ways are timed.
        """
        first = 0
        if self._trial_is_due():
            step, trials = max(1, n // SLICES), []
            start = clock()
            prepare()
            preparation = self._elapsed(start)
            for screened in (not self.screened, self.screened)[:n]:
                start = clock()
                yield slice(first, first + step), screened
                part_work, seconds = step * work / n, self._elapsed(start)
                trials.append((part_work, seconds))
                self._rates[screened] = seconds / part_work + screened * preparation / work
                first += step
            self.screened = self._screening_is_faster(TRIAL_TOLERANCE)
            best = self._rates[self.screened]
            self._lost += (not self.screened) * preparation + sum(
                max(0.0, seconds - part_work * best) for part_work, seconds in trials
            )
        if first < n:
            start = clock()
            yield slice(first, n), self.screened
            part_work, seconds = (n - first) * work / n, self._elapsed(start)
            self._rates[self.screened] = seconds / part_work
            self.screened = self._screening_is_faster(1.0)
            self._lost += max(0.0, seconds - part_work * self._rates[self.screened])

    def _trial_is_due(self) -> bool:
        return len(self._rates) < 2 or self._lost <= TRIAL_SHARE * self._spent

    def _screening_is_faster(self, tolerance: float) -> bool:
        """Whether screening took less than ``tolerance`` times as long as exact scores, or these were never timed."""
        screened, exact = (self._rates.get(x) for x in (True, False))
        return exact is None or (screened is not None and screened < tolerance * exact)

    def _elapsed(self, start: float) -> float:
        seconds = clock() - start
        self._spent += seconds
        return seconds
