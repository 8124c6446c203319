"""The truth the suite compares against: every stage and every loss again, in mpmath, from the papers' definitions.

Nothing here comes from refloss: a loss object is read for its public parameters only, and no line is shared. No
derivative of a loss is written down either. Gradients are central differences of the value, (L(v + h) - L(v - h)) / 2h,
in as many digits as the case needs.

How a difference stays exact where the loss is hard:

- Inputs are float64 numbers, hence integers times a power of two. A row is held as integers (`Vector`), and so are the
  squares and dot products of a row and of the same row moved by one step. cos theta = x.w / (|x| |w|) and
  theta = atan2(sqrt(|x|^2 |w|^2 - (x.w)^2), x.w) then start from exact numbers: theta is right to all digits at every
  angle, and "exactly parallel" is the exact statement |x|^2 |w|^2 = (x.w)^2.
- A step is small against whatever the loss can change over: 1, 1/s, theta, pi - theta. Each pair of a sample and a
  class has its own.
- Which side of a boundary the target is on is decided once, at the unmoved inputs; the moved ones follow that branch.
  Exactly parallel to its class, a target has no direction to turn in: its psi is kept as it is.
- With b a reference class (the label, where there is one), the loss of a row is
  L = T log(1 + sum over j != b of exp(z_j - z_b)) + sum over k of t_k (z_b - z_k), T = sum of t_k.
  In L(v + h) - L(v - h) the terms both have in common are left out, so a loss of 1e-300 has a gradient to all digits.

Definitions, with the numbers of papers and equations:

- cross entropy with smoothing, weights and ignore_index as in torch.nn.CrossEntropyLoss;
- L-Softmax, arXiv 1612.02295, eq. 4-7, and A-Softmax (SphereFace), 1704.08063, eq. 7: psi = (-1)^k cos(m theta) - 2k,
  annealed as (lambda cos theta + psi) / (1 + lambda); with m = 1 the modified softmax;
- NormFace, 1704.06369: s cos theta; CosFace, 1801.09414, eq. 4, and AM-Softmax, 1801.05599: s (cos theta - m);
- ArcFace, 1801.07698, eq. 3: s cos(theta + m), and its combined margin, eq. 4: s (cos(m1 theta + m2) - m3);
- the detached margin, 2109.05565 ("characteristic gradient detachment"): cos theta + stopgrad(psi - cos theta);
- FaceNet's triplet loss, 1503.03832: max(0, |a - p|^2 - |a - n|^2 + m).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf

from support.untraced import untraced

Array = np.ndarray[Any, Any]
Reals = list[mpf]
Branch = Callable[[mpf], mpf]  # psi as a function of theta, one side of every boundary chosen

UNIT = mpf(2) ** -53  # u, the unit roundoff of float64
SMALLEST_NORMAL = mpf(2) ** -1022
SMALLEST = 5e-324
GUARD = 20  # digits carried beyond those asked for
INFINITY = mpf("inf")
NAN = mpf("nan")


# -------------------------------------------------------------------------------------------------------- exact numbers


@untraced
def exact(values: Any) -> Array:
    """The given numbers as mpf, none of them rounded; the shape is kept."""
    array = np.asarray(values)
    if array.dtype != object:
        array = array.astype(np.float64)
    result = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        number = array[index]
        result[index] = number if isinstance(number, mpf) else mp.convert(float(number))
    return result


def filled(shape: tuple[int, ...], number: mpf) -> Array:
    """An array of mpf, all the same."""
    result = np.empty(shape, dtype=object)
    result.fill(number)
    return result


def places(number: mpf) -> int:
    """Decimal places before the point: 10**places >= |number|, and 0 for anything up to 1."""
    return max(0, int(mp.mag(number) * 0.30103) + 1) if number and mp.isfinite(number) else 0


def settle(quantity: Callable[[], mpf], digits: int) -> mpf:
    """`quantity`, of the order of 1 or less and computed with an absolute error near 10**-dps, to `digits` of its own.

    More and more digits are used until that many remain. What is still not told from 0 with 1400 more is 0: numbers
    made of a few float64 numbers (angles of rational vectors, multiples of pi, cosines of margins) come that close only
    by being equal.
    """
    for extra in (40, 400, 1400):
        with mp.workdps(digits + extra):
            result = quantity()
            if abs(result) > mpf(10) ** (GUARD - extra):
                return result
    return mpf(0)


class Vector(NamedTuple):
    """A row of numbers: entry i is integers[i] * 2**exponent, exactly. `square` sums the squares of the integers."""

    integers: list[int]
    exponent: int
    square: int

    @classmethod
    def of(cls, row: Iterable[mpf]) -> Vector:
        parts = [number._mpf_ for number in row]
        exponent = min((power for _, mantissa, power, _ in parts if mantissa), default=0)
        integers = [
            (-mantissa if sign else mantissa) << (power - exponent) if mantissa else 0
            for sign, mantissa, power, _ in parts
        ]
        return cls(integers, exponent, sum(i * i for i in integers))

    def dot(self, other: Vector) -> int:
        return sum(i * j for i, j in zip(self.integers, other.integers, strict=True))

    def norm(self) -> mpf:
        return mp.ldexp(mp.sqrt(mpf(self.square)), self.exponent)


def rows(matrix: Any) -> list[Vector]:
    return [Vector.of(row) for row in exact(matrix)]


class Moved(NamedTuple):
    """A step along one entry of a Vector. All integers are finer by 2**shift, and `step` is the step in those units."""

    shift: int
    step: int

    @classmethod
    def by(cls, vector: Vector, tens: int) -> Moved:
        """The largest step of a power of two that is below 10**-tens of the vector's norm."""
        power = (vector.square.bit_length() - 1) // 2 - int(tens * 3.3219281) - 1
        return cls(max(0, -power), 1 << max(0, power))

    def square(self, vector: Vector, i: int, sign: int) -> int:
        entry = vector.integers[i] << self.shift
        return (vector.square << 2 * self.shift) + 2 * sign * self.step * entry + self.step**2

    def dot(self, dot: int, partner: int, sign: int) -> int:
        """The dot product when the entry that is multiplied by `partner` moves."""
        return (dot << self.shift) + sign * self.step * partner

    def length(self, vector: Vector) -> mpf:
        return mp.ldexp(mpf(self.step), vector.exponent - self.shift)


