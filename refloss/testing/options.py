"""Options of checks: each is returned in the type that it has to have, or refused by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.messages import shown
from refloss.testing.signatures import Loss, fields_of, inputs_of, may_have_bias, takes_margins


def one_name(option: str, value: Any, names: Iterable[str]) -> str:
    """Return one of the names."""
    known = tuple(names)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{option}: expected one of {_listed(known)}; got {shown(value)}")
    return str(value)


def some_names(
    option: str, value: Any, names: Iterable[str], otherwise: str = "", *, least: int = 0
) -> tuple[str, ...]:
    """Return several of the names, or one alone; at least ``least`` of them."""
    known = tuple(names)
    entries = (value,) if isinstance(value, str) else value
    several = tuple(entries) if isinstance(entries, list | tuple | set | frozenset) else (None,)
    if len(several) < least or not all(isinstance(name, str) and name in known for name in several):
        raise ValueError(f"{option}: expected {otherwise}some of {_listed(known)}; got {shown(value)}")
    return several


def as_flag(option: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{option}: expected True or False; got {shown(value)}")
    return bool(value)


def as_function(option: str, value: Any) -> Callable[..., Any]:
    """Return a function."""
    if not callable(value):
        raise TypeError(f"{option}: expected a function; got {type(value).__name__}")
    function: Callable[..., Any] = value
    return function


def as_seed(option: str, value: Any) -> int:
    """Return a seed of random numbers."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{option}: expected an integer from 0 on; got {shown(value)}")
    return int(value)


def as_list(option: str, value: Any) -> list[Any]:
    """Return the entries of a list or tuple that is not empty."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{option}: expected at least one, in a tuple or list; got {shown(value)}")
    return list(value)


def as_reasons(option: str, value: Any) -> dict[str, str]:
    """Return names with their reasons, "expected" where a reason is missing; no names for None."""
    known = {} if value is None else value
    texts = [*known.keys(), *(why for why in known.values() if why is not None)] if isinstance(known, Mapping) else [0]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{option}: expected names of cases with reasons, in a dict; got {shown(value)}")
    return {name: why or "expected" for name, why in known.items()}


def is_whole(value: Any) -> bool:
    """Whether a value is a positive integer that may be the length of an axis."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(0 < value < 2**31)


def is_shape(value: Any) -> bool:
    """Whether a value is (N, C, D), three positive integers."""
    entries = value.tolist() if isinstance(value, np.ndarray) else value
    return isinstance(entries, Sequence) and len(entries) == 3 and all(map(is_whole, entries))


def as_numbers(option: str, value: Any, read: Callable[[Any], NDArray[Any]]) -> NDArray[Any]:
    """Return an array, a tensor, or lists of real numbers as `read` converts them."""
    try:
        return read(value)
    except Exception as error:  # a framework may raise anything
        raise TypeError(f"{option}: expected real numbers, in an array or a tensor; got {shown(value)}") from error


def wanted_gradients(loss: Loss, gradients: bool | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the gradients that have to be returned."""
    fields = fields_of(loss)
    if isinstance(gradients, bool):
        return fields if gradients else ()
    return some_names("gradients", gradients, fields, "True, False or ")


def writable_inputs(loss: Loss, overwrites: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the inputs that the code may write into."""
    return some_names("overwrites", overwrites, inputs_of(loss))


def takes_bias(fn: Callable[..., Any], loss: Loss, bias: bool | None) -> bool:
    """Whether code takes a bias: as the option says or, if it is None, as its signature does.

    Its fourth argument is a bias where it has no default, or is called ``b`` or ``bias``.
    """
    bias = None if bias is None else as_flag("bias", bias)
    if not may_have_bias(loss) or bias is not None:
        return may_have_bias(loss) and bool(bias)
    try:
        signature = inspect.signature(fn)
        signature.bind(*inputs_of(loss))
        fourth = [each for each in signature.parameters.values() if each.kind in _POSITIONAL][3]
    except (TypeError, ValueError, IndexError):
        return False
    return fourth.default is fourth.empty or fourth.name in ("b", "bias")


def given_margins(fn: Callable[..., Any], loss: Loss, margins: bool | None) -> tuple[bool, bool]:
    """Whether code takes margins of samples, and whether it has to be given them.

    It takes them as the option says or, if it is None, where its fourth argument has no default or is ``m=None``; in
    the first case it has to be given them.
    """
    margins = None if margins is None else as_flag("margins", margins)
    if not takes_margins(loss) or margins is False:
        return False, False
    try:
        fourth = [each for each in inspect.signature(fn).parameters.values() if each.kind in _POSITIONAL][3]
    except (TypeError, ValueError, IndexError):
        return bool(margins), False
    needed = fourth.default is fourth.empty
    return bool(margins) or needed or (fourth.name == "m" and fourth.default is None), needed


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
