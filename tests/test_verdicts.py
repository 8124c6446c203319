"""Verdicts over many codes: each right one passes at its standard, and no wrong one passes.

The codes are in `right_codes` and `wrong_codes`. A run draws a third of them, others for every commit; .ci/record has
all.
Each is checked in one of its dtypes, the next code in the next one.
Right codes are checked with the cases of one default shape, or of all where one decides too little; of those that take
longest, in jax and on directions, every fifth and every fourth. A wrong code that a few cases do not show has to be
refused by all of them.
"""

from __future__ import annotations

import pytest

from refloss.testing import check, conformance
from refloss.testing.hard_cases import SHAPES
from refloss.testing.judge import Judge

pytest.importorskip("torch")
pytest.importorskip("optax")

from support import right_codes, sampled, wrong_codes

pytestmark = pytest.mark.usefixtures("torch", "jax")
UNREAD = {
    "a gradient of shape (C,)",
    "a gradient of shape (1, N, C)",
    "a number for a gradient",
    "a dict with another name",
    "a constant of autograd",
    "a Python number from torch",
}
"""Codes that return no gradient: nothing of theirs is wrong, but something was never looked at."""


@pytest.fixture(autouse=True)
def without_diagnosis(monkeypatch):
    """Leave out causes and other standards: verdicts do not depend on them, and they take most of the time."""
    monkeypatch.setattr(conformance, "diagnose", lambda *arguments: [])
    monkeypatch.setattr(Judge, "meets", lambda *arguments: "")


def every(codes):
    return {f"{code.framework}, {code.name}": code for code in codes}


RIGHT = {dtype: every(right_codes.right_codes(dtype)) for dtype in right_codes.DTYPES}
NAMES = list(dict.fromkeys(name for codes in RIGHT.values() for name in codes))


def chosen():
    """Names with a dtype each, the next one for the next code; of those that take long some."""
    turns = {"jax": 0, "margin": 0}
    every = {"jax": 5, "margin": 4}
    for place, name in enumerate(NAMES):
        dtypes = [dtype for dtype in RIGHT if name in RIGHT[dtype]]
        code = RIGHT[dtypes[0]][name]
        kind = "jax" if code.framework == "jax" else code.loss.spec.head
        if kind in turns:
            turns[kind] += 1
        if kind not in turns or turns[kind] % every[kind] == 0:
            yield name, dtypes[place % len(dtypes)]


CHOSEN = [(name, dtype) for name, dtype in chosen() if sampled.chosen(name)]


@pytest.mark.untraced
@pytest.mark.parametrize(("name", "dtype"), CHOSEN, ids=[f"{name} in {dtype}" for name, dtype in CHOSEN])
def test_what_is_right_passes(name, dtype):
    code = RIGHT[dtype][name]
    for some in ({"shapes": SHAPES[:1]}, {}):
        settings = some | {"standard": code.standard} | code.settings
        report = check(code.fn, code.loss, framework=code.framework, dtype=dtype, **settings)
        if report.state != "undecided":
            break
    assert report.passed, str(report)


WRONG = list(wrong_codes.wrong_codes())


def test_codes_have_names_of_their_own():
    for codes in (*map(right_codes.right_codes, right_codes.DTYPES), WRONG):
        names = [(code.framework, code.name, str(code.settings)) for code in codes]
        assert len(names) == len(set(names))


IDS = [f"{code.framework}, {code.name}" for code in WRONG]
DRAWN = [place for place, code in enumerate(WRONG) if sampled.chosen(f"{IDS[place]} {code.settings}")]


@pytest.mark.untraced
@pytest.mark.parametrize("place", DRAWN, ids=[IDS[place] for place in DRAWN])
def test_what_is_wrong_does_not_pass(place):
    code = WRONG[place]
    dtype = code.dtypes[place % len(code.dtypes)]
    state = "undecided" if code.name in UNREAD else "does not conform"
    few = {"groups": "ordinary", "shapes": SHAPES[:1]}
    for some in (few, {"shapes": SHAPES[:1]}, {}):  # what some cases refuse, all of them do
        report = check(code.fn, code.loss, framework=code.framework, dtype=dtype, **(some | code.settings))
        if report.state == "does not conform":
            break
    assert report.state == state, f"{code.name}\n{report}"
