"""Defects that lose digits: numbers shorter than those of the dtype, in matrix products or everywhere.

`check` compares errors with those of the rows, since how a product is rounded is not known to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS, PRECISION_BITS
from refloss.testing.defects.emulations import Emulation
from refloss.testing.defects.heads import cosines_of
from refloss.testing.defects.row import Defect
from refloss.testing.defects.steps import value_of_cosines
from refloss.testing.errors import Arithmetic
from refloss.testing.signatures import Inputs, centers_of, head_of, of_directions

Granted = Callable[[Arithmetic], Arithmetic]
"""The arithmetic whose budgets such errors do not exceed, from that of a check."""


@dataclass(frozen=True)
class Rounded(Emulation):
    """A loss with an intermediate that is rounded. Its gradients are those of the inputs that are rounded as it is."""

    value: Callable[[Any, Inputs], Any]
    bits: int
    """Bits of the significand of what is rounded."""
    granted: Granted | None = None
    """None where everything is computed in a shorter dtype."""
    of_sums: bool = False
    """Whether it is sums that are rounded."""

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self.value(self.loss, inputs)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        moved = inputs if self.of_sums else tuple(_rounded(np.asarray(entry), self.bits) for entry in inputs)
        return self(*inputs), self.loss.value_and_grad(*moved, upstream=upstream, engine=engine)[1]


def to_bits(array: Array, bits: int, *, down: bool = False) -> Array:
    """Round to so many bits of a significand, to nearest or towards 0."""
    mantissa, exponent = np.frexp(array)
    scaled = np.ldexp(mantissa, bits)
    return np.asarray(np.ldexp(np.trunc(scaled) if down else np.rint(scaled), exponent - bits))


def _rounded(entry: Array, bits: int) -> Array:
    return to_bits(entry, bits) if entry.dtype.kind == "f" else entry


def _with_rounded_inputs(bits: int, loss: Any, inputs: Inputs) -> Array:
    return np.asarray(loss(*(_rounded(entry, bits) for entry in inputs)))


def _with_rounded_factors(bits: int, unit: bool, down: bool, loss: Any, inputs: Inputs) -> Array:
    """Return the value if matrix products round their factors: unit rows of a margin loss, or rows as they are."""
    x, w, *rest = inputs
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if unit and of_directions(loss):
        x, w = x / length, w / np.linalg.norm(w, axis=-1, keepdims=True)
    x, w = (to_bits(rows, bits, down=down) for rows in (x, w))
    if head_of(loss) == "linear":
        return np.asarray(loss(x, w, *rest))
    c = cosines_of(x, w)
    if not unit:
        c = cosines_of(x / length, w / np.linalg.norm(inputs[1], axis=-1, keepdims=True))
    return np.asarray(value_of_cosines(loss, inputs, c))


def _with_rounded_sums(bits: int, loss: Any, inputs: Inputs) -> Array:
    """Return the value if a matrix product rounds every partial sum, from the first dimension to the last."""
    x, w, *rest = inputs
    if of_directions(loss):
        x, w = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (x, w))
    total = np.zeros((len(x), len(w)))
    for place in range(x.shape[1]):
        total = to_bits(total + x[:, place : place + 1] * w[:, place], bits)
    if of_directions(loss):
        return np.asarray(value_of_cosines(loss, inputs, total))
    return np.asarray(loss(total, np.eye(len(w)), *rest))


def _has_product(loss: Any) -> bool:
    return of_directions(loss) or head_of(loss) == "linear"


def _has_plain_product(loss: Any) -> bool:
    return _has_product(loss) and not (head_of(loss) == "margin" and centers_of(loss))


def _granted_factors(bits: int, a: Arithmetic) -> Arithmetic:
    """Twice the error of a factor, since the product may be rounded to as many bits."""
    return a._replace(factor=2.0 ** (1 - bits))


def _granted_sums(bits: int, a: Arithmetic) -> Arithmetic:
    return a._replace(accumulated=2.0**-bits)


def _row(name: str, sentence: str, applies: Callable[[Any], bool], *fields: Any) -> Defect:
    def emulate(loss: Any) -> Rounded:
        if isinstance(loss, Emulation):
            raise TypeError("loss: expected a loss of refloss")
        return Rounded(loss, "", *fields)

    return Defect(name, sentence, applies, emulate, "rounding")


def _factors() -> Iterator[Defect]:
    for kind, which in (("tf32", "11 bits, those of tf32 and of float16"), ("bfloat16", "8 bits, those of bfloat16")):
        bits = PRECISION_BITS[kind]
        for rows, unit in (("unit rows", True), ("rows", False)):
            for how, down in (("rounded", False), ("cut off", True)):
                yield _row(
                    f"products of {kind}, {rows} {how}",
                    f"as matrix products would give whose factors are rounded to {which}",
                    _has_product,
                    partial(_with_rounded_factors, bits, unit, down),
                    bits,
                    partial(_granted_factors, bits),
                )


FACTORS = tuple(_factors())
SUMS = tuple(
    _row(
        f"sums of {kind}",
        f"as matrix products would give whose partial sums are rounded to {PRECISION_BITS[kind]} bits, those of {kind}",
        _has_plain_product,
        partial(_with_rounded_sums, PRECISION_BITS[kind]),
        PRECISION_BITS[kind],
        partial(_granted_sums, PRECISION_BITS[kind]),
        True,
    )
    for kind in ("float16", "bfloat16")
)
RESULTS = tuple(
    _row(
        f"computed in {kind}",
        f"as {kind} would give: something is computed in {kind} on the way",
        lambda loss: head_of(loss) != "triplet",
        partial(_with_rounded_inputs, FORMATS[kind].bits),
        FORMATS[kind].bits,
    )
    for kind in ("float32", "float16", "bfloat16")
)
