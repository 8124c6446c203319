"""Arguments are shown in a few characters, and their lists walked, whatever they are."""

import numpy as np
import pytest

from refloss.messages import DEEPEST, LONGEST, leaves, shown
from support.odd_values import Unprintable, contains_itself, nested


def test_values_are_shown_by_their_repr():
    assert shown("odd") == "'odd'"
    assert shown(contains_itself()) == "[[...]]"
    assert shown("a" * (LONGEST - 2)) == f"'{'a' * (LONGEST - 2)}'"
    assert shown("a" * LONGEST) == f"'{'a' * (LONGEST - 1)}..."


@pytest.mark.parametrize("value", [Unprintable(), 10**5000, nested()], ids=["raises", "too long", "too deep"])
def test_values_without_a_repr_are_shown_by_their_type(value: object):
    assert shown(value) == f"an object of type {type(value).__name__}"


def test_leaves_are_what_lists_and_tuples_hold():
    array = np.zeros(2)
    assert list(leaves([1, (2, [3.0, array]), [], "45", {6: 7}])) == [1, 2, 3.0, array, "45", {6: 7}]
    assert list(leaves(array)) == [array]
    shared = [1, 2]
    assert list(leaves([shared, shared])) == [1, 2, 1, 2]  # in it twice, but not in itself
    assert list(leaves([[[]] * 3] * 2)) == []


def test_lists_that_no_array_holds_are_refused():
    twice = contains_itself()
    twice.append(twice)
    within = [[1], [twice]]
    for endless in (contains_itself(), twice, within, ([1, contains_itself()],)):
        with pytest.raises(ValueError, match=r"^it contains itself$"):
            list(leaves(endless))
    deep: list[object] = [1]
    for _ in range(DEEPEST - 1):
        deep = [deep]
    assert list(leaves(deep)) == [1]
    for deeper in ([deep], nested()):
        with pytest.raises(ValueError, match=f"^its lists are nested more than {DEEPEST} levels deep$"):
            list(leaves(deeper))
