"""Stage cross entropy: losses, targets and reductions against mpmath and rational numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp

import refloss
from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, plain
from refloss.stages import cross_entropy, log_softmax
from refloss.stages.cross_entropy import Settings
from support import checks, exact

WEIGHTS = (1.0, 0.1, 0.0, 3.0, 1e-3)
SIGNED = (-1.0, 0.1, 0.0, 3.0, -1e-3)


def targets_of(y, classes, settings):
    return cross_entropy.targets(y, cross_entropy.weights(y, classes, settings), settings.label_smoothing)


def both_stages(loss, z, y, upstream=1.0):
    """Loss and gradient of the logits by log_softmax and cross_entropy, in the form checks.against_exact takes."""
    settings = Settings(loss.reduction, loss.label_smoothing, loss.class_weight, loss.ignore_index)
    log_p, of_log_softmax = log_softmax.forward(Pair.of(z))
    targets = targets_of(np.asarray(y), log_p.shape[1], settings)
    value, of_cross_entropy = cross_entropy.forward(log_p, targets, settings.reduction)
    back = cross_entropy.backward(np.asarray(upstream), of_cross_entropy)
    return value, {"z": np.asarray(log_softmax.backward(back, of_log_softmax))}


def check(loss, z, y, upstream=1.0):
    """8u: the contract, see checks.allowed. Of labels relative to each entry, else to p_k Σ|t_j| + |t_k|."""
    checks.against_exact(loss, z, y, result=both_stages(loss, z, y, upstream), upstream=upstream)


def rows(rng, classes, gap, count=3):
    """Ordinary logits with the largest raised to stand `gap` above the second; one row has a class 700 below."""
    z = np.sort(rng.standard_normal((count, classes)) * 3.0, axis=1)
    if classes > 1:
        z[:, -1] = z[:, -2] + gap
        z[0, 0] = min(z[0, 0], z[0, -1] - 700.0)
    return rng.permuted(z, axis=1)


GAPS = [0.0, 1e-9, 1.0, 5.0, 10.0, 20.0, 36.0, 50.0, 100.0, 300.0, 500.0, 690.0]


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("classes", [1, 2, 10])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_labels_confident_and_wrong(classes, gap, reduction):
    rng = np.random.default_rng(classes)
    z = rows(rng, classes, gap)
    upstream = rng.standard_normal(3) if reduction == "none" else rng.standard_normal()
    loss = refloss.CrossEntropy(reduction=reduction)
    check(loss, z, z.argmax(axis=1), upstream)
    check(loss, z, z.argmin(axis=1), upstream)
    check(loss, z, rng.integers(classes, size=3), upstream)


@pytest.mark.parametrize("gap", [0.0, 20.0, 690.0])
def test_labels_with_a_thousand_classes(gap):
    z = rows(np.random.default_rng(1), 1000, gap, count=1)
    for y in (z.argmax(axis=1), z.argmin(axis=1)):
        check(refloss.CrossEntropy(), z, y)


@pytest.mark.parametrize("gap", [0.0, 1.0, 20.0, 300.0])
@pytest.mark.parametrize("smoothing", [0.0, 1e-9, 0.1, 1.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS, SIGNED])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_soft_and_smoothed_targets(gap, smoothing, weights, reduction):
    rng = np.random.default_rng(2)
    z = rows(rng, 5, gap, count=4)
    loss = refloss.CrossEntropy(label_smoothing=smoothing, class_weight=weights, reduction=reduction)
    upstream = rng.standard_normal(4) if reduction == "none" else -2.5
    check(loss, z, np.array([0, 1, 3, 4]), upstream)
    check(loss, z, rng.dirichlet(np.full(5, 0.3), 4), upstream)
    check(loss, z, 7.0 * np.eye(5)[[4, 2, 1, 0]], upstream)  # targets need not sum to 1
    check(loss, z, rng.standard_normal((4, 5)), upstream)  # and may have either sign


def test_soft_targets_with_a_thousand_classes():
    rng = np.random.default_rng(3)
    check(refloss.CrossEntropy(label_smoothing=0.1), rows(rng, 1000, 5.0, count=1), rng.dirichlet(np.ones(1000), 1))


def test_a_loss_of_1e_minus_300():
    z = np.array([[0.0, math.log(1e-300)]])
    value, gradient = both_stages(refloss.CrossEntropy(), z, [0])
    check(refloss.CrossEntropy(), z, [0])
    assert math.isclose(value, 1e-300, rel_tol=1e-13)  # the rounding of the logit: 345u at most
    assert math.isclose(gradient["z"][0, 0], -1e-300, rel_tol=1e-13)
    assert gradient["z"][0, 0] == -gradient["z"][0, 1]


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits(size):
    rng = np.random.default_rng(4)
    check(refloss.CrossEntropy(), size + rng.uniform(-3.0, 3.0, (3, 20)), rng.integers(20, size=3))


# --------------------------------------------------------------------------------------------------- infinite and NaN

INF, NAN = math.inf, math.nan
S = 1.0 / (1.0 + math.e)
SPECIAL = [  # logits, label, what torch gives: value and gradient
    ([0.0, -INF, 1.0], 1, INF, [S, -1.0, 1.0 - S]),
    ([-INF, -INF], 0, NAN, [NAN, NAN]),
    ([INF, 0.0], 0, NAN, [NAN, NAN]),
    ([INF, 0.0], 1, NAN, [NAN, NAN]),
    ([INF, INF], 0, NAN, [NAN, NAN]),
    ([NAN, 0.0], 1, NAN, [NAN, NAN]),
    ([1.7e308, -1.7e308], 1, INF, [1.0, -1.0]),
    ([-1.7e308, 1.7e308, 1.7e308], 1, math.log(2.0), [0.0, -0.5, 0.5]),
    ([-INF, 2.0], 1, 0.0, [0.0, 0.0]),
]


@pytest.mark.parametrize(("z", "y", "value", "gradient"), SPECIAL, ids=str)
def test_special_rows(z, y, value, gradient):
    """8u, as ever, where the truth is finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        computed, gradients = both_stages(refloss.CrossEntropy(reduction="sum"), np.array([z]), [y])
    assert np.allclose(computed, value, rtol=8.0 * checks.U, atol=0.0, equal_nan=True)
    assert np.allclose(gradients["z"], [gradient], rtol=8.0 * checks.U, atol=0.0, equal_nan=True)


