"""Stage margin: psi and its slope under every boundary rule against mpmath and certified results."""

import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.error_free import PI, Pair, u, where
from refloss.stages import angle, margin, quality
from refloss.stages.margin import OF_ONE_LOSS, RULES, Settings
from support import checks, exact

# m1, m2, m3 of ArcFace, SphereFace, CosFace, the combined margins of papers and issues, and m that is no integer.
MARGINS = [(1.0, 0.5, 0.0), (4.0, 0.0, 0.0), (3.0, 0.0, 0.0), (1.0, 0.0, 0.35), (1.0, 0.3, 0.2), (0.9, 0.4, 0.15)]
MARGINS += [(1.35, 0.3, 0.2), (1.5, 0.0, 0.0), (2.7, 1.0, 0.1), (1.0, 3.0, 0.0), (1.0, 0.0, 0.0)]
MARGINS += [(1.0, -0.5, 0.0), (1.0, -3.0, 0.4), (1.35, -0.3, -0.2)]  # given per sample they may be below 0
EPS = 1e-3  # of the rule "clip"
ALL_RULES = [*RULES, *OF_ONE_LOSS]


def thetas(settings):
    """Angles from 0 to pi, and around every multiple of pi of the margin's own angle and around the boundaries."""
    angles = [0.0, 1e-300, 1e-16, 1e-8, 1e-4, 0.5, 1.0, math.pi / 2, 2.0, 3.0, math.pi - 1e-4, math.pi - 1e-8, math.pi]
    edges = [(k * math.pi - settings.m2) / settings.m1 for k in range(6)] + [math.acos(settings.m3), math.pi / 2]
    edges += [(edge - settings.m2) / settings.m1 for edge in (EPS, math.pi - EPS)]
    for edge in edges:
        angles += [edge + side for side in (-1e-4, -1e-8, -1e-12, 0.0, 1e-12, 1e-8, 1e-4)]
    return np.array([theta for theta in angles if 0.0 <= theta <= math.pi])


def noise(settings):
    """What pairs lose on the way to psi, in absolute terms.

    16u² for the sine and cosine of theta and of phi each. m1 theta is wrong by 3u² of it; or, if m1 is whole, each
    rotation adds two products and a sum of numbers up to 1, 8u² in the cosine and in the sine, and 16u² of theta's in
    both, 35u² or so together. That is less than 21u² phi, with 16u² phi where it is taken for a multiple of pi. Up to
    four sums at 3u² of numbers up to 2 + 2 phi / pi. Annealing: a product, a sum, a quotient, 21u² of the same numbers.
    """
    phi = settings.m1 * math.pi + abs(settings.m2)
    return (32.0 + 21.0 * phi + (12.0 + 21.0) * (2.0 + 2.0 * phi / math.pi)) * u**2


def options_of(settings):
    """The settings as mpmath's curve takes them."""
    return {name: getattr(settings, name) for name in ("m1", "m2", "m3", "boundary", "annealing", "eps")}


def whole(pair):
    with mp.workdps(80):
        return exact.exact(pair.hi) + exact.exact(pair.lo)


def values(curve, theta, settings):
    at = margin.turned(angle.of(np.atleast_1d(theta)), settings)
    return curve.psi(at).hi, curve.slope(at).hi


@pytest.mark.parametrize("annealing", [0.0, 5.0, 1e-3])
@pytest.mark.parametrize("margins", MARGINS, ids=str)
@pytest.mark.parametrize("rule", ALL_RULES)
def test_every_rule_against_its_formula_and_the_derivative_of_that(rule, margins, annealing):
    """psi is a pair: `noise`. The slope is rounded once, 1u, and has m1 times the noise of the sine.

    So next to a zero of the slope it is right relative to itself: noise is 1e-29 or less.
    """
    settings = Settings(*margins, boundary=rule, annealing=annealing, eps=EPS)
    theta = thetas(settings)
    psi, saved = margin.forward(angle.of(theta), settings)
    options = options_of(settings)
    true, true_slope = exact.psi(theta, **options), exact.psi_slope(theta, **options)
    with mp.workdps(60):
        assert (abs(whole(psi) - true) <= noise(settings)).all()
        error = abs(exact.exact(saved.slope) - true_slope)
        assert (error <= checks.U * abs(true_slope) + max(1.0, settings.m1) * noise(settings)).all()


@pytest.mark.parametrize("annealing", [0.0, 5.0])
@pytest.mark.parametrize("margins", [*MARGINS[:10:3], *MARGINS[-3:]], ids=str)
@pytest.mark.parametrize("rule", ALL_RULES)
def test_every_rule_changes_with_its_margins_as_its_formula_does(rule, margins, annealing):
    """What the margins change of psi is one of its sines, or a sum of fewer of them than psi: pairs, with `noise`.

    A product by m2, which is pi at most, and an additive margin's 1 have no more than psi's sums.
    """
    settings = Settings(*margins, boundary=rule, annealing=annealing, eps=EPS)
    theta, curve = thetas(settings), margin.curve_of(settings)
    at = margin.turned(angle.of(theta), settings)
    for name in ("m2", "m3"):
        true = exact.psi_slope(theta, by=name, **options_of(settings))
        with mp.workdps(60):
            assert (abs(whole(getattr(curve, f"by_{name}")(at)) - true) <= noise(settings)).all()


@pytest.mark.parametrize("side", [1e-4, 1e-8, 1e-12, -1e-12, -1e-8, -1e-4])
@pytest.mark.parametrize(
    "margins", [(1.0, 0.5, 0.0), (2.0, 0.0, 0.0), (4.0, 0.0, 0.0), (10.0, 0.0, 0.0), (2.7, 1.0, 0.1)]
)
def test_slopes_next_to_their_zeros_are_right_relative_to_themselves(margins, side):
    """1u, with 2^-10 u for noise: beside 1e-12, 1e-29 is that little."""
    settings = Settings(*margins, boundary="monotone")
    m1, m2, _ = margins
    theta = np.array([(k * math.pi - m2) / m1 + side for k in range(int(m1) + 1)])
    theta = theta[(theta > 0.0) & (theta < math.pi)]
    _, saved = margin.forward(angle.of(theta), settings)
    true = exact.psi_slope(theta, *margins, "monotone")
    assert exact.value_error(saved.slope, true) <= 1.0 + 2.0**-10
    assert (np.abs(saved.slope) <= 1.01 * m1 * m1 * abs(side)).all()


PAST_PI = ["hard", "keep", "continuous", "monotone", "clamp"]


