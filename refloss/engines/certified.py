r"""Certified: the losses in ball arithmetic, each result a number and a proven bound of its error.

A ball is a midpoint and a radius; an operation on balls gives a ball that holds every result of the operation on
numbers from them (Arb, through python-flint). Every loss is written here from its definition in the papers, forward
only. Gradients come from a tape that knows the derivative of +, ×, √, exp and the like, and of no loss. Nothing is
shared with `refloss.stages` but the settings, so that the two cannot be wrong together.

What balls cannot decide is decided exactly. Inputs are float64, hence rational, and so is cos² θ = (x·w)²/(x·x)(w·w):
on which side of a boundary a target lies, whether two vectors are parallel and whether a hinge is open are questions
about integers. θ is a rational multiple of π only where cos² θ is 0, 1/4, 1/2, 3/4 or 1 (Niven); m1 θ + m2 = k π has no
solution with a rational m2 ≠ 0, nor has cos(m1 θ + m2) - m3 = cos θ (Lindemann), so there more bits always decide.

Symbols: as in the stages; t targets (N, C), T their sum by row, G_nk the gradient on a logit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from math import inf, nan, nextafter
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refloss import inputs
from refloss.engines import Spec, over_zero
from refloss.error_free import Array
from refloss.messages import shown
from refloss.stages.margin import Settings

Arrays: TypeAlias = dict[str, Any]
Mask: TypeAlias = NDArray[np.bool_]
Balls: TypeAlias = NDArray[np.object_]  # of flint.arb
Whole: TypeAlias = NDArray[np.object_]  # of Python integers

START_BITS = 128
MAX_BITS = 2**14


class Ball(NamedTuple):
    """Midpoints and radii, all of the shape of what they enclose."""

    midpoint: Array
    """The float64 nearest to the midpoint; NaN or infinite where the truth is (the radius is then 0)."""
    radius: Array
    """|truth - midpoint| is at most this; rounded up, infinite where nothing is known or float64 overflows."""
    decimal: NDArray[np.object_]
    """The midpoint to the digits asked for, or to one more where it takes that, as strings."""
    decimal_radius: NDArray[np.object_]
    """|truth - decimal| is at most this, as strings; rounded up."""


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


def value(spec: Spec, arrays: Arrays) -> Array:
    """Return the loss, correctly rounded; ArithmeticError where MAX_BITS leave open how."""
    return _correctly_rounded(_Problem(spec, arrays, None))["value"]


def value_and_grad(spec: Spec, arrays: Arrays, upstream: Array) -> tuple[Array, dict[str, Array]]:
    """Return the loss and its gradients by the name of the input, every entry rounded as by `value`."""
    found = _correctly_rounded(_Problem(spec, arrays, upstream))
    return found.pop("value"), found


def enclose(loss: Any, *inputs_: Any, digits: int = 30, upstream: Any = None, gradients: bool = True) -> Enclosure:
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
        What the loss is called with.
    digits
        Relative accuracy of the decimals of every entry, from 1 to 1000.
    upstream
        The gradient of what comes after the loss, as for ``loss.value_and_grad``.
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
    spec = getattr(loss, "spec", None)
    if not isinstance(spec, Spec):
        raise TypeError(f"loss must be a loss of refloss, such as refloss.ArcFace(m=0.5); got {shown(loss)}")
    arrays, shape = loss._arrays(*inputs_)
    arrays = inputs.as_float64(arrays, directions=spec.head == "margin")
    checked = inputs.upstream_gradient(upstream, loss.reduction, shape)
    problem = _Problem(spec, arrays, checked if gradients else None)
    wanted = int(digits * 3.33) + 4

    def settled(ball: Any) -> Any:
        return ball if ball.is_zero() or ball.rel_accuracy_bits() >= wanted else None

    found, left, bits = _refined(problem, wanted + 60, settled)
    notes = list(problem.notes)
    for name, index, ball in left:
        found[name][index] = ball
        where = f"{name}[{', '.join(map(str, index))}]" if index else name
        notes.append(f"undecided: {where}: {_what_is_known(ball)}")
    shapes = {"value": shape if loss.reduction == "none" else (), "z": (*shape, -1)}
    with _precision(bits):
        balls = {
            name: Ball(*(part.reshape(shapes.get(name, part.shape)) for part in _published(entries, digits)))
            for name, entries in found.items()
        }
    value_ball = balls.pop("value")
    return Enclosure(value_ball, balls if gradients else None, tuple(notes), bits)


# ------------------------------------------------------------------------------------------------ precision and results


def _flint() -> Any:
    """The module, loaded when first used."""
    try:
        import flint
    except ImportError as error:
        raise ImportError("ball arithmetic needs python-flint: pip install refloss[certified]") from error
    return flint


@contextmanager
def _precision(bits: int) -> Iterator[ModuleType]:
    """Compute with so many bits, and then with those there were before."""
    flint = _flint()
    before = flint.ctx.prec
    flint.ctx.prec = bits
    try:
        yield flint
    finally:
        flint.ctx.prec = before


Left: TypeAlias = list[tuple[str, tuple[int, ...], Any]]


def _refined(problem: _Problem, bits: int, settle: Callable[[Any], Any]) -> tuple[dict[str, Any], Left, int]:
    """Double the precision until every entry is settled, or is proven to be 0, or MAX_BITS are reached.

    Returns what was settled, which entries were not, each with its last ball, and the bits reached.
    """
    found = {name: fixed.astype(object) for name, fixed in problem.fixed.items()}
    todo = {name: mask.copy() for name, mask in problem.open.items()}
    bits, proven = min(bits, MAX_BITS), False
    while True:
        with _precision(bits):
            balls = problem.balls()
        left: Left = []
        for name, mask in todo.items():
            for index in map(tuple, np.argwhere(mask).tolist()):
                ball = balls[name][index]
                result = settle(ball)
                if result is None:
                    left.append((name, index, ball))
                else:
                    found[name][index], mask[index] = result, False
        if not proven:  # once: what is 0 for a reason needs no more bits
            zero = [_may_be_zero(ball) and problem.is_zero(name, index) for name, index, ball in left]
            for name, index, _ in (entry for entry, known in zip(left, zero, strict=True) if known):
                found[name][index], todo[name][index] = 0.0, False
            left = [entry for entry, known in zip(left, zero, strict=True) if not known]
            proven = True
        if not left or bits == MAX_BITS:
            return found, left, bits
        bits = min(2 * bits, MAX_BITS)


def _correctly_rounded(problem: _Problem) -> dict[str, Array]:
    found, left, bits = _refined(problem, START_BITS, _rounded)
    for name, index, ball in left:
        where = f"{name}[{', '.join(map(str, index))}]" if index else name
        raise ArithmeticError(f"{where} cannot be rounded with {bits} bits, as far as they go: {_what_is_known(ball)}")
    return {name: entries.astype(np.float64) for name, entries in found.items()}


def _may_be_zero(ball: Any) -> bool:
    return not ball.is_finite() or bool(ball.contains(0))


def _what_is_known(ball: Any) -> str:
    if not ball.is_finite():
        return "nothing is known"
    if ball.contains(0):
        middle, radius, exponent = map(int, ball.mid_rad_10exp(3))
        return f"|truth| <= {_rounded_up(abs(middle) + radius, exponent)}"
    return f"truth in {ball.str(20)}"


def _bounds(ball: Any) -> tuple[int, int, int]:
    """Integers low, high and an exponent: low 2^exponent <= truth <= high 2^exponent.

    Exact, but where the midpoint and the radius have exponents so far apart that integers cannot bridge them: the
    smaller then counts as 2^-10000 of the larger, outward.
    """
    (mid, mid_exp), (rad, rad_exp) = (tuple(map(int, part.man_exp())) for part in (ball.mid(), ball.rad()))
    if mid == 0:
        return -rad, rad, rad_exp
    if rad == 0:
        return mid, mid, mid_exp
    if rad_exp + rad.bit_length() < mid_exp - 10000:
        rad, rad_exp = 1, mid_exp - 10000
    elif mid_exp + mid.bit_length() < rad_exp - 10000:
        return -rad - 1, rad + 1, rad_exp
    exponent = min(mid_exp, rad_exp)
    mid, rad = mid << (mid_exp - exponent), rad << (rad_exp - exponent)
    return mid - rad, mid + rad, exponent


def _nearest(mantissa: int, exponent: int) -> float:
    """The float64 nearest to mantissa 2^exponent, ties to even; Python divides integers just so."""
    top = mantissa.bit_length() + exponent
    if mantissa == 0 or top < -1100:
        return -0.0 if mantissa < 0 else 0.0
    try:
        return mantissa / (1 << -exponent) if exponent < 0 else float(mantissa << min(exponent, 1100))
    except OverflowError:
        return inf if mantissa > 0 else -inf


def _rounded(ball: Any) -> float | None:
    """The float64 that everything in the ball is rounded to, or None."""
    if not ball.is_finite():
        return None
    low, high, exponent = _bounds(ball)
    least, greatest = _nearest(low, exponent), _nearest(high, exponent)
    if least != greatest:
        return None
    return least if (low < 0) == (high < 0) else 0.0


def _published(entries: Any, digits: int) -> Ball:
    """Balls, and floats where the truth is exactly 0, NaN or infinite, as float64 and as decimals."""
    parts = [np.empty(entries.shape, dtype) for dtype in (float, float, object, object)]
    for index in np.ndindex(entries.shape):
        entry = entries[index]
        known: tuple[Any, ...]
        if isinstance(entry, float):
            known = entry, 0.0, f"{entry:g}", "0"
        else:
            known = *_as_float64(entry), *_as_decimal(entry, digits)
        for part, item in zip(parts, known, strict=True):
            part[index] = item
    return Ball(*parts)


def _as_float64(ball: Any) -> tuple[float, float]:
    """The float64 nearest to the midpoint, and how far from it the truth may be, rounded up."""
    if not ball.is_finite():
        return 0.0, inf
    low, high, exponent = _bounds(ball)
    middle = _nearest(*map(int, ball.mid().man_exp()))
    if middle in (-inf, inf):
        return middle, inf
    if max(-low, high).bit_length() + exponent < -1100:
        return 0.0, 0.0 if low == high == 0 else 5e-324
    if max(-low, high).bit_length() + exponent > 1100:
        return middle, inf
    power = Fraction(2) ** exponent
    radius = max(high * power - Fraction(middle), Fraction(middle) - low * power)
    try:
        upper = radius.numerator / radius.denominator
    except OverflowError:
        return middle, inf
    return middle, upper if Fraction(upper) >= radius else nextafter(upper, inf)


def _as_decimal(ball: Any, digits: int) -> tuple[str, str]:
    """The midpoint to so many digits, and how far from that the truth may be, rounded up to 3 digits.

    Half a unit of the last digit may be five times 10^-digits of a number that begins with 1: where that would be more
    than was asked for, one digit more is written.
    """
    if not ball.is_finite():
        return "0", "inf"
    middle, radius, exponent = map(int, ball.mid_rad_10exp(digits))  # holds the ball; some digits more than asked for
    size = abs(middle)
    for kept in (digits, digits + 1):
        spare = max(0, len(str(size)) - kept)
        shorter = (size + 10**spare // 2) // 10**spare
        off = radius + abs(size - shorter * 10**spare)
        bound = off + off // 100  # 3 digits of it are up to a hundredth more
        if 10**digits * bound <= shorter * 10**spare - bound:  # the truth is no smaller
            break
    return _text(shorter if middle >= 0 else -shorter, exponent + spare), _rounded_up(off, exponent)


def _rounded_up(radius: int, exponent: int) -> str:
    """A radius to 3 digits."""
    cut = max(0, len(str(radius)) - 3)
    return _text(-(-radius // 10**cut), exponent + cut)


def _text(mantissa: int, exponent: int) -> str:
    if abs(exponent) < 10**17:  # the exponents that decimal knows
        return str(Decimal((int(mantissa < 0), tuple(map(int, str(abs(mantissa)))), exponent))) if mantissa else "0"
    shown = str(abs(mantissa))
    return f"{'-' if mantissa < 0 else ''}{shown[0]}.{shown[1:] or '0'}E{exponent + len(shown) - 1:+d}"


# -------------------------------------------------------------------------------------------- automatic differentiation


class _Tape:
    """What was computed, in order; walked backwards, it takes a gradient from the end to what it began with."""

    def __init__(self) -> None:
        self.steps: list[tuple[_Var, Callable[[Balls], None]]] = []

    def made(self, value: Any, flow: Callable[[Balls], None]) -> _Var:
        """Record a result and how a gradient on it flows to what it was made from."""
        made = _Var(self, np.asarray(value, object))
        self.steps.append((made, flow))
        return made

    def backward(self) -> None:
        for var, flow in reversed(self.steps):
            if var.grad is not None:
                flow(var.grad)


class _Var:
    """An array of balls on a tape. Operands that are no `_Var` are constants."""

    def __init__(self, tape: _Tape, value: Balls):
        self.tape, self.value, self.grad = tape, value, None

    grad: Balls | None

    def receive(self, gradient: Any) -> None:
        """Add to the gradient, summed over what was broadcast."""
        extra = gradient.ndim - self.value.ndim
        if extra:
            gradient = gradient.sum(axis=tuple(range(extra)))
        for axis, size in enumerate(self.value.shape):
            if size == 1 and gradient.shape[axis] != 1:
                gradient = gradient.sum(axis=axis, keepdims=True)
        self.grad = gradient if self.grad is None else self.grad + gradient

    def __add__(self, other: Any) -> _Var:
        def flow(g: Balls) -> None:
            self.receive(g)
            _send(other, g)

        return self.tape.made(self.value + _value(other), flow)

    def __sub__(self, other: Any) -> _Var:
        def flow(g: Balls) -> None:
            self.receive(g)
            _send(other, -g)

        return self.tape.made(self.value - _value(other), flow)

    def __mul__(self, other: Any) -> _Var:
        def flow(g: Balls) -> None:
            self.receive(g * _value(other))
            if isinstance(other, _Var):
                other.receive(g * self.value)

        return self.tape.made(self.value * _value(other), flow)

    def __truediv__(self, other: Any) -> _Var:
        ratio = self.value / _value(other)

        def flow(g: Balls) -> None:
            share = g / _value(other)
            self.receive(share)
            _send(other, -share * ratio)

        return self.tape.made(ratio, flow)

    def sqrt(self) -> _Var:
        root = _each("sqrt", self.value)
        return self.tape.made(root, lambda g: self.receive(g / (root + root)))

    def length(self) -> _Var:
        """Of each row; that of zeros is 0, and so is its gradient. Divided last: exact where the direction is."""
        root = _each("sqrt", (self.value * self.value).sum(axis=1))
        divisor = np.frompyfunc(lambda r: _flint().arb(1) if r.is_zero() else r, 1, 1)(root)
        return self.tape.made(root, lambda g: self.receive(g[:, None] * self.value / divisor[:, None]))

    def exp(self) -> _Var:
        power = _each("exp", self.value)
        return self.tape.made(power, lambda g: self.receive(g * power))

    def log1p(self) -> _Var:
        return self.tape.made(_each("log1p", self.value), lambda g: self.receive(g / (self.value + 1)))

    def cos(self) -> _Var:
        return self.tape.made(_each("cos", self.value), lambda g: self.receive(-g * _each("sin", self.value)))

    def angle_from(self, other: _Var) -> _Var:
        """The angle of the point (other, self): atan2(self, other)."""
        y, x = self.value, other.value

        def flow(g: Balls) -> None:
            share = g / (x * x + y * y)
            self.receive(share * x)
            other.receive(-share * y)

        return self.tape.made(np.frompyfunc(_flint().arb.atan2, 2, 1)(y, x), flow)

    def sum(self, axis: int | None = None) -> _Var:
        def flow(g: Balls) -> None:
            self.receive(np.broadcast_to(g if axis is None else np.expand_dims(g, axis), self.value.shape))

        return self.tape.made(self.value.sum(axis=axis), flow)

    def __getitem__(self, index: Any) -> _Var:
        def flow(g: Balls) -> None:
            spread = _zeros(self.value.shape)
            np.add.at(spread, index, g)
            self.receive(spread)

        return self.tape.made(self.value[index], flow)

    def put(self, index: Any, other: Any) -> _Var:
        """These entries, with others put in their places; no index occurs twice."""
        changed = self.value.copy()
        changed[index] = _value(other)

        def flow(g: Balls) -> None:
            rest = g.copy()
            rest[index] = _flint().arb(0)
            self.receive(rest)
            _send(other, g[index])

        return self.tape.made(changed, flow)

    def times(self, other: _Var) -> _Var:
        """The matrix product of self (N, D) and the transpose of other (C, D)."""

        def flow(g: Balls) -> None:
            self.receive(_product(g, other.value))
            other.receive(_product(g.T, self.value))

        return self.tape.made(_product(self.value, other.value.T), flow)


def _value(operand: Any) -> Any:
    return operand.value if isinstance(operand, _Var) else operand


def _send(operand: Any, gradient: Balls) -> None:
    if isinstance(operand, _Var):
        operand.receive(gradient)


def _each(method: str, array: Balls) -> Any:
    return np.frompyfunc(getattr(_flint().arb, method), 1, 1)(array)


def _exact(array: Any) -> Balls:
    """Floats as balls of radius 0."""
    return np.asarray(np.frompyfunc(_flint().arb, 1, 1)(array), object)


def _zeros(shape: tuple[int, ...]) -> Balls:
    return np.full(shape, _flint().arb(0), object)


def _product(left: Balls, right: Balls) -> Balls:
    matrix = _flint().arb_mat
    return np.array((matrix(left.tolist()) * matrix(right.tolist())).tolist(), object)


def _ratio(number: Fraction) -> Any:
    """A rational number as a ball."""
    return _flint().arb(number.numerator) / number.denominator


# ------------------------------------------------------------------------------------------ which side of what, exactly


def _integers(rows: Array) -> tuple[Whole, int]:
    """Floats as integers times one power of two, exactly."""
    mantissa, exponent = np.frexp(rows)
    least = int(exponent[rows != 0.0].min(initial=5000))
    shift = np.where(rows != 0.0, exponent - least, 0).astype(object)
    return np.ldexp(mantissa, 53).astype(np.int64).astype(object) << shift, least - 53


def _sign(quantity: Callable[[Any], Any], is_zero: Callable[[], bool]) -> int | None:
    """The sign of what more and more bits approach, 0 if it is proven to be; None if MAX_BITS cannot tell."""
    bits = START_BITS
    while bits <= MAX_BITS:
        with _precision(bits) as flint:
            ball = quantity(flint.arb)
        if ball > 0 or ball < 0:
            return 1 if ball > 0 else -1
        if ball.is_zero() or (bits == START_BITS and is_zero()):
            return 0
        bits *= 2
    return None


class _Side(NamedTuple):
    """What ψ is on the side of every boundary where a target lies: a sum of three terms."""

    of_cos: int
    """What cos θ is multiplied by."""
    of_margin: int
    """What cos(m1 θ + m2) is multiplied by."""
    constant: Callable[[Any], Any] | None
    """What is added, as a ball at the precision of the moment; None for 0."""


_NIVEN = (Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 6), Fraction(0))  # θ/π where 4 cos² θ = 0, ..., 4


class _Target:
    """A sample and the weights of its class, as integers, and what is decided about them."""

    def __init__(self, x: Array, w: Array, margin: Settings):
        (sample, _), (own, _) = _integers(x), _integers(w)
        self.margin, self.notes = margin, list[str]()
        self.dot, self.squares = int(sample @ own), int(sample @ sample) * int(own @ own)
        quarters, rest = divmod(4 * self.dot**2, self.squares)
        self.half_turns: Fraction | None = None  # θ/π, where that is rational
        if rest == 0:
            self.half_turns = _NIVEN[quarters] if self.dot >= 0 else 1 - _NIVEN[quarters]
        folds = None if margin.m2 or self.half_turns is None else Fraction(float(margin.m1)) * self.half_turns
        self.folds = int(folds) if folds is not None and folds.denominator == 1 else None  # φ/π, where that is whole

    def theta(self, arb: Any) -> Any:
        return arb.atan2(arb(self.squares - self.dot**2).sqrt(), arb(self.dot))

    def phi(self, arb: Any) -> Any:
        return arb(self.margin.m1) * self.theta(arb) + arb(self.margin.m2)

    def side(self) -> _Side:
        """ψ where the target lies; what has no direction to turn in, or a cosine at its turning point, is kept.

        A cosine of a multiple of π has slope 0, so nothing is lost. A target exactly parallel to its class has no
        tangent; keeping ψ takes the one of least norm.
        """
        side = self._ruled()
        parallel = self.half_turns in (0, 1)
        if side.of_margin == 0 or (self.folds is None and not parallel):
            return side
        if self.folds is not None and parallel:  # cos φ is cos θ or -cos θ, and cos θ is held there
            same = (-1) ** (self.folds + int(self.half_turns == 1))
            return _Side(same * side.of_margin, 0, side.constant)
        if parallel and self.margin.gradient == "exact":
            angle = "0" if self.half_turns == 0 else "pi"
            self.notes.append(f"theta = {angle} exactly: the tangent of least norm, 0, is used")

        def kept(arb: Any) -> Any:
            cos = self.phi(arb).cos() if self.folds is None else arb((-1) ** self.folds)
            constant = 0 if side.constant is None else side.constant(arb)
            return side.of_margin * cos + constant

        return _Side(0, 0, kept)

    def _ruled(self) -> _Side:
        m1, m2, m3, boundary = self.margin[:4]
        on_angle = m1 != 1.0 or m2 != 0.0
        lowered = _Side(1, 0, (lambda arb: -arb(m3)) if m3 else None)
        margin = _Side(0, 1, lowered.constant) if on_angle else lowered
        pi_less: dict[str, _Side] = {
            "hard": _Side(1, 0, lambda arb: -arb(m2) * arb(m2).sin() - m3),
            "keep": lowered,
            "continuous": _Side(1, 0, lambda arb: -((arb.pi() - m2) / m1).cos() - 1 - m3),
            "clamp": _Side(0, 0, lambda arb: -1 - arb(m3)),
        }
        if boundary == "easy":
            if self.dot == 0:
                self.notes.append("cos theta = 0 exactly: the easy margin does not hold")
            return margin if self.dot > 0 else lowered
        if boundary == "conditional":
            above = self._cosine_over(float(m3))
            if above == 0:
                self.notes.append("cos theta = m3 exactly: the conditional margin does not hold")
            return margin if above > 0 else _Side(1, 0, None)
        if boundary == "min":
            return margin if self._margin_over_cosine() <= 0 else _Side(1, 0, None)
        if boundary == "none" or not on_angle:
            return margin
        if boundary == "monotone":
            return self._folded()
        return pi_less[boundary] if self._past(1) else margin

    def _folded(self) -> _Side:
        """(-1)^k cos φ - 2k - m3, k = floor(φ/π), the fold before at a multiple of π itself."""
        with _precision(START_BITS) as flint:
            nearest = round(float(self.phi(flint.arb) / flint.arb.pi()))
        k = max(0, nearest if self._past(nearest) else nearest - 1)
        return _Side(0, (-1) ** k, (lambda arb: -2 * k - arb(self.margin.m3)) if k or self.margin.m3 else None)

    def _past(self, k: int) -> bool:
        """Whether φ > kπ."""
        if k == 0:
            return True  # φ = 0 lies in the first fold
        if self.folds is not None:
            if self.folds == k:
                self.notes.append(f"m1 theta + m2 = {'' if k == 1 else f'{k} '}pi exactly: the margin still holds")
            return self.folds > k
        sign = _sign(lambda arb: self.phi(arb) - k * arb.pi(), lambda: False)
        if sign is None:
            self.notes.append(f"m1 theta + m2 and {k} pi differ by less than {MAX_BITS} bits tell: counted as equal")
        return sign == 1

    def _cosine_over(self, m3: float) -> int:
        """The sign of cos θ - m3."""
        numerator, denominator = m3.as_integer_ratio()
        difference = (self.dot * denominator) ** 2 - numerator**2 * self.squares
        return -1 if self.dot <= 0 else (difference > 0) - (difference < 0)

    def _margin_over_cosine(self) -> int:
        """The sign of cos φ - m3 - cos θ."""

        def difference(arb: Any) -> Any:
            return self.phi(arb).cos() - arb(self.margin.m3) - self.theta(arb).cos()

        sign = _sign(difference, self._margin_is_cosine)
        if sign == 0:
            self.notes.append("cos(m1 theta + m2) - m3 = cos theta exactly: the margin still holds")
        if sign is None:
            self.notes.append(
                f"cos(m1 theta + m2) - m3 and cos theta differ by less than {MAX_BITS} bits tell: undecided, "
                "counted as equal, the margin holds"
            )
        return sign or 0

    def _margin_is_cosine(self) -> bool:
        """Whether cos m1 θ - m3 = cos θ for a whole m1: Chebyshev's polynomial as p + q cos θ, with cos² θ rational."""
        m1, m2, m3 = self.margin[:3]
        if m2 or m1 != int(m1):
            return False
        square = Fraction(self.dot**2, self.squares)
        (p, q), before = (Fraction(0), Fraction(1)), (Fraction(1), Fraction(0))
        for _ in range(int(m1) - 1):
            (p, q), before = (2 * q * square - before[0], 2 * p - before[1]), (p, q)
        p, q = p - Fraction(float(m3)), q - 1
        return p * p == q * q * square and p * q * self.dot <= 0


