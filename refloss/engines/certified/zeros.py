"""Zeros: proofs that an entry of a loss or of its gradients is exactly 0.

A ball around 0 never shows that a number is 0. Where the definition of the loss does, it is a question about rational
numbers. True is a proof; False says nothing.

Symbols: as in the stages; t targets (N, C), T their sum by row, G_nk = T p_nk - t_nk the gradient on a logit. n counts
the rows that are computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction
from functools import cache, cached_property
from typing import NamedTuple, TypeAlias

import numpy as np

from refloss.engines.certified.exact import BigInts, IntegerVectors
from refloss.engines.certified.hinges import Triplet
from refloss.engines.certified.margins import SampleMargins, moves, square_of
from refloss.engines.certified.masks import Masks, weighing
from refloss.engines.certified.others import CONSTANT, ONE, Multiple, OtherClasses
from refloss.engines.certified.sides import TargetAngle
from refloss.engines.certified.targets import Targets
from refloss.engines.spec import MARGINS, PER_CLASS, Arrays, Margin
from refloss.error_free import Integers, Mask


class Proofs(ABC):
    """Proofs for a loss on given inputs, entry by entry."""

    def __init__(self, upstream_is_zero: Mask):
        self.upstream_is_zero = upstream_is_zero  # (N,)
        self._mask = cache(self.row_is_zero)

    @abstractmethod
    def value_is_zero(self, samples: Iterable[int]) -> bool:
        """Return whether the losses of these samples are proven to add up to 0."""

    @abstractmethod
    def row_is_zero(self, name: str, row: int) -> Mask:
        """Return where a row of the gradient on an input is proven to be 0; row 0 is all of one number."""

    def gradient_is_zero(self, name: str, index: tuple[int, ...]) -> bool:
        """Return whether an entry of the gradient on an input is proven to be 0; its row is a sample or a class."""
        row, *column = index or (0,)
        mask = self._mask(name, row)
        return bool(mask[column[0]] if mask.ndim else mask)


class ProofsBySample(Proofs):
    """Proofs that every sample adds nothing."""

    @abstractmethod
    def contribution_is_zero(self, name: str, n: int, row: int) -> Mask:
        """Return where sample n is proven to add nothing to a row of the gradient on an input."""

    def row_is_zero(self, name: str, row: int) -> Mask:
        """Return where no sample adds anything to a row."""
        samples = range(len(self.upstream_is_zero)) if name in PER_CLASS else (row,)
        masks = [self.contribution_is_zero(name, n, row) for n in samples if not self.upstream_is_zero[n]]
        return np.logical_and.reduce(masks) if masks else np.array(True)


# -------------------------------------------------------------------------------------------------------- cross entropy


Name: TypeAlias = tuple[Hashable, Fraction]


class Classes(NamedTuple):
    """The classes of a sample."""

    names: list[Name]
    """Logit and t of every class (C,): where they are equal, so is G."""
    zero_gradient: set[Name]
    """The names of classes with G = 0."""


class Options(NamedTuple):
    """What else becomes of logits."""

    capped: bool = False
    """Whether they have a cap: equal ones stay equal, but sums of them mean nothing."""
    z_loss: bool = False
    """Whether the losses of rows have a z-loss."""
    lse_counts: Mask = np.zeros(0, np.bool_)
    """Rows whose log-sum-exp has a gradient of its own (N,): G_k has a multiple of p_k more, and is never proven 0."""


NO_OPTIONS = Options()


class CrossEntropyProofs(ProofsBySample):
    """What holds of any logits."""

    def __init__(self, targets: Targets, upstream_is_zero: Mask, options: Options = NO_OPTIONS):
        super().__init__(upstream_is_zero)
        self.targets, self.options = targets, options
        self.classes = cache(self._classes)

    @abstractmethod
    def logits(self, n: int) -> Sequence[Hashable]:
        """Return the logits of a sample, or keys for them: equal only where the logits are."""

    @abstractmethod
    def present_logits(self, n: int) -> Sequence[Hashable]:
        """Return the logits of classes that are not masked, or keys: equal only where the logits of any samples are.

        Rational logits are fractions, up to a number that is added to all of them.
        """

    def _classes(self, n: int) -> Classes:
        """G_k = T p_k - t_k is 0 where T = t_k = 0, and where all logits are equal and t_k = T/C."""
        t = [self.targets.rational(n, k) for k in range(len(self.targets.weight))]
        names = list(zip(self.logits(n), t, strict=True))
        present = [name for name, counts in zip(names, self.targets.present[n], strict=True) if counts]
        equal = len({logit for logit, _ in present}) == 1
        total = sum(t, Fraction(0))
        zero_gradient = {
            (logit, share)
            for logit, share in present
            if share == total == 0 or (equal and share * len(present) == total)
        }
        return Classes(names, set() if self.lse_counts(n) else zero_gradient)

    def lse_counts(self, n: int) -> bool:
        """Return whether the log-sum-exp of a sample has a gradient of its own."""
        return bool(len(self.options.lse_counts) and self.options.lse_counts[n])

    def value_is_zero(self, samples: Iterable[int]) -> bool:
        """Return whether the losses of these samples add up to 0, as targets of both signs can make them.

        L = T log Σ_k exp z_k - Σ_k t_k z_k, of rational logits with their gaps from the largest for z. It is 0 where
        the T of samples with the same logits add up to 0, in whatever order these logits are, and the t of every
        logit, or, where logits are rational, the t_k z_k. m equal logits have the logarithm log m, 0 for one, and no
        second part. A z-loss is not negative, and 0 only where its ball is.
        """
        if self.options.z_loss:
            return False
        totals: dict[Hashable, Fraction] = defaultdict(Fraction)
        for n in samples:
            logits = self.present_logits(n)
            names = zip(self.classes(n).names, self.targets.present[n], strict=True)
            t = [share for (_, share), counts in names if counts]
            if len(set(logits)) == 1:
                totals[len(logits)] += sum(t, Fraction(0))
                continue
            totals[frozenset(Counter(logits).items())] += sum(t, Fraction(0))
            for logit, share in zip(logits, t, strict=True):
                if isinstance(logit, Fraction):
                    totals["t z"] += share * logit
                else:
                    totals[logit] += share
        totals[1] = Fraction(0)  # log 1
        return not any(totals.values())


class LogitsProofs(CrossEntropyProofs):
    """Cross entropy of logits that are inputs."""

    def __init__(self, arrays: Arrays, targets: Targets, upstream_is_zero: Mask, options: Options = NO_OPTIONS):
        super().__init__(targets, upstream_is_zero, options)
        self.arrays = arrays

    def logits(self, n: int) -> Sequence[float | Fraction]:
        """Return the logits."""
        logits: list[float] = self.arrays["z"][n].tolist()
        return logits

    def present_logits(self, n: int) -> Sequence[Hashable]:
        """Return their gaps from the largest, or under a cap a key for each."""
        if self.options.capped:
            return [("capped", z) for z in self.logits(n)]
        logits = [Fraction(z) for z, counts in zip(self.logits(n), self.targets.present[n], strict=True) if counts]
        largest = max(logits)
        return [z - largest for z in logits]

    def contribution_is_zero(self, name: str, n: int, row: int) -> Mask:
        """Return where G = 0."""
        names, zero_gradient = self.classes(n)
        return np.array([each in zero_gradient for each in names])


class LinearProofs(LogitsProofs):
    """Cross entropy of z = x·w + b, rational numbers."""

    @cached_property
    def vectors(self) -> IntegerVectors:
        """x and w as integers."""
        return IntegerVectors(self.arrays["x"], self.arrays["w"])

    def logits(self, n: int) -> Sequence[Fraction]:
        """Return x_n · w_k + b_k."""
        _, exponent, dots = self.vectors.sample(n)
        bias = self.arrays["b"].tolist() if "b" in self.arrays else [0.0] * len(dots)
        unit = Fraction(2) ** (self.vectors.w_exponent + exponent)
        return [dot * unit + Fraction(b) for dot, b in zip(dots, bias, strict=True)]

    def contribution_is_zero(self, name: str, n: int, row: int) -> Mask:
        """Return where G_k = 0 for b_k, G_k x_n = 0 for w_k, and Σ_k G_k w_k = 0 for x_n."""
        classes = self.classes(n)
        if name == "x":
            sums_to_zero = not self.options.capped and not self.lse_counts(n)
            return _cancels(classes, [ONE] * len(classes.names), self.vectors.w, sums_to_zero=sums_to_zero)
        zero_gradient = classes.names[row] in classes.zero_gradient
        return np.array(zero_gradient) if name == "b" else (self.vectors.sample(n).x == 0) | zero_gradient


class Label(NamedTuple):
    """The label of a sample, and what its logit is."""

    k: int
    """The class."""
    is_cosine: bool
    """Whether its logit is s cos θ, as those of other classes are."""
    gradient: str
    """How its logit depends on the angle: "as cosine", as a "constant" or "otherwise"."""
    by_length: bool
    """Whether its gradient on x has a multiple of x beside what it has as such a function of the angle."""


class MarginProofs(CrossEntropyProofs):
    """Cross entropy of s η, which is s cos θ where nothing else is made of it, and s ψ(θ) for the label."""

    def __init__(
        self,
        arrays: Arrays,
        spec: Margin,
        samples: Sequence[SampleMargins],
        angles: Sequence[TargetAngle],
        others: OtherClasses,
        vectors: IntegerVectors,
        row_of: Integers,
        targets: Targets,
        upstream_is_zero: Mask,
    ):
        super().__init__(targets, upstream_is_zero)
        self.arrays, self.spec, self.scale, self.samples = arrays, spec, spec.scale, samples
        self.angles, self.others, self.vectors, self.row_of = angles, others, vectors, row_of
        self.regularized = spec.quality is not None and spec.quality.regularizer != 0.0

    def label(self, n: int) -> Label:
        """Return what the logit of the label is."""
        angle, margin = self.angles[n], self.spec.margin
        on_m2, on_m3 = (b != 0 for b in margin.by_quality)
        psi = angle.psi
        depends = (on_m2 and (psi.cos_phi or psi.drop)) or (on_m3 and psi.m3)
        by_length = bool(depends) and moves(self.spec, self.samples[n])
        if angle.like_cosine or (margin.gradient == "detached" and not psi.circle):
            gradient = "as cosine"
        else:
            gradient = "constant" if angle.is_constant and not margin.annealing else "otherwise"
        by_scale = self.scale is None and not angle.is_cosine
        return Label(int(self.arrays["y"][n]), angle.is_cosine, gradient, by_length or by_scale)

    def logits(self, n: int) -> Sequence[Hashable]:
        """Return keys for η; for ψ, where it is neither cos θ nor known to be rational, "target"."""
        logits = [self.others.logit(n, k) for k in range(self.row_of.shape[1])]
        label = self.label(n)
        if not label.is_cosine:
            rational = self.angles[n].rational
            logits[label.k] = "target" if rational is None else rational
        return logits

    def present_logits(self, n: int) -> Sequence[Hashable]:
        """Return keys for η, for ψ this sample's m2, m3 and cos θ, and ‖x_n‖² where the length of x is the scale."""
        own, k = self.samples[n], self.label(n).k
        length = square_of(self.arrays["x"][n]) if self.scale is None else None
        target = (own.m2, own.m3, self.others.signed_square(n, k))
        return [(target if logit == "target" else logit, length) for logit in self.logits(n)]

    def value_is_zero(self, samples: Iterable[int]) -> bool:
        """Return whether these losses add up to 0; a regularizer is above 0, and nothing is claimed of sums with it."""
        return not self.regularized and super().value_is_zero(samples)

    def contribution_is_zero(self, name: str, n: int, row: int) -> Mask:
        """Return where the gradient on w_k, x_n or m_n is 0.

        On m_n it is a multiple of G of the label, of sin φ and the like, never 0 with an algebraic m2 ≠ 0 (Lindemann);
        where it is 0 otherwise, so are the balls.
        """
        if name == MARGINS.name:
            classes = self.classes(n)
            return np.array(classes.names[self.label(n).k] in classes.zero_gradient)
        return self._of_w(n, row) if name == "w" else self._of_x(n)

    def _of_w(self, n: int, row: int) -> Mask:
        """Where G_k = 0, or the logit does not change with the entry of w_k, or another center stands for the class."""
        x, _, dots = self.vectors.sample(n)
        classes, label = self.classes(n), self.label(n)
        k = row * self.row_of.shape[1] // len(self.vectors.w)
        if self.row_of[n, k] != row:
            return np.ones(x.shape, np.bool_)
        constant = label.gradient == "constant" if k == label.k else self.others.slope(n, k)[1] == 0
        if constant or classes.names[k] in classes.zero_gradient:
            return np.ones(x.shape, np.bool_)
        tangent = x * self.vectors.squares[row] - self.vectors.w[row] * dots[row]  # x less its part along w_k
        return np.asarray(tangent == 0)

    def _of_x(self, n: int) -> Mask:
        """Where Σ_k G_k η'_k r_k / ‖w_k‖ = 0, r_k being integers: see `_cancels`.

        r_k is the part of w_k across x or, where the scale is the length of x, w_k itself. What is a multiple of x
        beside has to be 0 by itself: of other classes, of the label and of the regularizer.
        """
        x, w, classes = self.vectors.sample(n).x, self.vectors.w[self.row_of[n]], self.classes(n)
        others, label, numbers = self.others, self.label(n), range(len(w))
        slopes = [others.slope(n, k) for k in numbers]
        if label.gradient != "as cosine":
            slopes[label.k] = others.target_slope(n, label.k) if label.gradient == "otherwise" else CONSTANT
        if self.scale is None:
            along_x = [others.along_x(n, k) for k in numbers]
            mask = _cancels(classes, slopes, w) & _cancels(classes, along_x, x[None])
        else:
            dots = np.array([others.product(n, k) for k in numbers], object)
            mask = _cancels(classes, slopes, w * int(x @ x) - dots[:, None] * x)
        by_label = label.by_length and classes.names[label.k] not in classes.zero_gradient
        if by_label or (self.regularized and not self._is_at_minimum(n)):
            mask &= (x == 0).astype(np.bool_)
        return mask

    def _is_at_minimum(self, n: int) -> bool:
        """Whether the regularizer λ (a/u² + 1/a) has the slope 0: at a = u, and where a is held."""
        assert self.spec.quality is not None
        return self.samples[n].side != 0 or self.samples[n].at == self.spec.quality.high