def cosine_of(dot: int, square: int, other: int) -> mpf:
    """The cosine x.w / (|x| |w|)."""
    return mpf(dot) / mp.sqrt(mpf(square * other))


def sine_of(x: Vector, w: Vector) -> mpf:
    """The sine of the angle; the argument of the root is exact."""
    squares = x.square * w.square
    return mp.sqrt(mpf(squares - x.dot(w) ** 2) / mpf(squares))


def angle_of(dot: int, square: int, other: int) -> mpf:
    """The angle whose tangent is sqrt(|x|^2 |w|^2 - (x.w)^2) / x.w; the root's argument is exact."""
    return mp.atan2(mp.sqrt(mpf(square * other - dot * dot)), mpf(dot))


# --------------------------------------------------------------------------------------------------------------- stages


@untraced
def normalize(v: Any, digits: int = 60) -> Array:
    """The direction v / |v|, along the last axis."""
    numbers = exact(v)
    with mp.workdps(digits + GUARD):
        result = filled(numbers.shape, NAN)
        for index in np.ndindex(numbers.shape[:-1]):
            vector = Vector.of(numbers[index])
            length = mp.sqrt(mpf(vector.square))
            result[index] = [i / length for i in vector.integers]
    return result


@untraced
def linear(x: Any, w: Any, b: Any = None, digits: int = 60) -> Array:
    """The logits x_n . w_k + b_k, shape (N, C)."""
    samples, classes = rows(x), rows(w)
    bias = filled((len(classes),), mpf(0)) if b is None else exact(b)
    result = filled((len(samples), len(classes)), NAN)
    with mp.workdps(digits + GUARD):
        for n, k in np.ndindex(result.shape):
            dot = samples[n].dot(classes[k])
            result[n, k] = mp.ldexp(mpf(dot), samples[n].exponent + classes[k].exponent) + bias[k]
    return result


@untraced
def cosine(x: Any, w: Any, digits: int = 60) -> Array:
    """The cosine of the angle between every sample and class, shape (N, C)."""
    samples, classes = rows(x), rows(w)
    result = filled((len(samples), len(classes)), NAN)
    with mp.workdps(digits + GUARD):
        for n, k in np.ndindex(result.shape):
            result[n, k] = cosine_of(samples[n].dot(classes[k]), samples[n].square, classes[k].square)
    return result


@untraced
def angle(x: Any, w: Any, digits: int = 60) -> Array:
    """The angle between row n of x and row n of w, shape (N,): 0, or pi to the digits, where they are parallel."""
    with mp.workdps(digits + GUARD):
        pairs = [angle_of(v.dot(u), v.square, u.square) for v, u in zip(rows(x), rows(w), strict=True)]
    return np.array(pairs, dtype=object)


class Curve(NamedTuple):
    """What makes theta into the target's logit: scale * psi(theta); scale None is the feature norm."""

    m1: mpf
    m2: mpf
    m3: mpf
    boundary: str
    annealing: mpf
    scale: mpf | None

    @classmethod
    def of(cls, m1: Any, m2: Any, m3: Any, boundary: str, annealing: Any, scale: Any = None) -> Curve:
        first, second, third, weight = (mp.convert(float(number)) for number in (m1, m2, m3, annealing))
        return cls(first, second, third, boundary, weight, None if scale is None else mp.convert(float(scale)))


def branch_of(theta: Callable[[], mpf], c: Curve, digits: int | None = None) -> Branch:
    """The formula of psi on the side of each boundary where theta lies, a smooth function of the angle.

    psi = rule(phi) - m3 with phi = m1 theta + m2, annealed as in SphereFace. `theta()` gives the angle at the working
    precision; with `digits`, it is known to those digits only, and what agrees to them is equal.
    """
    rule = rule_of(theta, c, digits)
    if not c.annealing:
        return rule
    return lambda t: (c.annealing * mp.cos(t) + rule(t)) / (1 + c.annealing)


def rule_of(theta: Callable[[], mpf], c: Curve, digits: int | None) -> Branch:
    """The boundary rule's formula where theta lies, m3 taken off. At a boundary itself the margin still holds."""
    m1, m2, m3 = c.m1, c.m2, c.m3

    def sign(quantity: Callable[[], mpf]) -> int:
        if digits is None:
            return int(mp.sign(settle(quantity, GUARD)))
        with mp.workdps(digits + GUARD):
            result = quantity()
        return int(mp.sign(result)) if abs(result) > mpf(10) ** -digits else 0

    def past(k: int) -> bool:
        """Whether phi > k pi."""
        return sign(lambda: m1 * theta() + m2 - k * mp.pi) > 0

    def margin(t: mpf) -> mpf:
        return mp.cos(m1 * t + m2) - m3

    def monotone(t: mpf, k: int) -> mpf:
        return (-1) ** (k % 2) * mp.cos(m1 * t + m2) - 2 * k - m3

    beyond: dict[str, Branch] = {
        "hard": lambda t: mp.cos(t) - m2 * mp.sin(m2) - m3,
        "keep": lambda t: mp.cos(t) - m3,
        "continuous": lambda t: mp.cos(t) - mp.cos((mp.pi - m2) / m1) - 1 - m3,
        "clamp": lambda t: -1 - m3,
    }
    match c.boundary:
        case "none":
            return margin
        case "monotone":
            nearest = int(mp.nint((m1 * theta() + m2) / mp.pi))
            return partial(monotone, k=nearest if past(nearest) else nearest - 1)
        case "easy":
            return margin if sign(lambda: mp.cos(theta())) > 0 else beyond["keep"]
        case "conditional":
            return margin if sign(lambda: mp.cos(theta()) - m3) > 0 else mp.cos
        case "min":
            return margin if sign(lambda: margin(theta()) - mp.cos(theta())) <= 0 else mp.cos
        case _:
            return beyond[c.boundary] if past(1) else margin


def at_each(angles: Any, function: Callable[[mpf], mpf]) -> Array:
    numbers = exact(angles)
    result = filled(numbers.shape, NAN)
    for index in np.ndindex(numbers.shape):
        result[index] = function(numbers[index])
    return result


