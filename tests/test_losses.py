"""Properties every loss has, whatever its inputs. u = 2^-53.

Two results that must be the same number are each within the contract of `checks.allowed` of that number, so they are
within twice the contract of each other; where the arithmetic is the same, or exact, the bits are the same and nothing
less is asked.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mp

import refloss
from support import cases, centers, checks, exact, nearest, strategies, textbook
from support.checks import TWICE
from support.checks import value_and_gradients as of
from support.exact.margins import Curve
from support.exact.qualities import quality_of, real
from support.textbook import SETTINGS
from support.textbook import inputs as ordinary

U = checks.U
FAMILIES = {
    "plain": strategies.PLAIN,
    "multiplied": strategies.MULTIPLIED,
    "lowered": strategies.LOWERED,
    "added": strategies.ADDED,
    "combined": strategies.COMBINED,
    "hard classes": strategies.HARD,
    "curves of classes": strategies.CURVES,
}
by_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
heads = strategies.cases(lengths=False) | strategies.linear_cases(lengths=False)
margin_heads = strategies.cases(lengths=False)
by_length, given_margins, of_centers = strategies.length_cases(), strategies.given_cases(), strategies.center_cases()
all_heads = heads | by_length | given_margins | of_centers | strategies.curve_cases()
triplets = strategies.triplets()
divergences = strategies.divergences()
upstreams = st.lists(st.sampled_from((1.0, -0.5, 3.0, 0.25, 0.1)), min_size=3, max_size=3).map(np.array)


def same(first, second):
    """The same bits, except for the sign of zero."""
    assert np.array_equal(first, second, equal_nan=True), (first, second)


def all_same(first, second):
    (value, gradients), (other, others) = first, second
    same(value, other)
    for name, gradient in checks.as_dict(gradients).items():
        same(gradient, checks.as_dict(others)[name])


def agree(loss, inputs, first, second, rounded=0.0):
    """Two (value, gradients) of loss at inputs, within twice the contract and `rounded` u of what came after it."""
    value_allowed, gradient_allowed = checks.allowed(loss, *inputs)
    error = exact.value_error(first[0], exact.exact(second[0]))
    assert error <= TWICE * value_allowed + rounded, f"values {first[0]} and {second[0]} are {error:.3g}u apart"
    terms = exact.absolute_terms(loss, *inputs)
    others = checks.as_dict(second[1])
    for name, gradient in checks.as_dict(first[1]).items():
        error = exact.row_error(gradient, exact.exact(others[name]), terms[name])
        assert error <= TWICE * gradient_allowed + rounded, f"gradients of {name} are {error:.3g}u apart"


def mean_of_nothing(loss, inputs):
    """Whether all rows are ignored and "mean" divides 0 by 0."""
    if isinstance(loss, refloss.Triplet | refloss.KLDivergence) or loss.reduction != "mean":
        return False
    return np.all(inputs[1 if len(inputs) == 2 else 2] == loss.ignore_index)


def reordered(loss, y, order):
    """The loss and its labels (or probabilities) when class order[k] is moved to place k."""
    if loss.class_weight is not None:
        loss = replace(loss, class_weight=np.array(loss.class_weight)[order])
    if y.ndim == 2:
        return loss, y[:, order]
    moved = y.copy()
    moved[y != loss.ignore_index] = np.argsort(order)[y[y != loss.ignore_index]]
    return loss, moved


def ties(loss, x, w, y):
    """Whether of equal cosines some are among the nearest and some are not: then the first of them are."""
    if not isinstance(loss, refloss.InterTopK):
        return False
    kept = y != loss.ignore_index
    x, y, turned = x[kept], y[kept], len(w) - 1 - y[kept]
    return not np.array_equal(nearest.truth(x, w, y, loss.k), nearest.truth(x, w[::-1], turned, loss.k)[:, ::-1])


@st.composite
def on_logits(draw, *, classes=None, weighted=True, soft=True, ignored=True, **options):
    """CrossEntropy and its inputs: (loss, (z, y))."""
    z = draw(strategies.logits(classes=classes, **options))
    loss = refloss.CrossEntropy(**(draw(strategies.shared(z.shape[1])) if weighted else {}))
    y = draw(strategies.labels(z, ignored) | strategies.probabilities(z) if soft else strategies.labels(z, ignored))
    return loss, (z, y)


# --------------------------------------------------------------------------------------------------------- the contract


@by_family
@settings(max_examples=80)
@given(data=st.data())
def test_margin_losses_keep_the_contract(family, data):
    loss, inputs = data.draw(strategies.cases(among=family))
    checks.against_exact(loss, *inputs)


@settings(max_examples=100)
@given(by_length | given_margins)
def test_losses_with_margins_per_sample_keep_the_contract(case):
    loss, inputs = case
    checks.against_exact(loss, *inputs)


@settings(max_examples=100)
@given(of_centers)
def test_losses_with_centers_keep_the_contract(case):
    loss, inputs = case
    checks.against_exact(loss, *inputs)


@settings(max_examples=100)
@given(strategies.curve_cases(), st.sampled_from(("chain", "dd")))
def test_losses_with_curves_of_other_classes_keep_the_contract(case, engine):
    loss, inputs = case
    checks.against_exact(loss, *inputs, engine=engine)


@settings(max_examples=100)
@given(strategies.link_cases(), st.sampled_from(("chain", "dd")))
def test_questions_and_pairs_keep_the_contract(case, engine):
    loss, inputs = case
    checks.against_exact(loss, *inputs, engine=engine)


@settings(max_examples=40)
@given(strategies.link_cases(), upstreams)
def test_questions_and_pairs_keep_the_contract_for_every_upstream_gradient(case, upstream):
    loss, inputs = case
    upstream = upstream[: len(inputs[0])] if loss.reduction == "none" else upstream[0]
    checks.against_exact(loss, *inputs, upstream=upstream)


@settings(max_examples=80)
@given(strategies.linear_cases())
def test_the_softmax_loss_keeps_the_contract(case):
    loss, inputs = case
    checks.against_exact(loss, *inputs)


@settings(max_examples=150)
@given(on_logits())
def test_cross_entropy_keeps_the_contract(case):
    loss, inputs = case
    checks.against_exact(loss, *inputs)


@settings(max_examples=100)
@given(triplets)
def test_the_triplet_loss_keeps_the_contract(case):
    loss, inputs = case
    checks.against_exact(loss, *inputs)


@settings(max_examples=100)
@given(divergences)
def test_divergences_keep_the_contract(case):
    loss, inputs = case
    checks.against_exact(loss, *inputs)


@settings(max_examples=25)
@given(divergences, st.data())
def test_the_order_of_classes_and_a_shift_of_either_side_change_nothing_in_divergences(case, data):
    loss, (z, target) = case
    first = of(loss, z, target)
    order = data.draw(st.permutations(range(z.shape[1])))
    value, gradients = of(loss, z[:, order], target[:, order])
    agree_or_infinite(
        loss, (z, target), first, (value, {name: g[:, np.argsort(order)] for name, g in gradients.items()})
    )
    for moved in ((z + 0.0, target + 8.0), (z - 4.0, target)):
        if all(is_shifted(one, other) for one, other in zip(moved, (z, target), strict=True)):
            agree_or_infinite(loss, (z, target), first, of(loss, *moved))


def is_shifted(one, other):
    """Whether a sum was not rounded: all logits that are not masked moved by the same number."""
    finite = np.isfinite(other)
    apart = one[finite] - other[finite]
    return (apart == apart[0]).all() and np.array_equal(one[finite] - apart[0], other[finite])


def agree_or_infinite(loss, inputs, first, second):
    """Agree, where there are bounds to agree within."""
    assert np.array_equal(np.isfinite(first[0]), np.isfinite(second[0]))
    if np.isfinite(first[0]).all():
        agree(loss, inputs, first, second)


@settings(max_examples=40)
@given(all_heads, upstreams)
def test_the_contract_holds_for_every_upstream_gradient(case, upstream):
    loss, inputs = case
    if loss.reduction == "none":
        checks.against_exact(loss, *inputs, upstream=upstream[: len(inputs[0])])
    else:
        checks.against_exact(loss, *inputs, upstream=upstream[0])


@settings(max_examples=150)
@given(strategies.cases() | strategies.linear_cases() | on_logits(masked=False) | on_logits(weighted=False) | triplets)
def test_values_and_gradients_are_finite_wherever_the_mathematics_is(case):
    loss, inputs = case
    value, gradients = of(loss, *inputs)
    assert np.isnan(value) if mean_of_nothing(loss, inputs) else np.isfinite(value).all()
    for gradient in gradients.values():
        assert np.isfinite(gradient).all()


# ----------------------------------------------------------------------------------------------------------- symmetries


@settings(max_examples=100)
@given(on_logits(short=True), st.integers(-(2**20), 2**20) | st.sampled_from((2**40, -(2**44))))
def test_a_shift_of_all_logits_changes_no_bit(case, sixteenths):
    loss, (z, y) = case
    c = sixteenths / 16
    moved = z + c
    same(moved - c, z)  # the shift is exact
    all_same(of(loss, moved, y), of(loss, z, y))
    same(refloss.softmax(moved), refloss.softmax(z))
    same(refloss.log_softmax(moved), refloss.log_softmax(z))


@settings(max_examples=40)
@given(all_heads, st.data())
def test_the_order_of_classes_does_not_matter(case, data):
    loss, (x, w, y, *b) = case
    assume(not ties(loss, x, w, y))
    order = np.array(data.draw(st.permutations(range(len(w)))))
    other, labels = reordered(loss, y, order)
    by_class = isinstance(loss, refloss.SoftmaxLoss)
    value, gradients = of(other, x, w[order], labels, *(more[order] if by_class else more for more in b))
    back = {
        name: gradient if name in ("x", "m") else gradient[np.argsort(order)] for name, gradient in gradients.items()
    }
    agree(loss, (x, w, y, *b), (value, back), of(loss, x, w, y, *b))


@settings(max_examples=40)
@given(on_logits(), st.data())
def test_the_order_of_given_classes_does_not_matter(case, data):
    loss, (z, y) = case
    order = np.array(data.draw(st.permutations(range(z.shape[1]))))
    other, moved = reordered(loss, y, order)
    value, gradients = of(other, z[:, order], moved)
    agree(loss, (z, y), (value, {"z": gradients["z"][:, np.argsort(order)]}), of(loss, z, y))


@settings(max_examples=40)
@given(all_heads | on_logits() | triplets, st.data())
def test_the_order_of_samples_does_not_matter(case, data):
    loss, inputs = case
    order = np.array(data.draw(st.permutations(range(len(inputs[0])))))
    by_class = {1} if hasattr(loss, "label_smoothing") and len(inputs) > 2 else set()
    by_class |= {3} if isinstance(loss, refloss.SoftmaxLoss) else set()
    moved = [array if place in by_class else array[order] for place, array in enumerate(inputs)]
    value, gradients = of(loss, *moved)
    back = np.argsort(order)
    gradients = {name: array if name in ("w", "b") else array[back] for name, array in gradients.items()}
    agree(loss, inputs, (value[back] if loss.reduction == "none" else value, gradients), of(loss, *inputs))


@settings(max_examples=40)
@given(all_heads, st.data())
def test_reflections_and_swapped_axes_turn_the_gradients_with_them(case, data):
    loss, (x, w, *rest) = case
    axes = np.array(data.draw(st.permutations(range(x.shape[1]))))
    signs = np.array(data.draw(st.lists(st.sampled_from((1.0, -1.0)), min_size=len(axes), max_size=len(axes))))
    value, gradients = of(loss, x[:, axes] * signs, w[..., axes] * signs, *rest)
    for name in ("x", "w"):
        gradients[name] = (gradients[name] * signs)[..., np.argsort(axes)]
    agree(loss, (x, w, *rest), (value, gradients), of(loss, x, w, *rest))


@settings(max_examples=40)
@given(strategies.link_cases(), st.data())
def test_the_order_of_samples_and_pairs_does_not_matter(case, data):
    loss, (x, w, *rest) = case
    order = np.array(data.draw(st.permutations(range(len(x)))))
    of_labels, back = hasattr(loss, "ignore_index"), np.argsort(order)
    moved = (w, rest[0][order], *rest[1:]) if of_labels else (w[order], *rest)
    value, gradients = of(loss, x[order], *moved)
    gradients["x"] = gradients["x"][back]
    gradients["w"] = gradients["w"] if of_labels else gradients["w"][back]
    agree(loss, (x, w, *rest), (value[back] if loss.reduction == "none" else value, gradients), of(loss, x, w, *rest))


@settings(max_examples=40)
@given(strategies.link_cases(), st.data())
def test_swapped_axes_turn_the_gradients_of_questions_and_pairs_with_them(case, data):
    loss, (x, w, *rest) = case
    axes = np.array(data.draw(st.permutations(range(x.shape[1]))))
    value, gradients = of(loss, -x[:, axes], -w[:, axes], *rest)
    for name in ("x", "w"):
        gradients[name] = -gradients[name][:, np.argsort(axes)]
    agree(loss, (x, w, *rest), (value, gradients), of(loss, x, w, *rest))


def lengthened(array, powers):
    return np.ldexp(array, powers[:, None])


def normal(*arrays):
    """Where none of them is below the normal range, in which powers of two are no longer exact."""
    return np.all([(np.abs(array) >= 2.0**-1022) | (array == 0.0) for array in arrays], axis=0)


powers = st.lists(st.integers(-20, 300), min_size=5, max_size=5).map(np.array)


@settings(max_examples=50)
@given(strategies.link_cases(), powers, powers)
def test_lengths_of_questions_and_pairs_change_no_bit(case, of_x, of_w):
    """Rows times powers of two: gradients shrink by just that, and those of numbers stay what they are."""
    loss, (x, w, *rest) = case
    of_x, of_w = of_x[: len(x)], of_w[: len(w)]
    value, gradients = of(loss, x, w, *rest)
    scaled, others = of(loss, lengthened(x, of_x), lengthened(w, of_w), *rest)
    same(value, scaled)
    for name, by in (("x", of_x), ("w", of_w)):
        expected = lengthened(gradients.pop(name), -by)
        counted = normal(expected, others[name])
        same(others[name][counted], expected[counted])
    for name, number in gradients.items():
        same(others[name], number)


HADAMARD = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


@st.composite
def short_heads(draw):
    """Four dimensions, entries of at most 36 bits; embeddings down to 1e-8 and up to pi from their class."""
    classes = draw(st.integers(1, 4))
    loss = draw(strategies.losses(settings=True, classes=classes))
    w = draw(strategies.matrices(classes, 4, strategies.QUARTERS))
    y = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=3)))
    across = draw(strategies.matrices(len(y), 4, strategies.QUARTERS))
    share = np.array([[draw(st.sampled_from((0.0, 1.0, 3.0, -1.0)))] for _ in y])
    x = share * w[y] + np.where(share == 0.0, 1.0, draw(st.sampled_from((1.0, 2.0**-10, 2.0**-26, 0.0)))) * across
    return loss, (x, w, y)


@settings(max_examples=40)
@given(short_heads())
def test_a_rotation_turns_the_gradients_with_it(case):
    """Turning back adds 4 numbers up to the row's terms and halves them: twice their error, and 3u 4/2 = 6u more."""
    loss, (x, w, y) = case
    assume(x.any(axis=1).all())
    turned = x @ HADAMARD, w @ HADAMARD
    same(turned[0] @ HADAMARD, x)  # the rotation is exact
    value, gradients = of(loss, *turned, y)
    back = value, {name: gradient @ HADAMARD for name, gradient in gradients.items()}
    agree(loss, (x, w, y), back, of(loss, x, w, y), rounded=checks.allowed(loss, x, w)[1] + 6.0)


