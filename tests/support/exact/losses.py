"""Values and gradients of loss objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from mpmath import mp, mpf

from support.exact.cross_entropies import Batch, Row, Settings, Weights
from support.exact.divergences import DivergenceBatch
from support.exact.heads import Head, name_of
from support.exact.links import head_of
from support.exact.numbers import GUARD, NAN, Array, Moved, exact, filled, places
from support.exact.qualities import real
from support.exact.stages import cross_entropy, triplet
from support.exact.triplets import Triple
from support.untraced import untraced


@untraced
def value(loss: Any, *inputs: Any, digits: int = 60, absolute: bool = False) -> Any:
    """The loss on these inputs: an mpf for "mean" and "sum", an array of mpf for "none".

    `absolute` gives what its terms add up to, their magnitudes taken: the same where all targets have one sign.
    """
    if name_of(loss) == "Triplet":
        return triplet(*inputs, m=loss.m, squared=loss.squared, reduction=loss.reduction, digits=digits)
    if name_of(loss) == "KLDivergence":
        with mp.workdps(digits + GUARD):
            return DivergenceBatch(*inputs, loss.form, loss.reduction).value(digits)
    if name_of(loss) == "CrossEntropy":
        return cross_entropy(*inputs, **Settings.of(loss)._asdict(), digits=digits, absolute=absolute)
    with mp.workdps(digits + GUARD):
        head = head_of(loss, *inputs)
        head.batch = head.batch.absolute() if absolute else head.batch
        losses, terms = [mpf(0)] * head.shape[0], [mpf(0)] * head.shape[0]
        for n in head.active():
            with mp.workdps(digits + GUARD + places(head.size(n))):
                row = head.row(n)
                of_square = head.batch.z_loss * row.square(absolute) if head.batch.z_loss else 0
                losses[n], terms[n] = row.value(), of_square + head.term(n)
        return head.batch.reduce(losses, terms)


class Wanted:
    """The gradient arrays being filled, and which of their entries are asked for (the others stay NaN)."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], entries: Mapping[str, Iterable[tuple[int, ...]]] | None):
        self.arrays = {name: filled(shape, mpf(0) if entries is None else NAN) for name, shape in shapes.items()}
        self.masks = {name: np.full(shape, entries is None) for name, shape in shapes.items()}
        for name, indices in (entries or {}).items():
            for index in indices:
                self.masks[name][tuple(index)] = True
                self.arrays[name][tuple(index)] = mpf(0)

    def as_rows(self, name: str) -> None:
        """Take the centers of all classes as rows."""
        for arrays in (self.arrays, self.masks):
            arrays[name] = arrays[name].reshape(-1, arrays[name].shape[-1])

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
    upstream_lse: Any = None,
    digits: int = 60,
    entries: Mapping[str, Iterable[tuple[int, ...]]] | None = None,
) -> dict[str, Array]:
    """The gradient of the loss in each floating input, by central differences; each array has its input's shape.

    The error is below 10**-digits of the row's absolute terms. `upstream` is the gradient of what follows the loss: a
    number, or an array of the loss's shape for "none"; `upstream_lse` is that of the log-sum-exps. `entries`, by name,
    are the indices to compute; all others, also those of inputs not named, are NaN.
    """
    if name_of(loss) == "Triplet":
        return triplet_gradients(loss, inputs, upstream, digits, entries)
    if name_of(loss) == "KLDivergence":
        return divergence_gradients(loss, inputs, upstream, digits, entries)
    if name_of(loss) == "CrossEntropy":
        return logit_gradients(loss, inputs, upstream, upstream_lse, digits, entries)
    with mp.workdps(digits + GUARD):
        head = head_of(loss, *inputs, upstream=upstream)
        weights = head.batch.weights(upstream, upstream_lse)
        of_terms = head.batch.of_terms(upstream)
    shapes = {"x": np.shape(inputs[0]), "w": np.shape(inputs[1])}
    shapes |= {name: array.shape for name, array in (("b", head.bias), ("m", head.given)) if array is not None}
    wanted = Wanted(shapes | dict.fromkeys(head.numbers, ()), entries)
    wanted.as_rows("w")
    for n in head.active():
        number_gradients(head, n, wanted, digits)
        if head.margin is None:
            linear_gradients(head, n, weights[n], wanted, digits)
        else:
            margin_gradients(head, n, weights[n], of_terms[n], wanted, digits)
    return wanted.arrays | {"w": wanted.arrays["w"].reshape(np.shape(inputs[1]))}