@untraced
def psi(
    theta: Any,
    m1: float = 1,
    m2: float = 0,
    m3: float = 0,
    boundary: str = "none",
    annealing: float = 0,
    digits: int = 60,
) -> Array:
    """The target's modified cosine: rule(m1 theta + m2) - m3 and its annealing, at every angle given."""
    c = Curve.of(m1, m2, m3, boundary, annealing)

    def at(t: mpf) -> mpf:
        with mp.workdps(digits + GUARD):
            return branch_of(lambda: t, c, digits)(t)

    return at_each(theta, at)


@untraced
def psi_slope(
    theta: Any,
    m1: float = 1,
    m2: float = 0,
    m3: float = 0,
    boundary: str = "none",
    annealing: float = 0,
    digits: int = 60,
) -> Array:
    """The derivative of psi in theta, by mpmath.diff, of the formula that holds at theta."""
    c = Curve.of(m1, m2, m3, boundary, annealing)

    def at(t: mpf) -> mpf:
        with mp.workdps(digits + GUARD):
            branch = branch_of(lambda: t, c, digits)
        return settle(lambda: mp.diff(branch, t), digits)

    return at_each(theta, at)


@untraced
def logits(
    x: Any,
    w: Any,
    y: Any,
    *,
    m1: float = 1,
    m2: float = 0,
    m3: float = 0,
    boundary: str = "none",
    annealing: float = 0,
    scale: float | None = None,
    digits: int = 60,
) -> Array:
    """A scale times cos theta_nk, and psi(theta) for the label's class; without a scale, the feature norm |x_n|."""
    c = Curve.of(m1, m2, m3, boundary, annealing, scale)
    samples, classes = rows(x), rows(w)
    result = filled((len(samples), len(classes)), NAN)
    with mp.workdps(digits + GUARD):
        for n, label in enumerate(np.asarray(y).tolist()):
            target = TargetPair(samples[n], classes[label], c, detached=False)
            result[n] = Sample(samples[n], classes, label, target).z
    return result


class Base(NamedTuple):
    """A row of logits seen from one of them (by default the largest): exp(z_k - z_base), its sum over the others."""

    k: int
    ratios: Reals
    others: mpf

    @classmethod
    def of(cls, z: Sequence[mpf], base: int | None = None) -> Base:
        k = max(range(len(z)), key=lambda j: z[j]) if base is None else base
        ratios = [mpf(1) if j == k else mp.exp(number - z[k]) for j, number in enumerate(z)]
        return cls(k, ratios, mp.fsum(ratio for j, ratio in enumerate(ratios) if j != k))


def undefined(z: Iterable[mpf]) -> bool:
    """Whether a softmax of these has no value: a NaN, a +inf, or every class masked by -inf."""
    return any(mp.isnan(number) or number == INFINITY for number in z) or all(number == -INFINITY for number in z)


def along(z: Any, axis: int, digits: int, function: Callable[[Reals], Reals]) -> Array:
    numbers = np.moveaxis(exact(z), axis, -1)
    result = filled(numbers.shape, NAN)
    with mp.workdps(digits + GUARD):
        for index in np.ndindex(numbers.shape[:-1]):
            row = list(numbers[index])
            if not undefined(row):
                result[index] = function(row)
    return np.moveaxis(result, -1, axis)


@untraced
def softmax(z: Any, axis: int = -1, digits: int = 60) -> Array:
    """The probabilities p_k = exp(z_k) / sum of exp(z_j)."""

    def of_row(row: Reals) -> Reals:
        base = Base.of(row)
        return [ratio / (1 + base.others) for ratio in base.ratios]

    return along(z, axis, digits, of_row)


@untraced
def log_softmax(z: Any, axis: int = -1, digits: int = 60) -> Array:
    """The logarithms of the probabilities, to all digits also where p_k is 1 but for 1e-300."""

    def of_row(row: Reals) -> Reals:
        base = Base.of(row)
        return [(number - row[base.k]) - mp.log1p(base.others) for number in row]

    return along(z, axis, digits, of_row)


@untraced
def logsumexp(z: Any, axis: int = -1, digits: int = 60) -> Array:
    """The logarithm of the sum of exp(z_j); the axis goes."""
    numbers = np.moveaxis(exact(z), axis, -1)
    result = filled(numbers.shape[:-1], NAN)
    with mp.workdps(digits + GUARD):
        for index in np.ndindex(result.shape):
            row = list(numbers[index])
            if not undefined(row):
                base = Base.of(row)
                result[index] = row[base.k] + mp.log1p(base.others)
            elif not any(mp.isnan(number) for number in row):
                result[index] = max(row)
    return result


@untraced
def cross_entropy(
    z: Any,
    y: Any,
    *,
    label_smoothing: float = 0.0,
    class_weight: Sequence[float] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    digits: int = 60,
    absolute: bool = False,
) -> Any:
    """The cross entropy of torch, classes on the last axis: -sum over k of t_k log p_k a row, and the reduction.

    `absolute` takes |t_k| and |n| of "mean": what the terms add up to before targets of both signs cancel.
    """
    settings = Settings(label_smoothing, class_weight, ignore_index, reduction)
    numbers = exact(z)
    with mp.workdps(digits + GUARD):
        rows_of_z = numbers.reshape(-1, numbers.shape[-1])
        batch = Batch.of(y, numbers.shape, settings)
        batch = batch.absolute() if absolute else batch
        losses = [Row(list(rows_of_z[n]), t).value() if t is not None else mpf(0) for n, t in enumerate(batch.targets)]
        return batch.reduce(losses)


@untraced
def triplet(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    m: float = 0.2,
    squared: bool = True,
    reduction: str = "mean",
    digits: int = 60,
) -> Any:
    """The hinge max(0, d(a, p) - d(a, n) + m) with the squared Euclidean distance, or the plain one."""
    inputs = (exact(anchor), exact(positive), exact(negative))
    triples = [Triple.of(*three, m, squared) for three in zip(*inputs, strict=True)]
    with mp.workdps(digits + GUARD):
        losses = [max(mpf(0), triple.hinge(digits)) for triple in triples]
        return Batch.plain(len(losses), reduction).reduce(losses)


# -------------------------------------------------------------------------------------------- cross entropy, row by row