@settings(max_examples=50)
@given(margin_heads, powers, powers)
def test_lengths_that_do_not_count_change_no_bit(case, of_x, of_w):
    """Rows of w, and of x where the scale is not their length, times powers of two: gradients shrink by just that."""
    loss, (x, w, y) = case
    of_x, of_w = of_x[: len(x)], of_w[: len(w)]
    if getattr(loss, "s", None) is None:
        of_x = np.zeros_like(of_x)
    value, gradients = of(loss, x, w, y)
    scaled, scaled_gradients = of(loss, lengthened(x, of_x), lengthened(w, of_w), y)
    same(value, scaled)
    for name, by in (("x", of_x), ("w", of_w)):
        expected = lengthened(gradients[name], -by)
        counted = normal(gradients[name], expected, scaled_gradients[name])
        same(scaled_gradients[name][counted], expected[counted])


@settings(max_examples=40)
@given(short_heads(), st.sampled_from((3.0, 5.0, 0.75)), st.sampled_from((3.0, 7.0)))
def test_lengths_that_do_not_count_change_nothing(case, of_x, of_w):
    """The same with factors that are no powers of two; dividing the gradients out again rounds once, 1u."""
    loss, (x, w, y) = case
    assume(x.any(axis=1).all())
    if getattr(loss, "s", None) is None:
        of_x = 1.0
    value, gradients = of(loss, of_x * x, of_w * w, y)
    back = value, {"x": gradients["x"] * of_x, "w": gradients["w"] * of_w}
    agree(loss, (x, w, y), back, of(loss, x, w, y), rounded=1.0)


