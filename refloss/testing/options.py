"""Options of checks, read: each as what it has to be, or refused by its name, whatever came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refloss.messages import shown


def one_name(option: str, value: Any, names: Iterable[str]) -> str:
    """Return one of the names."""
    known = tuple(names)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{option}: expected one of {_listed(known)}; got {shown(value)}")
    return str(value)


def some_names(
    option: str, value: Any, names: Iterable[str], otherwise: str = "", *, least: int = 0
) -> tuple[str, ...]:
    """Return several of the names, or one that stands for itself; at least so many."""
    known = tuple(names)
    some = (value,) if isinstance(value, str) else value
    several = tuple(some) if isinstance(some, list | tuple | set | frozenset) else (None,)
    if len(several) < least or not all(isinstance(name, str) and name in known for name in several):
        raise ValueError(f"{option}: expected {otherwise}some of {_listed(known)}; got {shown(value)}")
    return several


def as_flag(option: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{option}: expected True or False; got {shown(value)}")
    return bool(value)


def as_function(option: str, value: Any) -> Callable[..., Any]:
    """Return what can be called."""
    if not callable(value):
        raise TypeError(f"{option}: expected a function; got {type(value).__name__}")
    called: Callable[..., Any] = value
    return called


def as_seed(option: str, value: Any) -> int:
    """Return an integer that random numbers can begin with."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{option}: expected an integer from 0 on; got {shown(value)}")
    return int(value)


def as_list(option: str, value: Any) -> list[Any]:
    """Return the entries of a list or tuple that has some."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{option}: expected at least one, in a tuple or list; got {shown(value)}")
    return list(value)


def as_reasons(option: str, value: Any) -> dict[str, str]:
    """Return names with the reason why each is there, "expected" where none is given; no names for None."""
    known = {} if value is None else value
    texts = [*known.keys(), *(why for why in known.values() if why is not None)] if isinstance(known, Mapping) else [0]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{option}: expected names of cases with reasons, in a dict; got {shown(value)}")
    return {name: why or "expected" for name, why in known.items()}


def is_whole(value: Any) -> bool:
    """Whether it is a positive integer that an axis may be long."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(0 < value < 2**31)


def is_shape(value: Any) -> bool:
    """Whether it is (N, C, D), three positive integers."""
    entries = value.tolist() if isinstance(value, np.ndarray) else value
    return isinstance(entries, Sequence) and len(entries) == 3 and all(map(is_whole, entries))


def as_numbers(option: str, value: Any, read: Callable[[Any], Any]) -> Any:
    """Return what `read` makes of an array, a tensor, or lists of real numbers."""
    try:
        return read(value)
    except Exception as error:  # whatever a framework raises
        raise TypeError(f"{option}: expected real numbers, in an array or a tensor; got {shown(value)}") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