@pytest.mark.parametrize("rule", PAST_PI)
@pytest.mark.parametrize("margins", [(1.0, 0.5, 0.0), (1.0, 0.3, 0.2), (4.0, 0.0, 0.0), (1.35, 0.3, 0.2)], ids=str)
def test_the_side_of_the_boundary_is_that_of_the_exact_angle(rule, margins):
    """The pair nearest to the boundary is 1e-33 or so away from it, and lies on one side."""
    m1, m2, m3 = margins
    settings = Settings(*margins, boundary=rule)
    theta = (PI - m2) / m1
    for pair in (theta - 2.0**-90, theta, theta + 2.0**-90):
        one = Pair(pair.hi[None], pair.lo[None])
        psi, saved = margin.forward(angle.of(one), settings)
        with mp.workdps(60):
            beyond_pi = m1 * whole(one)[0] + m2 - mp.pi
            slope = -m1 * mp.sin(beyond_pi + mp.pi)
        if beyond_pi <= 0:
            assert psi.hi[0] == -1.0 - m3
            assert exact.value_error(saved.slope, [slope]) <= 1.0 + 2.0**-10
        else:
            at = {"hard": math.cos(theta.hi) - m2 * math.sin(m2) - m3, "keep": math.cos(theta.hi) - m3}
            assert math.isclose(psi.hi[0], at.get(rule, -1.0 - m3), rel_tol=1e-15)
            beyond = {"monotone": -slope, "clamp": 0.0}.get(rule, -mp.sin(whole(one)[0]))
            assert exact.value_error(saved.slope, [beyond]) <= 1.0 + 2.0**-10


@pytest.mark.parametrize("rule", PAST_PI)
@pytest.mark.parametrize(
    ("m1", "x", "w"),
    [(2.0, [1.0, 0.0, 0.0], [0.0, 7.0, 0.0]), (3.0, [1.0, 1.0, 0.0], [0.0, 3.0, 3.0]),
     (1.5, [1.0, 1.0, 0.0], [0.0, -3.0, 3.0]), (4.0, [1.0, 0.0, 0.0], [0.5, 0.5, 0.0])],
)  # fmt: skip
def test_the_boundary_itself_belongs_to_the_margin(rule, m1, x, w):
    """Angles of 90, 60, 120 and 45 degrees, at which m1 θ is π exactly."""
    angles, _ = angle.forward(np.array([x]), np.array([w]))
    psi, saved = margin.forward(angles, Settings(m1, m3=0.25, boundary=rule))
    assert psi.hi.tolist() == [-1.25]
    assert saved.slope.tolist() == [0.0]


@pytest.mark.parametrize("eps", [1e-3, 0.3, 2.0**-40])
@pytest.mark.parametrize("m2", [0.4, -0.4, 0.0])
def test_a_clipped_angle_is_on_the_side_of_its_bounds_that_the_exact_angle_is(m2, eps):
    """Angles nearest to a bound in pairs are 2^-104 or so beside it: ψ' is 0 beyond, and that of the margin within."""
    settings = Settings(m2=m2, m3=0.25, boundary="clip", eps=eps)
    for bound, beyond in ((Pair.of(eps), -1.0), (PI - eps, 1.0)):
        if not 0.0 < (bound - m2).hi < math.pi:
            continue
        for pair in (bound - m2 - 2.0**-90, bound - m2, bound - m2 + 2.0**-90):
            one = Pair(pair.hi[None], pair.lo[None])
            psi, saved = margin.forward(angle.of(one), settings)
            with mp.workdps(60):
                phi = whole(one)[0] + mpf(m2)
                at = mpf(eps) if beyond < 0.0 else mp.pi - mpf(eps)
                is_beyond = (phi - at) * beyond > 0
                assert exact.value_error(saved.slope, [mpf(0) if is_beyond else -mp.sin(phi)]) <= 1.0 + 2.0**-10
                assert abs(whole(psi)[0] - (mp.cos(at if is_beyond else phi) - 0.25)) <= noise(settings)


def test_at_its_bound_a_clipped_angle_has_the_inner_slope():
    """θ = 0 and m2 = ε: the one φ = ε there is (Lindemann). As torch.clamp has it."""
    parallel, _ = angle.forward(np.array([[1.0, 2.0]]), np.array([[2.0, 4.0]]))
    settings = Settings(m2=0.25, boundary="clip", eps=0.25)
    _, saved = margin.forward(parallel, settings)
    assert math.isclose(saved.slope[0], -math.sin(0.25), rel_tol=1e-15)


def test_rules_that_can_act_are_not_refused():
    for rule in RULES:
        margin.check_rule(rule, 1.5, 0.5, 0.25)
    with pytest.raises(
        ValueError, match=r"^boundary='hard' acts past m1 theta [+] m2 = pi, which m1=1, m2=0, m3=0.25 never"
    ):
        margin.check_rule("hard", 1.0, 0.0, 0.25)


@pytest.mark.parametrize("rule", ["easy", "conditional", "acute"])
def test_where_the_cosine_is_at_its_bound_the_margin_is_off(rule):
    """cos theta > 0, cos theta > m3: as the code it comes from has it. Vectors at a right angle are there exactly."""
    settings = Settings(m2=0.5, m3=0.0, boundary=rule)
    right, _ = angle.forward(np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]]))
    psi, saved = margin.forward(right, settings)
    assert psi.hi.tolist() == [0.0]
    assert saved.slope.tolist() == [-1.0]
    sharper, _ = angle.forward(np.array([[1.0, 0.0]]), np.array([[1e-30, 3.0]]))
    psi, _ = margin.forward(sharper, settings)
    assert math.isclose(psi.hi[0], -math.sin(0.5), rel_tol=1e-15)


def test_where_min_finds_both_alike_the_margin_holds():
    """cos 2 theta = cos theta at theta = 2 pi / 3, up to noise, and the values agree; without a margin everywhere."""
    tie = PI * 2.0 / 3.0
    psi, _ = margin.forward(angle.of(Pair(tie.hi[None], tie.lo[None])), Settings(m1=2.0, boundary="min"))
    assert math.isclose(psi.hi[0], -0.5, rel_tol=1e-15)
    same, saved = margin.forward(angle.of(np.array([1.0])), Settings(boundary="min"))
    assert same.hi.tolist() == [math.cos(1.0)]
    assert math.isclose(saved.slope[0], -math.sin(1.0), rel_tol=1e-15)