@settings(max_examples=50)
@given(margin_heads)
def test_gradients_are_orthogonal_to_what_only_gives_a_direction(case):
    """Every entry of a row may be wrong by the contract, so v . dL/dv by that times the sum of |v_i|."""
    loss, (x, w, y) = case
    gradients = of(loss, x, w, y)[1]
    terms = exact.absolute_terms(loss, x, w, y)
    allowed = checks.allowed(loss, x, w)[1] * U
    for name, vectors in (("x", x), ("w", w)):
        if name == "x" and getattr(loss, "s", None) is None:
            continue
        for v, gradient, size in zip(vectors, gradients[name], terms[name], strict=True):
            along = sum(Fraction(a) * Fraction(b) for a, b in zip(v.tolist(), gradient.tolist(), strict=True))
            assert abs(along) <= allowed * np.abs(v).sum() * max(size, 2.0**-1022)


@settings(max_examples=60)
@given(strategies.link_cases(ignored=False), upstreams)
def test_traces_of_questions_and_pairs_are_what_they_are_made_of(case, upstream):
    """The value and the gradients of numbers from the stages: sums, within 2u of the sizes of N rounded rows each.

    A cosine of the chain is wrong by 3u, and the sum over n and k has NC of them.
    """
    loss, (x, w, *rest) = case
    upstream = upstream[: len(x)] if loss.reduction == "none" else upstream[0]
    trace = loss.trace(x, w, *rest, upstream=upstream)
    value, gradients = of(loss, x, w, *rest, upstream=upstream)
    rows = trace["two_way" if isinstance(loss, refloss.InfoNCE) else "binary_cross_entropy"].output
    reduced = {"none": rows, "sum": math.fsum(rows), "mean": math.fsum(rows) / len(rows)}[loss.reduction]
    np.testing.assert_allclose(value, reduced, rtol=4.0 * U)
    same(trace["reduction"].output, value)
    dz = trace["logits"].gradient
    if "bias" in trace:
        held = np.abs(trace["bias"].output) >= getattr(loss, "s", np.inf)
        moved = dz == trace["bias"].gradient
        assert moved[~held].all()
        assert (moved | (dz == 0.0)).all()
        if not isinstance(loss, refloss.UniFace):
            assert moved.all()
    sizes = 4.0 * U * np.abs(dz).sum()
    if "b" in gradients:
        sign = -1.0 if isinstance(loss, refloss.UniFace) else 1.0
        assert abs(gradients["b"] - sign * math.fsum(dz.ravel())) <= sizes
    for name in {"t", "s"} & set(gradients):
        by_cosine = math.fsum((dz * trace["cosine"].output).ravel())
        assert abs(gradients[name] - by_cosine) <= (2.0 + dz.size) * sizes


# ------------------------------------------------------------------------------------------------- sums, bounds, orders


@settings(max_examples=100)
@given(on_logits(weighted=False, soft=False))
def test_gradients_on_logits_add_up_to_nothing(case):
    """Every entry is within 8u of itself, so the sum is within 8u of the sum of sizes."""
    loss, (z, y) = case
    for row in of(loss, z, y)[1]["z"]:
        assert abs(math.fsum(row)) <= 8.0 * (1 + 16 * U) * U * math.fsum(np.abs(row)) + 2.0**-1074 * len(row)


@settings(max_examples=40)
@given(on_logits())
def test_gradients_on_logits_add_up_to_nothing_for_any_targets(case):
    """Here every entry is within 8u of its terms p_k T + t_k."""
    loss, (z, y) = case
    terms = exact.absolute_terms(loss, z, y)["z"]
    for row, sizes in zip(of(loss, z, y)[1]["z"], terms, strict=True):
        assert abs(math.fsum(row)) <= 8.0 * U * math.fsum(sizes) + 2.0**-1074 * len(row)


@settings(max_examples=40)
@given(strategies.linear_cases(lengths=False))
def test_gradients_of_a_bias_add_up_to_nothing(case):
    """Whatever the logits: so their rounding does not count here, and 8u of the terms is what cross entropy leaves."""
    loss, (x, w, y, *_) = case
    inputs = x, w, y, np.zeros(len(w))
    gradient = of(loss, *inputs)[1]["b"]
    terms = exact.absolute_terms(loss, *inputs)["b"]
    assert abs(math.fsum(gradient)) <= 8.0 * (1 + 16 * U) * U * math.fsum(terms) + 2.0**-1074 * len(w) * len(x)


@settings(max_examples=60)
@given(strategies.logits())
def test_logsumexp_lies_between_the_largest_logit_and_that_plus_log_c(z):
    """log1p and the sum in it err by at most 3u log C, adding M by u of the result: 4u max(|M|, log C) in all."""
    largest, log_sums = z.max(axis=1), refloss.logsumexp(z)
    assert (log_sums >= largest).all()
    if z.shape[1] == 1:
        same(log_sums, largest)
    for m, number in zip(largest, log_sums, strict=True):
        with mp.workdps(40):
            log_c = mp.log(z.shape[1])
            assert exact.exact(number) <= exact.exact(m) + log_c + 4 * exact.UNIT * max(abs(m), log_c)


@settings(max_examples=60)
@given(strategies.logits())
def test_probabilities_add_up_to_one(z):
    """Each is within 8u of itself: exp, its correction, their sum, a division."""
    for row in refloss.softmax(z):
        assert abs(math.fsum(row) - 1.0) <= 8.0 * U


@settings(max_examples=60)
@given(heads | on_logits() | triplets)
def test_losses_are_not_negative(case):
    loss, inputs = case
    value = loss(*inputs)
    assert mean_of_nothing(loss, inputs) or (value >= 0.0).all()


@settings(max_examples=30)
@given(
    strategies.cases(settings=False, lengths=False, among=[refloss.ArcFace()], reduction="none"),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
)
def test_a_larger_angular_margin_costs_more_up_to_pi(case, low, high):
    loss, (x, w, y) = case
    low, high = sorted((low, high))
    x, y = x[y != loss.ignore_index], y[y != loss.ignore_index]
    assume(len(x))
    most = math.pi - float(exact.angle(x, w[y]).max()) - 1e-12
    assume(most > 0.0)
    small, large = (replace(loss, m=share * most) for share in (low, high))
    allowed = TWICE * checks.allowed(loss, x, w)[0] * U
    assert (small(x, w, y) <= large(x, w, y) * (1.0 + allowed)).all()
    theta = loss.trace(x, w, y)["angle"].output
    assert (large.target_logit(theta) <= small.target_logit(theta)).all()