ENGINES = ("chain", "dd", "certified")
SPOILT = [[NAN, 1.0, 2.0], [1.0, NAN, 2.0], [INF, 1.0, 2.0], [1.0, INF, -INF], [INF, INF, 0.0], [-INF, -INF, -INF]]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("row", SPOILT, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_row_without_probabilities_is_nan_whatever_it_weighs(row, reduction, engine):
    """As in PyTorch: at a class of weight 0, at probabilities of 0, with smoothing; in the gradient too."""
    z = np.array([row, [1.0, 1.0, 1.0]])
    for y in (np.array([0, 2]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])):
        for smoothing in (0.0, 0.1):
            for weights in (None, (0.0, 1.0, 1.0)):
                loss = refloss.CrossEntropy(class_weight=weights, label_smoothing=smoothing, reduction=reduction)
                value, grad = loss.value_and_grad(z, y, engine=engine)
                assert np.isnan(value if reduction != "none" else value[0])
                assert reduction != "none" or np.isfinite(value[1])
                assert np.isnan(grad.z[0]).all()
                assert np.isfinite(grad.z[1]).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("row", SPOILT, ids=str)
def test_an_ignored_row_may_be_anything(row, engine):
    loss = refloss.CrossEntropy(class_weight=(0.0, 1.0, 1.0), reduction="sum")
    value, grad = loss.value_and_grad([row, [1.0, 1.0, 1.0]], [-100, 2], engine=engine)
    assert abs(value - math.log(3.0)) <= 8.0 * checks.U * math.log(3.0)
    assert not grad.z[0].any()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_target_of_0_contributes_0_at_a_masked_class(engine):
    """PyTorch has NaN here: 0 times infinity."""
    loss = refloss.CrossEntropy(class_weight=(0.0, 1.0, 1.0), reduction="none")
    value, grad = loss.value_and_grad([[-INF, 1.0, 2.0]], [0], engine=engine)
    assert value.tolist() == [0.0]
    assert not grad.z.any()
    value = refloss.CrossEntropy(reduction="none")([[-INF, 1.0, 1.0]], [[0.0, 1.0, 0.0]], engine=engine)
    assert np.abs(value - math.log(2.0)) <= 8.0 * checks.U * math.log(2.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_overflow_on_the_way_to_a_number_that_fits(engine):
    """8u; where two u are 1e307 off the end, that is exact."""
    for loss, z, y, value in (
        (refloss.CrossEntropy(), [[0.0, 1.5e308]] * 2, [0, 0], 1.5e308),
        (refloss.CrossEntropy(label_smoothing=0.1), [[1e308, -1e308]], [0], 1e307),
        (refloss.CrossEntropy(), [[0.0, 0.0]], [[8e307, 8e307]], 16e307 * math.log(2.0)),
        (refloss.CrossEntropy(class_weight=(1.7e308, 1.7e308)), [[0.0, 0.0]] * 3, [0, 1, 1], math.log(2.0)),
        (refloss.CrossEntropy(class_weight=(5e-324, 5e-324)), [[0.0, 0.0]] * 3, [0, 1, 1], math.log(2.0)),
    ):
        assert abs(loss(z, y, engine=engine) - value) <= 8.0 * checks.U * value


def test_a_special_row_spoils_no_other():
    z, y = np.array([[NAN, 0.0], [1.0, 2.0], [INF, 0.0], [0.5, -INF]]), [0, 1, 1, 0]
    loss = refloss.CrossEntropy(reduction="none")
    with np.errstate(invalid="ignore"):
        value, gradient = both_stages(loss, z, y, np.ones(4))
    alone, of_alone = both_stages(loss, z[1::2], y[1::2], np.ones(2))
    assert np.isnan(value[::2]).all()
    assert np.array_equal(value[1::2], alone)
    assert np.array_equal(gradient["z"][1::2], of_alone["z"])


def test_masked_classes():
    rng = np.random.default_rng(5)
    z = rng.standard_normal((4, 6))
    z[:, 1::2] = -INF
    with np.errstate(invalid="ignore"):
        for reduction in ("mean", "sum"):
            check(refloss.CrossEntropy(reduction=reduction), z, [0, 2, 4, 0])
        soft = np.tile([0.2, 0.0, 0.5, 0.0, 0.3, 0.0], (4, 1))
        check(refloss.CrossEntropy(), z, soft)
        value, gradient = both_stages(refloss.CrossEntropy(label_smoothing=0.1), z, [0, 2, 4, 0])
    assert value == INF  # smoothing gives the masked classes a target
    assert np.isfinite(gradient["z"]).all()


# ----------------------------------------------------------------------------------------------- targets and reductions


def rational_targets(y, classes, settings):
    """(1 - eps) y + eps / C, times the weight, in rationals of the same float64 numbers."""
    eps = Fraction(settings.label_smoothing)
    weights = [Fraction(v) for v in settings.class_weight or [1.0] * classes]
    shares = y if np.ndim(y) == 2 else np.eye(classes)[y]
    return [[v * ((1 - eps) * Fraction(share) + eps / classes) for v, share in zip(weights, row, strict=True)]
            for row in np.asarray(shares, float).tolist()]  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 1e-20, 0.1, 1.0 / 3.0, 1.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS, SIGNED])