def logit_gradients(
    loss: Any, inputs: Sequence[Any], upstream: Any, upstream_lse: Any, digits: int, entries: Any
) -> dict[str, Array]:
    """CrossEntropy: a logit at a time moves by a step far below 1, the scale of exp, and below that of the cap."""
    numbers, y = exact(inputs[0]), inputs[1]
    size = numbers.shape[-1]
    tens = digits // 2 + 6
    settings = Settings.of(loss)
    cap = settings.cap
    wanted = Wanted({"z": numbers.shape}, entries)
    flat, mask = wanted.arrays["z"].reshape(-1, size), wanted.masks["z"].reshape(-1, size)
    with mp.workdps(digits + tens + GUARD):
        batch = Batch.of(y, numbers.shape, settings)
        step = mpf(10) ** -tens / cap.steepness()
        for n, (targets, weights) in enumerate(zip(batch.targets, batch.weights(upstream, upstream_lse), strict=True)):
            if targets is None:
                continue
            z = list(numbers.reshape(-1, size)[n])
            with mp.workdps(mp.dps + cap.places(z)):
                row = Row(z, targets, weights, cap)
                for k in np.flatnonzero(mask[n]).tolist():
                    flat[n, k] = row.change(k, -step, step) / (2 * step)
    return {"z": flat.reshape(numbers.shape)}


def linear_gradients(head: Head, n: int, weights: Weights, wanted: Wanted, digits: int) -> None:
    """SoftmaxLoss, sample n: a step moves logit k by step * w_ki (x), step * x_ni (w), step (b)."""
    x, classes = head.samples[n], head.rows
    tens = digits // 2 + 6
    norms = [w.norm() for w in classes if w.square]
    spread = places(max(norms) / min(norms)) if norms else 0
    with mp.workdps(digits + tens + spread + places(head.size(n)) + GUARD):
        row = head.row(n, weights)
        small = mpf(10) ** -tens / head.cap.steepness()
        step = small / max(norms) if norms else small
        for i in wanted.columns("x", n):
            up = [step * mp.ldexp(mpf(w.integers[i]), w.exponent) for w in classes]
            change = row.change_of_all([-number for number in up], up)
            wanted.add("x", (n, i), change / (2 * step))
        step = small / x.norm() if x.square else small
        for k in range(len(classes)):
            for i in wanted.columns("w", k):
                up = step * mp.ldexp(mpf(x.integers[i]), x.exponent)
                wanted.add("w", (k, i), row.change(k, -up, up) / (2 * step))
        if head.bias is not None:
            for k in np.flatnonzero(wanted.masks["b"]).tolist():
                wanted.add("b", k, row.change(k, -small, small) / (2 * small))