def _cancels(classes: Classes, multiples: Sequence[Multiple], r: BigInts, *, sums_to_zero: bool = True) -> Mask:
    """Where Σ_k G_k q_k l_k r_k is 0, r (C, D) being integers, q_k l_k rational multiples of numbers with keys.

    Classes with equal G and l are added. By Σ_k G_k = 0, what is the same multiple of G for every class is 0; without
    that, every multiple has to be 0.
    """
    sizes: dict[Name, int] = defaultdict(int)
    sums: dict[Hashable, dict[Name, BigInts]] = defaultdict(dict)
    zeros = np.zeros(r.shape[1], object)
    factors = np.array([[factor] for _, factor in multiples], object)
    for name, (key, _), part in zip(classes.names, multiples, factors * r, strict=True):
        if name not in classes.zero_gradient:
            sizes[name] += 1
            sums[key][name] = sums[key].get(name, zeros) + part
    mask = np.ones(r.shape[1], np.bool_)
    for by_name in sums.values():
        first = next(iter(sizes))
        for name, size in sizes.items():
            if not sums_to_zero:
                mask &= (by_name.get(name, zeros) == 0).astype(np.bool_)
                continue
            same = by_name.get(name, zeros) * sizes[first] == by_name.get(first, zeros) * size
            mask &= same.astype(np.bool_)
    return mask