class Settings(NamedTuple):
    """The cross-entropy settings of a loss."""

    label_smoothing: float
    class_weight: Sequence[float] | None
    ignore_index: int
    reduction: str

    @classmethod
    def of(cls, loss: Any) -> Settings:
        return cls(loss.label_smoothing, loss.class_weight, loss.ignore_index, loss.reduction)


class Batch(NamedTuple):
    """The targets t_k of every row, and how rows are reduced."""

    targets: list[dict[int, mpf] | None]  # weights and smoothing included, zeros left out; None for an ignored row
    divisor: mpf  # of "mean"
    shape: tuple[int, ...]  # of "none"
    reduction: str
    one_label: bool  # whether each row's loss is that of one label alone

    @classmethod
    def of(cls, y: Any, shape: tuple[int, ...], settings: Settings) -> Batch:
        """From labels (z's shape without its last axis) or probabilities (z's shape)."""
        given = np.asarray(y)
        eps, size = mp.convert(float(settings.label_smoothing)), shape[-1]
        weights = list(exact(np.ones(size) if settings.class_weight is None else settings.class_weight))

        def weighted(row: Iterable[mpf]) -> dict[int, mpf]:
            smoothed = (weight * ((1 - eps) * t + eps / size) for weight, t in zip(weights, row, strict=True))
            return {k: t for k, t in enumerate(smoothed) if t}

        if given.shape == tuple(shape):
            probabilities = exact(given).reshape(-1, size)
            targets = [weighted(row) for row in probabilities]
            return cls(list(targets), mpf(len(targets)), shape[:-1], settings.reduction, one_label=False)
        if given.shape != tuple(shape[:-1]) or given.dtype.kind not in "iu":
            message = f"y {given.shape} {given.dtype} is neither labels nor probabilities for logits {shape}"
            raise ValueError(message)
        labels = [None if label == settings.ignore_index else label for label in given.reshape(-1).tolist()]
        return cls(
            [None if label is None else weighted(mpf(k == label) for k in range(size)) for label in labels],
            mp.fsum(weights[label] for label in labels if label is not None),
            shape[:-1],
            settings.reduction,
            one_label=eps == 0,
        )

    @classmethod
    def plain(cls, count: int, reduction: str) -> Batch:
        """Rows without targets, all counting the same."""
        return cls([{}] * count, mpf(count), (count,), reduction, one_label=True)

    def absolute(self) -> Batch:
        """The magnitudes of targets and divisor."""
        targets = [None if row is None else {k: abs(t) for k, t in row.items()} for row in self.targets]
        return self._replace(targets=targets, divisor=abs(self.divisor))

    def reduce(self, losses: list[mpf]) -> Any:
        if self.reduction == "none":
            result = np.empty(len(losses), dtype=object)
            result[:] = losses
            return result.reshape(self.shape)
        total = mp.fsum(losses)
        if self.reduction == "sum":
            return total
        return total / self.divisor if self.divisor else NAN

    def coefficients(self, upstream: Any) -> Reals:
        """What a row's own gradient is multiplied by: the reduction and the gradient from above."""
        above = mpf(1) if upstream is None else exact(upstream)
        if self.reduction == "none":
            return list(np.broadcast_to(above, self.shape).reshape(-1))
        number = above if isinstance(above, mpf) else above.item()
        if self.reduction == "mean":
            number = number / self.divisor if self.divisor else NAN
        return [mpf(0) if targets is None else number for targets in self.targets]


