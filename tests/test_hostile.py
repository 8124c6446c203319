"""A sample of the inputs drawn to break a promise, other ones for every commit; .ci/record draws 25,600."""

import numpy as np
import pytest

from support import hostile_cases
from support.sampled import SEED

pytest.importorskip("flint")


@pytest.mark.parametrize("part", range(8))
def test_no_engine_is_over_its_bound(part):
    over = []
    for number in range(40 * part, 40 * (part + 1)):
        case = hostile_cases.drawn(SEED, number)
        truth = hostile_cases.truth_of(case)
        for engine in hostile_cases.ENGINES:
            if "float32" in engine and not case.single:
                continue
            outcome = hostile_cases.outcome(case, engine, truth)
            if not max(outcome.value, outcome.gradient) <= 1.0:
                over.append(f"hostile_cases.drawn({SEED}, {number}), {engine}: {case.loss} {outcome}")
    assert not over, "\n".join(over)


def test_a_share_counts_what_is_lost():
    most = float(np.finfo(np.float64).max)
    assert hostile_cases.share([1.5, np.nan], [1.0, np.nan], [0.25, 0.0], most) == pytest.approx(2.0)
    assert hostile_cases.share(np.nan, 1.0, np.inf, most) == np.inf
    assert hostile_cases.share(np.inf, most, 1e300, most) == 0.0
    assert hostile_cases.share(1.0, 0.0, 0.0, most) == np.inf
    assert hostile_cases.share(1.0, 1.0, 0.0, most) == 0.0
    assert hostile_cases.share(-np.inf, np.inf, 1e300, most) > 1.0
    assert hostile_cases.share(np.inf, np.nan, np.inf, most) == 0.0
    assert hostile_cases.share(np.inf, np.nan, 1.0, most) == np.inf