# ------------------------------------------------------------------------------------------------------------- triplets


class TripletProofs(ProofsBySample):
    """The triplet loss with an open hinge; its value and gradients on p and n are 0 only where their balls are."""

    def __init__(self, triplets: Sequence[Triplet], squared: bool, upstream_is_zero: Mask):
        super().__init__(upstream_is_zero)
        self.triplets, self.squared = triplets, squared

    def value_is_zero(self, samples: Iterable[int]) -> bool:
        """Return False: such losses are positive."""
        return False

    def contribution_is_zero(self, name: str, n: int, row: int) -> Mask:
        """Return for the anchor where (a - p)/d(a, p) = (a - n)/d(a, n); with d := 1 for squared distances."""
        if name != "anchor":
            return np.array(False)
        to_positive, to_negative, near, far, _ = self.triplets[n]
        if self.squared:
            return np.asarray(to_positive == to_negative)
        # a distance of 0 has gradient 0, and so have its differences
        return np.asarray(to_positive * abs(to_positive) * (far or 1) == to_negative * abs(to_negative) * (near or 1))


# ---------------------------------------------------------------------------------------------------------- divergences


class DivergenceProofs(ProofsBySample):
    """Divergences of the softmaxes of rational logits z and t, of the model and of the target.

    Exponentials of distinct rational numbers are linearly independent over the rational numbers (Lindemann and
    Weierstrass): a sum of multiples of them is 0 only where the multiples of every one add up to 0.
    """

    def __init__(self, arrays: Arrays, form: str, masks: Masks, upstream_is_zero: Mask):
        super().__init__(upstream_is_zero)
        self.arrays, self.form, self.masks = arrays, form, masks

    def value_is_zero(self, samples: Iterable[int]) -> bool:
        """Return whether q = p in all of these samples: no loss is negative."""
        return all(self.is_equal(n) for n in samples)

    def is_equal(self, n: int) -> bool:
        """Return whether q = p: z - t is the same number for all classes."""
        z, t = self.logits("z", n), self.logits("target", n)
        return z.keys() == t.keys() and len({z[k] - t[k] for k in z}) == 1

    def logits(self, name: str, n: int) -> dict[int, Fraction]:
        """Return the logits of a side, by the classes that are not masked."""
        present = np.flatnonzero(getattr(self.masks, name)[n]).tolist()
        return {k: Fraction(self.arrays[name][n, k]) for k in present}

    def contribution_is_zero(self, name: str, n: int, row: int) -> Mask:
        """Return where the gradient on z or t is 0."""
        z, t = self.logits("z", n), self.logits("target", n)
        own, other = (z, t) if name == "z" else (t, z)
        absent = ~getattr(self.masks, name)[n]
        if self.form == "jensen-shannon":  # of disjoint classes it is log 2, whatever q and p are
            return np.asarray(absent | (self.is_equal(n) or len(own) == 1 or not own.keys() & other.keys()))
        if name == weighing(self.form):
            return np.asarray(absent | _expectation_is_equal(own, other, len(absent)))
        return np.asarray(_is_as_likely(z, t, len(absent)))


