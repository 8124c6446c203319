"""Refusals: an error becomes one line on standard error and exit status 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def refusing() -> Iterator[None]:
    """Turn an error of the library, which names the argument, into typer's error of a wrong call."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, ImportError) as error:
        raise typer.BadParameter(in_one_line(error)) from None


def in_one_line(error: BaseException) -> str:
    """Return the message of an error without its line breaks."""
    return " ".join(str(error).split())
