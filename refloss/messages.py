"""Arguments in messages, however odd: shown in a few characters, and what their nested lists hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LONGEST = 200
"""Characters of an argument that a message shows."""
DEEPEST = 64
"""Most axes of a NumPy array, hence most levels of lists."""


def shown(value: Any) -> str:
    """Return the repr of a value, shortened, or its type where it has no repr.

    An integer of more than 4300 digits has none, nor has what is nested too deeply or raises when it is asked.
    """
    try:
        text = repr(value)
    except Exception:
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def raised(error: BaseException) -> str:
    """Return the type of an exception and what it says, or its type alone where it says nothing, or raises itself."""
    try:
        said = str(error)
    except Exception:
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def leaves(value: Any, within: tuple[int, ...] = ()) -> Iterator[Any]:
    """Yield what lists and tuples hold that is neither, at any level; of another value, that value.

    Raises
    ------
    ValueError
        For a list that contains itself, which NumPy would follow for ever, and for more levels than an array has axes.
    """
    if not isinstance(value, list | tuple):
        yield value
        return
    if id(value) in within:
        raise ValueError("it contains itself")
    if len(within) == DEEPEST:
        raise ValueError(f"its lists are nested more than {DEEPEST} levels deep")
    for entry in value:
        if isinstance(entry, list | tuple):
            yield from leaves(entry, (*within, id(value)))
        else:
            yield entry