def margin_gradients(head: Head, n: int, weights: Weights, of_term: mpf, wanted: Wanted, digits: int) -> None:
    """A margin loss, sample n: entries of x move all logits, those of a class and a given margin one.

    Steps are relative to the norm of the row that moves: below 10**-(digits/2 + 6), below 1/s and 1/m1 times that and,
    where the target's angle moves, below sin theta times that, for psi changes over lengths of theta and pi - theta;
    where its margin moves, so that it moves by no more. Where the slope of psi is small, the step and the rounding are
    small against that too. Other classes whose angle counts are moved by steps that are small against its sine.
    """
    x, pair, label = head.samples[n], head.pairs[n], int(head.labels[n])
    slope, slope_of_v = (abs(number) or mpf(1) for number in (pair.slope(GUARD), pair.slope_of_v(GUARD)))
    tens = digits // 2 + 6 + places(head.size(n)) + places(pair.c.m1)
    tens_x, tens_label = tens + places(1 / pair.sine), tens + places(1 / pair.sine) + places(1 / slope) // 2 + 1
    tens_x += places(real(pair.quality.steepness) * x.norm())
    narrow = {k: places(1 / sine) for k, sine in head.others[n].sines.items()}
    tens_x = max(tens_x, tens + max(narrow.values(), default=0))
    faint = places(1 / head.size(n))  # logits that small change exp by as little
    flat = (
        places(1 / slope) if pair.c.boundary in ("circle", "power") else 0
    )  # other classes may have as little, or none

    shallow = head.shallow(n)
    flat = max(flat, *shallow)

    with mp.workdps(digits + tens_x + faint + flat + GUARD):
        row = head.row(n, weights)
        sample, move = head.sample(n), Moved.by(x, tens_x)
        step = move.length(x)
        for i in wanted.columns("x", n):
            change = row.change_of_all(sample.x_moved(i, move, -1), sample.x_moved(i, move, 1))
            if head.regularizer:
                of_length = sample.term_moved(i, move, 1) - sample.term_moved(i, move, -1)
                change += of_term * head.regularizer * of_length
            wanted.add("x", (n, i), change / (2 * step))

    def move_classes(which: Iterable[int], tens: int, extra: int) -> None:
        with mp.workdps(digits + tens + extra + GUARD):
            sample = head.sample(n)
            for k in which:
                move, center = Moved.by(sample.classes[k], tens), head.chosen[n][k]
                step = move.length(sample.classes[k])
                for i in wanted.columns("w", center):
                    change = row.change(k, sample.w_moved(k, i, move, -1), sample.w_moved(k, i, move, 1))
                    wanted.add("w", (center, i), change / (2 * step))

    for k in range(head.shape[1]):
        if k != label:
            move_classes([k], tens + narrow.get(k, 0), faint + shallow[k])
    move_classes([label], tens_label, faint + places(1 / slope))

    if head.given is not None and wanted.masks["m"][n]:
        tens_m = tens + places(1 / slope_of_v) // 2 + 1
        with mp.workdps(digits + tens_m + faint + places(1 / slope_of_v) + GUARD):
            sample, step = head.sample(n), mpf(10) ** -tens_m
            wanted.add("m", n, row.change(label, sample.m_moved(-step), sample.m_moved(step)) / (2 * step))


def number_gradients(head: Head, n: int, wanted: Wanted, digits: int) -> None:
    """Inputs that are one number, sample n: a bias moves all logits alike, and a scale those of larger cosines more."""
    tens = digits // 2 + 6
    with mp.workdps(digits + tens + places(head.size(n)) + GUARD):
        step = mpf(10) ** -tens
        for name in head.numbers:
            if wanted.masks[name]:
                up = [step * by for by in head.slopes_of(name, n)]
                change = head.row(n).change_of_all([-number for number in up], up)
                wanted.add(name, (), change / (2 * step))


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


def divergence_gradients(
    loss: Any, inputs: Sequence[Any], upstream: Any, digits: int, entries: Any
) -> dict[str, Array]:
    """KLDivergence: a logit at a time moves, on either side."""
    wanted = Wanted({name: np.shape(array) for name, array in zip(("z", "target"), inputs, strict=True)}, entries)
    masks = {name: mask.reshape(-1, mask.shape[-1]) for name, mask in wanted.masks.items()}
    with mp.workdps(digits + GUARD):
        batch = DivergenceBatch(*inputs, loss.form, loss.reduction)
        place = {id(row): n for n, row in enumerate(batch.rows)}

        def entry(row: Any, side: int, k: int) -> mpf:
            asked = masks[("z", "target")[side]][place[id(row)], k]
            return row.slope(side, k, digits) if asked else NAN

        return batch.filled(entry, batch.batch.coefficients(upstream))