@pytest.mark.parametrize("m", [1.0, 2.0, 3.0, 4.0, 5.0, 10.0])
def test_sphereface_at_pi(m):
    """psi = 1 - 2m, and the slope of k = m - 1: 0, as every slope at pi, and in cos theta m² just before it."""
    settings = Settings(m1=m, boundary="monotone")
    opposite, _ = angle.forward(np.array([[1.0, 2.0]]), np.array([[-1.0, -2.0]]))
    psi, saved = margin.forward(opposite, settings)
    assert psi.hi.tolist() == [1.0 - 2.0 * m]
    assert saved.slope.tolist() == [0.0]
    _, beside = margin.forward(angle.of(np.array([math.pi - 1e-9])), settings)
    assert math.isclose(-beside.slope[0] / math.sin(1e-9), m * m, rel_tol=1e-6)  # sin(pi - 1e-9) is 1e-9 to 1e-7 of it


# ---------------------------------------------------------------------------------------------- one margin per sample


def samples(every):
    """Angles of every row of MARGINS, every so many of `thetas`, and the margins of each angle (N,)."""
    groups = [(thetas(Settings(*margins))[::every], margins) for margins in MARGINS]
    theta = np.concatenate([group for group, _ in groups])
    return theta, np.concatenate([np.tile(margins, (len(group), 1)) for group, margins in groups]).T


def one_by_one(target, margins, options):
    """Psi and slope of every sample, from a call of its own with numbers for margins."""
    psi, slope = [], []
    for n in range(len(target.theta.hi)):
        row = angle.Angle(*(part[n : n + 1] for part in target[:3]), lambda _, n=n: target.exactly(n))
        one, saved = margin.forward(row, Settings(*(float(m[n]) for m in margins), **options))
        psi.append(one)
        slope.append(saved.slope)
    return [np.concatenate(part) for part in ([one.hi for one in psi], [one.lo for one in psi], slope)]


def same_bits(target, margins, options):
    psi, saved = margin.forward(target, Settings(*margins, **options))
    for ours, alone in zip((psi.hi, psi.lo, saved.slope), one_by_one(target, margins, options), strict=True):
        assert ours.tobytes() == alone.tobytes()


@pytest.mark.parametrize("gradient", ["exact", "detached"])
@pytest.mark.parametrize("annealing", [0.0, 5.0, 1e-3])
@pytest.mark.parametrize("rule", RULES)
def test_margins_per_sample_against_the_formula_of_each(rule, annealing, gradient):
    """As for one margin."""
    theta, margins = samples(11)
    settings = Settings(*margins, boundary=rule, annealing=annealing, gradient=gradient)
    psi, saved = margin.forward(angle.of(theta), settings)
    for n, (one, m) in enumerate(zip(theta, margins.T, strict=True)):
        m1, m2, m3 = m.tolist()
        options = {"m1": m1, "m2": m2, "m3": m3, "boundary": rule, "annealing": annealing}
        with mp.workdps(60):
            (true,), (slope,) = exact.psi([one], **options), exact.psi_slope([one], **options)
            slope = -mp.sin(mpf(one)) if gradient == "detached" else slope
            off = noise(Settings(m1, m2, m3))
            assert abs(whole(psi)[n] - true) <= off
            assert abs(mpf(saved.slope[n]) - slope) <= checks.U * abs(slope) + max(1.0, m1) * off


@pytest.mark.parametrize("gradient", ["exact", "detached"])
@pytest.mark.parametrize("annealing", [0.0, 5.0])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("which", ["all", "whole m1", "no m2"])
def test_margins_per_sample_are_bit_by_bit_those_of_each_sample(rule, annealing, gradient, which):
    theta, (m1, m2, m3) = samples(5)
    chosen = {"all": m1 > 0.0, "whole m1": m1 == np.rint(m1), "no m2": m2 == 0.0}[which]
    margins = (m1[chosen], m2[chosen], m3[chosen])
    same_bits(angle.of(theta[chosen]), margins, {"boundary": rule, "annealing": annealing, "gradient": gradient})


@pytest.mark.parametrize("rule", RULES)
def test_margins_per_sample_of_vectors_that_are_at_a_boundary(rule):
    """cos θ = 1/2, θ = 60° and a right angle, exactly: decided in integers, with each sample's own margins."""
    x = np.array([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]] * 2)
    w = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1e-40, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]] * 2)
    margins = np.array(
        [[3.0, 1.0, 2.0, 2.0, 1.5, 2.0, 4.0, 1.0], [0.0] * 8, [0.5, 0.25, 0.5, 0.0, 0.5, 0.0, 0.25, 0.5]]
    )
    target, _ = angle.forward(x, w)
    same_bits(target, margins, {"boundary": rule})
    margins[1] = [0.0, 0.5, 0.0, 0.25, 0.5, 0.0, 3.0, 0.125]
    same_bits(target, margins, {"boundary": rule})


def test_some_margins_per_sample_and_others_not():
    theta, (_, m2, _) = samples(5)
    options = {"boundary": "monotone", "annealing": 1.0}
    psi, saved = margin.forward(angle.of(theta), Settings(2.0, m2, 0.25, **options))
    spread = (np.full(len(theta), 2.0), m2, np.full(len(theta), 0.25))
    expected, same = margin.forward(angle.of(theta), Settings(*spread, **options))
    for ours, theirs in ((psi.hi, expected.hi), (psi.lo, expected.lo), (saved.slope, same.slope)):
        assert ours.tobytes() == theirs.tobytes()


# --------------------------------------------------------------------------------- where the residual is almost 0


def against_certified(loss, x, w):
    """Value and gradients of every engine, in a few units of the largest of each row, where there is one class."""
    true, true_grad = loss.value_and_grad(x, w, [0], engine="certified")
    for engine in ("chain", "fused", "dd"):
        value, grad = loss.value_and_grad(x, w, [0], engine=engine)
        assert math.isclose(value, true, rel_tol=4e-15)
        for part, whole in zip(grad, true_grad, strict=True):
            for row, truth in zip(part, whole, strict=True):
                assert np.allclose(row, truth, rtol=0.0, atol=8e-15 * np.abs(truth).max())
    return true_grad