def test_targets_are_right_relative_to_themselves(smoothing, weights):
    """4u: 1 - eps and eps / C 1u each, the product 1u, the sum 1u, the weight 1u, of which one path takes four."""
    settings = Settings(label_smoothing=smoothing, class_weight=weights)
    rng = np.random.default_rng(6)
    labels = np.array([0, 1, 2, 3, 4, 4])
    for y in (labels, rng.dirichlet(np.ones(5), 6)):
        t, divisor = targets_of(y, 5, settings)
        for row, true in zip(t.tolist(), rational_targets(y, 5, settings), strict=True):
            for target, share in zip(row, true, strict=True):
                assert abs(Fraction(target) - share) <= 4 * Fraction(1, 2**53) * abs(share)
        added = math.fsum((weights or [1.0] * 5)[k] for k in labels)
        assert divisor == (6.0 if y.ndim == 2 else added)


@pytest.mark.parametrize("kind", [Pair, DoubleDouble])
@pytest.mark.parametrize("size", [1.0, 2.0**900, 2.0**-900])
def test_weights_of_both_signs_add_up_exactly(kind, size):
    """A sum of weights that cancel is rounded once; DoubleDouble keeps the rounding error."""
    v = size * np.array([1e16, 3.0, -1e16, 1e-20])
    targets = cross_entropy.weights(np.array([0, 1, 2, 3]), 4, Settings(class_weight=tuple(v)), kind)
    true = sum(map(Fraction, v), Fraction(0))
    divisor = plain(targets.divisor)
    assert high(divisor) == float(true)
    if kind is DoubleDouble:
        assert divisor.lo == float(true - Fraction(float(divisor.hi)))
    nothing = cross_entropy.weights(np.array([0, 2]), 4, Settings(class_weight=tuple(v)), kind)
    assert np.isnan(high(plain(nothing.divisor)))
    parts = size * 2.0 ** -np.array([0.0, 55.0, 110.0, 165.0])  # more than a pair holds
    several = (*parts, *-parts[:3])
    targets = cross_entropy.weights(np.arange(7), 7, Settings(class_weight=several), kind)
    assert high(plain(targets.divisor)) == parts[3]