@settings(max_examples=40)
@given(margin_heads, st.sampled_from(("cosine", "multiplied")), st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_a_larger_margin_on_the_cosine_or_a_larger_multiple_costs_more(case, kind, low, high):
    loss, (x, w, y) = case
    low, high = sorted((low, high))
    s = getattr(loss, "s", None)
    if kind == "cosine":
        small, large = (refloss.CosFace(s=s, m=m, reduction="none") for m in (low, high))
    else:
        small, large = (refloss.ASoftmax(s=s, m=1.0 + m, reduction="none") for m in (low, high))
    allowed = TWICE * checks.allowed(loss, x, w)[0] * U
    assert (small(x, w, y) <= large(x, w, y) * (1.0 + allowed)).all()


# ----------------------------------------------------------------------------------------- losses that are other losses


def test_aliases():
    assert refloss.SphereFace is refloss.ASoftmax
    assert refloss.AMSoftmax is refloss.CosFace


def targets_of(loss):
    return {name: getattr(loss, name) for name in ("reduction", "label_smoothing", "class_weight", "ignore_index")}


def shared_settings(loss):
    return targets_of(loss) | {"gradient": loss.gradient}


@settings(max_examples=25)
@given(margin_heads)
def test_without_a_margin_all_are_the_same(case):
    loss, inputs = case
    common = shared_settings(loss)
    s = getattr(loss, "s", None)
    plain = of(refloss.NormFace(s=s, **common), *inputs)
    all_same(of(refloss.CosFace(s=s, m=0.0, **common), *inputs), plain)
    all_same(of(refloss.ArcFace(s=s, m=0.0, **common), *inputs), plain)
    all_same(of(refloss.CombinedMargin(s=s, m1=1.0, m2=0.0, m3=0.0, **common), *inputs), plain)
    all_same(of(refloss.ASoftmax(s=s, m=1.0, **common), *inputs), plain)
    all_same(of(refloss.ASoftmax(m=1.0, **common), *inputs), of(refloss.ModifiedSoftmax(**common), *inputs))
    all_same(of(refloss.NormFace(s=None, **common), *inputs), of(refloss.ModifiedSoftmax(**common), *inputs))


SPECIAL = [
    loss
    for loss in (*strategies.ADDED, *strategies.LOWERED, *strategies.MULTIPLIED)
    if not getattr(loss, "annealing", 0.0) and (getattr(loss, "m", 1.0), loss.boundary) != (1.0, "monotone")
]  # CombinedMargin has no annealing, and refuses "monotone" where phi never passes pi


@settings(max_examples=60)
@given(strategies.cases(lengths=False, among=SPECIAL))
def test_the_combined_margin_contains_its_special_cases(case):
    loss, inputs = case
    m1, m2, m3 = strategies.margins_of(loss)
    combined = refloss.CombinedMargin(s=loss.s, m1=m1, m2=m2, m3=m3, boundary=loss.boundary, **shared_settings(loss))
    all_same(of(combined, *inputs), of(loss, *inputs))


@settings(max_examples=40)
@given(short_heads(), st.data())
def test_the_softmax_loss_is_cross_entropy_on_linear_logits(case, data):
    """On short numbers x Wᵀ + b is exact; its gradients are sums of those on logits, rounded: 1u of their terms."""
    loss, (x, w, y) = case
    b = np.array(data.draw(st.lists(strategies.QUARTERS, min_size=len(w), max_size=len(w))))
    x = np.round(x * 1024) / 1024  # the products shall be exact too
    z = x @ w.T + b
    value, gradients = of(refloss.SoftmaxLoss(**targets_of(loss)), x, w, y, b)
    expected, on_z = of(refloss.CrossEntropy(**targets_of(loss)), z, y)
    same(value, expected)
    for name, left, right in (("x", on_z["z"], w.T), ("w", on_z["z"].T, x.T), ("b", on_z["z"].T, np.ones((1, len(x))))):
        for n, i in np.ndindex(len(left), len(right)):
            products = [Fraction(p) * Fraction(q) for p, q in zip(left[n].tolist(), right[i].tolist(), strict=True)]
            size = sum(map(abs, products))
            number = float(gradients[name][n] if name == "b" else gradients[name][n, i])
            assert abs(Fraction(number) - sum(products)) <= (1 + 1e-9) * U * size + 2.0**-1074


@settings(max_examples=40)
@given(heads)
def test_the_bias_of_nothing_changes_nothing(case):
    _, (x, w, y, *_) = case
    loss = refloss.SoftmaxLoss()
    value, gradients = of(loss, x, w, y)
    with_bias, with_gradients = of(loss, x, w, y, np.zeros(len(w)))
    same(value, with_bias)
    same(gradients["x"], with_gradients["x"])
    same(gradients["w"], with_gradients["w"])


@settings(max_examples=40)
@given(margin_heads)
def test_detaching_a_margin_that_is_no_angle_changes_nothing(case):
    loss, inputs = case
    exactly, detached = (replace(loss, gradient=gradient) for gradient in ("exact", "detached"))
    same(exactly(*inputs), detached(*inputs))
    if isinstance(loss, refloss.CosFace | refloss.NormFace | refloss.ModifiedSoftmax):
        agree(exactly, inputs, of(detached, *inputs), of(exactly, *inputs))


# ------------------------------------------------------------------------------- reductions, weights, targets, upstream


@settings(max_examples=40)
@given(heads | on_logits() | triplets)
def test_the_sum_is_that_of_the_rows(case):
    """Both sums are rounded once: 2u apart at most."""
    loss, inputs = case
    rows = replace(loss, reduction="none")(*inputs)
    assert exact.value_error(replace(loss, reduction="sum")(*inputs), exact.exact(math.fsum(rows))) <= TWICE


@settings(max_examples=40)
@given(heads | on_logits(ignored=False) | triplets)
def test_the_mean_is_the_sum_over_n(case):
    """And the upstream gradient of a mean, 1/N of every row."""
    loss, inputs = case
    if hasattr(loss, "class_weight"):
        loss = replace(loss, class_weight=None)
        assume(len(inputs) == 2 or (inputs[2] != loss.ignore_index).all())
    n = len(inputs[0])
    value, gradients = of(replace(loss, reduction="mean"), *inputs)
    same(value, replace(loss, reduction="sum")(*inputs) / n)
    rows = of(replace(loss, reduction="none"), *inputs, upstream=np.full(n, 1.0 / n))[1]
    whole = of(replace(loss, reduction="sum"), *inputs, upstream=1.0 / n)[1]
    for name, gradient in gradients.items():
        same(gradient, rows[name])
        same(gradient, whole[name])


@settings(max_examples=40)
@given(heads, st.lists(st.sampled_from((1.0, 0.5, 2.0, 0.25)), min_size=5, max_size=5))
def test_the_mean_divides_by_the_weights_of_the_labels_that_count(case, weights):
    loss, (x, w, y, *b) = case
    loss = replace(loss, class_weight=weights[: len(w)])
    counted = y[y != loss.ignore_index]
    assume(len(counted))
    total = math.fsum(np.array(weights)[counted])  # exact
    value, gradients = of(replace(loss, reduction="mean"), x, w, y, *b)
    whole, whole_gradients = of(replace(loss, reduction="sum"), x, w, y, *b, upstream=1.0 / total)
    same(value, whole / total)
    all_same((value, gradients), (value, whole_gradients))


@settings(max_examples=40)
@given(all_heads)
def test_rows_that_are_ignored_might_not_be_there(case):
    loss, (x, w, y, *b) = case
    kept = y != loss.ignore_index
    assume(kept.any())
    value, gradients = of(loss, x, w, y, *b)
    by_class = isinstance(loss, refloss.SoftmaxLoss)
    fewer, fewer_gradients = of(loss, x[kept], w, y[kept], *(more if by_class else more[kept] for more in b))
    same(value[kept] if loss.reduction == "none" else value, fewer)
    for name in {"x", "m"} & gradients.keys():
        same(gradients.pop(name)[kept], fewer_gradients.pop(name))
    all_same((0.0, gradients), (0.0, fewer_gradients))


@settings(max_examples=40)
@given(on_logits(soft=False, ignored=False))
def test_one_hot_probabilities_are_labels(case):
    """The same bits, but where smoothing and weights round in another order; a weighted "mean" means something else."""
    loss, (z, y) = case
    one_hot = np.eye(z.shape[1])[y]
    if loss.class_weight is not None and loss.reduction == "mean":
        loss = replace(loss, reduction="sum")
    labels, soft = of(loss, z, y), of(loss, z, one_hot)
    if loss.label_smoothing and not np.isinf(z).any():
        agree(loss, (z, y), soft, labels)
    elif not loss.label_smoothing:
        all_same(soft, labels)


@settings(max_examples=40)
@given(on_logits(masked=False, weighted=False, soft=False, ignored=False), st.sampled_from((0.1, 0.5, 1e-6, 1.0)))
def test_label_smoothing_is_a_mixture_of_labels(case, eps):
    """Mixed exactly: 8u for what is mixed, in sums of one sign, and 8u for the mixture."""
    _, (z, y) = case
    rows, classes = z.shape
    loss = refloss.CrossEntropy(reduction="none", label_smoothing=eps)
    labels = [y, *(np.full(rows, k) for k in range(classes))]
    share = [1 - exact.exact(eps), *[exact.exact(eps) / classes] * classes]
    value, gradients = of(loss, z, y)
    with mp.workdps(60):
        single = [of(refloss.CrossEntropy(reduction="none"), z, label) for label in labels]
        mixed = sum(part * exact.exact(v) for part, (v, _) in zip(share, single, strict=True))
        mixed_gradient = sum(part * exact.exact(g["z"]) for part, (_, g) in zip(share, single, strict=True))
    assert exact.value_error(value, mixed) <= 8.0 * TWICE
    assert exact.row_error(gradients["z"], mixed_gradient, exact.absolute_terms(loss, z, y)["z"]) <= 8.0 * TWICE


@settings(max_examples=40)
@given(all_heads | triplets, upstreams, upstreams)
def test_gradients_are_linear_in_what_comes_from_above(case, first, second):
    """Doubling is exact; a sum of two is within three contracts of parts that are no larger than those of |g| + |h|."""
    loss, inputs = case
    loss = replace(loss, reduction="none")
    n = len(inputs[0])
    first, second = first[:n], second[:n]
    one, other, both, double = (of(loss, *inputs, upstream=g)[1] for g in (first, second, first + second, 2.0 * first))
    nothing = of(loss, *inputs, upstream=np.zeros(n))[1]
    allowed = checks.allowed(loss, *inputs)[1]
    terms = exact.absolute_terms(loss, *inputs, upstream=np.abs(first) + np.abs(second))
    for name, gradient in both.items():
        counted = normal(one[name], double[name])
        same(double[name][counted], 2.0 * one[name][counted])
        same(nothing[name], np.zeros_like(gradient))
        error = exact.row_error(gradient, exact.exact(one[name]) + exact.exact(other[name]), terms[name])
        assert error <= TWICE * allowed


@settings(max_examples=40)
@given(all_heads | triplets)
def test_a_sample_alone_moves_only_its_own_row(case):
    loss, inputs = case
    loss = replace(loss, reduction="none")
    n = len(inputs[0])
    for row in range(n):
        gradients = of(loss, *inputs, upstream=np.eye(n)[row])[1]
        for name in set(gradients) & {"x", "m", "anchor", "positive", "negative"}:
            assert not np.delete(gradients[name], row, axis=0).any()


# ------------------------------------------------------------------------------------------ derivatives of other people


HEADS = [
    *strategies.MARGINS,
    *(replace(loss, s=8.0, **SETTINGS) for loss in strategies.MULTIPLIED),
    *(replace(loss, s=None) for loss in (*strategies.LOWERED, refloss.ArcFace(), refloss.CombinedMargin())),
    *(replace(loss, gradient="detached") for loss in (*strategies.MULTIPLIED, *strategies.ADDED)),
    *strategies.BY_LENGTH,
    *(replace(loss, s=8.0, **SETTINGS) for loss in (*strategies.BY_LENGTH, *strategies.HARD)),
    *(replace(loss, s=None, reduction="sum") for loss in (*strategies.BY_LENGTH, *strategies.HARD)),
    *(replace(loss, gradient="detached") for loss in (*strategies.BY_LENGTH, *strategies.HARD)),
    *strategies.CENTERS,
    *(replace(loss, s=8.0, **SETTINGS) for loss in strategies.CENTERS),
    *(replace(loss, s=None, gradient="detached") for loss in strategies.CENTERS),
    *(replace(loss, s=8.0, **SETTINGS) for loss in strategies.CURVES),
    *(replace(loss, s=None, gradient="detached") for loss in strategies.CURVES),
    refloss.SoftmaxLoss(),
    refloss.SoftmaxLoss(**SETTINGS),
]
SMOOTH = [
    refloss.ModifiedSoftmax(),
    refloss.NormFace(s=16.0),
    refloss.ASoftmax(),
    refloss.ASoftmax(m=3, annealing=5.0, s=8.0, **SETTINGS),
    refloss.CosFace(),
    refloss.CosFace(boundary="conditional", s=None),
    *(refloss.ArcFace(boundary=rule, s=8.0) for rule in strategies.RULES[:-1]),
    refloss.ArcFace(),
    refloss.CombinedMargin(reduction="sum"),
    refloss.CombinedMargin(m1=1.35, m2=0.5, m3=0.25, boundary="monotone", s=None),
    refloss.MagFace(l_a=1.0, u_a=3.0, s=8.0),
    refloss.CurricularFace(t=0.3, s=8.0),
    refloss.MVSoftmax(s=8.0),
    refloss.SubCenterArcFace(s=8.0),
    *(refloss.SphereFaceR(s=8.0, version=version) for version in (1, 2)),
    refloss.CircleLoss(s=8.0),
    refloss.InterTopK(s=8.0, k=1, penalty=0.3),
    refloss.SoftmaxLoss(),
]


@pytest.mark.parametrize("loss", HEADS, ids=repr)
def test_gradients_are_complex_steps_of_the_textbook(loss):
    x, w, y = ordinary(loss)
    inputs = (x, w, np.linspace(-1.0, 1.0, len(w))) if isinstance(loss, refloss.SoftmaxLoss) else (x, w)
    value, gradients = of(loss, x, w, y, *inputs[2:])

    def formula(x, w, *b):
        return textbook.head(loss, x, w, y, *b)

    scale = checks.scale_of(loss, x, w)
    assert abs(value - formula(*inputs).real) <= 64.0 * max(1.0, scale) * U * max(1.0, value)
    checks.against_complex_step(formula, *inputs, gradients=gradients, scale=scale)


@pytest.mark.parametrize("loss", [refloss.CrossEntropy(), refloss.CrossEntropy(**SETTINGS)], ids=repr)
def test_gradients_on_logits_are_complex_steps_of_the_textbook(loss):
    z, y = 3.0 * np.random.default_rng(1).standard_normal((4, 3)), np.array([0, 2, 1, 2])
    gradients = of(loss, z, y)[1]
    checks.against_complex_step(lambda z: textbook.cross_entropy(loss, z, y), z, gradients=gradients, scale=3.0)


@pytest.mark.parametrize("squared", [True, False])
def test_gradients_of_triplets_are_complex_steps_of_the_textbook(squared):
    loss = refloss.Triplet(squared=squared, m=1.0)
    inputs = np.random.default_rng(2).standard_normal((3, 6, 3))
    gradients = of(loss, *inputs)[1]
    checks.against_complex_step(
        lambda *points: textbook.triplet(loss, *points), *inputs, gradients=gradients, scale=1.0
    )


@pytest.mark.parametrize("form", strategies.FORMS)
def test_gradients_of_divergences_are_complex_steps_of_the_textbook(form):
    loss = refloss.KLDivergence(form=form)
    inputs = 2.0 * np.random.default_rng(4).standard_normal((2, 4, 3))
    gradients = of(loss, *inputs)[1]
    checks.against_complex_step(
        lambda *logits: textbook.divergence(loss, *logits), *inputs, gradients=gradients, scale=2.0
    )
    checks.against_differences(loss, *inputs)


@pytest.mark.parametrize("loss", SMOOTH, ids=repr)
def test_gradients_are_differences_of_values(loss):
    x, w, y = ordinary(loss, seed=1, samples=2, classes=3, dims=2)
    bias = [np.array([0.5, -1.0, 0.25])] if isinstance(loss, refloss.SoftmaxLoss) else []
    checks.against_differences(loss, x, w, y, *bias)


def test_gradients_on_logits_and_of_triplets_are_differences_of_values():
    random = np.random.default_rng(3)
    z = random.standard_normal((3, 4))
    checks.against_differences(refloss.CrossEntropy(), z, np.array([1, 0, 3]))
    checks.against_differences(refloss.CrossEntropy(label_smoothing=0.2, reduction="sum"), z, np.array([1, 0, -100]))
    checks.against_differences(refloss.CrossEntropy(), z, random.dirichlet(np.ones(4), 3))
    for squared in (True, False):
        checks.against_differences(refloss.Triplet(squared=squared, m=1.0), *random.standard_normal((3, 2, 3)))


# ------------------------------------------------------------------------------------------------- the curve, the trace


def curve_angles(loss):
    """Ordinary angles, the ends, and every kink with its neighbours."""
    angles = [0.0, 1e-300, 1e-17, 1e-8, 1e-4, math.pi - 1e-4, math.pi - 1e-8, math.pi, *np.linspace(0.1, 3.1, 8)]
    for kink in strategies.kinks(loss):
        angles += [kink - 1e-8, np.nextafter(kink, 0), kink, np.nextafter(kink, 4), kink + 1e-8]
    return np.array([theta for theta in angles if 0.0 <= theta <= math.pi])


@pytest.mark.parametrize("loss", strategies.MARGINS, ids=repr)
def test_the_curve_and_its_slope_are_those_of_the_definition(loss):
    """1u, for rounding at the end, and what pairs leave: 5u^2 of phi, 16u^2 of cos and sin, a few u^2 of what is added.

    So 64u^2 (1 + phi + m3 + |psi|) is allowed for psi; for the slope, which is m1 sin phi, m1 (1 + phi) times that. A
    slope is to be right where it is almost nothing. That of CircleLoss is up to 4 times sin theta.
    """
    theta = curve_angles(loss)
    m1, m2, m3 = strategies.margins_of(loss)
    settings_of = {name: value for name, value in exact.curve(replace(loss)).items() if name != "scale"}
    phi = m1 * theta + m2
    psi, slope = exact.psi(theta, **settings_of), exact.psi_slope(theta, **settings_of)
    slack = 64.0 * U**2 * (1.0 + phi)
    computed = loss.target_logit(theta)
    off = np.abs(exact.exact(computed) - psi).astype(float)
    assert (off <= U * np.abs(computed) + slack * (1.0 + m3 + np.abs(computed))).all(), theta[np.argmax(off)]
    computed = loss.target_slope(theta)
    off = np.abs(exact.exact(computed) - slope).astype(float)
    circle = isinstance(loss, refloss.CircleLoss)
    assert (off <= U * np.abs(computed) + slack * (4.0 if circle else m1)).all(), theta[np.argmax(off)]
    detached = replace(loss, gradient="detached")
    same(detached.target_logit(theta), loss.target_logit(theta))
    with mp.workdps(40):
        true = [-(loss.m + 1 - mp.cos(t) if circle else 1) * mp.sin(t) for t in map(mp.mpf, theta)]
        off = np.array([abs(exact.exact(v) - t) for v, t in zip(detached.target_slope(theta), true, strict=True)])
    assert (off.astype(float) <= U * np.abs(np.array(true, float)) + slack * (2.0 if circle else 1.0)).all()


@pytest.mark.parametrize("gradient", ["exact", "detached"])
@pytest.mark.parametrize("loss", strategies.BY_LENGTH, ids=repr)
def test_the_curve_by_length_is_that_of_the_definition(loss, gradient):
    """1u and 64u^2 (1 + phi + m3 + |psi|), as for one margin: those by length are right to 100 bits."""
    theta, loss = curve_angles(loss), replace(loss, gradient=gradient)
    slack = 64.0 * U**2 * (2.0 + theta + 2.0)
    for length in (1e-200, 0.3, 1.0, 1.75, 2.5, 3.0, 10.0, 47.0, 100.0, 110.0, 1e200):
        (row,) = exact.rows([[length]])
        with mp.workdps(60):
            c, of_row = Curve.of(**exact.curve(loss)), quality_of(loss, row, None)
            v = of_row.v(row.norm())
            m2, m3 = c.m2 + real(of_row.on_angle) * v, c.m3 + real(of_row.on_cosine) * v
        more = {"m2": m2, "m3": m3, "boundary": c.boundary, "eps": c.eps}
        computed = loss.target_logit(theta, length)
        off = np.abs(exact.exact(computed) - exact.psi(theta, **more)).astype(float)
        assert (off <= U * np.abs(computed) + slack).all(), (length, theta[np.argmax(off)])
        computed = loss.target_slope(theta, length)
        true = exact.psi_slope(theta, **({} if gradient == "detached" else more))
        off = np.abs(exact.exact(computed) - true).astype(float)
        assert (off <= U * np.abs(computed) + slack).all(), (length, theta[np.argmax(off)])


def test_the_curve_by_length_takes_angles_and_lengths_of_any_shape():
    loss, theta, length = refloss.MagFace(), np.linspace(0.1, 2.0, 3), np.array([[5.0], [50.0]])
    whole = loss.target_logit(theta, length)
    assert whole.shape == (2, 3)
    assert isinstance(loss.target_slope(0.5, 20.0), np.float64)
    for i, k in np.ndindex(2, 3):
        assert loss.target_logit(theta[k], length[i, 0]) == whole[i, k]
    assert loss.target_logit(1.0, length).shape == (2, 1)


def test_the_curve_takes_one_angle_as_well_as_many():
    loss = refloss.ArcFace()
    theta = np.linspace(0.0, math.pi, 6).reshape(2, 3)
    for curve in (loss.target_logit, loss.target_slope):
        assert curve(theta).shape == (2, 3)
        one = curve(theta[1, 1])
        assert isinstance(one, np.float64)
        assert one == curve(theta)[1, 1]


MARGIN_STAGES = (
    "normalize_x", "normalize_w", "cosine", "angle", "margin", "logits", "log_softmax", "logsumexp",
    "cross_entropy",
)  # fmt: skip


TRACED = [loss for loss in strategies.MARGINS if loss not in strategies.CURVES]


@settings(max_examples=40)
@given(strategies.cases(ignored=False, lengths=False, among=TRACED))
def test_the_trace_of_a_margin_loss_is_one_chain(case):
    """Each output follows from the ones before it, rounded; each gradient from the ones after it.

    Outputs are rounded where the chain goes on in pairs: cosines by 2u for their unit rows and 1u; psi by the angle's
    rounding, u theta m1, and 1u; logits by 2u of the largest. Relatively, those roundings do twice as much to
    probabilities.
    """
    loss, (x, w, y) = case
    trace = loss.trace(x, w, y)
    has_negatives = isinstance(loss, refloss.CurricularFace | refloss.MVSoftmax)
    assert tuple(trace) == (MARGIN_STAGES[:5] + ("negatives",) * has_negatives + MARGIN_STAGES[5:])
    output = {name: step.output for name, step in trace.items()}
    gradient = {name: step.gradient for name, step in trace.items()}
    n, c = len(x), len(w)
    rows = np.arange(n)
    scale = output["normalize_x"].norm if getattr(loss, "s", None) is None else np.full(n, loss.s)

    for unit, rows_of in (("normalize_x", x), ("normalize_w", w)):
        norm = np.array([float(v.norm()) for v in exact.rows(rows_of)])
        np.testing.assert_allclose(output[unit].norm, norm, rtol=2 * U)
        np.testing.assert_allclose(output[unit].unit, rows_of / norm[:, None], rtol=4 * U)
    np.testing.assert_allclose(
        output["cosine"], output["normalize_x"].unit @ output["normalize_w"].unit.T, rtol=0, atol=(x.shape[1] + 8) * U
    )
    theta = exact.angle(x, w[y]).astype(float)
    np.testing.assert_allclose(output["angle"], theta, rtol=3 * U)
    if has_negatives:
        raised = textbook.eta(loss, output["cosine"], theta, y)
        is_hard = output["negatives"] != output["cosine"]
        # some hard classes keep their cosines, as c (t + c) = c does at 0
        is_hard |= output["cosine"] > textbook.threshold(loss, theta)[:, None] + 8 * U
        is_hard[rows, y] = False
        np.testing.assert_allclose(output["negatives"][is_hard], raised[is_hard], rtol=0, atol=8 * U)
    f = output["negatives" if has_negatives else "cosine"].copy()
    f[rows, y] = output["margin"]
    np.testing.assert_allclose(output["logits"], scale[:, None] * f, rtol=4 * U)
    largest = np.abs(output["logits"]).max(axis=1, keepdims=True)
    assert (np.abs(output["log_softmax"] - refloss.log_softmax(output["logits"])) <= 8 * U * largest + 8 * U).all()
    log_sums = refloss.logsumexp(output["logits"])
    assert (np.abs(output["logsumexp"] - log_sums) <= 8 * U * (largest[:, 0] + math.log(c))).all()
    assert not gradient["logsumexp"].any()  # nothing else is computed from it
    same(output["cross_entropy"], loss(x, w, y))

    expected = refloss.CrossEntropy(**targets_of(loss))
    terms = exact.absolute_terms(expected, output["logits"], y)["z"]
    limit = (2 * 8 + 4 * largest) * U * np.maximum(terms, 2.0**-1022)
    assert (np.abs(gradient["logits"] - of(expected, output["logits"], y)[1]["z"]) <= limit).all()
    on_cosine = scale[:, None] * gradient["logits"]
    np.testing.assert_allclose(gradient["margin"], on_cosine[rows, y], rtol=2 * U)
    on_cosine[rows, y] = 0.0
    np.testing.assert_allclose(gradient["negatives" if has_negatives else "cosine"], on_cosine, rtol=2 * U)
    if has_negatives:
        of_c = loss.t + 2 * output["cosine"] if isinstance(loss, refloss.CurricularFace) else 1 + loss.t
        slope = np.where(is_hard, of_c, 1.0)
        off = np.abs(gradient["cosine"] - on_cosine * slope)
        assert (off <= 2 * U * np.abs(on_cosine * slope) + 8 * U * np.abs(on_cosine)).all()
    assert gradient["log_softmax"].shape == (n, c)
    assert gradient["normalize_x"].unit.shape == x.shape


@settings(max_examples=40)
@given(strategies.curve_cases(ignored=False))
def test_the_trace_of_curves_of_other_classes(case):
    """Their stage stands before the logits, as that of hard classes does; its gradient is that of the logits, scaled.

    η is that of the exact angle, rounded, 1u, and 8.1 times the 3u that a cosine away from 1 and -1 is wrong by; of
    CircleLoss 6u, for its slope is 2 at most. A gradient of a cosine is one product, and 2u of it; 0 where it goes
    through the angle, or where nothing depends on the cosine.
    """
    loss, (x, w, y) = case
    spec, trace = loss.spec, loss.trace(x, w, y)
    stage = ("class_angles",) if spec.class_angles else ("negatives",) if spec.negatives else ()
    assert tuple(trace) == MARGIN_STAGES[:5] + stage + MARGIN_STAGES[5:]
    n, rows = len(x), np.arange(len(x))
    scale = trace["normalize_x"].output.norm if loss.s is None else np.full(n, loss.s)
    f, c = trace[stage[0] if stage else "cosine"].output.copy(), trace["cosine"].output
    others = np.arange(len(w)) != y[:, None]
    with mp.workdps(60):
        theta = np.array([exact.angle(np.tile(row, (len(w), 1)), w) for row in x])
        chosen = nearest.truth(x, w, y, loss.k) if isinstance(loss, refloss.InterTopK) else others
        for index in zip(*np.nonzero(others), strict=True):
            true = curve_of_class(loss, theta[index], chosen[index])
            assert abs(exact.exact(f[index]) - true) <= 26 * exact.UNIT, index
    f[rows, y] = trace["margin"].output
    np.testing.assert_allclose(trace["logits"].output, scale[:, None] * f, rtol=4 * U)
    on_eta = scale[:, None] * trace["logits"].gradient
    np.testing.assert_allclose(trace["margin"].gradient, on_eta[rows, y], rtol=2 * U)
    on_eta[rows, y] = 0.0
    if stage:
        np.testing.assert_allclose(trace[stage[0]].gradient, on_eta, rtol=2 * U)
    on_cosine = trace["cosine"].gradient
    assert not on_cosine[rows, y].any()
    match loss:
        case refloss.InterTopK():
            np.testing.assert_allclose(on_cosine, np.where(chosen, 0.0, on_eta), rtol=2 * U)
        case refloss.CircleLoss():
            slope = np.where(c > -loss.m, c + (loss.m if loss.gradient == "detached" else c), 0.0)
            told = np.abs(c + loss.m) > 8 * U  # a rounded cosine tells on which side of -m it is
            assert (np.abs(on_cosine - on_eta * slope) <= 16 * U * np.abs(on_eta))[told].all()
        case refloss.SphereFaceR(version=2):
            by_angle = np.abs(c) > 1.0 - 2.0**-7
            assert not on_cosine[by_angle].any()
            if loss.gradient == "detached":
                np.testing.assert_allclose(on_cosine[~by_angle], on_eta[~by_angle], rtol=2 * U)
    np.testing.assert_array_equal(trace["cross_entropy"].output, loss(x, w, y))


def curve_of_class(loss, theta, chosen):
    """What replaces the cosine of a class that is not the label's, of its exact angle."""
    if isinstance(loss, refloss.CircleLoss):
        c = mp.cos(theta)
        return max(c + loss.m, 0) * (c - loss.m)
    if isinstance(loss, refloss.InterTopK):
        return mp.cos(theta - loss.penalty) if chosen else mp.cos(theta)
    return mp.cos(theta / loss.m) if loss.version == 2 else mp.cos(theta)


def test_the_trace_ends_where_the_gradients_begin():
    """Gradients of x and w once more from the trace, in plain float64 at ordinary inputs, to 256u of the largest."""
    loss = refloss.ArcFace(boundary="hard", s=16.0)
    x, w, y = ordinary(loss)
    trace, gradients = loss.trace(x, w, y), of(loss, x, w, y)[1]
    theta, on_theta = trace["angle"]
    np.testing.assert_allclose(on_theta, trace["margin"].gradient * loss.target_slope(theta), rtol=256 * U)
    own = w[y]
    for name, others, ours in (("x", x, own), ("w", own, x)):
        units, norms = trace[f"normalize_{name}"].output
        upstream = trace[f"normalize_{name}"].gradient.unit
        expected = (upstream - (upstream * units).sum(axis=1, keepdims=True) * units) / norms[:, None]
        length = np.linalg.norm(others, axis=1, keepdims=True)
        unit = others / length
        across = ours - (ours * unit).sum(axis=1, keepdims=True) * unit
        target = -on_theta[:, None] * across / np.linalg.norm(across, axis=1, keepdims=True) / length
        np.add.at(expected, np.arange(len(x)) if name == "x" else y, target)
        np.testing.assert_allclose(gradients[name], expected, rtol=0, atol=256 * U * np.abs(expected).max())


def test_the_traces_of_the_other_heads():
    random = np.random.default_rng(4)
    x, w, y, b = random.standard_normal((3, 2)), random.standard_normal((4, 2)), np.array([0, 3, 3]), np.ones(4)
    linear = refloss.SoftmaxLoss()
    trace = linear.trace(x, w, y, b)
    assert tuple(trace) == ("linear", "log_softmax", "logsumexp", "cross_entropy")
    np.testing.assert_allclose(trace["linear"].output, x @ w.T + b, rtol=8 * U, atol=8 * U)
    z = trace["linear"].output
    expected = of(refloss.CrossEntropy(), z, y)[1]["z"]
    np.testing.assert_allclose(trace["linear"].gradient, expected, rtol=(16 + 4 * np.abs(z).max()) * U)
    same(trace["cross_entropy"].output, linear(x, w, y, b))
    given_logits = refloss.CrossEntropy(reduction="none")
    trace = given_logits.trace(z, y, upstream=[1.0, 2.0, 0.0])
    assert tuple(trace) == ("log_softmax", "logsumexp", "cross_entropy")
    same(trace["logsumexp"], (refloss.logsumexp(z), np.zeros(3)))
    same(trace["log_softmax"].output, refloss.log_softmax(z))
    same(trace["log_softmax"].gradient, -np.array([[1.0], [2.0], [0.0]]) * np.eye(4)[y])
    same(trace["cross_entropy"], (given_logits(z, y), [1.0, 2.0, 0.0]))
    triplet = refloss.Triplet(m=5.0)
    trace = triplet.trace(x, 2.0 * x, -x)
    assert tuple(trace) == ("triplet", "reduction")
    same(trace["triplet"].output, replace(triplet, reduction="none")(x, 2.0 * x, -x))
    same(trace["reduction"].output, triplet(x, 2.0 * x, -x))
    same(trace["triplet"].gradient, np.full(3, 1.0 / 3.0))
    divergence = refloss.KLDivergence()
    trace = divergence.trace(z, -z, upstream=2.0)
    assert tuple(trace) == ("divergence", "reduction")
    same(trace["divergence"].output, replace(divergence, reduction="none")(z, -z))
    same(trace["reduction"], (divergence(z, -z), 2.0))
    same(trace["divergence"].gradient, np.full(3, 2.0 / 3.0))


@settings(max_examples=25)
@given(strategies.cases() | all_heads | strategies.linear_cases() | on_logits() | triplets | divergences)
def test_the_same_call_gives_the_same_bits(case):
    loss, inputs = case
    first, again = of(loss, *inputs), of(loss, *(np.array(array) for array in inputs))
    all_same(first, again)
    same(loss(*inputs), first[0])
    same(list(loss.trace(*inputs).values())[-1].output, first[0])


# --------------------------------------------------------------------------------------------- weights that add up to 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", [refloss.SoftmaxLoss(), refloss.ArcFace(), refloss.ASoftmax()], ids=repr)
def test_a_mean_over_weights_that_add_up_to_0(loss, dtype):
    """The sum over 0, as PyTorch has it; every part of the gradient is NaN."""
    x, w, y = cases.ordinary(np.random.default_rng(0), 3, 3, 4)
    y[:] = [0, 0, 1]
    for weights in ((-1.0, 2.0, 0.5), (1.0, -2.0, 0.5), (0.0, 0.0, 0.5)):
        own = replace(loss, class_weight=weights)
        added = replace(own, reduction="sum")(x, w, y)
        expected = np.copysign(np.inf, added) if added else np.nan
        for engine in ("chain", "dd", "certified") if dtype == np.float64 else ("fused",):
            value, grad = own.value_and_grad(x, w, y, engine=engine, dtype=dtype)
            np.testing.assert_array_equal([value, own(x, w, y, engine=engine, dtype=dtype)], [expected, expected])
            assert value.dtype == dtype
            assert all(np.isnan(part).all() for part in grad if part is not None)


def test_nan_logits_are_nan_whatever_the_weights():
    loss = refloss.CrossEntropy(class_weight=(1.0, -0.5))
    assert np.isnan(loss([[np.nan, 1.0], [1.0, 2.0]], [0, 1]))


ENGINES = ["chain", "fused", "dd"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [1, 65, 130])
def test_a_mean_is_the_sum_divided_by_what_counts(engine, rows):
    """Both are within 16u, or 32u of a gradient's terms: p and t, times the scale or the largest input, by rows."""
    random = np.random.default_rng(rows)
    z, x, w = random.standard_normal((rows, 3)), random.standard_normal((rows, 2)), random.standard_normal((3, 2))
    y = np.arange(rows) % 3
    y[1::4] = -100
    weight = (1.0, 2.0, 0.5)
    soft = random.dirichlet(np.ones(3), rows)
    terms = 4.0 * rows * 4.0 * max(np.abs(x).max(), np.abs(z).max(), *(1.0 / np.linalg.norm([*x, *w], axis=1)))
    for loss, arrays, count in (
        (refloss.CrossEntropy, (z, y), (y >= 0).sum()),
        (refloss.CrossEntropy, (z, soft), rows),
        (partial(refloss.CrossEntropy, class_weight=weight), (z, y), np.take(weight, y[y >= 0]).sum()),
        (refloss.SoftmaxLoss, (x, w, y), (y >= 0).sum()),
        (partial(refloss.ArcFace, s=4.0), (x, w, y), (y >= 0).sum()),
        (partial(refloss.Triplet, m=1.0), (x, z[:, :2], x[::-1]), rows),
        (refloss.KLDivergence, (z, z[::-1]), rows),
    ):
        added, gradient_added = loss(reduction="sum").value_and_grad(*arrays, engine=engine)
        mean, gradient = loss(reduction="mean").value_and_grad(*arrays, engine=engine)
        assert abs(mean * count - added) <= 34.0 * U * added
        for one, other in zip(gradient, gradient_added, strict=True):
            if one is not None:
                assert np.abs(one * count - other).max() <= 2.0 * 34.0 * U * terms


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ignored", [[0], [1], [0, 1, 3]])
def test_rows_that_are_ignored_keep_their_upstream_to_themselves(engine, ignored):
    """Leaving them out changes nothing except their zeros: at the front, in between and in several places."""
    random = np.random.default_rng(8)
    x, w, z = random.standard_normal((5, 3)), random.standard_normal((4, 3)), random.standard_normal((5, 4))
    y, upstream = np.array([0, 3, 2, 1, 1]), np.array([1.0, -2.0, 4.0, 0.5, 8.0])
    y[ignored] = -100
    kept = y >= 0
    for loss, arrays in (
        (refloss.CrossEntropy(reduction="none"), {"z": z}),
        (refloss.SoftmaxLoss(reduction="none"), {"x": x, "w": w}),
        (refloss.ArcFace(reduction="none", s=4.0), {"x": x, "w": w}),
    ):
        values, gradient = loss.value_and_grad(**arrays, y=y, upstream=upstream, engine=engine)
        some = {name: array if name == "w" else array[kept] for name, array in arrays.items()}
        expected, expected_gradient = loss.value_and_grad(**some, y=y[kept], upstream=upstream[kept], engine=engine)
        assert (values[kept] == expected).all()
        assert (values[~kept] == 0.0).all()
        for name in arrays:
            of_all, of_some = getattr(gradient, name), getattr(expected_gradient, name)
            if name == "w":  # added up in other groups; no term is above 8 s / ‖w‖
                assert np.abs(of_all - of_some).max() <= 2.0 * 64.0 * U * 8.0 * 4.0 / np.linalg.norm(w, axis=1).min()
            else:
                assert (of_all[kept] == of_some).all()
                assert (of_all[~kept] == 0.0).all()


# ------------------------------------------------------------------------------------------------- classes with centers


EVERY_ENGINE = [("chain", np.float64), ("dd", np.float64), ("fused", np.float64), ("fused", np.float32)]
EVERY_ENGINE += [("certified", np.float64)]
every_engine = pytest.mark.parametrize(("engine", "dtype"), EVERY_ENGINE)


def with_centers(seed=0, n=6, c=5, k=3, d=4):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d)), random.standard_normal((c, k, d)), random.integers(0, c, n)