@pytest.mark.parametrize(
    ("loss", "x", "w", "expected"),
    [
        (
            refloss.ArcFace(s=1.0, m=1.0),
            [1.0, 0.0],
            [[-0.6097095400799609, 0.9495663475163189], [0.0, 1.0]],
            [4.406685148763517e-22, 2.8294999948e-22],
        ),
        (
            refloss.CombinedMargin(s=1.0, m1=29.7, m2=0.1, m3=0.0),
            [1.0, 0.0, 0.0],
            [[-1.9366802696844054, 0.15022107510783328, 2.8840776864912513e-09], [0.0, 1.0, 0.0]],
            [8.68566803e-30, 1.11977377e-28, 2.14984118e-36],
        ),
    ],
    ids=["arcface", "m1 = 29.7"],
)
def test_gradients_next_to_a_multiple_of_pi(loss, x, w, expected):
    """φ - kπ is 1e-21, and 1e-28: pairs know neither."""
    grad = against_certified(loss, [x], w)
    assert np.allclose(grad.w[0], expected, rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("rule", ["none", *PAST_PI])
@pytest.mark.parametrize(
    "margins", [(1.0, 0.5), (4.0, 0.0), (3.0, 0.25), (1.35, 0.3), (2.7, 1.0), (29.7, 0.1)], ids=str
)
def test_every_rule_next_to_its_multiples_of_pi(rule, margins):
    """Vectors to which a tiny third entry brings φ within 1e-20 or so of kπ, from either side."""
    m1, m2 = margins
    rng = np.random.default_rng(round(m1 * 100))
    loss = refloss.CombinedMargin(s=2.0, m1=m1, m2=m2, m3=0.125, boundary=rule)
    for k in (1, math.ceil(m1 + m2 / math.pi) - 1):
        with mp.workdps(60):
            goal = (k * mp.pi - mpf(m2)) / mpf(m1)
            x, w = brought_to(goal, rng)
            apart = exact.angle(x, w[:1])[0] - goal
        for third in (w[0, 2], w[0, 2] * (1.0 - 1e-6), w[0, 2] * (1.0 + 1e-6)):
            w[0, 2] = third
            against_certified(loss, x, w)
        assert 1e-40 < abs(apart) < 1e-16 * 1e-7


def brought_to(goal, rng):
    """x and classes of three dimensions; the angle of the first is the goal, up to rounding its tiny third entry.

    That entry moves the angle towards 90°: without it the angle is a little further from there.
    """
    adjacent = rng.uniform(0.5, 2.0) * (1.0 if goal < mp.pi / 2 else -1.0)
    opposite = float(adjacent * mp.tan(goal)) * (1.0 - 1e-15)
    third = mp.sqrt((mpf(adjacent) * mp.tan(goal)) ** 2 - mpf(opposite) ** 2)
    return np.array([[1.0, 0.0, 0.0]]), np.array([[adjacent, opposite, float(third)], [0.25, 1.0, 0.5]])


SIDES = [
    (refloss.ArcFace(s=2.0, boundary="easy"), [1.0, 1.0, 1.0], [1.0, 1e-40, -1.0]),
    (refloss.ArcFace(s=2.0, boundary="easy"), [1.0, 1.0, 1.0], [1.0, -1e-40, -1.0]),
    (refloss.ArcFace(s=2.0, boundary="easy"), [1.0, 1.0, 1.0], [1.0, 0.0, -1.0]),
    (refloss.CosFace(s=2.0, m=0.5, boundary="conditional"), [1.0, 1e-40, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]),
    (refloss.CosFace(s=2.0, m=0.5, boundary="conditional"), [1.0, -1e-40, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]),
    (refloss.CosFace(s=2.0, m=0.5, boundary="conditional"), [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]),
    (refloss.CombinedMargin(s=2.0, m1=2.0, m2=0.0, m3=0.0, boundary="min"), [1.0, 1.0, 0.0], [1e-40, -3.0, 3.0]),
    (refloss.CombinedMargin(s=2.0, m1=2.0, m2=0.0, m3=0.0, boundary="min"), [1.0, 1.0, 0.0], [-1e-40, -3.0, 3.0]),
    (refloss.CombinedMargin(s=2.0, m1=2.0, m2=0.0, m3=0.0, boundary="min"), [1.0, 1.0, 0.0], [0.0, -3.0, 3.0]),
    (refloss.CombinedMargin(s=2.0, m1=2.0, m2=0.0, m3=0.0, boundary="min"), [1.0, 1.0, 0.0], [2.0, 2.0, 0.0]),
    (refloss.CombinedMargin(s=2.0, m1=2.0, m2=0.0, m3=0.875, boundary="min"), [1.0, 0.0], [-3.0, math.sqrt(7.0)]),
    (refloss.CombinedMargin(s=2.0, m1=3.0, m2=0.0, m3=1.5, boundary="min"), [1.0, -1.0, 0.0], [1e-40, 1.0, -1.0]),
    (refloss.CombinedMargin(s=2.0, m1=3.0, m2=0.0, m3=1.5, boundary="min"), [1.0, -1.0, 0.0], [-1e-40, 1.0, -1.0]),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "x", "w"), SIDES)
def test_sides_are_those_of_the_exact_vectors(loss, x, w):
    """1e-40 from where a rule changes over, and there."""
    against_certified(loss, [x], [w, np.arange(1.0, len(w) + 1.0)])


@pytest.mark.parametrize("m", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("weight", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("beside", [0.0, 1e-25, -1e-20, 1e-10])
def test_an_annealed_slope_that_cancels(m, weight, beside):
    """Where m sin mθ = -λ sin θ; 1u for rounding it. No other rule than "none" has it."""
    with mp.workdps(60):
        root = mp.findroot(lambda t: m * mp.sin(m * t) + weight * mp.sin(t), 1.2 * mp.pi / m) + beside
        theta = Pair(*(np.array([part]) for part in (float(root), float(root - mpf(float(root))))))
        true = -(m * mp.sin(m * whole(theta)[0]) + weight * mp.sin(whole(theta)[0])) / (1 + mpf(weight))
        assert abs(true) < 1e-8
    _, saved = margin.forward(angle.of(theta), Settings(m, annealing=weight))
    assert exact.value_error(saved.slope, [true]) <= 1.0 + 2.0**-10


@pytest.mark.parametrize("shape", [(), (2, 3), (0,)])
def test_curves_of_angles_in_any_shape(shape):
    """Four times 45°, rounded, has a sine of 1e-16."""
    theta = np.full(shape, math.pi / 4)
    slope = refloss.ASoftmax().target_slope(theta)
    assert slope.shape == shape
    with mp.workdps(60):
        assert np.allclose(slope, float(-4 * mp.sin(4 * mpf(math.pi / 4))), rtol=1e-15, atol=0.0)


def test_what_cancels_exactly_is_0():
    """3 sin 270° + 3 sin 90°."""
    right, _ = angle.forward(np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]]))
    _, saved = margin.forward(right, Settings(3.0, annealing=3.0))
    assert saved.slope.tolist() == [0.0]


