"""Certified: the losses in ball arithmetic, each result a number and a proven bound of its error.

A ball is a midpoint and a radius; an operation on balls gives a ball that holds every result of the operation on
numbers from them (Arb, through python-flint). Every loss is written here from its definition in the papers, forward
only, and differentiated automatically: no derivative formula of any loss is used. What balls cannot decide is decided
exactly, by integers. Nothing is shared with `refloss.stages` except for the settings, and with the other engines
only what a mean is whose weights add up to 0, so that they cannot be wrong together.

By file, bottom to top: `balls` (numbers, arrays, precision), `rounding` (of a ball to float64 and to decimals), `tape`
(automatic differentiation), `exact` (integers), `centers` (which one stands for a class), `known` (entries known
beforehand), `margins` (of samples), `sides` (the margin's boundaries), `others` (classes other than the label's),
`hard` (those above their threshold), `class_curves` (those whose angle or cosine changes), `hinges` (triplets),
`targets` (of cross entropy), `masks` (of divergences), `heads` (the losses), `links` (those that end otherwise on
cosines), `zeros` and `link_zeros` (proofs that an entry is 0), `refinement` (more bits until every entry is decided),
`problem` (a loss on its inputs, from all of these).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from refloss import inputs
from refloss.engines.call import call_of
from refloss.engines.certified.balls import Arb, precision
from refloss.engines.certified.problem import Problem
from refloss.engines.certified.refinement import refine, round_correctly
from refloss.engines.certified.rounding import Ball, describe, to_result
from refloss.engines.protocol import IN_FLOAT64, Request, ValueAndGradients
from refloss.engines.spec import Arrays, Spec
from refloss.error_free import Array

__all__ = ["Ball", "Enclosure", "enclose", "value", "value_and_grad"]


class Enclosure(NamedTuple):
    """A loss and its gradients, enclosed."""

    value: Ball
    """The loss."""
    grad: dict[str, Ball] | None
    """Its gradients by the name of the input; None if they were not asked for."""
    notes: tuple[str, ...]
    """Every kink met and the convention used there, and every entry that stayed undecided."""
    bits: int
    """The precision it took."""


def value(spec: Spec, arrays: Arrays, request: Request = IN_FLOAT64) -> Array:
    """Return the loss, correctly rounded; ArithmeticError where MAX_BITS leave open how."""
    return round_correctly(Problem(spec, arrays, None))["value"]


def value_and_grad(spec: Spec, arrays: Arrays, upstream: Array, request: Request = IN_FLOAT64) -> ValueAndGradients:
    """Return the loss and its gradients by the name of the input, every entry rounded as by `value`."""
    gradients = round_correctly(Problem(spec, arrays, upstream))
    return gradients.pop("value"), gradients


def enclose(
    loss: Any,
    *inputs_: Any,
    digits: int = 30,
    upstream: Any = None,
    upstream_lse: Any = None,
    gradients: bool = True,
) -> Enclosure:
    r"""Enclose a loss and its gradients in balls that are proven to hold the truth.

    $$|L - \tilde L| \le r, \qquad |\partial L/\partial v_i - g_i| \le r_i$$

    with midpoints $\tilde L$, $g$ and radii r. In decimals r is at most 10^-digits of the entry for every entry, unless
    it is listed in the notes as undecided; to float64 midpoints at most half a unit in the last place is added. An
    entry of exactly 0 is proven to be 0. Values are computed in ball arithmetic (Johansson
    2017, "Arb: efficient arbitrary-precision midpoint-radius interval arithmetic") from the definitions of the losses,
    gradients by automatic differentiation; no derivative formula is used. Takes python-flint: ``pip install
    refloss[certified]``.

    Parameters
    ----------
    loss
        Any loss of refloss.
    *inputs_
        What the loss is called with, margins of samples as well where they are given.
    digits
        Relative accuracy of the decimals of every entry, from 1 to 1000.
    upstream, upstream_lse
        The gradient of what comes after the loss, and after the log-sum-exp, as for ``loss.value_and_grad``.
    gradients
        False for the value alone.

    Returns
    -------
    Enclosure
        Balls, notes on kinks and on undecided entries, and the bits it took.

    Raises
    ------
    ValueError, TypeError
        For digits out of range, and for inputs that the loss refuses, naming the argument.
    ImportError
        Where python-flint is not installed.

    Examples
    --------
    >>> import refloss
    >>> refloss.enclose(refloss.CrossEntropy(), [[0.0, -40.0]], [0], digits=20).value.decimal
    array('4.2483542552915889863E-18', dtype=object)
    """
    digits = inputs.integer("digits", digits)
    if not 1 <= digits <= 1000:
        raise ValueError(f"digits must be from 1 to 1000; got {digits}")
    gradients = inputs.flag("gradients", gradients)
    call = call_of(loss, inputs_).with_upstream_lse(upstream_lse)
    upstream = inputs.upstream_gradient(upstream, call.spec.reduction, call.samples)
    problem = Problem(call.spec, call.in_float64(), upstream if gradients else None)
    accuracy = int(digits * 3.33) + 4  # bits

    def decide(ball: Arb) -> Arb | None:
        return ball if ball.is_zero() or ball.rel_accuracy_bits() >= accuracy else None

    results, undecided, bits = refine(problem, accuracy + 60, decide)
    for entry in undecided:
        results[entry.name][entry.index] = entry.ball
    shapes = call.shapes | {"value": call.samples if call.spec.reduction == "none" else ()}
    with precision(bits):
        balls = {name: to_result(entries.reshape(shapes[name]), digits) for name, entries in results.items()}
    notes = (*problem.notes, *(f"undecided: {entry}: {describe(entry.ball)}" for entry in undecided))
    return Enclosure(balls.pop("value"), balls if gradients else None, notes, bits)
