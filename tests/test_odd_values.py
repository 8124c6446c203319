"""Every option of every public function, given odd values: refused by its name, and never by anything else.

A message says which argument it is about, whatever came: what cannot be hashed, compared, shown, ordered or converted.
Values that an option does take are named in `TAKEN`, so that nothing odd is taken in silence.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import refloss
from refloss import testing
from support.odd_values import ODD

Z, Y = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]]), np.array([0, 1])
X, W, B = np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.zeros(3)
LOGITS, LINEAR, MARGIN, TRIPLET = refloss.CrossEntropy(), refloss.SoftmaxLoss(), refloss.ArcFace(), refloss.Triplet()
BY_LENGTH, HARD = refloss.AdaFace(), refloss.CurricularFace()
QUESTIONS, PAIRS, WAYS = refloss.SphereFace2(), refloss.SigLIP(), refloss.InfoNCE()
INPUTS = {
    LOGITS: {"z": Z, "y": Y},
    LINEAR: {"x": X, "w": W, "y": Y, "b": B},
    MARGIN: {"x": X, "w": W, "y": Y, "m": np.array([0.5, -0.25])},
    QUESTIONS: {"x": X, "w": W, "y": Y, "b": np.array(0.5)},
    PAIRS: {"x": X, "w": X[::-1].copy(), "t": np.array(10.0), "b": np.array(-10.0)},
    WAYS: {"x": X, "w": X[::-1].copy(), "s": np.array(20.0)},
    TRIPLET: {"anchor": X, "positive": X, "negative": X + 1.0},
}
CLASSES = {getattr(refloss, name) for name in refloss.__all__ if name[0].isupper()} - {refloss.AccuracyWarning}
LOSSES = sorted(CLASSES, key=lambda it: it.__name__)
CHECK = ("framework", "dtype", "device", "shapes", "groups", "standard", "accumulate", "matmul", "gradients", "ignored")
CHECK += ("soft", "bias", "overwrites", "xfail", "seed", "cases", "track", "fn", "loss")
BOUND = ("engine", "dtype", "upstream", "upstream_lse")
INTEGERS = {"a huge integer", "a large integer", "a negative integer"}
NUMBER = {"a large integer", "a negative integer"}
METHODS = ("()", ".value_and_grad", ".trace")
NUMBERS = {"True", "an array", "NaN", "infinity", "an empty list"}


class Option(NamedTuple):
    """An option of a function."""

    call: Callable[[Any], Any]
    """Calls the function with the option, and all others as they should be."""
    name: str
    """The argument that a message names."""


def ours(z: Any, y: Any) -> Any:
    """Right code for the tests of checks."""
    value, grad = LOGITS.value_and_grad(z, y)
    return value, grad.z


def vary(function: Callable[..., Any], names: Any, **others: Any) -> Iterator[Option]:
    for name in names:
        yield Option(lambda value, name=name: function(**others | {name: value}), name)


def called(loss: Any, method: Callable[..., Any], *names: str) -> Iterator[Option]:
    yield from vary(method, (*INPUTS[loss], *names), **INPUTS[loss])


def settings() -> Iterator[tuple[str, Option]]:
    for loss in LOSSES:
        for option in vary(loss, [field.name for field in dataclasses.fields(loss)]):
            yield f"{loss.__name__}.{option.name}", option


def calls() -> Iterator[tuple[str, Option]]:
    for loss, inputs in INPUTS.items():
        of_lse = ("upstream_lse",) if loss in {LOGITS, LINEAR} else ()
        methods = {
            "()": called(loss, loss, "engine", "dtype"),
            ".value_and_grad": called(loss, loss.value_and_grad, "engine", "dtype", "upstream", "wrt", "out", *of_lse),
            ".trace": called(loss, loss.trace, "upstream", *of_lse),
        }
        for method, options in methods.items():
            for option in options:
                yield f"{type(loss).__name__}{method}.{option.name}", option
        first = next(iter(inputs))
        for what, keys in (
            ("wrt", lambda value: {"wrt": [value]}),
            ("out", lambda value, k=first: {"out": {k: value}}),
        ):
            call = lambda value, m=loss, keys=keys, i=inputs: m.value_and_grad(**i, **keys(value))  # noqa: E731
            yield f"{type(loss).__name__}.value_and_grad.{what}[...]", Option(call, what)


def functions() -> Iterator[tuple[str, Option]]:
    of_functions = {
        "softmax": vary(refloss.softmax, ("z", "axis"), z=Z),
        "log_softmax": vary(refloss.log_softmax, ("z", "axis"), z=Z),
        "logsumexp": vary(refloss.logsumexp, ("z", "axis"), z=Z),
        "target_logit": [Option(MARGIN.target_logit, "theta")],
        "target_slope": [Option(MARGIN.target_slope, "theta")],
        "target_logit by length": vary(BY_LENGTH.target_logit, ("theta", "length"), theta=0.5, length=20.0),
        "target_slope by length": vary(BY_LENGTH.target_slope, ("theta", "length"), theta=0.5, length=20.0),
        "updated by length": vary(BY_LENGTH.updated, ("x",)),
        "updated by cosines": vary(HARD.updated, ("x", "w", "y"), x=X, w=W, y=Y),
        "ulp_error": vary(refloss.ulp_error, ("result", "truth"), result=1.0, truth=1.0),
        "error_bound": [
            *vary(lambda **options: refloss.error_bound(LOGITS, Z, Y, **options), BOUND),
            *vary(lambda loss=LOGITS, z=Z, y=Y: refloss.error_bound(loss, z, y), ("loss", "z", "y")),
        ],
        "enclose": [
            *vary(lambda **options: refloss.enclose(LOGITS, Z, Y, **options), ("digits", "upstream", "gradients")),
            *vary(lambda loss=LOGITS, z=Z, y=Y: refloss.enclose(loss, z, y), ("loss", "z", "y")),
        ],
    }
    for function, options in of_functions.items():
        for option in options:
            yield f"{function}.{option.name}", option


def of_testing() -> Iterator[tuple[str, Option]]:
    small = {"shapes": (2, 3, 3), "groups": "ordinary"}
    value, grad = LOGITS.value_and_grad(Z, Y)
    exact = {"dtype": "float64", "value": value, "grad_z": grad.z}
    arithmetic = ("dtype", "standard", "accumulate", "matmul", "upstream")
    shared = ("framework", "dtype", "device", "shape", "hard", "examples", "standard", "ignored", "gradients", "bias")
    functions = {
        "check": vary(testing.check, CHECK, fn=ours, loss=LOGITS, **small),
        "check of a linear head": vary(
            testing.check, ("bias", "gradients"), fn=lambda x, w, y: 0.0, loss=LINEAR, **small
        ),
        "assert_conforms": vary(testing.assert_conforms, ("fn", "loss", "seed"), fn=ours, loss=LOGITS, **small),
        "conforms": vary(testing.conforms, ("dtypes", "devices", "loss", "seed"), fn=ours, loss=LOGITS, **small),
        "budget": [
            *vary(lambda **options: testing.budget(LOGITS, Z, Y, **options), arithmetic, dtype="float32"),
            *vary(lambda loss=LOGITS, z=Z, y=Y: testing.budget(loss, z, y, dtype="float32"), ("loss", "z", "y")),
            Option(lambda value: testing.budget(LOGITS, Z, Y, dtype=value), "dtype"),
        ],
        "cases": vary(testing.cases, ("loss", "dtype", "shapes", "seed", "bias", "soft", "ignored"), loss=LOGITS),
        "assert_close": [
            *vary(lambda **options: testing.assert_close(LOGITS, Z, Y, **options), (*exact, *arithmetic[1:]), **exact),
            *vary(lambda loss=LOGITS, z=Z, y=Y: testing.assert_close(loss, z, y, **exact), ("loss", "z", "y")),
        ],
        "properties": vary(
            testing.properties,
            ("fn", "loss", *shared, "overwrites"),
            fn=ours,
            loss=LOGITS,
            dtype="float64",
            shape=(2, 3, 3),
            examples=1,
        ),
    }
    for function, options in functions.items():
        for option in options:
            yield f"{function}.{option.name}", option


TAKEN: dict[str, set[str]] = {
    "class_weight": {"None"},
    "ignore_index": {"None"},
    "s": {"None", "a large integer"},
    "annealing": {"a large integer"},
    "weight": {"a large integer"},
    "l": {"a large integer"},
    "Triplet.m": {"a large integer"},
    "b": {"None"},
    "dtype": {"None", "bytes"},  # NumPy takes names as bytes
    "dtypes": set(),
    "upstream": {"None"},
    "upstream_lse": {"None"},
    "softcap": {"None", "a large integer"},
    "logit_scale": {"a large integer"},
    "z_loss": {"a large integer"},
    "wrt": {"None", "an empty list"},
    "out": {"None", "an empty dict", "an array"},
    "fn": {"a class", "a function"},  # which fail when called: a result of the check
    "device": {"None"},
    "shapes": {"None"},
    "accumulate": {"None", "bytes"},
    "matmul": {"None", "bytes"},
    "gradients": {"True", "an empty list"},
    "ignored": {"True"},
    "soft": {"True"},
    "hard": {"True"},
    "squared": {"True"},
    "bias": {"None", "True"},
    "overwrites": {"an empty list"},
    "xfail": {"None", "an empty dict", "a dict"},
    "seed": {"a large integer", "a huge integer"},
    "cases": {"None"},
    "value": {"None", *NUMBERS},  # compared, and mostly found wrong
    "grad_z": {"None", *NUMBERS},
    "truth": INTEGERS | {"NaN", "infinity", "an array", "an empty list"},
    "result": NUMBERS - {"True"},
    "theta": {"an empty list"},
    "length": {"an empty list"},
    **{f"SphereFace2{method}.b": {"None", *NUMBER} for method in METHODS},
    **{f"SigLIP{method}.{name}": NUMBER for method in METHODS for name in ("t", "b")},
    **{f"InfoNCE{method}.s": NUMBER for method in METHODS},
    **{f"ArcFace{method}.m": {"None"} for method in METHODS},
    **{name: {"an array"} for name in ("z", "x", "w", "y", "anchor", "positive", "negative")},
}
"""Odd values that options take."""
OPTIONS = dict([*settings(), *calls(), *functions(), *of_testing()])


def error_of(call: Callable[[Any], Any], value: Any) -> Exception | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(value)
        except (ValueError, TypeError, AssertionError) as error:
            return error
    return None


@pytest.mark.parametrize("option", OPTIONS)
def test_odd_values_are_refused_by_the_name_of_their_argument(option: str) -> None:
    pytest.importorskip("flint")
    call, name = OPTIONS[option]
    taken = TAKEN.get(option, TAKEN.get(name, set()))
    argument = re.compile(rf"(?<!\w){name[:1]}{name[1:].removesuffix('s')}s?(?!\w)")  # of devices each is a device
    for what, make in ODD.items():
        if name == "examples" and what in INTEGERS:
            continue  # so many examples are many
        error = error_of(call, make())
        if error is None or isinstance(error, AssertionError):  # taken, or compared and found wrong
            assert what in taken, f"{what} was taken"
        else:
            message = str(error)
            assert argument.search(message), f"{what}: {message}"
            assert "got" in message, f"{what}: {message}"
            assert len(message) < 700, f"{what}: {message}"