def test_what_is_resolved_is_a_copy():
    angles, _ = angle.forward(np.array([[1.0, 0.0]] * 2), np.array([[1e-20, 3.0], [1.0, 1.0]]))
    settings = Settings(2.0)
    at = margin.turned(angles, settings)
    rough = Pair(np.array([1e-20, 0.5]), np.zeros(2))
    exactly = margin.resolved(rough, 1.0, at.exactly, lambda of: of.cos_theta)
    assert rough.hi.tolist() == [1e-20, 0.5]
    assert exactly.hi.tolist() == [1e-20 / 3.0, 0.5]
    assert margin.resolved(rough, 1.0, at.exactly, lambda of: of.cos_theta, 2.0**-80) is rough


# ------------------------------------------------------------------------------------------- facts about the curves


@pytest.mark.parametrize("m", [0.1, 0.5, 1.0, 2.0])
def test_hard_falls_at_its_boundary_by_half_m_squared_or_so(m):
    settings = Settings(m2=m, boundary="hard")
    curve = margin.curve_of(settings)
    (before, after), _ = values(curve, np.array([math.pi - m - 1e-9, math.pi - m + 1e-9]), settings)
    drop = math.cos(m) + m * math.sin(m) - 1.0
    assert math.isclose(before - after, drop, rel_tol=1e-6)  # beside the boundary by 1e-9, with slopes up to 1
    at_pi, _ = values(curve, math.pi, settings)
    assert math.isclose(at_pi[0], -1.0 - m * math.sin(m), rel_tol=1e-15)
    assert drop > 0.0
    if m == 0.5:
        assert round(drop, 4) == 0.1173


def test_hard_rises_at_its_boundary_from_m_of_2_33_on():
    for m, falls in ((2.33, True), (2.34, False)):
        settings = Settings(m2=m, boundary="hard")
        psi, _ = values(margin.curve_of(settings), np.array([math.pi - m - 1e-9, math.pi - m + 1e-9]), settings)
        assert (psi[0] > psi[1]) == falls


@pytest.mark.parametrize("m", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("rule", "slope_beyond"), [("continuous", 1.0), ("monotone", 0.0)])
def test_continuous_and_monotone_join_at_the_boundary_and_at_pi(m, rule, slope_beyond):
    """Both are continuous; the slope in cos theta jumps from 0 to 1 in the one and not in the other."""
    settings = Settings(m2=m, boundary=rule)
    curve = margin.curve_of(settings)
    theta = np.array([math.pi - m - 1e-9, math.pi - m + 1e-9, math.pi])
    psi, slope = values(curve, theta, settings)
    assert math.isclose(psi[0], -1.0, rel_tol=1e-15)
    assert math.isclose(psi[1], -1.0, rel_tol=1e-8)  # 1e-9 further on, with a slope up to 1
    assert math.isclose(psi[2], math.cos(m) - 2.0, rel_tol=1e-15)
    in_cosine = -slope[:2] / np.sin(theta[:2])
    assert np.allclose(in_cosine, [0.0, slope_beyond], rtol=0.0, atol=2e-8)  # a slope changes by 1e-9 / sin m


@pytest.mark.parametrize("m", [2.0, 3.0, 4.0, 1.5])
def test_monotone_has_no_jump_and_no_edge(m):
    settings = Settings(m1=m, boundary="monotone")
    curve = margin.curve_of(settings)
    for k in range(1, math.ceil(m)):
        theta = k * math.pi / m
        psi, slope = values(curve, np.array([theta - 1e-9, theta + 1e-9]), settings)
        assert np.allclose(psi, 1.0 - 2.0 * k, rtol=1e-15, atol=1e-16)  # (m 1e-9)² / 2 is below roundoff
        assert np.allclose(slope, -m * m * 1e-9, rtol=1e-6, atol=0.0)  # theta is rounded by 1e-16
    psi, slope = values(curve, np.linspace(0.0, math.pi, 1001), settings)
    assert (np.diff(psi) <= 0.0).all()
    assert (slope <= 0.0).all()


def test_slopes_in_cos_theta_at_the_start():
    """At theta -> 0: m² for cos(m theta), folded or not; 1 for CosFace; sin(theta + m) / sin theta without bound."""
    theta = np.array([1e-6])
    for settings, expected in (
        (Settings(m1=4.0, boundary="monotone"), 16.0),
        (Settings(m1=1.35), 1.35**2),
        (Settings(m3=0.35), 1.0),
        (Settings(m2=0.5), math.sin(0.5 + 1e-6) / 1e-6),
    ):
        _, slope = values(margin.curve_of(settings), theta, settings)
        assert math.isclose(-slope[0] / math.sin(1e-6), expected, rel_tol=1e-10)  # terms of second order: 1e-12 m^4


# ------------------------------------------------------------------------------------------------- functions on curves


THETA = np.array([1e-8, 0.3, 1.2, 2.0, 2.9, math.pi - 1e-6])


def test_annealing_is_the_weighted_mean_with_the_cosine():
    settings = Settings(m1=4.0, boundary="monotone")
    plain = margin.ruled(settings, margin.marginal(settings))
    psi, slope = values(plain, THETA, settings)
    for weight in (0.0, 0.1, 5.0, 1000.0):
        eased, eased_slope = values(margin.annealed(weight, plain), THETA, settings)
        assert np.allclose(eased, (weight * np.cos(THETA) + psi) / (1.0 + weight), rtol=1e-14, atol=1e-15)
        assert np.allclose(eased_slope, (-weight * np.sin(THETA) + slope) / (1.0 + weight), rtol=1e-14, atol=1e-15)


def test_a_detached_curve_has_the_slope_of_the_cosine_and_its_own_value():
    for rule in RULES:
        for annealing in (0.0, 5.0):
            settings = Settings(1.35, 0.3, 0.2, rule, annealing)
            psi, _ = values(margin.curve_of(settings), THETA, settings)
            for curve in (
                margin.detached(margin.curve_of(settings)),
                margin.curve_of(settings._replace(gradient="detached")),
            ):
                same, slope = values(curve, THETA, settings)
                assert np.array_equal(same, psi)
                assert np.allclose(slope, -np.sin(THETA), rtol=1e-15, atol=0.0)


