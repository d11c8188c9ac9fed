"""Which way of scoring is in use, by a clock of the tests."""

from __future__ import annotations

import numpy as np
import pytest

from cmsei_fast.retrieval import screen_timing


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(screen_timing, "clock", lambda: self.now)

    def run(self, rates, tiles, queries=240, preparing=0.0):
        """Seconds of so many tiles of one unit of work, and the pace; rates (screened, exact) of each tile."""
        start, found = self.now, screen_timing.ScreenTiming()

        def prepare():
            self.now += preparing

        for screened_rate, exact_rate in np.broadcast_to(rates, (tiles, 2)):
            met = 0
            for run, screened in found.pieces(queries, 1.0, prepare):
                assert run.start == met < run.stop
                met = run.stop
                self.now += (screened_rate if screened else exact_rate) * (run.stop - run.start) / queries
            assert met == queries
        return self.now - start, found


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.mark.parametrize("queries", [1, 2, 3, 240])
@pytest.mark.parametrize("tiles", [1, 4, 100])
def test_what_does_not_pay_is_given_up_at_once(clock, tiles, queries):
    seconds, found = clock.run((2.7, 1.0), tiles, queries)
    assert not found.screened or (tiles, queries) == (1, 1)
    if queries == 240:
        assert tiles < seconds <= tiles * (1 + screen_timing.TRIAL_SHARE) + 1.7 / screen_timing.SLICES + 1e-9
    seconds, found = clock.run((0.5, 1.0), tiles, queries)
    assert found.screened or (tiles, queries) == (1, 1)
    if queries == 240:
        assert tiles / 2 < seconds <= tiles / 2 * (1 + screen_timing.TRIAL_SHARE) + 0.5 / screen_timing.SLICES + 1e-9


def test_it_pays_from_some_tile_on(clock):
    late = np.array([[2.0, 1.0]] * 100 + [[0.5, 1.0]] * 400)
    seconds, found = clock.run(late, 500)
    assert found.screened
    assert seconds < 1.1 * (100 + 200)


def test_it_no_longer_pays_from_some_tile_on(clock):
    seconds, found = clock.run(np.array([[0.5, 1.0]] * 100 + [[2.0, 1.0]] * 400), 500)
    assert not found.screened
    assert seconds < 1.03 * (50 + 400)


def test_a_slice_that_looks_a_little_slower_is_no_proof(clock):
    """The rest of the tile is screened and decides."""
    _, found = clock.run((1.2, 1.0), 1)
    assert not found.screened
    assert clock.run((1.2, 1.0), 1000)[0] < 1022


def test_what_is_prepared_is_counted(clock):
    """Rounding that takes as long as scoring: 0.5 + 1 a tile is slower than 1."""
    seconds, found = clock.run((0.5, 1.0), 50, preparing=1.0)
    assert not found.screened
    assert seconds < 50 * (1 + screen_timing.TRIAL_SHARE) + 1.2


def test_times_of_chance_cost_little(clock):
    rng = np.random.default_rng(0)
    for low, high in ((0.2, 3.0), (0.9, 1.1)):
        rates = rng.uniform(low, high, (300, 2))
        assert clock.run(rates, 300)[0] < 1.1 * rates.sum(0).max()