@pytest.mark.parametrize(
    ("weights", "smoothing", "factor", "plain"),
    [
        ((1e18, 1e-18, 1.0, 0.0, 1.0), 0.1, 1e18, True),
        ((1e19, 1.0, 1.0, 1.0, 1.0), 0.0, 1.0, False),
        ((1.0, 1.0, 1e-19, 1.0, 1.0), 0.1, 1.0, False),
        (None, 1e-270, 1.0, True),
        (None, 1e-272, 1.0, False),
        (None, 0.1, 1e19, False),
        (None, 0.1, 1e-19, False),
    ],
)
def test_ordinary_targets_are_float64_numbers(weights, smoothing, factor, plain):
    """Those of other sizes are scaled, which takes its time, and have the same bits where both can be had."""
    settings = Settings(label_smoothing=smoothing, class_weight=weights)
    y = np.array([[0.5, 0.5, 0.0, 0.0, 1e-270]]) * factor
    t, _ = targets_of(y, 5, settings)
    assert isinstance(t, np.ndarray) == plain
    forced = cross_entropy.weights(y, 5, settings._replace(label_smoothing=5e-324))
    same = cross_entropy.targets(y, forced, smoothing).t
    assert np.array_equal(np.asarray(same), np.asarray(t))
    if factor == 1.0:
        assert isinstance(targets_of(np.array([0, 2]), 5, settings).t, np.ndarray) == plain


def test_label_smoothing_as_torch_documents_it():
    """Targets (1 - eps) one-hot + eps / C; "mean" with weights divides by the weights of the labels, unsmoothed."""
    t, divisor = targets_of(np.array([1]), 4, Settings(label_smoothing=0.2))
    assert np.allclose(t, [[0.05, 0.85, 0.05, 0.05]], rtol=1e-15)
    assert divisor == 1.0
    weighted = Settings(label_smoothing=0.2, class_weight=(1.0, 2.0, 3.0, 4.0))
    t, divisor = targets_of(np.array([1, 3]), 4, weighted)
    assert np.allclose(t, [[0.05, 1.7, 0.15, 0.2], [0.05, 0.1, 0.15, 3.4]], rtol=1e-15)
    assert divisor == 6.0


def test_the_reductions_agree():
    rng = np.random.default_rng(7)
    z, y = rng.standard_normal((6, 5)), rng.integers(5, size=6)
    each, of_each = both_stages(refloss.CrossEntropy(reduction="none"), z, y, np.ones(6))
    added, of_added = both_stages(refloss.CrossEntropy(reduction="sum"), z, y)
    mean, of_mean = both_stages(refloss.CrossEntropy(reduction="mean"), z, y)
    assert each.shape == (6,)
    assert added == math.fsum(each)  # rounded once
    assert mean == added / 6.0
    assert np.array_equal(of_each["z"], of_added["z"])
    assert np.allclose(of_mean["z"], of_added["z"] / 6.0, rtol=4.0 * checks.U, atol=0.0)  # 1 / 6 is rounded, and used


