"""benchmarks/timing.py: whose turn it is, and what is counted."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import timing


@pytest.mark.parametrize("count", range(2, 8))
def test_in_balanced_rounds_each_follows_each_other_one_equally_often(count):
    names = [f"contender {place}" for place in range(count)]
    rounds = [timing.balanced(names, number) for number in range(count * (1 + count % 2))]
    assert all(sorted(order) == names for order in rounds)
    follows = Counter(pair for order in rounds for pair in pairwise(order))
    assert len(follows) == count * (count - 1)
    assert len({*follows.values()}) == 1


@pytest.mark.parametrize("measure", [timing.with_pauses, timing.without_pauses])
def test_every_contender_has_a_time_in_every_round(monkeypatch, measure):
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    calls = Counter()
    seconds = measure({name: lambda name=name: calls.update([name]) for name in ("floor", "fused", "other")}, 4)
    assert [len(times) for times in seconds.values()] == [4, 4, 4]
    assert len({*calls.values()}) == 1
    assert len(timing.ratios(seconds, "fused")) == 4
    assert timing.ratios(seconds, "floor") == [1.0] * 4
    assert timing.ratios(seconds, "absent") == []


def test_slow_contenders_have_two_rounds_and_are_compared_in_those(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    monkeypatch.setattr(timing, "SLOW", -1.0)
    seconds = timing.with_pauses({"floor": lambda: None}, 5)
    assert len(seconds["floor"]) == 2
    assert timing.ratios({"floor": [1.0, 2.0, 4.0], "slow": [3.0, 4.0]}, "slow") == [3.0, 2.0]


def test_peak_memory_is_beyond_the_gradients_that_are_returned():
    def call():
        held = np.ones(2**18)
        return held.sum(), (np.ones(2**17), None)

    assert 2**21 <= timing.peak_memory(call) < 2**21 + 2**17