@every_engine
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"s": None, "boundary": "hard", "reduction": "none"},
        {"m": 0.3, "gradient": "detached", "class_weight": (1.0, 0.5, 2.0, 3.0, 0.25), "reduction": "sum"},
        {"s": 8.0, "label_smoothing": 0.1, "ignore_index": 2},
    ],
    ids=str,
)
def test_one_center_is_arcface_bit_for_bit(engine, dtype, options):
    if engine == "certified":
        pytest.importorskip("flint")
    x, w, y = with_centers(k=1)
    how = {"engine": engine, "dtype": dtype}
    value, gradients = refloss.SubCenterArcFace(centers=1, **options).value_and_grad(x, w, y, **how)
    expected, expected_gradients = refloss.ArcFace(**options).value_and_grad(x, w[:, 0], y, **how)
    assert np.asarray(value).tobytes() == np.asarray(expected).tobytes()
    assert gradients.x.tobytes() == expected_gradients.x.tobytes()
    assert gradients.w.shape == (5, 1, 4)
    assert gradients.w.tobytes() == expected_gradients.w.tobytes()


@every_engine
@pytest.mark.parametrize("s", [8.0, None])
def test_a_class_counts_by_its_nearest_center_alone(engine, dtype, s):
    """One sample: the same bits as of ArcFace on the centers that stand for the classes, and 0 at all others."""
    if engine == "certified":
        pytest.importorskip("flint")
    how = {"engine": engine, "dtype": dtype}
    for seed in range(3):
        x, w, y = with_centers(seed, n=1)
        chosen = np.arange(5), centers.truth(x, w)[0]
        value, gradients = refloss.SubCenterArcFace(s=s).value_and_grad(x, w, y, **how)
        expected, expected_gradients = refloss.ArcFace(s=s).value_and_grad(x, w[chosen], y, **how)
        within = 64.0 * (s or 4.0) * np.finfo(dtype).eps  # sums over 15 rows have another order than over 5
        assert abs(value - expected) <= within * expected
        assert np.abs(gradients.x - expected_gradients.x).max() <= within * np.abs(expected_gradients.x).max()
        own = np.abs(expected_gradients.w).max(axis=1, keepdims=True)
        assert (np.abs(gradients.w[chosen] - expected_gradients.w) <= within * own).all()
        gradients.w[chosen] = 0.0
        assert not gradients.w.any()


