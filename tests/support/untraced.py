"""Coverage rests where there is nothing more to cover.

Its tracer slows down all Python that runs, not only what is measured: mpmath takes twice as long under it. So it is
taken off while truth is computed and in tests marked `untraced`, and put back after. A debugger's tracer stays.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def resting() -> Iterator[None]:
    """Without coverage's tracer, if it is there."""
    tracer = sys.gettrace()
    if type(tracer).__name__ != "CTracer":
        yield
        return
    sys.settrace(None)
    try:
        yield
    finally:
        tracer.start()  # not sys.settrace, which misses the returns from functions already entered


def untraced(function: Callable[P, R]) -> Callable[P, R]:
    """The function, during which coverage rests: what it calls of refloss does not count as covered."""

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        with resting():
            return function(*args, **options)

    return call
