"""Stage divergence: values and gradients against mpmath, where they cancel, are masked or far apart."""

import itertools

import numpy as np
import pytest
from mpmath import mp

import refloss
from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair
from refloss.stages import divergence, log_softmax
from support import checks, exact

U = 2.0**-53
FORMS = divergence.FORMS
ENGINES = ("chain", "dd")
by_form = pytest.mark.parametrize("form", FORMS)
by_engine = pytest.mark.parametrize("engine", ENGINES)


def logits(seed, classes=6, rows=3):
    return np.random.default_rng(seed).standard_normal((2, rows, classes))


def keeps_the_contract(form, z, target, entries=None):
    """Compare both engines with mpmath; `entries` is the same for both gradients."""
    loss, some = refloss.KLDivergence(form=form, reduction="none"), entries and dict.fromkeys(("z", "target"), entries)
    truth = exact.value(loss, z, target), exact.gradients(loss, z, target, entries=some)
    for engine in ENGINES:
        result, bound = (
            loss.value_and_grad(z, target, engine=engine),
            refloss.error_bound(loss, z, target, engine=engine),
        )
        for name, part in checks.shares_of(result, truth, bound, some).items():
            assert part <= 1.0, f"{engine}: {name} is off by {part:.3g} times what error_bound allows"


# ------------------------------------------------------------------------------------------------------- what cancels


@by_form
@pytest.mark.parametrize("k", [1, 3, 8, 16, 26, 40, 60, 100, 300, 500, 900])
def test_rows_that_nearly_agree(form, k):
    """Of a loss of about 4^-k, from probabilities that agree to k bits, no bit is lost."""
    noise, target = logits(k)
    target = np.zeros_like(target) if k > 50 else target  # a sum of float64 numbers keeps 53 bits
    keeps_the_contract(form, target + np.ldexp(noise, -k), target)


@by_form
def test_rows_of_which_one_unlikely_class_differs(form):
    """Where classes agree but for one whose probability is 1e-300, so little decides the others' gradients."""
    for low, apart in itertools.product((-5.0, -40.0, -300.0, -690.0), (1e-9, 0.5, 3.0, 30.0)):
        target = np.array([[0.25, 0.0, -1.0, low], [low, 3.0, 3.0, 0.5]])
        keeps_the_contract(form, target + np.array([[0.0, 0.0, 0.0, apart], [-apart, 0.0, 0.0, 0.0]]), target)