def _is_as_likely(z: dict[int, Fraction], t: dict[int, Fraction], classes: int) -> Mask:
    """Where q_k = p_k, or exp(z_k) Σ_j exp(t_j) = exp(t_k) Σ_j exp(z_j): the z_k + t_j are the t_k + z_j, reordered."""
    mask = np.ones(classes, np.bool_)
    for k in z.keys() | t.keys():
        mask[k] = (
            k in z
            and k in t
            and len(z) == len(t)
            and Counter(z[k] + other for other in t.values()) == Counter(t[k] + other for other in z.values())
        )
    return mask


def _expectation_is_equal(t: dict[int, Fraction], z: dict[int, Fraction], classes: int) -> Mask:
    """Where Σ_j p_j (d_j - d_k) = 0, d = z - t: the mean d of the classes of every single t is d_k.

    Where no class is on both sides, all z are the same number.
    """
    d = {k: z.get(k, Fraction(0)) - t[k] for k in t}
    groups: dict[Fraction, list[Fraction]] = defaultdict(list)
    for k in t:
        groups[t[k]].append(d[k])
    means = {sum(group, Fraction(0)) / len(group) for group in groups.values()}
    mask = np.zeros(classes, np.bool_)
    for k in t:
        mask[k] = means == {d[k]}
    return mask