def test_rows_of_ignored_labels_do_not_count():
    settings = Settings(ignore_index=2)
    assert cross_entropy.kept(np.array([0, 2, 1, 2]), settings).tolist() == [True, False, True, False]
    assert cross_entropy.kept(np.array([-100, 0]), Settings()).tolist() == [False, True]
    assert cross_entropy.kept(np.ones((3, 4)), Settings(ignore_index=1)).all()


@pytest.mark.parametrize("y", [np.zeros(0, int), np.array([0, 0])])
def test_where_nothing_counts_there_is_no_mean(y):
    """All rows ignored: there is no gradient but 0. All of weight 0: it is NaN like the value, as in PyTorch."""
    settings = Settings(class_weight=(0.0, 1.0))
    targets = targets_of(y, 2, settings)
    assert np.isnan(targets.divisor)
    log_p = np.full((len(y), 2), -0.7)
    with np.errstate(invalid="ignore"):
        value, saved = cross_entropy.forward(log_p, targets, "mean")
    assert np.isnan(value)
    gradient = cross_entropy.backward(np.asarray(1.0), saved)
    assert gradient.shape == log_p.shape
    assert np.isnan(gradient).all()
    added, _ = cross_entropy.forward(log_p, targets, "sum")
    assert added == 0.0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_forward_on_given_log_probabilities(reduction):
    """Terms of one sign: the product 1u, the row's sum 1u; the rows' 1u; the mean 1u."""
    rng = np.random.default_rng(8)
    log_p = -(10.0 ** rng.uniform(-300.0, 2.0, (5, 6)))
    targets = targets_of(rng.dirichlet(np.ones(6), 5), 6, Settings())
    value, _ = cross_entropy.forward(log_p, targets, reduction)
    with mp.workdps(60):
        true = -(exact.exact(targets.t) * exact.exact(log_p)).sum(axis=1)
        if reduction != "none":
            true = true.sum() / (5 if reduction == "mean" else 1)
    assert exact.value_error(value, true) <= {"none": 2.0, "sum": 3.0, "mean": 4.0}[reduction]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_backward_against_differences(reduction):
    """2u of an entry: the coefficient 1u, its product with the target 1u."""
    rng = np.random.default_rng(9)
    log_p = -rng.exponential(size=(4, 5))
    settings = Settings(reduction, 0.1, WEIGHTS)
    targets = targets_of(np.array([0, 1, 4, 3]), 5, settings)
    _, saved = cross_entropy.forward(log_p, targets, reduction)
    upstream = rng.standard_normal(4) if reduction == "none" else np.asarray(rng.standard_normal())

    def function(log_p):
        added = -(exact.exact(targets.t) * log_p).sum(axis=1)
        if reduction == "none":
            return added
        return np.array(added.sum() / (exact.exact(targets.divisor)[()] if reduction == "mean" else 1))

    checks.against_exact_vjp(function, [log_p], upstream, [cross_entropy.backward(upstream, saved)], 2.0 + 1e-9)


@pytest.mark.parametrize("gap", [1.0, 50.0])
def test_both_stages_against_differences(gap):
    """The same as `check`, from differences of another kind: every logit moves, and the whole loss is taken again."""
    z, y = rows(np.random.default_rng(10), 4, gap), np.array([0, 1, 2])
    _, gradients = both_stages(refloss.CrossEntropy(), z, y, 1.5)

    def function(z):
        return np.array(exact.cross_entropy(z, y, digits=mp.dps))

    checks.against_exact_vjp(function, [z], np.asarray(1.5), [gradients["z"]], 8.0, digits=1200)


def test_saved_is_what_it_says():
    targets = targets_of(np.array([0, 1]), 3, Settings())
    _, saved = cross_entropy.forward(np.zeros((2, 3)), targets, "sum")
    assert saved._fields == ("targets", "reduction")
    assert saved.targets is targets
    assert saved.reduction == "sum"
    assert targets._fields == ("t", "divisor")
