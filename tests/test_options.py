"""Options of checks are read as what they have to be, or refused by their name."""

from __future__ import annotations

import re

import numpy as np
import pytest

from refloss.testing.options import (
    as_flag,
    as_function,
    as_list,
    as_numbers,
    as_reasons,
    as_seed,
    is_shape,
    is_whole,
    one_name,
    some_names,
)


def refused(kind: type[Exception], message: str, call: object, *arguments: object, **settings: object) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        call("option", *arguments, **settings)


def test_names() -> None:
    assert one_name("option", np.str_("a"), {"a": 1, "b": 2}) == "a"
    assert some_names("option", "a", ("a", "b")) == ("a",)
    assert some_names("option", ["b", "a"], ("a", "b"), least=2) == ("b", "a")
    assert some_names("option", (), ("a", "b")) == ()
    assert set(some_names("option", {"a", "b"}, ("a", "b"))) == {"a", "b"}
    refused(ValueError, "option: expected one of 'a', 'b'; got 'c'", one_name, "c", "ab")
    refused(ValueError, "option: expected one of 'a', 'b'; got ['a']", one_name, ["a"], "ab")
    for wrong in (["a", "c"], "c", 3, {"a": 1}, None, ["a", ["b"]], [np.arange(2)]):
        refused(
            ValueError, f"option: expected none or some of 'a', 'b'; got {wrong!r}", some_names, wrong, "ab", "none or "
        )
    refused(ValueError, "option: expected some of 'a', 'b'; got ['a']", some_names, ["a"], "ab", least=2)


def test_flags_functions_and_seeds() -> None:
    assert as_flag("option", np.True_) is True
    assert as_flag("option", False) is False
    for wrong in (1, None, "yes", [True]):
        refused(TypeError, f"option: expected True or False; got {wrong!r}", as_flag, wrong)
    assert as_function("option", len) is len
    refused(TypeError, "option: expected a function; got int", as_function, 3)
    assert as_seed("option", np.uint8(3)) == 3
    assert type(as_seed("option", np.int64(3))) is int
    assert as_seed("option", 0) == 0
    for odd in (-1, True, 1.0, None, [1]):
        refused(ValueError, f"option: expected an integer from 0 on; got {odd!r}", as_seed, odd)


def test_lists_and_reasons() -> None:
    assert as_list("option", (1, "2")) == [1, "2"]
    for wrong in ((), "ab", {"a": 1}, None, 3):
        refused(ValueError, f"option: expected at least one, in a tuple or list; got {wrong!r}", as_list, wrong)
    assert as_reasons("option", None) == {}
    assert as_reasons("option", {"a": "why", "b": "", "c": None}) == {"a": "why", "b": "expected", "c": "expected"}
    for odd in (["a"], "a", {1: "why"}, {"a": 1}, {"a": ["why"]}, 0):
        message = f"option: expected names of cases with reasons, in a dict; got {odd!r}"
        refused(TypeError, message, as_reasons, odd)


def test_shapes() -> None:
    assert all(map(is_whole, (1, np.int32(3), 2**31 - 1)))
    assert not any(map(is_whole, (0, -1, 1.0, True, "1", None, 2**31, 10**5000, [1])))
    assert all(map(is_shape, ((1, 2, 3), [1, 2, np.int8(3)], np.array([1, 2, 3]))))
    assert not any(map(is_shape, ((1, 2), (1, 2, 0), "123", 3, None, {1: 2}, np.array(3), np.ones(3), [[1], 2, 3])))


def test_numbers() -> None:
    assert as_numbers("option", [1.0], np.asarray).tolist() == [1.0]
    with pytest.raises(
        TypeError, match=r"^option: expected real numbers, in an array or a tensor; got \[\[1\], 2\]$"
    ) as e:
        as_numbers("option", [[1], 2], np.asarray)
    assert isinstance(e.value.__cause__, ValueError)
