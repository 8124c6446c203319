"""Automatic differentiation in reverse mode, on arrays of balls.

An operation is recorded with its vector-Jacobian product: a function that takes the gradient on the result and
accumulates the gradients on the operands. The tape knows the derivatives of +, ×, √, exp and the like, and of no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from refloss.engines.certified.balls import Arb, Balls, arb, elementwise, exact_balls, matmul, zero_balls

Product: TypeAlias = Callable[[Balls], None]  # a vector-Jacobian product


class Tape:
    """Operations in the order in which they were computed."""

    def __init__(self) -> None:
        self._operations: list[tuple[Variable, Product]] = []

    def leaf(self, floats: ArrayLike) -> Variable:
        """Return an input, as balls of radius 0."""
        return Variable(self, exact_balls(floats))

    def record(self, value: Any, product: Product) -> Variable:
        """Record the result of an operation and its vector-Jacobian product."""
        result = Variable(self, np.asarray(value, object))
        self._operations.append((result, product))
        return result

    def backward(self, outputs: Sequence[tuple[Variable, Balls]], leaves: dict[str, Variable]) -> dict[str, Balls]:
        """Return the gradients on the leaves that outputs depend on, from the gradient on each output."""
        for output, upstream in outputs:
            output.accumulate(upstream)
        for result, product in reversed(self._operations):
            if result.grad is not None:
                product(result.grad)
        return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


class Variable:
    """An array of balls on a tape, and the gradient on it."""

    grad: Balls | None

    def __init__(self, tape: Tape, value: Balls):
        self.tape, self.value, self.grad = tape, value, None

    def accumulate(self, gradient: Balls) -> None:
        """Add to the gradient, summed over the axes along which the value was broadcast."""
        extra = gradient.ndim - self.value.ndim
        if extra:
            gradient = gradient.sum(axis=tuple(range(extra)))
        for axis, size in enumerate(self.value.shape):
            if size == 1 and gradient.shape[axis] != 1:
                gradient = gradient.sum(axis=axis, keepdims=True)
        self.grad = gradient if self.grad is None else self.grad + gradient

    def __add__(self, other: Operand) -> Variable:
        def product(g: Balls) -> None:
            self.accumulate(g)
            _accumulate(other, g)

        return self.tape.record(self.value + _value(other), product)

    def __sub__(self, other: Operand) -> Variable:
        def product(g: Balls) -> None:
            self.accumulate(g)
            _accumulate(other, -g)

        return self.tape.record(self.value - _value(other), product)

    def __mul__(self, other: Operand) -> Variable:
        def product(g: Balls) -> None:
            self.accumulate(g * _value(other))
            if isinstance(other, Variable):
                other.accumulate(g * self.value)

        return self.tape.record(self.value * _value(other), product)

    def __truediv__(self, other: Operand) -> Variable:
        ratio = self.value / _value(other)

        def product(g: Balls) -> None:
            quotient = g / _value(other)
            self.accumulate(quotient)
            _accumulate(other, -quotient * ratio)

        return self.tape.record(ratio, product)

    def sqrt(self) -> Variable:
        """√x."""
        root = elementwise("sqrt", self.value)
        return self.tape.record(root, lambda g: self.accumulate(g / (root + root)))

    def exp(self) -> Variable:
        """e^x."""
        power = elementwise("exp", self.value)
        return self.tape.record(power, lambda g: self.accumulate(g * power))

    def log(self) -> Variable:
        """Log x."""
        return self.tape.record(elementwise("log", self.value), lambda g: self.accumulate(g / self.value))

    def log1p(self) -> Variable:
        """log(1 + x)."""
        return self.tape.record(elementwise("log1p", self.value), lambda g: self.accumulate(g / (self.value + 1)))

    def cos(self) -> Variable:
        """Cos x."""
        cosine = elementwise("cos", self.value)
        return self.tape.record(cosine, lambda g: self.accumulate(-g * elementwise("sin", self.value)))

    def sin(self) -> Variable:
        """Sin x."""
        sine = elementwise("sin", self.value)
        return self.tape.record(sine, lambda g: self.accumulate(g * elementwise("cos", self.value)))

    def atan2(self, other: Variable) -> Variable:
        """The angle of the point (other, self)."""
        y, x = self.value, other.value

        def product(g: Balls) -> None:
            quotient = g / (x * x + y * y)
            self.accumulate(quotient * x)
            other.accumulate(-quotient * y)

        return self.tape.record(elementwise("atan2", y, x), product)

    def norm(self) -> Variable:
        """The Euclidean norm of each row, with gradient 0 at a row of zeros.

        The division is the last operation of the gradient: the result is exact where the unit vector is.
        """
        root = elementwise("sqrt", (self.value * self.value).sum(axis=1))
        divisor = root.copy()
        divisor[elementwise("is_zero", root).astype(np.bool_)] = arb(1)
        return self.tape.record(root, lambda g: self.accumulate(g[:, None] * self.value / divisor[:, None]))

    def sum(self, axis: int | None = None) -> Variable:
        """The sum over an axis, or over all."""

        def product(g: Balls) -> None:
            self.accumulate(np.broadcast_to(g if axis is None else np.expand_dims(g, axis), self.value.shape))

        return self.tape.record(self.value.sum(axis=axis), product)

    def __getitem__(self, index: Any) -> Variable:
        def product(g: Balls) -> None:
            scattered = zero_balls(self.value.shape)
            np.add.at(scattered, index, g)
            self.accumulate(scattered)

        return self.tape.record(self.value[index], product)

    def set_at(self, index: Any, other: Operand) -> Variable:
        """A copy with these entries replaced; no index occurs twice."""
        replaced = self.value.copy()
        replaced[index] = _value(other)

        def product(g: Balls) -> None:
            kept = g.copy()
            kept[index] = arb(0)
            self.accumulate(kept)
            _accumulate(other, g[index])

        return self.tape.record(replaced, product)

    def linear(self, weight: Variable) -> Variable:
        """The matrix product of self (N, D) and the transpose of weight (C, D)."""

        def product(g: Balls) -> None:
            self.accumulate(matmul(g, weight.value))
            weight.accumulate(matmul(g.T, self.value))

        return self.tape.record(matmul(self.value, weight.value.T), product)


Operand: TypeAlias = Variable | Balls | Arb | float  # anything but a Variable is a constant


def _value(operand: Operand) -> Any:
    return operand.value if isinstance(operand, Variable) else operand


def _accumulate(operand: Operand, gradient: Balls) -> None:
    if isinstance(operand, Variable):
        operand.accumulate(gradient)