def bounded(curve, low=0.0, high=2.0):
    """Keep dψ/dcos θ = -ψ'/sin θ between two numbers, and ψ as it is: happynear's Caffe layer, with 0 and 2."""

    def slope(t):
        steepest, gentlest = t.theta.sin * -high, t.theta.sin * -low
        inner = curve.slope(t)
        inner = where((inner - steepest).hi < 0.0, steepest, inner)
        return where((inner - gentlest).hi > 0.0, gentlest, inner)

    return curve._replace(slope=slope)


def test_a_bounded_curve_has_a_slope_in_cos_theta_between_0_and_2():
    settings = Settings(m2=0.5)
    curve = margin.curve_of(settings)
    theta = np.array([0.0, 1e-3, 0.4, 0.7, 1.5, 2.6, 2.7, 3.1, math.pi - 1e-9])
    psi, slope = values(curve, theta, settings)
    same, held = values(bounded(curve), theta, settings)
    assert np.array_equal(same, psi)
    expected = np.clip(slope, -2.0 * np.sin(theta), 0.0)
    assert np.allclose(held, expected, rtol=1e-15, atol=0.0)
    assert (expected != slope).sum() == 6  # beyond 2 before 0.43 and below 0 beyond pi - m, so that both bounds act
    assert held[0] == 0.0
    _, between = values(bounded(curve, 0.5, 1.0), theta, settings)
    assert np.allclose(between, np.clip(slope, -np.sin(theta), -0.5 * np.sin(theta)), rtol=1e-15, atol=0.0)


def test_functions_on_curves_compose():
    """Annealing inside a detached margin changes no slope; inside a bounded one it does."""
    settings = Settings(m2=0.5)
    eased = margin.annealed(3.0, margin.marginal(settings))
    at = margin.turned(angle.of(THETA), settings)
    assert np.allclose(margin.detached(eased).slope(at).hi, -np.sin(THETA), rtol=1e-15, atol=0.0)
    assert np.array_equal(bounded(eased).psi(at).hi, eased.psi(at).hi)
    share = -bounded(eased).slope(at).hi / np.sin(THETA)
    assert ((share >= 0.0) & (share <= 2.0 + 1e-15)).all()


# -------------------------------------------------------------------------------------------------------- the target