# ---------------------------------------------------------------------------------------------------------- the problem


class _Problem:
    """A loss on given inputs: what is known of it beforehand, exactly, and the balls of the rest at any precision."""

    fixed: dict[str, Array]
    """Entries known exactly: 0, NaN or infinite."""
    open: dict[str, Mask]
    """Which entries are not."""
    notes: list[str]
    """Kinks and conventions."""

    def __init__(self, spec: Spec, arrays: Arrays, upstream: Array | None):
        self.spec, self.arrays, self.upstream, self.notes = spec, arrays, upstream, []
        self.names = [name for name in arrays if name != "y"]
        self.reduction = spec.triplet.reduction if spec.head == "triplet" else spec.cross_entropy.reduction
        count = len(arrays[self.names[0]])
        self.losses = np.zeros(count)  # of rows whose loss is known
        self.gradients = np.zeros(count)  # of rows that are not computed: 0 or NaN
        self.divisor = Fraction(count)
        rows = self._triplets() if spec.head == "triplet" else self._rows_with_targets()
        self.rows = np.flatnonzero(rows)
        self.sides: list[_Side] = []
        if spec.head == "margin":
            for n in self.rows:
                target = _Target(arrays["x"][n], arrays["w"][arrays["y"][n]], spec.margin)
                self.sides.append(target.side())
                self.notes += [f"row {n}: {note}" for note in target.notes]
        self._parallel: dict[tuple[int, int], int] = {}
        self._zero: dict[Any, Any] = {}
        self._fix()

    # ................................................................................................. known beforehand

    def _triplets(self) -> Mask:
        """Which hinges are open, decided exactly."""
        m, squared = Fraction(self.spec.triplet.m), self.spec.triplet.squared
        opened = []
        self.squares: list[tuple[int, int]] = []
        self.differences: list[tuple[Whole, Whole]] = []
        for n, rows in enumerate(zip(*(self.arrays[name] for name in self.names), strict=True)):
            (a, p, q), exponent = _integers(np.stack(rows))
            self.differences.append((a - p, a - q))
            near, far = (int(d @ d) for d in self.differences[-1])
            self.squares.append((near, far))
            unit = Fraction(2) ** (2 * exponent)
            sign = _hinge(near * unit, far * unit, m, squared)
            opened.append(sign > 0)
            if sign == 0:
                self.notes.append(f"row {n}: the hinge is at 0 exactly: the gradient of least norm, 0, is used")
            elif sign > 0 and not squared:
                self.notes += [
                    f"row {n}: anchor and {name} coincide: the plain distance has no derivative, 0 is used"
                    for name, square in zip(self.names[1:], (near, far), strict=True)
                    if square == 0
                ]
        return np.array(opened)

    def _rows_with_targets(self) -> Mask:
        """Which rows are computed; the losses of the others, and what "mean" divides by, are set here."""
        settings, y = self.spec.cross_entropy, self.arrays["y"]
        classes = self.arrays["w" if "w" in self.arrays else "z"].shape[-1 if "z" in self.arrays else 0]
        self.weight = np.ones(classes) if settings.class_weight is None else np.array(settings.class_weight)
        labels = y.ndim == 1
        kept = y != settings.ignore_index if labels else np.ones(len(y), np.bool_)
        if labels:
            self.share = np.where(np.arange(classes) == y[:, None], 1.0, 0.0)
            self.divisor = sum(map(Fraction, self.weight[y[kept]]), Fraction(0))
        else:
            self.share = y
        self.present = np.ones(self.share.shape, np.bool_)
        if "z" in self.arrays:
            self.present, undefined = self._logits(kept)
            self.losses[undefined] = self.gradients[undefined] = nan
        else:
            undefined = ~kept
        if self.reduction == "mean" and self.divisor == 0:
            self.losses[:] = over_zero(self.spec, self._value_of)
            self.gradients[kept] = nan
            found = "" if np.isnan(self.losses[0]) else f"the value is {self.losses[0]:g}, the gradient "
            self.notes.append(f'"mean" divides by a total weight of 0: {found}NaN')
            return np.zeros(len(y), np.bool_)
        return kept & ~undefined

    def _value_of(self, spec: Spec) -> Array:
        """The loss with other settings."""
        return value(spec, self.arrays)

    def _logits(self, kept: Mask) -> tuple[Mask, Mask]:
        """Which classes are not masked, and which rows are undefined; the losses of rows with targets at -inf."""
        z = self.arrays["z"]
        present = z != -inf
        undefined = kept & (np.isnan(z).any(axis=1) | (z == inf).any(axis=1) | ~present.any(axis=1))
        infinite = np.zeros(len(z), np.bool_)
        for n, k in np.argwhere(~present & (kept & ~undefined)[:, None]):
            t = self._target(n, k)
            if t:
                loss = inf if t > 0 else -inf
                self.losses[n] = nan if infinite[n] and self.losses[n] != loss else loss
                infinite[n] = True
        for n in np.flatnonzero(undefined):
            self.notes.append(f"row {n}: NaN, +inf or nothing but -inf among the logits: NaN")
        for n in np.flatnonzero(infinite):
            self.notes.append(
                f"row {n}: a target at a logit of -inf: the loss is {self.losses[n]:g}, the gradient its limit"
            )
        return present, undefined

    def _target(self, n: int, k: int) -> Fraction:
        """t_nk."""
        smoothing, share = Fraction(self.spec.cross_entropy.label_smoothing), Fraction(self.share[n, k])
        return Fraction(self.weight[k]) * (share * (1 - smoothing) + smoothing / len(self.weight))

    def _fix(self) -> None:
        """Set apart what is known from what the balls are to find."""
        computed = np.zeros(len(self.losses), np.bool_)
        computed[self.rows] = True
        finite = computed & np.isfinite(self.losses)
        if self.reduction == "none":
            self.fixed, self.open = {"value": self.losses.copy()}, {"value": finite}
        else:
            with np.errstate(invalid="ignore"):  # of both signs
                total = self.losses.sum() * (-1.0 if self.reduction == "mean" and self.divisor < 0 else 1.0)
            self.fixed = {"value": np.array(total)}
            self.open = {"value": np.array(bool(finite.any()) and bool(np.isfinite(total)))}
        if self.upstream is None:
            return
        for name in self.names:
            shape = self.arrays[name].shape
            by_row = name not in ("w", "b")
            known = self.gradients.reshape(-1, 1) if by_row else self.gradients.sum()
            mask = computed.reshape(-1, 1) if by_row else bool(len(self.rows)) and not np.isnan(known)
            self.fixed[name] = np.broadcast_to(known, shape).copy()
            self.open[name] = np.broadcast_to(mask, shape).copy()

    # ......................................................................................................... by balls

    def balls(self) -> dict[str, Balls]:
        """The value and, where they are wanted, the gradients, at the precision of the moment."""
        out = {name: _zeros(fixed.shape) for name, fixed in self.fixed.items()}
        if not len(self.rows):
            return out
        tape = _Tape()
        picture = {"logits": self._of_logits, "linear": self._linear, "margin": self._margin, "triplet": self._triplet}
        leaves, losses = picture[self.spec.head](tape)
        if self.reduction == "none":
            out["value"][self.rows] = losses.value
        else:
            out["value"][()] = losses.value.sum() / self._divided_by()
        if self.upstream is None:
            return out
        above = _exact(self.upstream[self.rows] if self.upstream.ndim else self.upstream)
        losses.receive(np.broadcast_to(above, (len(self.rows),)))
        tape.backward()
        for name, leaf in leaves.items():  # divided last: a quotient that is a float, or halfway between two, is exact
            out[name][self.rows if name not in ("w", "b") else ...] = leaf.grad / self._divided_by()
        return out

    def _divided_by(self) -> Any:
        return _ratio(self.divisor if self.reduction == "mean" else Fraction(1))

    def _leaves(self, tape: _Tape) -> dict[str, _Var]:
        return {
            name: _Var(tape, _exact(self.arrays[name] if name in ("w", "b") else self.arrays[name][self.rows]))
            for name in self.names
        }

    def _of_logits(self, tape: _Tape) -> tuple[dict[str, _Var], _Var]:
        z, present = self.arrays["z"][self.rows], self.present[self.rows]
        filled = np.where(present, z, z.max(axis=1, keepdims=True))  # masked classes: anything finite
        leaf = _Var(tape, _exact(filled))
        return {"z": leaf}, self._cross_entropy(leaf)

    def _linear(self, tape: _Tape) -> tuple[dict[str, _Var], _Var]:
        """z_nk = x_n · w_k + b_k."""
        leaves = self._leaves(tape)
        z = leaves["x"].times(leaves["w"])
        return leaves, self._cross_entropy(z + leaves["b"] if "b" in leaves else z)

    def _margin(self, tape: _Tape) -> tuple[dict[str, _Var], _Var]:
        """z_nk = s cos θ_nk, and s ψ(θ) for the label; s may be the length of x."""
        arb, margin = _flint().arb, self.spec.margin
        leaves = self._leaves(tape)
        x, w = leaves["x"], leaves["w"]
        own = np.arange(len(self.rows)), self.arrays["y"][self.rows]
        square_x, square_w = (x * x).sum(axis=1), (w * w).sum(axis=1)
        dot, length_x = x.times(w), square_x.sqrt()[:, None]
        cos = self._turning(dot / (length_x * square_w.sqrt()))
        target = cos[own]
        psi = target * np.array([arb(side.of_cos) for side in self.sides], object)
        psi += np.array([arb(0) if side.constant is None else side.constant(arb) for side in self.sides], object)
        turned = np.array([n for n, side in enumerate(self.sides) if side.of_margin], np.intp)
        if len(turned):
            classes = own[1][turned]
            adjacent = dot[turned, classes]
            opposite = (square_x[turned] * square_w[classes] - adjacent * adjacent).sqrt()
            phi = opposite.angle_from(adjacent) * arb(margin.m1) + arb(margin.m2)
            psi = psi.put(turned, psi[turned] + phi.cos() * np.array([self.sides[n].of_margin for n in turned], object))
        if margin.annealing:
            psi = (target * arb(margin.annealing) + psi) / (arb(margin.annealing) + 1)
        if margin.gradient == "detached":
            psi = target + (psi.value - target.value)
        scale = length_x if self.spec.scale is None else arb(self.spec.scale)
        return leaves, self._cross_entropy(cos.put(own, psi) * scale)

    def _turning(self, cos: _Var) -> _Var:
        """Hold the cosines of exactly parallel vectors at 1 or -1: there they turn, and their gradient is 0."""
        near = np.frompyfunc(lambda c: (1 - c * c).contains(0), 1, 1)(cos.value).astype(np.bool_)
        parallel = [pair for pair in map(tuple, np.argwhere(near).tolist()) if self._sign_if_parallel(*pair)]
        if not parallel:
            return cos
        signs = np.array([_flint().arb(self._sign_if_parallel(*pair)) for pair in parallel], object)
        return cos.put(tuple(np.array(parallel).T), signs)

    def _sign_if_parallel(self, place: int, k: int) -> int:
        """1 or -1 where x_n and w_k are exactly parallel, else 0."""
        if (place, k) not in self._parallel:
            (x, _), (w, _) = _integers(self.arrays["x"][self.rows[place]]), _integers(self.arrays["w"][k])
            dot = int(x @ w)
            parallel = dot * dot == int(x @ x) * int(w @ w)
            self._parallel[place, k] = (1 if dot > 0 else -1) if parallel else 0
        return self._parallel[place, k]

    def _cross_entropy(self, z: _Var) -> _Var:
        """L = T log(1 + Σ_{k≠a} exp(z_k - z_a)) - Σ_{k≠a} t_k (z_k - z_a): -Σ t_k log p_k as seen from the largest."""
        arb, smoothing = _flint().arb, self.spec.cross_entropy.label_smoothing
        share, present = self.share[self.rows], self.present[self.rows]
        count, classes = share.shape
        evenly = arb(smoothing) / classes
        t = _exact(self.weight) * (_exact(share) * (arb(1) - arb(smoothing)) + evenly)
        largest = np.arange(count), np.array([_largest(row, p) for row, p in zip(z.value, present, strict=True)])
        others = present.copy()
        others[largest] = False
        gaps = z - z[largest][:, None]
        summed = (gaps.exp() * np.where(others, arb(1), arb(0))).sum(axis=1)
        total = t.sum(axis=1)
        t[largest] = arb(0)
        losses: _Var = summed.log1p() * total - (gaps * t).sum(axis=1)
        return losses

    def _triplet(self, tape: _Tape) -> tuple[dict[str, _Var], _Var]:
        """L = d(a, p) - d(a, n) + m, where the hinge is open."""
        leaves = self._leaves(tape)
        anchor, positive, negative = leaves.values()
        differences = [anchor - positive, anchor - negative]
        squared = self.spec.triplet.squared
        near, far = ((v * v).sum(axis=1) if squared else v.length() for v in differences)
        gap = near - far
        exact = gap.value.copy()  # of equal roots too
        exact[[n for n, row in enumerate(self.rows) if len(set(self.squares[row])) == 1]] = _flint().arb(0)
        return leaves, tape.made(exact, gap.receive) + _flint().arb(self.spec.triplet.m)

    # ..................................................................................................... proven zeros

    def is_zero(self, name: str, index: tuple[int, ...]) -> bool:
        """Whether an entry is 0 for a reason found here: True is a proof, False is not one."""
        if name == "value" and self.spec.head != "triplet":
            return self._is_zero_value([int(np.searchsorted(self.rows, n)) for n in index] or range(len(self.rows)))
        if name in ("value", "positive", "negative"):  # where these of a triplet are 0, so are their balls
            return False
        by_class = name in ("w", "b")
        kind = (name, index[0])
        if kind not in self._zero:
            rows = range(len(self.rows)) if by_class else [int(np.searchsorted(self.rows, index[0]))]
            test = getattr(self, f"_zeros_of_{name}")
            parts = [test(n, index[0]) for n in rows if self._counts(n)]
            self._zero[kind] = np.logical_and.reduce(parts) if parts else np.True_
        found = self._zero[kind]
        return bool(found[index[1]] if np.ndim(found) else found)

    def _counts(self, n: int) -> bool:
        """Whether the gradient from above is not 0."""
        above = np.asarray(self.upstream)
        return bool((above[self.rows[n]] if above.ndim else above) != 0.0)

    def _is_zero_value(self, places: Iterable[int]) -> bool:
        """Whether the losses of these samples add up to 0, as targets of both signs can make them.

        L = T log Σ_k exp z_k - Σ_k t_k z_k, of rational logits with their gaps from the largest for z. It is 0 where
        the T of samples with the same logits add up to 0, in whatever order these logits are, and the t of every
        logit, or, where logits are rational, the t_k z_k. m equal logits have the logarithm log m, 0 for one, and no
        second part.
        """
        totals: dict[Any, Fraction] = {}
        for n in places:
            logits, t = self._present_logits(n)
            alike = len(set(logits)) == 1
            several = len(logits) if alike else frozenset(Counter(logits).items())
            parts: list[tuple[Any, Fraction]] = [(several, sum(t, Fraction(0)))] if several != 1 else []
            if not alike:
                rational = self.spec.head != "margin"
                parts += [("z", share * z) if rational else (z, share) for z, share in zip(logits, t, strict=True)]
            for name, part in parts:
                totals[name] = totals.get(name, Fraction(0)) + part
        return not any(totals.values())

    def _present_logits(self, n: int) -> tuple[list[Any], list[Fraction]]:
        """The logits of classes that are not masked, and their targets; equal names for logits that are equal.

        Rational logits are named by their gap from the largest; others by sign and square of their cosine, by whether
        the margin changes them, and by the length of x where that is the scale.
        """
        names, _ = self._groups(n)
        logits, t = (
            [name[part] for name, p in zip(names, self.present[self.rows[n]], strict=True) if p] for part in (0, 1)
        )
        if self.spec.head != "margin":
            gaps = [Fraction(z) for z in logits]
            return [z - max(gaps) for z in gaps], t
        x, exponent, dots = self._sample(n)
        square = int(x @ x)
        length = square * Fraction(4) ** exponent if self.spec.scale is None else None
        return [
            (z == "target", (dot > 0) - (dot < 0), Fraction(dot * dot, square * other), length)
            for z, dot, other in zip(logits, dots, self._classes()[2], strict=True)
        ], t

    def _once(self, kind: Any, make: Callable[[], Any]) -> Any:
        if kind not in self._zero:
            self._zero[kind] = make()
        return self._zero[kind]

    def _classes(self) -> tuple[Whole, int, list[int]]:
        """w as integers times a power of two, and the squares of its rows; the shortest where only directions count."""

        def make() -> tuple[Whole, int, list[int]]:
            w, exponent = _integers(self.arrays["w"])
            if self.spec.head == "margin":
                w = w // np.gcd.reduce(w, axis=1, keepdims=True)
            return w, exponent, (w * w).sum(axis=1).tolist()

        made: tuple[Whole, int, list[int]] = self._once("w", make)
        return made

    def _sample(self, n: int) -> tuple[Whole, int, list[int]]:
        """x_n as integers times a power of two, and its products with the rows of the integers of w."""

        def make() -> tuple[Whole, int, list[int]]:
            x, exponent = _integers(self.arrays["x"][self.rows[n]])
            return x, exponent, (self._classes()[0] @ x).tolist()

        made: tuple[Whole, int, list[int]] = self._once(("x sample", n), make)
        return made

    def _target_of(self, n: int) -> tuple[int, str, bool]:
        """The label, how its logit depends on the vectors, and whether that logit is s cos θ.

        It depends on them like any other class's ("like"), not at all ("not") or "otherwise".
        """
        side, margin = self.sides[n], self.spec.margin
        like_cos = side.of_cos == 1 and side.of_margin == 0
        same = like_cos and side.constant is None
        if self.spec.scale is None:
            kind = "like" if same else "otherwise"
        elif like_cos or margin.gradient == "detached":
            kind = "like"
        else:
            kind = "not" if side[:2] == (0, 0) and not margin.annealing else "otherwise"
        return int(self.arrays["y"][self.rows[n]]), kind, same

    def _groups(self, n: int) -> tuple[list[Any], set[Any]]:
        """Classes whose logits and targets are exactly equal, hence their G: a name by class, and those where G = 0.

        G_k = T p_k - t_k is 0 where T = t_k = 0, and where all logits are equal and t_k = T/C.
        """

        def make() -> tuple[list[Any], set[Any]]:
            row = self.rows[n]
            logits: list[Any]
            if self.spec.head == "logits":
                logits = self.arrays["z"][row].tolist()
            elif self.spec.head == "linear":
                (_, power, _), (_, exponent, dots) = self._classes(), self._sample(n)
                bias = self.arrays["b"].tolist() if "b" in self.arrays else [0.0] * len(dots)
                unit = Fraction(2) ** (power + exponent)
                logits = [dot * unit + Fraction(b) for dot, b in zip(dots, bias, strict=True)]
            else:
                signs = [(dot > 0) - (dot < 0) for dot in self._sample(n)[2]]
                squares = zip(signs, self._sample(n)[2], self._classes()[2], strict=True)
                logits = [(sign, Fraction(dot * dot, square)) for sign, dot, square in squares]
                label, _, same = self._target_of(n)
                logits[label] = logits[label] if same else "target"
            t = [self._target(row, k) for k in range(len(logits))]
            names = list(zip(logits, t, strict=True))
            present = [name for name, p in zip(names, self.present[row], strict=True) if p]
            alike = len({logit for logit, _ in present}) == 1
            total = sum(t, Fraction(0))
            still = {name for name in present if (name[1] == total == 0) or (alike and name[1] * len(present) == total)}
            return names, still

        made: tuple[list[Any], set[Any]] = self._once(("groups", n), make)
        return made

    def _zeros_of_z(self, n: int, _: int) -> Mask:
        names, still = self._groups(n)
        return np.array([name in still for name in names])

    def _zeros_of_b(self, n: int, k: int) -> Mask:
        names, still = self._groups(n)
        return np.array(names[k] in still)

    def _zeros_of_w(self, n: int, k: int) -> Mask:
        """Where sample n adds nothing to the gradient of w_k: G = 0, or the logit does not change with the entry."""
        names, still = self._groups(n)
        x, _, dots = self._sample(n)
        w, _, squares = self._classes()
        if names[k] in still:
            return np.ones(x.shape, np.bool_)
        if self.spec.head == "linear":
            return np.asarray(x == 0)
        label, kind, _ = self._target_of(n)
        if k == label and kind == "not":
            return np.ones(x.shape, np.bool_)
        return np.asarray(x * squares[k] == w[k] * dots[k])  # x less its part along w_k: how the direction can turn

    def _zeros_of_x(self, n: int, _: int) -> Mask:
        """Where the gradient Σ_k G_k r_k / l_k of x_n is 0, r_k being whole and l_k a root.

        Classes with equal G and l are added. By Σ_k G_k = 0, what is the same multiple of G for every class is 0.
        """
        names, still = self._groups(n)
        x, _, dots = self._sample(n)
        w, _, squares = self._classes()
        lengths: list[Any] = [1] * len(w)
        r = w
        if self.spec.head == "margin":
            lengths = list(squares)
            turns = w * int(x @ x) - np.array(dots, object)[:, None] * x
            r = turns if self.spec.scale is not None else w
            label, kind, _ = self._target_of(n)
            if kind != "like":
                r, lengths[label] = r.copy(), "target"
                r[label] = 0 if kind == "not" else turns[label]
                if self.spec.scale is None:  # the length of x changes as well
                    r[label] = abs(turns[label]) + abs(x)
        sizes: dict[Any, int] = {}
        sums: dict[Any, dict[Any, Whole]] = {}
        for name, length, part in zip(names, lengths, r, strict=True):
            if name not in still:
                sizes[name] = sizes.get(name, 0) + 1
                group = sums.setdefault(length, {})
                group[name] = group[name] + part if name in group else part
        zero = np.ones(x.shape, np.bool_)
        nothing = np.zeros(x.shape, object)
        for group in sums.values():
            first = next(iter(sizes))
            for name, size in sizes.items():
                same = group.get(name, nothing) * sizes[first] == group.get(first, nothing) * size
                zero &= same.astype(np.bool_)
        return zero

    def _zeros_of_anchor(self, n: int, _: int) -> Mask:
        """Where (a - p)/d(a, p) = (a - n)/d(a, n); with d := 1 for squared distances."""
        row = self.rows[n]
        (to_positive, to_negative), (near, far) = self.differences[row], self.squares[row]
        if self.spec.triplet.squared:
            return np.asarray(to_positive == to_negative)
        # where one distance is 0, its gradient is held at 0, and 0 are its differences
        return np.asarray(to_positive * abs(to_positive) * (far or 1) == to_negative * abs(to_negative) * (near or 1))


def _hinge(near: Fraction, far: Fraction, m: Fraction, squared: bool) -> int:
    """The sign of d(a, p) - d(a, n) + m from the squared distances: exact, for roots too."""
    if squared:
        rest = near - far + m
    else:  # √near + m against √far: both squared, 2 m √near against far - near - m²; and squared again
        rest = near + m * m - far
        rest = rest if rest > 0 else 4 * m * m * near - rest * rest
    return (rest > 0) - (rest < 0)


def _largest(row: Balls, present: Mask) -> int:
    """The class with the largest logit, as far as the balls tell."""
    floats = np.where(present, np.nan_to_num([float(ball) for ball in row], nan=-inf), -inf)  # NaN: too few bits as yet
    best, *others = np.flatnonzero(present & (floats == floats.max())).tolist()
    for k in others:  # equal as floats: the balls know more
        best = k if row[k] > row[best] else best
    return int(best)
