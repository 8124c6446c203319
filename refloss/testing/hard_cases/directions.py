"""Cases of heads with embeddings and class weights: a linear layer, or a margin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS
from refloss.testing.hard_cases.angles import (
    SURE,
    at_angles,
    beside_threshold,
    boundaries,
    certain,
    cosines,
    of_lengths,
    orthogonal,
    sample_lengths,
    with_rivals,
)
from refloss.testing.hard_cases.case import Draft, Labels, Setting
from refloss.testing.hard_cases.centers import center_cases, with_centers
from refloss.testing.hard_cases.curves import curve_cases, has_curves
from refloss.testing.hard_cases.labels import (
    NOTHING,
    SATURATED,
    WEIGHTLESS,
    can_ignore,
    every_second_ignored,
    ignored_reason,
    weightless_labels,
)
from refloss.testing.signatures import (
    adds_to_cosine,
    centers_of,
    given_margin,
    head_of,
    ignore_index_of,
    is_on_cosine,
    negatives_of,
    own_margin,
    quality_of,
    scale_of,
    softcap_of,
    takes_margins,
)

RandomRows: TypeAlias = Callable[[Labels], tuple[Array, Array]]
"""Random x and w for labels."""
LONGEST = {"float16": 2, "bfloat16": 30, "float32": 30, "float64": 200}
"""Powers of ten whose square overflows."""
NO_DIRECTION = "has no direction, and its loss no value: to refuse it is right, and so is any finite answer"


def direction_cases(setting: Setting) -> Iterator[Draft]:
    """Yield the cases of a linear head or of a margin.

    Where margins depend on the lengths of embeddings, all embeddings have such lengths that they do, except where a
    case is about lengths. Where a class has several centers, each has further ones.
    """
    lengths, centers = sample_lengths(setting), centers_of(setting.loss)
    for draft in _of_any_length(setting):
        x, *others = draft.inputs
        keep = lengths is None or {"lengths", "overflow", "zero vector"} & set(draft.flags)
        own = draft if keep else draft._replace(inputs=(of_lengths(x, lengths), *others))
        yield own if centers is None else with_centers(setting, own, centers)
    if centers is not None:
        yield from center_cases(setting, centers)


def _of_any_length(setting: Setting) -> Iterator[Draft]:
    """Yield the cases."""
    n, c, d = setting.size
    loss, labels, normal = setting.loss, setting.labels, setting.normal
    on_margin = head_of(loss) == "margin"

    def random(y: Labels) -> tuple[Array, Array]:
        """Return rows of normal numbers, if possible no target within 0.3 rad of its class or of its opposite."""
        for _ in range(100):
            x, w = normal(n, d), normal(c, d)
            if np.abs(cosines(x, w[y])).max() < 0.95:
                break
        return x, w

    y = labels()
    yield Draft("ordinary", "random", ("random",), "independent normal numbers, nothing special", (*random(y), y))
    x, w = random(y := labels())
    lengths = np.geomspace(0.125, 8.0, n)[:, None]
    reason = "embeddings of lengths from 1/8 to 8 times another"
    yield Draft("ordinary", "lengths", ("lengths",), reason, (x * lengths, w, y))
    reason = "targets at 0.5 to 1.2 rad of their class"
    yield Draft("ordinary", "trained", ("near",), reason, at_angles(setting, labels(), (0.5, 1.2)))
    if on_margin:
        yield from _boundary_cases(setting)
        yield from _angle_cases(setting)
        yield from _quality_cases(setting, random)
        if has_curves(setting):
            yield from curve_cases(setting)
        elif negatives_of(loss) is not None:
            yield from _threshold_cases(setting)
    x, w = random(y := labels())
    if n > 1:
        yield Draft("boundary", "ignored", ("ignored",), ignored_reason(loss), (x, w, every_second_ignored(loss, y)))
    if can_ignore(loss):
        all_ignored = np.full(n, ignore_index_of(loss))
        yield Draft("boundary", "all-ignored", ("ignored",), NOTHING, (x, w, all_ignored))
    if (weightless := weightless_labels(loss, n)) is not None:
        yield Draft("boundary", "weight-0", ("weightless",), WEIGHTLESS, (*random(weightless), weightless))
    x, w = random(y := labels())
    reason = "all other classes are one and the same"
    yield Draft("hard", "same-classes", ("same classes",), reason, (x, _identical(w, y), y))
    if (sure := certain(setting, labels())) is not None:
        reason = f"targets of probability 1 - 2^-k, k from 1 to {SURE}"
        yield Draft("hard", "certain", ("confident",), reason, sure)
    if not on_margin or scale_of(loss) is None:
        yield from _gap_cases(setting)
    if not on_margin:
        yield from _bias_cases(setting, random)
        yield from _option_cases(setting, random)
    elif scale_of(loss) is not None:
        yield from length_cases(setting, random)
    if takes_margins(loss):
        yield from _margin_cases(setting, random)


def _boundary_cases(setting: Setting) -> Iterator[Draft]:
    """Targets on each boundary of the rule of the margin and on both sides of it."""
    for name, theta, reason, lengths in boundaries(setting):
        flags = ("boundary",) if lengths is None else ("boundary", "lengths")

        def at(*angles: float | Array, lengths: Array | None = lengths) -> tuple[Array, ...]:
            x, *others = at_angles(setting, setting.labels(), angles)  # type: ignore[arg-type]
            return of_lengths(x, lengths), *others

        for side, off in (("before", -0.02), ("after", 0.02)):
            inputs = at(np.maximum(theta + off, 0.05), np.minimum(theta + off, np.pi - 0.05))
            yield Draft("boundary", f"{name}-{side}", flags, f"0.02 rad {side} {reason}", inputs)
        either = f"on {reason}, as near as the dtype can: what holds on either side is accepted"
        yield Draft("boundary", f"{name}-on", flags, either, at(theta, theta))


def _quality_cases(setting: Setting, random: RandomRows) -> Iterator[Draft]:
    """Embeddings as long as the bounds of the length that margins depend on, beside them, and far beyond."""
    settings, n = quality_of(setting.loss), setting.size.n
    least, most = FORMATS[setting.dtype].smallest, FORMATS[setting.dtype].largest
    for name, bound in () if settings is None else (("least", settings.low), ("most", settings.high)):
        for side, factor in (("below", 0.98), ("on", 1.0), ("above", 1.02), ("far", 0.5 if name == "least" else 2.0)):
            length = float(bound) * factor
            if not 1e3 * least < length**2 < most:  # no code of this dtype adds up such squares
                continue
            x, w = random(y := setting.labels())
            where = {"on": "as long as", "far": "twice beyond"}.get(side, f"2 % {side}")
            reason = f"embeddings {where} the {'shortest' if name == 'least' else 'longest'} that count by their length"
            inputs = of_lengths(x, np.full(n, length)), w, y
            yield Draft("boundary", f"length-{name}-{side}", ("lengths", "bound"), reason, inputs)


def _threshold_cases(setting: Setting) -> Iterator[Draft]:
    """Classes at the threshold of hard ones, and on both sides of it."""
    c, labels = setting.size.c, setting.labels
    for side, off in (("hard", -0.02), ("easy", 0.02), ("on", 0.0)) if c > 1 and setting.size.d > 1 else ():
        inputs = beside_threshold(setting, labels() % ((c + 1) // 2), off)
        reason = f"classes 0.02 rad beside the threshold of hard ones, {side}"
        if side == "on":
            reason = "classes on the threshold of hard ones, as near as the dtype can: hard or not is accepted"
        yield Draft("boundary", f"threshold-{side}", ("threshold",), reason, inputs)


def _margin_cases(setting: Setting, random: RandomRows) -> Iterator[Draft]:
    """Margins that are given, one per sample."""
    labels, n = setting.labels, setting.size.n
    settings = given_margin(setting.loss)
    m = np.minimum((own_margin(setting.loss) or 0.25) * np.linspace(0.5, 1.5, n), 1.5)
    y = labels()
    yield Draft("ordinary", "margins", ("margins",), "a margin for each sample", (*random(y), y, m))
    y = labels()
    reason = "margins of 0 and below 0 among those that are given"
    signs = np.resize([0.0, -0.125, m[0]], n)
    yield Draft("boundary", "margins-signs", ("margins",), reason, (*random(y), y, signs))
    if n > 1:
        x, w = random(y := labels())
        inputs = x, w, every_second_ignored(setting.loss, y), m
        yield Draft("boundary", "ignored-margins", ("ignored", "margins"), ignored_reason(setting.loss), inputs)
    reason = "targets at 0.01 rad of their class, each with its margin"
    yield Draft("hard", "margins-near", ("margins", "small angle"), reason, (*at_angles(setting, y, (1e-2, 1e-2)), m))
    side = np.where(np.arange(n) % 2 == 0, -0.02, 0.02)
    if is_on_cosine(settings):
        x, w, y = at_angles(setting, labels(), (0.5, 1.2))
        m, reason = cosines(x, w[y]) + side, "margins 0.02 beside the cosine of their target"
    else:
        turned = np.linspace(1.0, 2.0, n) * min(settings.m1, 1.0)
        x, w, y = at_angles(setting, labels(), (turned[0] / settings.m1, turned[-1] / settings.m1))
        m, reason = np.pi - turned + side, "margins 0.02 beside that of m1 theta + m2 = pi"
    yield Draft("boundary", "margins-rule", ("margins", "boundary"), reason, (x, w, y, m))


def _angle_cases(setting: Setting) -> Iterator[Draft]:
    """Targets near their class, near its opposite, and at right angles to it."""
    labels, c = setting.labels, setting.size.c
    # The nearest shows a cosine that is clamped at 1 - 1e-7.
    nearer = (1e-5,) if adds_to_cosine(setting.loss) and setting.dtype == "float64" else ()
    for theta in (1e-1, 1e-2, 1e-3, *nearer):
        angles = f"{theta:.0e}"
        reason = f"targets at {theta:g} rad of their class: a cosine does not know them well"
        yield Draft("hard", f"theta-{angles}", ("small angle",), reason, at_angles(setting, labels(), (theta, theta)))
        reason = f"targets at pi - {theta:g} rad, nearly opposite to their class"
        inputs = at_angles(setting, labels(), (np.pi - theta, np.pi - theta))
        yield Draft("hard", f"pi-minus-{angles}", ("angle near pi",), reason, inputs)
    for theta in (1e-2, 1e-3, *nearer):
        reason = f"targets at {theta:g} rad of their class, and other classes as near: the loss is not small"
        inputs = with_rivals(setting, labels() % ((c + 1) // 2), theta)
        yield Draft("hard", f"rivals-{theta:.0e}", ("small angle", "rivals"), reason, inputs)
    if c > 1:
        x, w, y = at_angles(setting, labels(), (np.pi - 0.1, np.pi - 0.1))
        w[(y[0] + 1) % c] = -w[y[0]]
        reason = "an embedding nearly opposite to its class, and another class next to it: a gap of twice the scale"
        yield Draft("hard", "opposite", ("angle near pi", "gap"), reason, (x, w, y))
    if setting.size.d > 1:
        reason = "targets at right angles to their class, or 2^-16 from it: an angle from two lengths loses digits"
        yield Draft("hard", "orthogonal", ("orthogonal",), reason, orthogonal(setting, labels()))


def _gap_cases(setting: Setting) -> Iterator[Draft]:
    """Logits so far apart that exponentials vanish."""
    n, c, _ = setting.size
    for gap in setting.gaps if c > 1 else ():
        _, w, y = at_angles(setting, setting.labels(), (0.6, 1.2))
        rival = w[(y + 1) % c]
        reason = f"another class's logit is {gap:g}: its exponential overflows, or the label's vanishes"
        yield Draft(
            "hard", f"wrong-{gap:g}", ("wrong", "gap"), reason, (gap * rival + 0.25 * setting.normal(n, 1), w, y)
        )


def _bias_cases(setting: Setting, random: RandomRows) -> Iterator[Draft]:
    """Cases of a linear head alone: a bias, and logits that are all large."""
    n, c, d = setting.size
    labels, normal = setting.labels, setting.normal
    y = labels()
    yield Draft("ordinary", "bias", ("bias",), "a bias", (*random(y), y, normal(c)))
    if n > 1:
        y = labels()
        yield Draft(
            "boundary",
            "ignored-bias",
            ("ignored", "bias"),
            ignored_reason(setting.loss),
            (*random(y), every_second_ignored(setting.loss, y), normal(c)),
        )
    y = labels()
    reason = "a bias of 1000 and more: exponentials of logits overflow"
    yield Draft("hard", "bias-offset", ("bias", "offset"), reason, (*random(y), y, 1000.0 + normal(c)))
    x, w = random(y := labels())
    x[:, 0], w[:, 0] = 32.0, w[:, 0] + 32.0
    reason = "all logits of 1000 and more: their exponentials overflow"
    yield Draft("hard", "offset", ("offset",), reason, (x, w, y))
    if c > 1:
        # Integers in one dimension: their products are exact, and the budget of logits is as small as it can be.
        x, w, up = np.zeros((n, d)), np.zeros((c, d)), np.arange(n) % 2 == 0
        w[:, 0] = np.round(np.linspace(134.0, 250.0, c))
        most, least = setting.rng.permutation(c)[:2]
        w[[most, least], 0] = 255.0, 128.0
        x[:, 0] = np.where(up, 8.0, -8.0)
        reason = "all logits of 1000 and more, exact, and confident targets: logsumexp less a logit loses the loss"
        yield Draft("hard", "offset-exact", ("offset", "confident"), reason, (x, w, np.where(up, most, least)))


def _option_cases(setting: Setting, random: RandomRows) -> Iterator[Draft]:
    """Cases of what a linear head may have beside labels and a bias: probabilities for labels, and a cap."""
    n, c, d = setting.size
    shares = np.array([setting.rng.multinomial(64, row) for row in setting.rng.dirichlet(np.ones(c), n)]) / 64.0
    x, w = random(setting.labels())
    yield Draft("boundary", "soft", ("soft",), "probabilities for labels, some of them 0", (x, w, shares))
    sigma, cap = softcap_of(setting.loss)
    if cap is not None:
        x, w = random(y := setting.labels())
        yield Draft("hard", "saturated", ("saturated",), SATURATED, (4.0 * cap / sigma / d**0.5 * x, w, y))


def length_cases(setting: Setting, random: RandomRows) -> Iterator[Draft]:
    """Lengths whose squares overflow or vanish, and vectors without a direction."""
    long = 10.0 ** LONGEST[setting.dtype]
    x, w = random(y := setting.labels())
    reason = f"embeddings of length {long:g}: their squares overflow"
    yield Draft("range", "long-x", ("overflow",), reason, (x * long, w, y))
    reason = f"weights of length {1 / long:g}: their squares vanish"
    yield Draft("range", "short-w", ("underflow",), reason, (x, w / long, y))
    for name, place, reason in (
        ("x", 0, f"an embedding of zeros {NO_DIRECTION}"),
        ("w", -1, f"a class of zeros {NO_DIRECTION}"),
    ):
        x, w = random(y := setting.labels())
        (x if name == "x" else w)[place] = 0.0
        yield Draft("range", f"zero-{name}", ("zero vector",), reason, (x, w, y))


def _identical(w: Array, y: Labels) -> Array:
    """Return class weights of which all but that of the first label are the same."""
    other = w.copy()
    other[np.setdiff1d(np.arange(len(w)), y[:1])] = w[(y[0] + 1) % len(w)]
    return other