@by_form
def test_the_reference_class_may_be_the_one_that_differs(form):
    """The largest p moves, alone or by little, and q is small there, or 0 in float64."""
    for apart in (1e-12, 0.7, 1.0, 1.1, 5.0, 45.0, 750.0, 1e5):
        target = np.array([[2.0, 0.0, -1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
        z = target - np.array([apart, 0.0, 0.0, 0.0])
        keeps_the_contract(form, z, target)
        keeps_the_contract(form, target, z)


@by_form
def test_many_classes_of_which_half_move(form):
    """An error of log q - log p that all classes share is taken off, whatever the reference class does."""
    target = np.zeros((1, 64))
    for apart in (1e-3, 2.0, 4.5, 20.0, 800.0):
        for moved in (np.arange(64) % 2 == 1, np.arange(64) == 63):
            keeps_the_contract(form, np.where(moved, apart, 0.0)[None], target, [(0, 0), (0, 1), (0, 63)])


@by_form
@by_engine
def test_rows_that_are_equal_have_no_loss_and_no_gradient(form, engine):
    z = np.round(8.0 * logits(1)[0]) / 8.0
    loss = refloss.KLDivergence(form=form)
    for target in (z, z + 1000.0, z - 0.125, np.where(np.arange(6) == 2, -np.inf, z)):
        own = np.where(np.isinf(target), target, z)
        value, grad = loss.value_and_grad(own, target, engine=engine)
        assert value == 0.0
        assert not grad.z.any()
        assert not grad.target.any()


@by_engine
def test_a_small_divergence_by_hand(engine):
    """Of p = (1/2, 1/2) and q = (1 + e, 1 - e)/2: KL(p||q) = -log(1 - e²)/2 and q - p = (e, -e)/2, e = tanh h."""
    for h in (1e-3, 1e-8, 1e-20, 1e-150):
        with mp.workdps(400):
            e = mp.tanh(mp.mpf(h))
            true, apart = float(-mp.log(1 - e * e) / 2), float(e / 2)
        value, grad = refloss.KLDivergence().value_and_grad([[h, -h]], [[0.0, 0.0]], engine=engine)
        assert abs(value - true) <= 48.0 * U * true
        assert np.abs(grad.z - [[apart, -apart]]).max() <= 48.0 * 3.0 * U * apart


# ------------------------------------------------------------------------------------------ what is far apart or masked


@by_form
def test_log_ratios_of_hundreds_and_of_a_hundred_thousand(form):
    z, target = logits(2)
    for apart in (88.0, 700.0, 746.0, 1e5):
        for sign in (-1.0, 1.0):
            keeps_the_contract(form, z + sign * apart * (np.arange(6) == 1), target)


def test_the_mean_keeps_the_jensen_shannon_divergence_below_log_2():
    loss = refloss.KLDivergence(form="jensen-shannon", reduction="none")
    one, other = [[0.0, -np.inf], [0.0, -1e5]], [[-np.inf, 0.0], [-1e5, 0.0]]
    for engine in ENGINES:
        value, grad = loss.value_and_grad(one, other, engine=engine)
        assert np.abs(value - np.log(2.0)).max() <= 2.0 * U
        assert np.abs([grad.z, grad.target]).max() <= 48.0 * U


@by_engine
def test_a_class_with_a_probability_on_one_side_alone(engine):
    z, target = [[0.0, -np.inf, 1.0, -np.inf]], [[0.5, 2.0, -1.0, -np.inf]]
    forward, reverse = refloss.KLDivergence(), refloss.KLDivergence(form="reverse")
    value, grad = forward.value_and_grad(z, target, engine=engine)
    assert value == np.inf
    p, q = refloss.softmax(target), refloss.softmax(z)
    np.testing.assert_allclose(grad.z, q - p, rtol=1e-14)
    assert grad.target.tolist() == [[-np.inf, np.inf, -np.inf, 0.0]]
    value, grad = forward.value_and_grad(z, target, upstream=-2.0, engine=engine)
    assert grad.target.tolist() == [[np.inf, -np.inf, np.inf, 0.0]]
    _, grad = forward.value_and_grad(z, target, upstream=0.0, engine=engine)
    assert not grad.target.any()
    assert not grad.z.any()
    value, grad = reverse.value_and_grad(target, z, engine=engine)
    assert value == np.inf
    assert grad.z.tolist() == [[-np.inf, np.inf, -np.inf, 0.0]]
    finite = reverse.value_and_grad(z, target, engine=engine)
    shorter = reverse.value_and_grad([[0.0, -800.0, 1.0, -800.0]], [[0.5, 2.0, -1.0, -1e5]], engine=engine)
    assert np.isfinite(finite[0])
    np.testing.assert_allclose(finite[0], shorter[0], rtol=1e-14)


@by_engine
def test_where_all_of_p_is_masked_its_gradient_is_that_of_its_entropy(engine):
    """KL(p||q) = Σ p log p + x, of logits of q that are -x for every class of p: x has no gradient."""
    target = np.array([[0.5, 2.0, -1.0, -np.inf], [-np.inf, 1.0, -np.inf, -np.inf]])
    z = np.where(np.isinf(target), 0.0, -np.inf)
    _, grad = refloss.KLDivergence(reduction="none").value_and_grad(z, target, engine=engine)
    p, log_p = refloss.softmax(target), np.where(np.isinf(target), 0.0, refloss.log_softmax(target))
    np.testing.assert_allclose(grad.target, p * (log_p + refloss.entropy(target)[:, None]), rtol=1e-14, atol=1e-16)
    assert not grad.target[1].any()
    assert refloss.KLDivergence()(z, target, engine=engine) == np.inf


@by_form
@by_engine
@pytest.mark.parametrize("row", [[0.0, np.nan, 1.0], [0.0, np.inf, 1.0], [-np.inf] * 3])
def test_rows_that_have_no_softmax_are_nan(form, engine, row):
    loss = refloss.KLDivergence(form=form, reduction="none")
    good = [0.5, -np.inf, 2.0]
    for z, target in (([row, good], [good, good]), ([good, good], [row, good]), ([row, good], [row, good])):
        value, grad = loss.value_and_grad(z, target, engine=engine)
        assert np.isnan(value[0])
        assert value[1] == 0.0
        for part in grad:
            assert np.isnan(part[0]).all()
            assert not part[1].any()


# ---------------------------------------------------------------------------------------------------- relations, pieces


@by_form
def test_exchanged_sides_are_the_other_form(form):
    z, target = logits(4)
    other = {"forward": "reverse", "reverse": "forward"}.get(form, form)
    value, grad = refloss.KLDivergence(form=form).value_and_grad(z, target)
    exchanged, turned = refloss.KLDivergence(form=other).value_and_grad(target, z)
    rounding = 2.0 * 48.0 * U
    assert abs(value - exchanged) <= rounding * value
    for one, two in zip(grad, turned[::-1], strict=True):
        np.testing.assert_allclose(one, two, atol=rounding * 4.0 * np.abs(one).max())


@pytest.mark.parametrize("kind", [Pair, DoubleDouble])
def test_e_to_the_a_less_1_less_a(kind):
    """5u of a Pair, by the roundings of the series; 200u² of a DoubleDouble, and of e^a - 1 64u²."""
    sizes = np.concatenate([2.0 ** -np.arange(0.0, 60.0, 3.0), [1e-150, 0.7, 0.99, 1.01, 2.5, 4.0]])
    hi = np.concatenate([sizes, -sizes[sizes <= 1.0]])[None]
    a = kind(hi, hi * 2.0**-55 * 0.7)
    for name, allowed in (
        ("expm1mx", 5.0 * U if kind is Pair else 200.0 * U**2),
        ("expm1", 3 * U if kind is Pair else 64.0 * U**2),
    ):
        computed = Pair.of(getattr(a, name)())
        with mp.workdps(400):
            for i, (head, tail) in enumerate(zip(a.hi[0], a.lo[0], strict=True)):
                x = exact.exact(head)[()] + exact.exact(tail)[()]
                true = mp.expm1(x) - (x if name == "expm1mx" else 0)
                error = abs(exact.exact(computed.hi[0, i])[()] + exact.exact(computed.lo[0, i])[()] - true)
                assert error <= max(allowed * true if true > 0 else -allowed * true, mp.mpf(2) ** -1070), (name, head)


@pytest.mark.parametrize("kind", [Pair, DoubleDouble])
def test_far_arguments_of_expm1(kind):
    a = kind.of(np.array([[-np.inf, -1e300, -800.0, -80.5]]))
    assert np.array_equal(Pair.of(a.expm1()).hi, [[-1.0] * 4])
    assert np.isnan(Pair.of(kind.of(np.array([[np.nan]])).expm1()).hi).all()


@by_form
def test_the_terms_are_not_negative(form):
    z, target = 3.0 * logits(5)
    q, p, delta, _ = divergence.compare(Pair.of(z), Pair.of(target))
    for part in (divergence.terms(p, q, delta), divergence.terms(q, p, -delta)):
        assert (part >= 0.0).all()


def test_the_log_ratios_are_those_of_the_definition():
    z, target = 3.0 * logits(6)
    _, _, delta, _ = divergence.compare(Pair.of(z), Pair.of(target))
    true = exact.log_softmax(z) - exact.log_softmax(target)
    apart = np.abs(refloss.softmax(z) - refloss.softmax(target)).sum(axis=1, keepdims=True)
    error = np.abs((exact.exact(delta.hi) + exact.exact(delta.lo) - true).astype(float))
    assert (error <= 28.0 * U * apart).all()


# ------------------------------------------------------------------------------------------------------------- entropy


def true_entropy(z):
    p, log_p = exact.softmax(z), exact.log_softmax(z)
    return [mp.fsum(-a * b for a, b in zip(*rows, strict=True) if a) for rows in zip(p, log_p, strict=True)]


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 400.0])
def test_entropy_keeps_its_relative_accuracy(spread):
    """A probability and its logarithm are each right to 6u, a product and the sum to 1u: 14u."""
    z = spread * logits(7)[0]
    assert exact.value_error(refloss.entropy(z), np.array(true_entropy(z), object)) <= 14.0


def test_entropy_of_confident_and_of_masked_rows():
    z = np.array([[0.0, -40.0, -np.inf], [0.0, -700.0, -np.inf], [1.0, 1.0, 1.0]])
    found = refloss.entropy(z)
    assert exact.value_error(found, np.array(true_entropy(z), object)) <= 14.0
    assert found[1] < 1e-300
    assert refloss.entropy([0.0, -np.inf]) == 0.0
    assert np.isnan(refloss.entropy([[np.nan, 1.0], [np.inf, 0.0], [-np.inf, -np.inf]])).all()


def test_entropy_along_an_axis():
    z = np.random.default_rng(8).standard_normal((2, 3, 4))
    assert np.array_equal(refloss.entropy(z, axis=1), refloss.entropy(np.moveaxis(z, 1, -1)))
    assert isinstance(refloss.entropy(z[0, 0]), np.float64)
    with pytest.raises(ValueError, match="axis must be one of the 1 axes of z"):
        refloss.entropy([1.0, 2.0], axis=1)


def test_entropy_is_the_cross_entropy_with_itself():
    z = logits(9)[0]
    losses = refloss.CrossEntropy(reduction="none")(z, refloss.softmax(z))
    np.testing.assert_allclose(refloss.entropy(z), losses, rtol=30.0 * U)
    assert np.array_equal(log_softmax.entropy(DoubleDouble.of(z)).hi.shape, (3,))


# -------------------------------------------------------------------------------------------- drawn to break a promise


def hostile(seed):
    """A divergence, logits of any size that are near, far apart or masked, and an upstream gradient of any size."""
    random = np.random.default_rng(seed)
    shape = int(random.integers(1, 4)), int(random.integers(1, 6))

    def size():
        return float(random.choice([1.0, 1.0, 10.0, 1000.0, 1e-8, 1e-300, 10.0 ** random.uniform(-320, 307)]))

    target = random.standard_normal(shape) * size()
    z = {
        0: lambda: random.standard_normal(shape) * size(),
        1: lambda: target + random.standard_normal(shape) * 10.0 ** random.uniform(-320, 2),
        2: lambda: target + random.choice([0.0, 1e-9, 1.0, 40.0, 800.0], shape),
        3: lambda: target * (1.0 + random.choice([0.0, 2.0**-52, 2.0**-30], shape)),
        4: lambda: target + 10.0 ** random.uniform(-20, 4) * (np.arange(shape[1]) == 0),
    }[int(random.integers(5))]()
    for side in (z, target):
        if random.random() < 0.25:
            side[random.random(shape) < 0.3] = -np.inf
    if random.random() < 0.05:
        z[0, 0] = random.choice([np.nan, np.inf])
    loss = refloss.KLDivergence(form=str(random.choice(FORMS)), reduction=str(random.choice(["mean", "sum", "none"])))
    upstream = random.standard_normal(shape[:1] if loss.reduction == "none" else ())
    return loss, (z, target), upstream * float(random.choice([0.0, 1.0, 1.0, 10.0 ** random.uniform(-307, 307)]))


@pytest.mark.parametrize("seed", range(120))
def test_inputs_drawn_to_break_a_promise(seed):
    pytest.importorskip("flint")
    loss, inputs, upstream = hostile(seed)
    for engine in ENGINES:
        checks.against_certified(loss, *inputs, upstream=upstream, engine=engine)