@pytest.mark.parametrize("engine", ["chain", "dd", "fused"])
def test_the_order_of_centers_does_not_matter(engine):
    loss = refloss.SubCenterArcFace(s=8.0)
    x, w, y = with_centers(n=20)
    order = np.random.default_rng(1).permuted(np.tile(np.arange(3), (5, 1)), axis=1)[..., None]
    value, gradients = loss.value_and_grad(x, w, y, engine=engine)
    moved, moved_gradients = loss.value_and_grad(x, np.take_along_axis(w, order, 1), y, engine=engine)
    bound = refloss.error_bound(loss, x, w, y, engine=engine)
    assert abs(value - moved) <= 2.0 * bound[0]
    assert (np.abs(gradients.x - moved_gradients.x) <= 2.0 * bound[1].x).all()
    back = np.take_along_axis(moved_gradients.w, np.argsort(order, axis=1), 1)
    assert (np.abs(gradients.w - back) <= 2.0 * bound[1].w).all()


@every_engine
def test_of_equal_centers_the_first_takes_all_of_the_gradient(engine, dtype):
    if engine == "certified":
        pytest.importorskip("flint")
    x, w, y = with_centers(k=1)
    same = w * np.array([[1.0], [4.0], [0.5]])
    _, gradients = refloss.SubCenterArcFace(s=8.0).value_and_grad(x, same, y, engine=engine, dtype=dtype)
    assert gradients.w[:, 0].any(axis=1).all()
    assert not gradients.w[:, 1:].any()


