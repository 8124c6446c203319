"""What a case is: its groups, shape, flags and reason; and what cases are drawn from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.testing.signatures import Inputs, Loss

Labels: TypeAlias = NDArray[np.int64]
GROUPS = ("ordinary", "boundary", "hard", "range")
VERDICT = GROUPS[:3]
"""Groups that the verdict covers; `range` is reported beside them."""
FAR_GAPS = (120.0, 800.0)
"""Differences of logits whose exponential is 0 in float32, and in float64 too."""


class Shape(NamedTuple):
    """The size of the inputs of a case."""

    n: int = 9
    """Samples."""
    c: int = 7
    """Classes."""
    d: int = 13
    """Dimensions of an embedding; losses of logits have none."""


SHAPES = (Shape(), Shape(5, 35, 9), Shape(19, 3, 5), Shape(2, 2, 3))
"""Default shapes: more samples than classes and fewer, and no multiple of the block of a kernel."""


class Case(NamedTuple):
    """Inputs with a name and a reason."""

    id: str
    """Group, name and shape."""
    group: str
    """One of `GROUPS`."""
    flags: tuple[str, ...]
    """Why the case exists, in words for a program."""
    reason: str
    """Why the case exists, in a sentence."""
    inputs: Inputs
    """What the loss is called with: float64 arrays whose numbers the dtype holds exactly, and labels."""
    accepts: tuple[str, ...] = ("truth",)
    """Accepted results: "truth", within the budget; "refusal", an exception; "finite", any finite numbers, where there
    is no truth. On a boundary the budget covers what is true on either side."""

    @property
    def name(self) -> str:
        """The id without the shape."""
        return re.sub(r"-\d+x\d+x\d+$", "", self.id)

    def __str__(self) -> str:
        """Return its id, for pytest."""
        return self.id


class Draft(NamedTuple):
    """A case before its numbers are rounded to the dtype."""

    group: str
    name: str
    flags: tuple[str, ...]
    reason: str
    inputs: Inputs


class Setting(NamedTuple):
    """What the cases of one shape are drawn from."""

    loss: Loss
    dtype: str
    size: Shape
    rng: np.random.Generator
    labels: Callable[[], Labels]
    """The next labels (N,)."""
    bias: bool = False
    """Whether losses with labels and a bias that may be left out have it in all cases."""

    def normal(self, *shape: int) -> Array:
        """Independent normal numbers."""
        return self.rng.normal(size=shape)

    @property
    def gaps(self) -> tuple[float, ...]:
        """Differences of logits at which exponentials vanish."""
        return FAR_GAPS[:1] if self.dtype == "float16" else FAR_GAPS  # the sum of many would overflow