def test_an_angle_that_is_a_multiple_of_pi_up_to_its_own_error_is_there_exactly():
    orthogonal, _ = angle.forward(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    for m1 in (2.0, 4.0, 6.0):
        at = margin.turned(orthogonal, Settings(m1=m1))
        assert at.sin_phi.hi.tolist() == [0.0]
        assert at.cos_phi.hi.tolist() == [(-1.0) ** (m1 / 2.0)]
        assert at.theta is orthogonal


@pytest.mark.parametrize("missing", [1e-8, -1e-8, 1e-20, -1e-20])
@pytest.mark.parametrize("m1", [2.0, 4.0, 6.0, 30.0])
def test_next_to_a_right_angle_the_slope_keeps_its_accuracy(m1, missing):
    """sin(m (pi/2 - d)) = ±sin(m d), and vectors know d as well as they know a small angle.

    1u for rounding the slope, 1u for -m1 times the sine; rotations at 8u² cost nothing. The fold is that on d's side.
    """
    beside, _ = angle.forward(np.array([[1.0, 0.0]]), np.array([[missing, 1.0]]))
    _, saved = margin.forward(beside, Settings(m1=m1, boundary="monotone"))
    with mp.workdps(60):
        d = mp.atan(mpf(missing))
        assert exact.value_error(saved.slope, [-m1 * mp.sin(m1 * abs(d))]) <= 2.0 + 2.0**-10
    folds = margin.turned(beside, Settings(m1=m1)).folds
    assert folds.tolist() == [m1 / 2.0 - (missing > 0.0)]


@pytest.mark.parametrize("m1", [1.0, 1.5, 4.0, 7.0, 30.0])
@pytest.mark.parametrize("m2", [0.0, 0.5, 3.0])
def test_folds_count_the_multiples_of_pi_below(m1, m2):
    theta = np.linspace(0.0, 3.14, 500)
    folds = margin.turned(angle.of(theta), Settings(m1, m2)).folds
    assert np.array_equal(folds, np.floor((m1 * theta + m2) / math.pi))


def test_angles_keep_their_sine_up_to_0():
    """phi = m1 theta for tiny angles: a slope of 1e-300 is right relative to itself, 1u and 2^-10 u for the product."""
    theta = np.array([1e-300, 1e-200, 1e-100, 1e-17])
    for m1 in (1.0, 4.0, 1.35):
        _, saved = margin.forward(angle.of(theta), Settings(m1=m1, boundary="monotone"))
        assert (
            exact.value_error(saved.slope, exact.psi_slope(theta, m1, boundary="monotone", digits=700))
            <= 1.0 + 2.0**-10
        )


@pytest.mark.parametrize("m1", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("missing", [1e-20, 1e-40, 1e-300])
def test_angles_keep_their_sine_up_to_pi(m1, missing):
    """The same from the other end, as the stage before has it: sin(m theta) = ±sin(m (pi - theta))."""
    opposite, _ = angle.forward(np.array([[1.0, 0.0]]), np.array([[-1.0, missing]]))
    assert math.isclose(opposite.sin.hi[0], missing, rel_tol=1e-15)
    _, saved = margin.forward(opposite, Settings(m1=m1, boundary="monotone" if m1 > 1.0 else "none"))
    with mp.workdps(60):
        assert exact.value_error(saved.slope, [-m1 * mp.sin(m1 * mpf(missing))]) <= 2.0 + 2.0**-10


def test_backward_multiplies_by_the_slope():
    settings = Settings(m2=0.5, boundary="hard")
    theta = np.array([0.3, 1.0, 2.0, 2.6, 2.7, 3.0])
    _, saved = margin.forward(angle.of(theta), settings)
    assert saved._fields == ("slope", "by_quality", "threshold", "exactly")
    assert saved.by_quality is None
    upstream = np.random.default_rng(1).standard_normal(6)

    def function(theta):
        return exact.psi(theta, m2=0.5, boundary="hard", digits=mp.dps)

    # The slope 1u (its noise is nothing beside it here), the product 1u.
    dtheta, dv = margin.backward(upstream, saved)
    assert dv is None
    checks.against_exact_vjp(function, [theta], upstream, [dtheta], 2.0 + 1e-9)


# ------------------------------------------------------------------------------------------------- margins per sample


BY_QUALITY = [(Fraction(1), Fraction(0)), (Fraction(0), Fraction(1)), (Fraction(-1, 2), Fraction(1, 4))]


@pytest.mark.parametrize("gradient", ["exact", "detached"])
@pytest.mark.parametrize("by_quality", BY_QUALITY, ids=str)
@pytest.mark.parametrize("rule", ALL_RULES)
def test_margins_per_sample_are_those_of_single_ones(rule, by_quality, gradient):
    """m2 + b2 v and m3 + b3 v, which numbers as short as these have exactly: ψ, slope and threshold have the same bits.

    The derivative by v is rounded once, 1u, and has the noise of two derivatives, with factors of 1 at most.
    """
    settings = Settings(1.25, 0.5, 0.125, rule, 2.0, gradient, by_quality, EPS)
    v = np.array([0.0, 1.0, -1.0, 0.25, 1.75, -0.5, 2.0, -2.0, 0.0, 0.5])
    theta = np.array([0.0, 0.1, 0.3, 1.0, 1.6, 2.0, 2.5, 2.9, 3.0, math.pi])
    psi, saved = margin.forward(angle.of(theta), settings, quality.given(v))
    b2, b3 = map(float, by_quality)
    for n, number in enumerate(v.tolist()):
        own = Settings(1.25, 0.5 + b2 * number, 0.125 + b3 * number, rule, 2.0, gradient, eps=EPS)
        one, alone = margin.forward(angle.of(theta[[n]]), own)
        assert (psi.hi[n], psi.lo[n], saved.slope[n]) == (one.hi[0], one.lo[0], alone.slope[0])
        assert (saved.threshold.hi[n], saved.threshold.lo[n]) == (alone.threshold.hi[0], alone.threshold.lo[0])
        parts = [exact.psi_slope(theta[[n]], by=name, **options_of(own))[0] for name in ("m2", "m3")]
        with mp.workdps(60):
            true = mpf(0) if gradient == "detached" else b2 * parts[0] + b3 * parts[1]
            assert abs(mpf(saved.by_quality[n]) - true) <= checks.U * abs(true) + 2.0 * noise(own)


def test_the_threshold_is_the_margin_before_its_rule():
    theta = np.array([0.3, 1.0, 2.0, 2.9])
    for rule in RULES:
        settings = Settings(1.0, 0.5, 0.25, rule)
        _, saved = margin.forward(angle.of(theta), settings)
        with mp.workdps(60):
            assert (abs(whole(saved.threshold) - exact.psi(theta, m2=0.5, m3=0.25)) <= noise(settings)).all()


def test_backward_carries_to_the_number_of_a_sample():
    """1u for the derivative, 1u for the product; its noise is nothing beside it here."""
    theta, v = np.array([0.3, 1.0, 2.0, 2.6, 2.9, 3.0]), np.array([0.5, -0.25, 0.0, 0.25, 0.5, 1.0])
    settings = Settings(m2=0.25, m3=0.5, boundary="hard", by_quality=(Fraction(1, 2), Fraction(-1, 4)))
    _, saved = margin.forward(angle.of(theta), settings, quality.given(v))
    upstream = np.random.default_rng(2).standard_normal(6)
    _, dv = margin.backward(upstream, saved)

    def function(v):
        rows = [
            exact.psi([t], m2=0.25 + number / 2, m3=0.5 - number / 4, boundary="hard", digits=mp.dps)[0]
            for t, number in zip(theta, v, strict=True)
        ]
        return np.array(rows)

    checks.against_exact_vjp(function, [v], upstream, [dv], 2.0 + 1e-9)


@pytest.mark.parametrize("side", [1e-4, 1e-8, 1e-12, -1e-12, -1e-8, -1e-4])
@pytest.mark.parametrize("k", [0, 1])
def test_next_to_a_multiple_of_pi_slopes_with_margins_of_either_sign_are_right_relative_to_themselves(k, side):
    """1u, with 2^-10 u for noise: beside 1e-12, 1e-29 is that little. The same of what the margin changes."""
    theta = np.array([1e-8, 0.3, 1.0, 2.0, 3.0, math.pi - 1e-5])
    m = k * math.pi - theta + side
    settings = Settings(by_quality=(Fraction(1), Fraction(0)))
    _, saved = margin.forward(angle.of(theta), settings, quality.given(m))
    true = [exact.psi_slope([t], m2=one, digits=60)[0] for t, one in zip(theta, m, strict=True)]
    assert exact.value_error(saved.slope, true) <= 1.0 + 2.0**-10
    assert exact.value_error(saved.by_quality, true) <= 1.0 + 2.0**-10


# ---------------------------------------------------------------------------------------------------- the circle loss

CIRCLES = [
    Settings(m3=m, boundary=margin.CIRCLE, gradient=gradient)
    for m in (0.0, 0.1, 0.25, 1.0)
    for gradient in ("exact", "detached")
]


def circle_angles():
    """From 0 to π, towards both, around a right angle, where 1 - cos θ is found in another way, and where ψ is 0."""
    angles = [0.0, 1e-300, 1e-100, 1e-30, 1e-17, 1e-8, 1e-4, *np.linspace(0.1, 3.1, 16), math.pi]
    angles += [math.pi - side for side in (1e-4, 1e-8, 1e-15)] + [math.pi / 2 + side for side in (-1e-9, 0.0, 1e-9)]
    return np.array([*angles, math.acos(0.9), math.acos(0.75)])


def circle_slope(theta, settings):
    """-2(1 - cos θ) sin θ, and with the weight as a constant -(m + 1 - cos θ) sin θ."""
    versine = 2 * mp.sin(mpf(theta) / 2) ** 2
    detached = settings.gradient == "detached"
    return -(mpf(settings.m3) + versine if detached else 2 * versine) * mp.sin(mpf(theta))


@pytest.mark.parametrize("settings", CIRCLES, ids=str)
def test_circle_and_its_slope_are_right_relative_to_themselves(settings):
    """2^-98 of m² + (1 - cos θ)² for ψ, a pair; 1u for the slope, of itself, and as little more.

    16u² of sin θ and cos θ each, 16u² for a square and a quotient, and that squared: less than 2^-98 = 256u². Numbers
    below the range of float64 are 0.
    """
    theta = circle_angles()
    psi, saved = margin.forward(angle.of(theta), settings)
    true = exact.psi(theta, m3=settings.m3, boundary="circle")
    with mp.workdps(60):
        for n, t in enumerate(theta.tolist()):
            square = settings.m3**2 - true[n]
            assert abs(whole(psi)[n] - true[n]) <= mpf(2) ** -98 * (mpf(settings.m3) ** 2 + square) + 2.0**-1074
            slope = circle_slope(t, settings)
            assert (
                abs(mpf(float(saved.slope[n])) - slope) <= (1 + mpf(2) ** -40) * checks.U * abs(slope) + 2.0**-1074
            ), t
        if settings.gradient == "exact":
            written = exact.psi_slope(theta, m3=settings.m3, boundary="circle")
            for t, other in zip(theta.tolist(), written, strict=True):
                assert abs(circle_slope(t, settings) - other) <= mpf(10) ** -40 * abs(other)
    assert saved.slope[0] == 0.0
    assert saved.by_quality is None


def test_circle_has_nothing_of_other_margins():
    """The exact slope does not know m; a detached one has it as the weight at θ = 0."""
    theta = circle_angles()
    first, other = (margin.forward(angle.of(theta), CIRCLES[k])[1].slope for k in (2, 6))
    assert np.array_equal(first, other)
    for loss in (refloss.CircleLoss(m=0.25), refloss.CircleLoss(m=0.25, gradient="detached")):
        own = loss.spec.margin
        psi, saved = margin.forward(angle.of(theta), own)
        assert np.array_equal(loss.target_logit(theta), psi.hi)
        assert np.array_equal(loss.target_slope(theta), saved.slope)
    assert refloss.CircleLoss(m=0.25).target_logit(0.0) == 0.0625
    assert refloss.CircleLoss(m=0.25).target_logit(math.pi) == 0.0625 - 4.0
    curve = margin.circle(CIRCLES[0])
    turned = margin.turned(angle.of(theta), CIRCLES[0])
    assert not curve.by_m2(turned).hi.any()
    assert not curve.by_m3(turned).hi.any()


@pytest.mark.parametrize("settings", CIRCLES, ids=str)
def test_backward_of_circle_against_differences(settings):
    """The slope 1u, its noise nothing beside it; the product 1u. The weight stays what it is where it is detached."""
    theta = np.array([1e-3, 0.3, 1.0, 1.6, 2.0, 3.0])
    _, saved = margin.forward(angle.of(theta), settings)
    upstream = np.random.default_rng(3).standard_normal(6)
    dtheta, _ = margin.backward(upstream, saved)
    detached = settings.gradient == "detached"

    def function(moved):
        """Return (1 + m - cos θ)(cos θ - 1 + m)."""
        weights = [1 + mpf(settings.m3) - mp.cos(mpf(t)) for t in theta.tolist()]
        rows = [
            (w if detached else 1 + mpf(settings.m3) - mp.cos(t)) * (mp.cos(t) - 1 + mpf(settings.m3))
            for t, w in zip(moved, weights, strict=True)
        ]
        return np.array(rows)

    checks.against_exact_vjp(function, [theta], upstream, [dtheta], 2.0 + 1e-9)


# --------------------------------------------------------------------------------------------------------------- power

POWERS = [
    Settings(m3=m, boundary=margin.POWER, gradient=gradient, power=t)
    for t, m in ((1, 0.0), (2, 0.4), (3, 0.4), (30, 2.0))
    for gradient in ("exact", "detached")
]


def power_slope(theta, settings):
    """-t cos^(2t-2)(θ/2) sin θ, and with dg/dc := 1 that of the cosine."""
    share = (
        1 if settings.gradient == "detached" else settings.power * mp.cos(mpf(theta) / 2) ** (2 * settings.power - 2)
    )
    return -share * mp.sin(mpf(theta))


@pytest.mark.parametrize("settings", POWERS, ids=str)
def test_power_and_its_slope_are_right_relative_to_themselves(settings):
    """2^-98 t of 3 + m for ψ, a pair; 1u for the slope, of itself, and as little more, next to 0 and to π too.

    cos²(θ/2) is right to 40u² of itself, and each of t products adds that and 5u²: less than 2^-98 t = 256u² t. What is
    below the range of float64 is 0, and a pair loses its low part 2^53 before.
    """
    theta = circle_angles()
    psi, saved = margin.forward(angle.of(theta), settings)
    options = {"m3": settings.m3, "boundary": "power", "power": settings.power}
    true, written = exact.psi(theta, **options), exact.psi_slope(theta, **options)
    own = mpf(2) ** -98 * settings.power
    with mp.workdps(60):
        for n, t in enumerate(theta.tolist()):
            assert abs(whole(psi)[n] - true[n]) <= own * (3 + settings.m3), t
            slope = power_slope(t, settings)
            error = abs(mpf(float(saved.slope[n])) - slope)
            assert error <= (checks.U * (1 + mpf(2) ** -40) + own) * abs(slope) + 2.0**-1022, t
            if settings.gradient == "exact":
                assert abs(slope - written[n]) <= mpf(10) ** -40 * abs(written[n])
    assert saved.slope[0] == 0.0
    assert saved.by_quality is None


def test_a_power_of_1_is_the_cosine():
    theta = circle_angles()
    first, other = (margin.forward(angle.of(theta), settings) for settings in (POWERS[0], Settings()))
    np.testing.assert_allclose(first[0].hi, other[0].hi, rtol=0.0, atol=1e-16)
    np.testing.assert_array_equal(first[1].slope, other[1].slope)
    for detached in POWERS[1::2]:
        np.testing.assert_array_equal(margin.forward(angle.of(theta), detached)[1].slope, other[1].slope)


def test_power_has_nothing_of_other_margins():
    theta = circle_angles()
    curve, turned = margin.of_power(POWERS[4]), margin.turned(angle.of(theta), POWERS[4])
    assert not curve.by_m2(turned).hi.any()
    assert (curve.by_m3(turned).hi == -1.0).all()


@pytest.mark.parametrize("settings", POWERS, ids=str)
def test_backward_of_power_against_differences(settings):
    """The slope 1u, its noise nothing beside it; the product 1u."""
    theta = np.array([1e-3, 0.3, 1.0, 1.6, 2.0, 3.0])
    _, saved = margin.forward(angle.of(theta), settings)
    upstream = np.random.default_rng(3).standard_normal(6)
    dtheta, _ = margin.backward(upstream, saved)
    power = 1 if settings.gradient == "detached" else settings.power

    def function(moved):
        return np.array([2 * ((1 + mp.cos(t)) / 2) ** power - 1 - mpf(settings.m3) for t in moved])

    checks.against_exact_vjp(function, [theta], upstream, [dtheta], 2.0 + 1e-9)
