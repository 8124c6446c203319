"""Values that no option expects, each made anew: what a message has to survive, and the argument's name be in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Unprintable:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Unequal:
    """An object that cannot be compared, nor be a key of a dict."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")


def contains_itself() -> list[Any]:
    """A list that is its own entry."""
    entries: list[Any] = []
    entries.append(entries)
    return entries


def nested() -> list[Any]:
    """A list deeper than the interpreter's stack."""
    entries: list[Any] = []
    for _ in range(100_000):
        entries = [entries]
    return entries


ODD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "an empty list": list,
    "an empty dict": dict,
    "a list": lambda: ["float32", None],
    "a dict": lambda: {"float32": None},
    "a set": lambda: {"float32"},
    "a list that contains itself": contains_itself,
    "lists without end": nested,
    "an object": object,
    "an object without a repr": Unprintable,
    "an object without equality": Unequal,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "a complex number": lambda: 1j,
    "bytes": lambda: b"float32",
    "an unknown name": lambda: "odd",
    "an empty name": str,
    "a null character": lambda: "float32\0",
    "a surrogate": lambda: "\ud800",
    "a class": lambda: Unprintable,
    "a function": lambda: contains_itself,
    "a huge integer": lambda: 10**5000,
    "a large integer": lambda: 2**64,
    "a negative integer": lambda: -(2**63) - 1,
    "an array": lambda: np.arange(6.0).reshape(2, 3),
    "an array of names": lambda: np.array(["float32", "chain"]),
    "an array of objects": lambda: np.array([None, object()]),
    "a structured array": lambda: np.zeros(2, "i4, f8"),
    "a module": lambda: np,
    "dates": lambda: np.array(["2020-01-01"], "datetime64[D]"),
}