class Row:
    """The cross entropy of one row of logits, and how it changes when logits move.

    L = sum over k of t_k log(sum over j of exp(z_j - z_k)), written from a base class b so that nothing cancels:
    L = T log1p(sum over j != b of exp(z_j - z_b)) + sum over k of t_k (z_b - z_k). A single target is its own base.
    """

    def __init__(self, z: Reals, targets: Mapping[int, mpf]):
        self.targets = targets
        self.total = mp.fsum(targets.values())
        self.size = mp.fsum(abs(t) for t in targets.values())
        self.undefined = undefined(z)
        self.masked = {k for k in targets if z[k] == -INFINITY}
        self.infinite = not self.undefined and bool(self.masked)
        if self.undefined:
            return
        if self.infinite:  # the loss is inf; its gradient is the limit, taken far below the other logits
            depth = min(number for number in z if mp.isfinite(number)) - 10**5
            z = [depth if k in targets and number == -INFINITY else number for k, number in enumerate(z)]
        self.z = z
        self.base, self.ratios, self.others = Base.of(z, next(iter(targets)) if len(targets) == 1 else None)

    def value(self) -> mpf:
        if self.undefined or self.infinite:
            signs = {mp.sign(t) for k, t in self.targets.items() if k in self.masked}
            return NAN if self.undefined or len(signs) > 1 else INFINITY * signs.pop()
        gaps = (t * (self.z[self.base] - self.z[k]) for k, t in self.targets.items() if k != self.base)
        return self.total * mp.log1p(self.others) + mp.fsum(gaps)

    def change(self, k: int, down: mpf, up: mpf) -> mpf:
        """The difference L(z_k + up) - L(z_k + down), the other logits unmoved."""
        if self.undefined:
            return NAN
        target = self.targets.get(k, mpf(0))
        if k == self.base:
            low, high = self.others * mp.exp(-down), self.others * mp.exp(-up)
            change, straight = high - low, (self.total - target) * (up - down)
        else:
            low, high = self.ratios[k] * mp.exp(down), self.ratios[k] * mp.exp(up)
            change, straight = high - low, -target * (up - down)
            low += self.others - self.ratios[k]
        return self.total * mp.log1p(change / (1 + low)) + straight

    def change_of_all(self, down: Reals, up: Reals) -> mpf:
        """The difference L(z + up) - L(z + down), every logit moving."""
        if self.undefined:
            return NAN
        b = self.base
        moving = [k for k, ratio in enumerate(self.ratios) if ratio and k != b]
        low = mp.fsum(self.ratios[k] * mp.exp(down[k] - down[b]) for k in moving)
        high = mp.fsum(self.ratios[k] * mp.exp(up[k] - up[b]) for k in moving)
        straight = mp.fsum(t * ((up[b] - down[b]) - (up[k] - down[k])) for k, t in self.targets.items() if k != b)
        return self.total * mp.log1p((high - low) / (1 + low)) + straight

    def slope(self, k: int) -> mpf:
        """The derivative dL/dz_k, by the difference over a step of a third of the digits in use."""
        step = mpf(2) ** (-mp.prec // 3)
        return self.change(k, -step, step) / (2 * step)

    def terms(self, k: int, one_label: bool) -> mpf:
        """The size of dL/dz_k where the target is one label; else p_k times the sum of |t_j|, and |t_k|."""
        if one_label or self.undefined:
            return abs(self.slope(k))
        p = self.ratios[k] / (1 + self.others)
        return p * self.size + abs(self.targets.get(k, mpf(0)))


# --------------------------------------------------------------------------------------------- margin heads, row by row


def curve(loss: Any) -> dict[str, Any]:
    """The margin of a loss object: m1, m2, m3, boundary, annealing and scale (None: the feature norm)."""
    found = {"m1": 1.0, "m2": 0.0, "m3": 0.0, "boundary": "none", "annealing": 0.0, "scale": None}
    match type(loss).__name__:
        case "ModifiedSoftmax":
            return found
        case "NormFace":
            margin = {}
        case "ASoftmax" | "SphereFace":
            margin = {"m1": loss.m, "annealing": loss.annealing, "boundary": loss.boundary}
        case "CosFace" | "AMSoftmax":
            margin = {"m3": loss.m, "boundary": loss.boundary}
        case "ArcFace":
            margin = {"m2": loss.m, "boundary": loss.boundary}
        case "CombinedMargin":
            margin = {"m1": loss.m1, "m2": loss.m2, "m3": loss.m3, "boundary": loss.boundary}
        case name:
            message = f"{name} has no margin"
            raise TypeError(message)
    return found | margin | {"scale": loss.s}


class TargetPair:
    """A sample and its label's class: the angle, the branch of psi, and what a step must be small against."""

    def __init__(self, x: Vector, w: Vector, c: Curve, *, detached: bool):
        self.c, self.detached = c, detached
        self.numbers = x.dot(w), x.square, w.square
        dot, square, other = self.numbers
        self.parallel = dot * dot == square * other
        self.sine = mpf(1) if self.parallel else mp.sqrt(mpf(square * other - dot * dot) / mpf(square * other))
        self.branch = branch_of(self.theta, c)

    def theta(self) -> mpf:
        return angle_of(*self.numbers)

    def slope(self, digits: int) -> mpf:
        """The derivative of psi in theta, by mpmath.diff; that of cos theta if detached; 0 for a parallel pair."""
        if self.parallel:
            return mpf(0)
        return settle(lambda: mp.diff(mp.cos if self.detached else self.branch, self.theta()), digits)


class Sample:
    """One row of a margin head at the working precision: its logits, and how they change when x or a class moves."""

    def __init__(self, x: Vector, classes: list[Vector], label: int, target: TargetPair):
        self.x, self.classes, self.label, self.target, self.c = x, classes, label, target, target.c
        self.dots = [x.dot(w) for w in classes]
        self.per_norm = [1 / mp.sqrt(mpf(w.square)) for w in classes]
        self.scale = x.norm() if self.c.scale is None else self.c.scale
        theta = target.theta()
        self.psi = target.branch(theta)
        self.constant = self.psi - mp.cos(theta)
        per_x = 1 / mp.sqrt(mpf(x.square))
        self.cosines = [dot * per_x * per_w for dot, per_w in zip(self.dots, self.per_norm, strict=True)]
        self.z = [self.scale * number for number in self.cosines]
        self.z[label] = self.scale * self.psi

    def moved_psi(self, dot: int, square: int, other: int) -> mpf:
        """The moved target pair's psi: kept where the pair is parallel, cos theta + constant if detached."""
        if self.target.parallel:
            return self.psi
        if self.target.detached:
            return cosine_of(dot, square, other) + self.constant
        return self.target.branch(angle_of(dot, square, other))

    def x_moved(self, i: int, move: Moved, sign: int) -> Reals:
        """How every logit changes when entry i of x moves."""
        square = move.square(self.x, i, sign)
        norm = mp.sqrt(mpf(square))
        scale = mp.ldexp(norm, self.x.exponent - move.shift) if self.c.scale is None else self.c.scale
        factor = scale / norm
        changes = []
        for k, w in enumerate(self.classes):
            dot = move.dot(self.dots[k], w.integers[i], sign)
            if k == self.label:
                moved = scale * self.moved_psi(dot, square, w.square)
            else:
                moved = factor * dot * self.per_norm[k]
            changes.append(moved - self.z[k])
        return changes

    def w_moved(self, k: int, i: int, move: Moved, sign: int) -> mpf:
        """How logit k changes when entry i of class k moves."""
        dot = move.dot(self.dots[k], self.x.integers[i], sign)
        square = move.square(self.classes[k], i, sign)
        at = self.moved_psi if k == self.label else cosine_of
        return self.scale * at(dot, self.x.square, square) - self.z[k]


# ---------------------------------------------------------------------------------------------------------- the triplet


class Triple(NamedTuple):
    """Anchor, positive and negative: a - p and a - n as integers of one exponent, the distance and the margin."""

    to_positive: Vector
    to_negative: Vector
    m: mpf
    squared: bool

    @classmethod
    def of(cls, anchor: Array, positive: Array, negative: Array, m: float, squared: bool) -> Triple:
        together = Vector.of([*anchor, *positive, *negative])
        a, p, n = np.array(together.integers, dtype=object).reshape(3, -1)

        def vector(integers: list[int]) -> Vector:
            return Vector(integers, together.exponent, sum(i * i for i in integers))

        return cls(vector(list(a - p)), vector(list(a - n)), mp.convert(float(m)), squared)

    def distance(self, vector: Vector) -> mpf:
        return vector.norm() ** 2 if self.squared else vector.norm()

    def hinge(self, digits: int) -> mpf:
        """The hinge's argument d(a, p) - d(a, n) + m to `digits` of its own digits; exactly 0 at the hinge."""

        def relative() -> mpf:
            near, far = self.distance(self.to_positive), self.distance(self.to_negative)
            size = near + far + abs(self.m)
            return (near - far + self.m) / size if size else mpf(0)

        result = settle(relative, digits)
        with mp.workdps(digits + GUARD):
            return result * (self.distance(self.to_positive) + self.distance(self.to_negative) + abs(self.m))

    def slope(self, vector: Vector, i: int, digits: int) -> mpf:
        """The difference of d over a step of entry i of a - p or a - n; 0 at distance 0."""
        if not vector.square:
            return mpf(0)
        tens = digits // 2 + 6
        with mp.workdps(digits + tens + GUARD):
            move = Moved.by(vector, tens)
            lengths = [mp.sqrt(mpf(move.square(vector, i, sign))) for sign in (-1, 1)]
            step = move.length(vector)
            unit = step / move.step
            down, up = (unit * length for length in lengths)
            return (up**2 - down**2 if self.squared else up - down) / (2 * step)


# ------------------------------------------------------------------------------------------- values of the loss objects


def name_of(loss: Any) -> str:
    return type(loss).__name__


@untraced
def value(loss: Any, *inputs: Any, digits: int = 60, absolute: bool = False) -> Any:
    """The loss on these inputs: an mpf for "mean" and "sum", an array of mpf for "none".

    `absolute` gives what its terms add up to, their magnitudes taken: the same where all targets have one sign.
    """
    if name_of(loss) == "Triplet":
        return triplet(*inputs, m=loss.m, squared=loss.squared, reduction=loss.reduction, digits=digits)
    settings = Settings.of(loss)
    if name_of(loss) == "CrossEntropy":
        return cross_entropy(*inputs, **settings._asdict(), digits=digits, absolute=absolute)
    with mp.workdps(digits + GUARD):
        head = Head(loss, *inputs)
        head.batch = head.batch.absolute() if absolute else head.batch
        losses = [mpf(0)] * head.shape[0]
        for n in head.active():
            with mp.workdps(digits + GUARD + places(head.size(n))):
                losses[n] = head.row(n).value()
        return head.batch.reduce(losses)


class Head:
    """A loss on x and w: SoftmaxLoss, or a margin loss. Rows that are ignored are not looked at."""

    def __init__(self, loss: Any, x: Any, w: Any, y: Any, b: Any = None):
        given = exact(x)
        self.classes = rows(w)
        self.shape = (len(given), len(self.classes))
        self.labels = np.asarray(y)
        self.bias = None if b is None else exact(b)
        self.batch = Batch.of(y, self.shape, Settings.of(loss))
        self.samples = {n: Vector.of(given[n]) for n in self.active()}
        self.margin = None if name_of(loss) == "SoftmaxLoss" else Curve.of(**curve(loss))
        self.pairs: dict[int, TargetPair] = {}
        if self.margin is not None:
            for n, vector in self.samples.items():
                own = self.classes[self.labels[n]]
                self.pairs[n] = TargetPair(vector, own, self.margin, detached=loss.gradient == "detached")

    def active(self) -> Iterator[int]:
        return (n for n, targets in enumerate(self.batch.targets) if targets is not None)

    def sample(self, n: int) -> Sample:
        return Sample(self.samples[n], self.classes, int(self.labels[n]), self.pairs[n])

    def logits(self, n: int) -> Reals:
        if self.margin is not None:
            return self.sample(n).z
        x = self.samples[n]
        z = [mp.ldexp(mpf(x.dot(w)), x.exponent + w.exponent) for w in self.classes]
        return z if self.bias is None else [number + b for number, b in zip(z, self.bias, strict=True)]

    def size(self, n: int) -> mpf:
        """How large the logits of a row can be."""
        if self.margin is not None:
            return self.samples[n].norm() if self.margin.scale is None else self.margin.scale
        size = self.samples[n].norm() * max(w.norm() for w in self.classes)
        return size + (0 if self.bias is None else max(abs(b) for b in self.bias))

    def row(self, n: int) -> Row:
        return Row(self.logits(n), self.batch.targets[n] or {})


# ------------------------------------------------------------------------------------------------------------ gradients


class Wanted:
    """The gradient arrays being filled, and which of their entries are asked for (the others stay NaN)."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], entries: Mapping[str, Iterable[tuple[int, ...]]] | None):
        self.arrays = {name: filled(shape, mpf(0) if entries is None else NAN) for name, shape in shapes.items()}
        self.masks = {name: np.full(shape, entries is None) for name, shape in shapes.items()}
        for name, indices in (entries or {}).items():
            for index in indices:
                self.masks[name][tuple(index)] = True
                self.arrays[name][tuple(index)] = mpf(0)

    def columns(self, name: str, row: int) -> list[int]:
        """The entries asked for in one row."""
        return [int(i) for i in np.flatnonzero(self.masks[name][row])]

    def add(self, name: str, index: Any, number: mpf) -> None:
        self.arrays[name][index] += number


@untraced
def gradients(
    loss: Any,
    *inputs: Any,
    upstream: Any = None,
    digits: int = 60,
    entries: Mapping[str, Iterable[tuple[int, ...]]] | None = None,
) -> dict[str, Array]:
    """The gradient of the loss in each floating input, by central differences; each array has its input's shape.

    The error is below 10**-digits of the row's absolute terms. `upstream` is the gradient of what follows the loss: a
    number, or an array of the loss's shape for "none". `entries`, by name, are the indices to compute; all others, also
    those of inputs not named, are NaN.
    """
    if name_of(loss) == "Triplet":
        return triplet_gradients(loss, inputs, upstream, digits, entries)
    if name_of(loss) == "CrossEntropy":
        return logit_gradients(loss, inputs, upstream, digits, entries)
    with mp.workdps(digits + GUARD):
        head = Head(loss, *inputs)
        coefficients = head.batch.coefficients(upstream)
    shapes = {"x": np.shape(inputs[0]), "w": np.shape(inputs[1])}
    if head.bias is not None:
        shapes["b"] = head.bias.shape
    wanted = Wanted(shapes, entries)
    for n in head.active():
        part = linear_gradients if head.margin is None else margin_gradients
        part(head, n, coefficients[n], wanted, digits)
    return wanted.arrays


def logit_gradients(loss: Any, inputs: Sequence[Any], upstream: Any, digits: int, entries: Any) -> dict[str, Array]:
    """CrossEntropy: a logit at a time moves by a step far below 1, the scale of exp."""
    numbers, y = exact(inputs[0]), inputs[1]
    size = numbers.shape[-1]
    tens = digits // 2 + 6
    wanted = Wanted({"z": numbers.shape}, entries)
    flat, mask = wanted.arrays["z"].reshape(-1, size), wanted.masks["z"].reshape(-1, size)
    with mp.workdps(digits + tens + GUARD):
        batch = Batch.of(y, numbers.shape, Settings.of(loss))
        step = mpf(10) ** -tens
        for n, (targets, coefficient) in enumerate(zip(batch.targets, batch.coefficients(upstream), strict=True)):
            if targets is None:
                continue
            row = Row(list(numbers.reshape(-1, size)[n]), targets)
            for k in np.flatnonzero(mask[n]).tolist():
                flat[n, k] = coefficient * row.change(k, -step, step) / (2 * step)
    return {"z": flat.reshape(numbers.shape)}


def linear_gradients(head: Head, n: int, coefficient: mpf, wanted: Wanted, digits: int) -> None:
    """SoftmaxLoss, sample n: a step moves logit k by step * w_ki (x), step * x_ni (w), step (b)."""
    x, classes = head.samples[n], head.classes
    tens = digits // 2 + 6
    norms = [w.norm() for w in classes if w.square]
    spread = places(max(norms) / min(norms)) if norms else 0
    with mp.workdps(digits + tens + spread + places(head.size(n)) + GUARD):
        row = head.row(n)
        small = mpf(10) ** -tens
        step = small / max(norms) if norms else small
        for i in wanted.columns("x", n):
            up = [step * mp.ldexp(mpf(w.integers[i]), w.exponent) for w in classes]
            change = row.change_of_all([-number for number in up], up)
            wanted.add("x", (n, i), coefficient * change / (2 * step))
        step = small / x.norm() if x.square else small
        for k in range(len(classes)):
            for i in wanted.columns("w", k):
                up = step * mp.ldexp(mpf(x.integers[i]), x.exponent)
                wanted.add("w", (k, i), coefficient * row.change(k, -up, up) / (2 * step))
        if head.bias is not None:
            for k in np.flatnonzero(wanted.masks["b"]).tolist():
                wanted.add("b", k, coefficient * row.change(k, -small, small) / (2 * small))


def margin_gradients(head: Head, n: int, coefficient: mpf, wanted: Wanted, digits: int) -> None:
    """A margin loss, sample n: entries of x move all logits, entries of a class move its own.

    Steps are relative to the norm of the row that moves: below 10**-(digits/2 + 6), below 1/s and 1/m1 times that and,
    where the target's angle moves, below sin theta times that, for psi changes over lengths of theta and pi - theta.
    Where the slope of psi is small, the step and the rounding are small against that too.
    """
    x, pair, label = head.samples[n], head.pairs[n], int(head.labels[n])
    slope = abs(pair.slope(GUARD)) or mpf(1)
    tens = digits // 2 + 6 + places(head.size(n)) + places(pair.c.m1)
    tens_x, tens_label = tens + places(1 / pair.sine), tens + places(1 / pair.sine) + places(1 / slope) // 2 + 1
    faint = places(1 / head.size(n))  # logits that small change exp by as little

    with mp.workdps(digits + tens_x + faint + GUARD):
        row = head.row(n)
        sample, move = head.sample(n), Moved.by(x, tens_x)
        step = move.length(x)
        for i in wanted.columns("x", n):
            change = row.change_of_all(sample.x_moved(i, move, -1), sample.x_moved(i, move, 1))
            wanted.add("x", (n, i), coefficient * change / (2 * step))

    def move_classes(which: Iterable[int], tens: int, extra: int) -> None:
        with mp.workdps(digits + tens + extra + GUARD):
            sample = head.sample(n)
            for k in which:
                move = Moved.by(head.classes[k], tens)
                step = move.length(head.classes[k])
                for i in wanted.columns("w", k):
                    change = row.change(k, sample.w_moved(k, i, move, -1), sample.w_moved(k, i, move, 1))
                    wanted.add("w", (k, i), coefficient * change / (2 * step))

    move_classes((k for k in range(len(head.classes)) if k != label), tens, faint)
    move_classes([label], tens_label, faint + places(1 / slope))


def triplet_gradients(loss: Any, inputs: Sequence[Any], upstream: Any, digits: int, entries: Any) -> dict[str, Array]:
    """Triplet: where the hinge is open, d(a, p) - d(a, n) entry by entry."""
    anchor, positive, negative = (exact(array) for array in inputs)
    wanted = Wanted({"anchor": anchor.shape, "positive": positive.shape, "negative": negative.shape}, entries)
    count = len(anchor)
    with mp.workdps(digits + GUARD):
        coefficients = Batch.plain(count, loss.reduction).coefficients(upstream)
        for n in range(count):
            triple = Triple.of(anchor[n], positive[n], negative[n], loss.m, loss.squared)
            if triple.hinge(digits) <= 0:
                continue
            columns = {name: wanted.columns(name, n) for name in wanted.masks}
            for i in sorted(set().union(*columns.values())):
                near, far = (triple.slope(v, i, digits) for v in (triple.to_positive, triple.to_negative))
                for name, slope in (("anchor", near - far), ("positive", -near), ("negative", far)):
                    if i in columns[name]:
                        wanted.add(name, (n, i), coefficients[n] * slope)
    return wanted.arrays


# ---------------------------------------------------------------------------------------- what an error is held against


@untraced
def absolute_terms(
    loss: Any, *inputs: Any, upstream: Any = None, digits: int = 60, projected: bool = False
) -> dict[str, Array]:
    """The size of what a gradient row is made of before anything cancels: a float64 a row; for z and b, an entry.

    With G_nk = dL/dz_nk by differences, or in its place c_n (p_k sum of |t_j| + |t_k|) for smoothed targets and
    probabilities:

    - margin losses: x_n: sum over k of |scale G_nk psi'_nk| / |x_n|, psi' := 1 off the target, and, where the scale is
      the feature norm, sum of |G_nk f_nk| more (f = cos theta or psi); w_k: sum over n of |scale G_nk psi'_nk| / |w_k|;
    - SoftmaxLoss: x_n: sum over k of |G_nk| |w_k|; w_k: sum over n of |G_nk| |x_n|; b_k: sum over n of |G_nk|;
    - CrossEntropy: |G_nk|;
    - Triplet, where the hinge is open: 2 (|a - p| + |a - n|), 2 |a - p|, 2 |a - n|; of the plain distance 2, 1, 1.

    `projected` takes the terms after the projection that directions have, which is a stricter measure: off the target
    psi' is sin theta_nk instead of 1, and 0 for a class that is parallel to x.

    A number that is not 0 is never rounded to 0: it is at least the smallest subnormal.
    """
    with mp.workdps(digits + GUARD):
        if name_of(loss) == "Triplet":
            terms = triplet_terms(loss, inputs, upstream)
        elif name_of(loss) == "CrossEntropy":
            terms = logit_terms(loss, inputs, upstream)
        else:
            terms = head_terms(Head(loss, *inputs), upstream, digits, projected)
        return {name: as_floats(array) for name, array in terms.items()}


def as_floats(array: Array) -> Array:
    result = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        number = float(array[index])
        result[index] = SMALLEST if array[index] != 0 and number == 0 else number
    return result


def triplet_terms(loss: Any, inputs: Sequence[Any], upstream: Any) -> dict[str, Array]:
    anchor, positive, negative = (exact(array) for array in inputs)
    count = len(anchor)
    terms = {name: filled((count,), mpf(0)) for name in ("anchor", "positive", "negative")}
    for n, c in enumerate(Batch.plain(count, loss.reduction).coefficients(upstream)):
        triple = Triple.of(anchor[n], positive[n], negative[n], loss.m, loss.squared)
        if triple.hinge(GUARD) > 0:
            near, far = (2 * v.norm() if loss.squared else mpf(v.square != 0) for v in triple[:2])
            for name, size in (("anchor", near + far), ("positive", near), ("negative", far)):
                terms[name][n] = abs(c) * size
    return terms


def logit_terms(loss: Any, inputs: Sequence[Any], upstream: Any) -> dict[str, Array]:
    numbers, y = exact(inputs[0]), inputs[1]
    size = numbers.shape[-1]
    batch = Batch.of(y, numbers.shape, Settings.of(loss))
    terms = filled((len(batch.targets), size), mpf(0))
    for n, (targets, c) in enumerate(zip(batch.targets, batch.coefficients(upstream), strict=True)):
        if targets is not None:
            row = Row(list(numbers.reshape(-1, size)[n]), targets)
            terms[n] = [abs(c) * row.terms(k, batch.one_label) for k in range(size)]
    return {"z": terms.reshape(numbers.shape)}


def head_terms(head: Head, upstream: Any, digits: int, projected: bool) -> dict[str, Array]:
    samples, classes = head.shape
    terms = {"x": filled((samples,), mpf(0)), "w": filled((classes,), mpf(0))}
    if head.bias is not None:
        terms["b"] = filled((classes,), mpf(0))
    coefficients = head.batch.coefficients(upstream)
    for n in head.active():
        x = head.samples[n]
        with mp.workdps(digits + GUARD + places(head.size(n))):
            row = head.row(n)
            g = [abs(coefficients[n]) * row.terms(k, head.batch.one_label) for k in range(classes)]
            if head.margin is None:
                terms["x"][n] = mp.fsum(number * w.norm() for number, w in zip(g, head.classes, strict=True))
                to_w = [number * x.norm() for number in g]
            else:
                sample = head.sample(n)
                slopes = [sine_of(x, w) for w in head.classes] if projected else [mpf(1)] * classes
                slopes[sample.label] = abs(head.pairs[n].slope(digits))
                pull = [sample.scale * number * slope for number, slope in zip(g, slopes, strict=True)]
                terms["x"][n] = mp.fsum(pull) / x.norm()
                if head.margin.scale is None:
                    f = list(sample.cosines)
                    f[sample.label] = sample.psi
                    terms["x"][n] += mp.fsum(abs(number * factor) for number, factor in zip(g, f, strict=True))
                to_w = [number / w.norm() for number, w in zip(pull, head.classes, strict=True)]
            terms["w"] += np.array(to_w, dtype=object)
            if head.bias is not None:
                terms["b"] += np.array(g, dtype=object)
    return terms


@untraced
def row_error(result: Any, truth: Any, terms: Any) -> float:
    """The worst row's largest |result - truth| over the row's terms, in units of u.

    `terms` has truth's shape (entry by entry) or one axis less (row by row). Terms of 0 demand a result of exactly 0;
    terms below the normal range count as the smallest normal number. Where the truth is NaN or inf, so must be the
    result. Whatever is not as it must be is an error of inf.
    """
    found, true, sizes = exact(result), exact(truth), exact(terms)
    if found.shape != true.shape or sizes.shape not in (true.shape, true.shape[:-1]):
        message = f"shapes of result {found.shape}, truth {true.shape} and terms {sizes.shape} do not fit"
        raise ValueError(message)
    by_row = sizes.shape != true.shape
    return max((error(found[i], true[i], sizes[i[:-1] if by_row else i]) for i in np.ndindex(true.shape)), default=0.0)


@untraced
def value_error(result: Any, truth: Any, terms: Any = None) -> float:
    """The worst |result - truth| / |truth| in units of u; given `terms` of truth's shape, over the larger of the two.

    A truth of 0 (and terms of 0) demands exactly 0, one below the normal range counts as the smallest normal number,
    NaN demands NaN and inf the same inf. Whatever is not as it must be is an error of inf.
    """
    found, true = exact(result), exact(truth)
    if found.shape != true.shape:
        message = f"shapes of result {found.shape} and truth {true.shape} differ"
        raise ValueError(message)
    sizes = exact(np.zeros(true.shape) if terms is None else terms)
    return max((error(found[i], true[i], max(abs(true[i]), sizes[i])) for i in np.ndindex(true.shape)), default=0.0)


def error(found: mpf, true: mpf, size: mpf) -> float:
    if mp.isnan(true):
        return 0.0 if mp.isnan(found) else float("inf")
    if mp.isinf(true):
        return 0.0 if found == true else float("inf")
    if not mp.isfinite(found):
        return float("inf")
    if size == 0:
        return 0.0 if found == 0 else float("inf")
    with mp.workdps(60):
        return float(abs(found - true) / max(size, SMALLEST_NORMAL) / UNIT)
