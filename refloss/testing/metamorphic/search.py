"""The search for inputs that break a property, by hypothesis."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refloss.messages import raised
from refloss.testing.metamorphic.applicable import Property
from refloss.testing.metamorphic.code import BrokenError, Code, Inputs, InterruptError, UntriedError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

SIMPLER = 40
"""Number of simpler inputs that are tried once a property is broken."""


class SimpleError(BaseException):
    """Inputs are as simple as they need to be: ends the search of hypothesis."""


class Outcome(NamedTuple):
    """The outcome of a search; empty if the property holds."""

    broken: str = ""
    untried: str = ""
    accepted: bool = False
    """Whether it may stay untried."""
    interrupted: bool = False


def try_property(code: Code, relation: Property, inputs: SearchStrategy[Inputs], examples: int) -> Outcome:
    """Search for the simplest input that breaks a property."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    shown: list[str] = []
    reasons: list[UntriedError | None] = []
    outcomes: dict[Any, str] = {}
    """Outcome of each input at its first try: code that fails only at times would confuse hypothesis."""
    interrupts: list[InterruptError] = []

    def outcome(example: Inputs, seed: int) -> str:
        if len(shown) > SIMPLER:
            raise SimpleError
        try:
            relation(code, example, np.random.default_rng(seed))
        except InterruptError as error:
            interrupts.append(error)
            raise SimpleError from None
        except BrokenError as error:
            return str(error)
        except UntriedError as error:
            reasons.append(error)
        else:
            reasons.append(None)
        return ""

    # Hypothesis derives its random numbers from the source of this function: another word in it draws other inputs.
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(inputs, st.integers(0, 255))
    def tried(some: Inputs, seed: int) -> None:
        key = (*(entry.tobytes() for entry in some.values()), seed)
        if key not in outcomes:
            outcomes[key] = outcome(some, seed)
        if outcomes[key]:
            shown.append(outcomes[key])
            raise BrokenError(outcomes[key])

    trouble = ""
    try:
        tried()
    except (BrokenError, SimpleError):
        pass
    except Exception as error:  # of hypothesis, or of a module that it inspects
        trouble = f"could not be tried: {raised(error)}"
    if interrupts:
        return Outcome(str(interrupts[0]), interrupted=True)
    if shown:
        return Outcome(shown[-1])
    if trouble or not reasons:
        return Outcome(untried=trouble or "no input was tried")
    untried = [error for error in reasons if error]
    if not untried:
        return Outcome()
    if len(untried) < len(reasons):
        return Outcome(f"{untried[0]}; but not for all inputs")
    return Outcome(untried=str(untried[0]), accepted=untried[0].accepted)


@contextmanager
def modules_with_file() -> Iterator[None]:
    """Set the `__file__` of modules that raise when it is read: hypothesis reads that of every imported module."""
    changed = []
    for module in list(sys.modules.values()):
        try:
            getattr(module, "__file__", None)
        except Exception:  # a lazy module may import one that is missing
            with suppress(Exception):
                module.__file__ = None
                changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            with suppress(Exception):
                del module.__file__
