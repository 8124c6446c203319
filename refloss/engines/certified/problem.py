"""Problem: a loss on given inputs. What of it is known beforehand, exactly, and the balls of the rest."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from refloss.engines.certified.balls import Arb, Balls, arb, exact_balls, rational, zero_balls
from refloss.engines.certified.centers import nearest_centers
from refloss.engines.certified.class_curves import CircleClasses, ClassAngles, PowerClasses
from refloss.engines.certified.exact import IntegerVectors, parallel
from refloss.engines.certified.hard import HardClasses
from refloss.engines.certified.heads import Recorded, Scored, cross_entropy, divergence, linear, logits, margin, triplet
from refloss.engines.certified.hinges import known_triplets
from refloss.engines.certified.known import Rows
from refloss.engines.certified.link_zeros import SigmoidProofs, TwoWayProofs
from refloss.engines.certified.links import ExactLogits, held, sigmoid, two_way
from refloss.engines.certified.margins import SampleMargins, bound_notes, margins_of
from refloss.engines.certified.masks import known_divergences
from refloss.engines.certified.others import OtherClasses
from refloss.engines.certified.refinement import round_correctly
from refloss.engines.certified.sides import TargetAngle
from refloss.engines.certified.tape import Tape
from refloss.engines.certified.targets import known_rows
from refloss.engines.certified.zeros import (
    DivergenceProofs,
    LinearProofs,
    LogitsProofs,
    MarginProofs,
    Options,
    Proofs,
    TripletProofs,
)
from refloss.engines.counting import mean_over_zero
from refloss.engines.spec import (
    PER_CLASS,
    UPSTREAM_LSE,
    Arrays,
    Divergence,
    Linear,
    Logits,
    Margin,
    OnCosines,
    Spec,
    Triplet,
    TwoWay,
    WithCap,
    WithLabels,
    centers_of,
)
from refloss.error_free import Array, Integers, Mask
from refloss.stages.cross_entropy import Settings as CrossEntropySettings


class Problem:
    """A loss and, unless upstream is None, its gradients: entries known exactly, and balls at any precision."""

    known: dict[str, Array]
    """Entries known exactly, by "value" or the name of an input: 0, NaN or infinite."""
    unknown: dict[str, Mask]
    """Which entries are not known exactly."""
    notes: list[str]
    """Kinks and conventions."""

    def __init__(self, spec: Spec, arrays: Arrays, upstream: Array | None):
        if isinstance(spec, Triplet):
            parts = _triplet_parts(spec, arrays, upstream)
        elif isinstance(spec, Divergence):
            parts = _divergence_parts(spec, arrays, upstream)
        elif isinstance(spec, OnCosines):
            parts = _linked_parts(spec, arrays, upstream)
        else:
            parts = _labelled_parts(spec, arrays, upstream)
        self._rows, self._forward, self._proofs, self.notes = parts
        self._index = np.flatnonzero(self._rows.computed)
        self._upstream, self._upstream_lse = upstream, arrays.get(UPSTREAM_LSE)
        self._reduction = spec.reduction
        entries = {"value": self._rows.value(self._reduction)}
        if upstream is not None:
            names = [name for name in arrays if name in spec.differentiable()]
            entries |= {name: self._rows.gradient(name, arrays[name].shape) for name in names}
        self.known = {name: known for name, (known, _) in entries.items()}
        self.unknown = {name: unknown for name, (_, unknown) in entries.items()}

    def balls(self) -> dict[str, Balls]:
        """Return the value and, where they are wanted, the gradients, at the current precision."""
        out = {name: zero_balls(known.shape) for name, known in self.known.items()}
        if not len(self._index):
            return out
        tape = Tape()
        leaves, losses, lse = self._forward(tape)
        if self._reduction == "none":
            out["value"][self._index] = losses.value
        else:
            out["value"][()] = losses.value.sum() / self._divisor()
        if self._upstream is None:
            return out
        upstream = exact_balls(self._upstream[self._index] if self._upstream.ndim else self._upstream)
        outputs = [(losses, np.broadcast_to(upstream, losses.value.shape))]
        if lse is not None and self._upstream_lse is not None:
            outputs.append((lse, exact_balls(self._upstream_lse[self._index]) * self._divisor()))
        gradients = tape.backward(outputs, leaves)
        for name, gradient in gradients.items():  # divided last: a quotient that is a float, or a tie, is exact
            out[name][... if name in PER_CLASS else self._index] = gradient / self._divisor()
        return out

    def _divisor(self) -> Arb:
        return rational(self._rows.divisor if self._reduction == "mean" else Fraction(1))

    def is_zero(self, name: str, index: tuple[int, ...]) -> bool:
        """Return whether an unknown entry is proven to be 0."""
        if name == "value":
            return self._proofs.value_is_zero([self._sample(n) for n in index] or range(len(self._index)))
        if name not in PER_CLASS:
            index = self._sample(index[0]), *index[1:]
        return self._proofs.gradient_is_zero(name, index)

    def _sample(self, row: int) -> int:
        """Which of the computed rows it is."""
        return int(np.searchsorted(self._index, row))


class _Parts(NamedTuple):
    """What a problem consists of, by its head."""

    rows: Rows
    forward: Callable[[Tape], Recorded]
    """Computes the losses of the rows left to the balls."""
    proofs: Proofs
    notes: list[str]


def _triplet_parts(spec: Triplet, arrays: Arrays, upstream: Array | None) -> _Parts:
    """The triplet loss."""
    settings = spec.triplet
    rows, triplets = known_triplets(arrays, settings)
    computed = _computed(arrays, rows)
    triplets = [triplets[n] for n in np.flatnonzero(rows.computed)]
    equidistant = np.array([each.near == each.far for each in triplets], np.bool_)
    forward = partial(triplet, arrays=computed, m=settings.m, squared=settings.squared, equidistant=equidistant)
    return _Parts(rows, forward, TripletProofs(triplets, settings.squared, _is_zero(upstream, rows)), rows.notes)


def _divergence_parts(spec: Divergence, arrays: Arrays, upstream: Array | None) -> _Parts:
    """A divergence."""
    form = spec.divergence.form
    rows, masks = known_divergences(arrays, form, upstream)
    computed, masks = _computed(arrays, rows), masks.rows(rows.computed)
    forward = partial(divergence, arrays=computed, form=form, masks=masks)
    return _Parts(rows, forward, DivergenceProofs(computed, form, masks, _is_zero(upstream, rows)), rows.notes)


def _labelled_parts(spec: WithLabels, arrays: Arrays, upstream: Array | None) -> _Parts:
    """A loss that ends in cross entropy."""

    def value_of(other: WithLabels) -> Array:
        return round_correctly(Problem(other, arrays, None))["value"]

    capped = isinstance(spec, WithCap) and spec.softcap.softcap is not None
    over_zero, centers = (lambda: mean_over_zero(spec, value_of)), centers_of(spec) or 1
    rows, targets = known_rows(arrays, spec.cross_entropy, over_zero, capped=capped, centers=centers)
    computed, targets, z_loss = _computed(arrays, rows), targets.rows(rows.computed), spec.cross_entropy.z_loss
    upstream_is_zero, lse_counts = _is_zero(upstream, rows), ~_is_zero(arrays.get(UPSTREAM_LSE, 0.0), rows)
    lse_counts = lse_counts | (~upstream_is_zero & (z_loss != 0.0))
    upstream_is_zero = upstream_is_zero & ~lse_counts
    options = Options(capped, z_loss != 0.0, lse_counts)
    head: Callable[[Tape], Scored]
    proofs: Proofs
    match spec:
        case Logits():
            head = partial(logits, arrays=computed, present=targets.present, settings=spec.softcap)
            proofs = LogitsProofs(computed, targets, upstream_is_zero, options)
        case Linear():
            head = partial(linear, arrays=computed, settings=spec.softcap)
            proofs = LinearProofs(computed, targets, upstream_is_zero, options)
        case _:  # Margin
            decided = _decide(spec, computed, rows)
            head = _margin_head(spec, computed, decided)
            proofs = MarginProofs(computed, spec, *decided, targets, upstream_is_zero)
    share = rows.divisor / _counted(arrays, spec.cross_entropy) if spec.reduction == "mean" else Fraction(1)

    def forward(tape: Tape) -> Recorded:
        leaves, z, terms = head(tape)
        losses, lse = cross_entropy(z, targets)
        # terms are divided by the number of rows, not by the sum of their weights, as all is in the end
        if terms is not None:
            losses = losses + terms * rational(share)
        if z_loss:
            of_row = arb(z_loss) * rational(share)
            losses = losses + lse * lse * of_row
        return Recorded(leaves, losses, lse)

    return _Parts(rows, forward, proofs, rows.notes)


def _linked_parts(spec: OnCosines, arrays: Arrays, upstream: Array | None) -> _Parts:
    """A loss that ends otherwise on scaled cosines."""
    rows, targets = known_rows(arrays, spec.cross_entropy, lambda: np.array(np.nan))
    computed, targets = _computed(arrays, rows), targets.rows(rows.computed)
    decided = _decide(spec.logits, computed, rows)
    head, vectors = _margin_head(spec.logits, computed, decided), decided.vectors
    upstreams = np.broadcast_to(0.0 if upstream is None else upstream, rows.computed.shape)[rows.computed]
    if isinstance(spec, TwoWay):
        ways = spec.ways
        exact_logits = ExactLogits(spec.logits, computed, decided.others)
        proofs: Proofs = TwoWayProofs(exact_logits, vectors, upstreams, ways)
        return _Parts(rows, lambda tape: two_way(head(tape), targets, ways), proofs, rows.notes)
    link = spec.link
    exact_logits = ExactLogits(spec.logits, computed, decided.others, link.bias_sign)
    sides, notes = held(exact_logits, link.bound)
    for row, of_row in zip(np.flatnonzero(rows.computed), notes, strict=True):
        rows.notes.extend(f"row {row}: {note}" for note in of_row)
    proofs = SigmoidProofs(exact_logits, vectors, upstreams, computed["y"], link, sides)
    return _Parts(rows, lambda tape: sigmoid(tape, head(tape), computed, link, sides), proofs, rows.notes)


def _counted(arrays: Arrays, settings: CrossEntropySettings) -> int:
    """The number of rows that count, 1 if none does."""
    y = arrays["y"]
    return len(y) if y.ndim == 2 else max(1, int(np.count_nonzero(y != settings.ignore_index)))


class _Decided(NamedTuple):
    """What is decided exactly of a margin head."""

    samples: list[SampleMargins]
    angles: list[TargetAngle]
    others: OtherClasses
    vectors: IntegerVectors
    row_of: Integers
    """Which row of w stands for a class (N, C)."""


def _decide(spec: Margin, computed: Arrays, rows: Rows) -> _Decided:
    """Make every decision on a margin head, and note what is at a boundary."""
    x, w, y = computed["x"], computed["w"], computed["y"]
    samples = margins_of(computed, spec)
    vectors = IntegerVectors(x, w, directions=True)
    row_of, ties = nearest_centers(vectors, len(y), spec.centers)
    targets_w = w[row_of[np.arange(len(y)), y]]
    angles = [TargetAngle(a, b, spec.margin, own) for a, b, own in zip(x, targets_w, samples, strict=True)]
    others = _others(spec, y, vectors, row_of, angles)
    each_row = zip(np.flatnonzero(rows.computed), ties, samples, angles, others.notes, strict=True)
    for row, tied, own, angle, of_others in each_row:
        rows.notes.extend(f"row {row}: {note}" for note in (*tied, *bound_notes(spec, own), *angle.notes, *of_others))
    return _Decided(samples, angles, others, vectors, row_of)


def _margin_head(spec: Margin, computed: Arrays, decided: _Decided) -> Callable[[Tape], Scored]:
    """A margin head as it is decided."""
    x, w = computed["x"], computed["w"]
    return partial(
        margin,
        arrays=computed,
        spec=spec,
        samples=decided.samples,
        angles=decided.angles,
        others=decided.others,
        row_of=decided.row_of,
        parallel=cache(lambda n, row: parallel(x[n], w[row])),
    )


def _others(
    spec: Margin, y: Array, vectors: IntegerVectors, row_of: Integers, angles: list[TargetAngle]
) -> OtherClasses:
    """What becomes of the cosines of other classes."""
    if spec.class_angles is not None:
        kind = PowerClasses if spec.class_angles.rule == "power" else ClassAngles
        return kind(spec.class_angles, y, vectors, row_of)
    if spec.negatives is None:
        return OtherClasses(y, vectors, row_of)
    if spec.negatives.rule == "circle":
        return CircleClasses(spec.negatives, y, vectors, row_of)
    return HardClasses(spec.negatives, y, vectors, row_of, angles)


def _computed(arrays: Arrays, rows: Rows) -> Arrays:
    """The inputs of the computed rows."""
    return {name: array if name in PER_CLASS else array[rows.computed] for name, array in arrays.items()}


def _is_zero(upstream: Array | float | None, rows: Rows) -> Mask:
    """Where the upstream gradient of a computed row is 0."""
    is_zero = np.broadcast_to(np.asarray(upstream) == 0.0, rows.computed.shape)
    return np.asarray(is_zero[rows.computed])