@pytest.mark.parametrize("engine", ["chain", "dd", "fused", "certified"])
def test_error_bounds_of_centers_that_stand_for_no_class_are_0(engine):
    if engine == "certified":
        pytest.importorskip("flint")
    loss = refloss.SubCenterArcFace(s=8.0)
    x, w, y = with_centers(n=2)
    _, of_gradients = refloss.error_bound(loss, x, w, y, engine=engine)
    assert of_gradients.w.shape == w.shape
    chosen = centers.truth(x, w)
    for k, j in np.ndindex(5, 3):
        if engine == "certified":  # half a unit in the last place, of 0 as well
            assert (of_gradients.w[k, j] > 0.0).all()
        else:
            assert (of_gradients.w[k, j] > 0.0).all() == (j in chosen[:, k])
    x, w, y = with_centers(k=2)
    _, of_gradients = refloss.error_bound(
        refloss.SubCenterArcFace(centers=2, label_smoothing=0.1), x, w, y, engine="dd"
    )
    assert of_gradients.x.shape == x.shape


def test_results_go_where_they_are_told():
    loss = refloss.SubCenterArcFace(s=8.0)
    x, w, y = with_centers()
    _, expected = loss.value_and_grad(x, w, y, engine="fused")
    for out in (np.empty_like(w), np.empty_like(w, order="F"), np.empty((5, 6, 4))[:, ::2]):
        _, gradients = loss.value_and_grad(x, w, y, engine="fused", wrt="w", out={"w": out})
        assert gradients.w is out
        assert gradients.x is None
        assert np.array_equal(out, expected.w)
    assert np.array_equal(loss.value_and_grad(x, np.asfortranarray(w), y, engine="fused")[1].w, expected.w)


def test_the_trace_names_the_centers():
    loss, (x, w, y) = refloss.SubCenterArcFace(s=8.0), with_centers()
    trace = loss.trace(x, w, y)
    assert tuple(trace) == (*MARGIN_STAGES[:3], "sub_centers", *MARGIN_STAGES[3:])
    all_of_them, taken = trace["cosine"], trace["sub_centers"]
    assert all_of_them.output.shape == all_of_them.gradient.shape == (6, 15)
    np.testing.assert_allclose(taken.output, all_of_them.output.reshape(6, 5, 3).max(axis=2), rtol=0, atol=4 * U)
    assert np.array_equal(all_of_them.gradient.reshape(6, 5, 3).sum(axis=2), taken.gradient)
    chosen = centers.truth(x, w)
    theta = exact.angle(x, w[y, chosen[np.arange(6), y]]).astype(float)
    np.testing.assert_allclose(trace["angle"].output, theta, rtol=3 * U)
    assert trace["normalize_w"].output.unit.shape == (15, 4)
