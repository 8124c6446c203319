"""Defects of SphereFace-R, circle loss and inter-top-k: one part otherwise than it should be.

Symbols: those of `refloss.losses.class_curves`; ψ stands for the cosine of the target, η for those of other classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array, Pair, plain
from refloss.losses import CircleLoss, InterTopK, SphereFaceR
from refloss.stages import angle, class_angles
from refloss.testing.defects.heads import Parts, nearest, turned
from refloss.testing.defects.loss_rows import Scores
from refloss.testing.defects.row import setting
from refloss.testing.defects.steps import of_parts, step
from refloss.testing.defects.variants import other_gradient, variant
from refloss.testing.signatures import Loss, ignore_index_of, with_settings

EVERY = 2**31
"""More classes than a case has."""

Change = Callable[[Parts], Scores]
"""The logits from the parts, one of them changed."""


class AngleSlopes(NamedTuple):
    """The gradient of a loss whose changed angles have another slope."""

    loss: Loss
    settings: class_angles.Settings
    slope: Callable[[angle.Angle, class_angles.Settings], Pair]
    """dη/dθ of changed angles (E,)."""

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        value, gradient = self.loss.value_and_grad(*inputs, upstream=upstream, engine=engine)
        steps = self.loss.trace(*inputs, upstream=upstream)
        (x, w, y), dx, dw = inputs, gradient.x.copy(), gradient.w.copy()
        kept = np.flatnonzero(y != ignore_index_of(self.loss))
        c, deta = (part[kept] for part in (steps["cosine"].output, steps["class_angles"].gradient))
        _, saved = class_angles.forward(Pair.of(c), x[kept], w, y[kept], self.settings)
        n, k = np.nonzero(class_angles.are_changed(y[kept], saved, self.settings))
        theta, saved_angle = angle.forward(x[kept[n]], w[k])
        apart = (self.slope(theta, self.settings) - _slope(theta, self.settings)) * deta[n, k]
        of_x, of_w = angle.backward(apart.rounded(), saved_angle)
        np.add.at(dx, kept[n], plain(of_x))
        np.add.at(dw, k, plain(of_w))
        return value, gradient._replace(x=dx, w=dw)


def _penalty_of(settings: Any) -> class_angles.Settings:
    return class_angles.Settings("nearest", settings.penalty, settings.k)


def _slope(theta: angle.Angle, own: class_angles.Settings) -> Pair:
    _, sin_phi, _ = class_angles.of_angle(theta.theta, theta.cos, theta.sin, own)
    return class_angles.slope_of(sin_phi, theta.sin, own)


def _slope_without_m(theta: angle.Angle, own: class_angles.Settings) -> Pair:
    return _slope(theta, own) * own.m


def _slope_of_cosine(theta: angle.Angle, own: class_angles.Settings) -> Pair:
    return -theta.sin


# -------------------------------------------------------------------------------------------------------- SphereFace-R


def _is_sphere_face_r(loss: Any) -> bool:
    return isinstance(loss, SphereFaceR) and loss.m != 1.0


def _multiplies(loss: Any) -> bool:
    return _is_sphere_face_r(loss) and loss.spec.class_angles is None


def _divides(loss: Any) -> bool:
    return _is_sphere_face_r(loss) and loss.spec.class_angles is not None


def _margin(loss: Any, **changes: Any) -> Any:
    return loss.spec.margin._replace(**changes)


def _angles(loss: Any, **changes: Any) -> Any:
    return loss.spec.class_angles._replace(**changes)


SPHERE_FACE_R = (
    setting(
        "other version",
        "value and gradient agree with version={other.version}",
        _is_sphere_face_r,
        version=lambda loss: 3 - loss.version,
    ),
    variant(
        "m theta beyond pi",
        "cos(m theta) rises again beyond pi",
        _multiplies,
        "m theta is held at pi",
        margin=lambda loss: _margin(loss, boundary="none"),
    ),
    variant(
        "m theta in folds",
        "cos(m theta) goes on in folds beyond pi, as A-Softmax's",
        _multiplies,
        "m theta is held at pi",
        margin=lambda loss: _margin(loss, boundary="monotone"),
    ),
    variant(
        "theta/m of the target",
        "the target's angle is divided by m too",
        _divides,
        "only those of the other classes are",
        margin=lambda loss: _margin(loss, m1=1.0 / loss.m),
    ),
    variant(
        "m theta of other classes",
        "the angles of the other classes are multiplied by m",
        _divides,
        "divide them by m",
        class_angles=lambda loss: _angles(loss, m=1.0 / loss.m),
    ),
    other_gradient(
        "no 1/m in the slope",
        "1/m is left out of the slope of the other classes",
        lambda loss: _divides(loss) and loss.gradient == "exact",
        "the slope of cos(theta/m) is -sin(theta/m)/m",
        lambda loss: AngleSlopes(loss, loss.spec.class_angles, _slope_without_m),
    ),
)

# ---------------------------------------------------------------------------------------------------------- circle loss


def _is_circle(gradient: str, loss: Any) -> bool:
    return isinstance(loss, CircleLoss) and loss.gradient == gradient


def _with_curve(gradient: str, loss: Any) -> Any:
    return _margin(loss, gradient=gradient)


def _with_classes(gradient: str, loss: Any) -> Any:
    return loss._negatives._replace(gradient=gradient)


CIRCLE = tuple(
    variant(name, sentence, partial(_is_circle, own), remedy, **{part: partial(change, other)})
    for own, other, remedy, which in (
        ("exact", "detached", "every weight has a gradient", "a constant"),
        ("detached", "exact", "every weight counts as a constant", "not a constant"),
    )
    for name, sentence, part, change in (
        (
            f"target's weight {which}",
            "the target's weight counts as a constant" if own == "exact" else "the target's weight has a gradient",
            "margin",
            _with_curve,
        ),
        (
            f"other weights {which}",
            "the weights of the other classes count as constants"
            if own == "exact"
            else "the weights of the other classes have a gradient",
            "negatives",
            _with_classes,
        ),
    )
)

# ---------------------------------------------------------------------------------------------------------- inter-top-k


def _has_penalty(loss: Any) -> bool:
    return isinstance(loss, InterTopK) and loss.penalty != 0.0


def _others(by: int, loss: Any) -> int:
    return int(loss.k) + by


def _has_others(by: int, loss: Any) -> bool:
    return _has_penalty(loss) and _others(by, loss) > 0


def _with_slope_of_cosine(gradient: str, loss: Any) -> AngleSlopes:
    return AngleSlopes(with_settings(loss, gradient=gradient), _penalty_of(loss), _slope_of_cosine)


INTER_TOP_K = (
    setting(
        "no penalty",
        "the nearest classes have no penalty, as in wespeaker until update() is called",
        _has_penalty,
        penalty=0.0,
    ),
    setting(
        "penalty in degrees",
        "the penalty is taken in degrees",
        _has_penalty,
        penalty=lambda loss: float(np.radians(loss.penalty)),
    ),
    variant(
        "penalty of the wrong sign",
        "the penalty has the wrong sign",
        _has_penalty,
        "it is taken off the angles",
        class_angles=lambda loss: _penalty_of(loss)._replace(m=-loss.penalty),
    ),
    variant(
        "penalty on all",
        "the penalty is on all other classes",
        _has_penalty,
        lambda loss: f"it is on the nearest, k={loss.k}",
        class_angles=lambda loss: _penalty_of(loss)._replace(k=EVERY),
    ),
    *(
        setting(
            name,
            "value and gradient agree with k={other.k}",
            partial(_has_others, by),
            k=partial(_others, by),
        )
        for name, by in (("k - 1 nearest", -1), ("k + 1 nearest", 1))
    ),
    *(
        other_gradient(
            name,
            sentence,
            _has_penalty,
            "the slope of cos(theta - m') is -sin(theta - m')",
            partial(_with_slope_of_cosine, gradient),
        )
        for name, sentence, gradient in (
            ("penalty a constant", "the penalty counts as a constant", "exact"),
            ("margin and penalty constants", "margin and penalty count as constants", "detached"),
        )
    ),
)


# --------------------------------------------------------------------------------------------------------------- steps


def _held(weights: Array) -> Array:
    return np.maximum(weights, 0.0)


def _with_margins(of_target: Any, of_others: Any, high: Any, low: Any, parts: Parts) -> Scores:
    """Margins of the target and of the other classes, and the cosines at which their weights are 0; functions of m."""
    m = parts.loss.m  # type: ignore[attr-defined]
    psi = _held(high(m) - parts.target) * (parts.target - of_target(m))
    return parts._replace(psi=psi).scores_with(_held(parts.c - low(m)) * (parts.c - of_others(m)))


def _own(m: float) -> float:
    return m


def _below(m: float) -> float:
    return 1.0 - m


def _above(m: float) -> float:
    return 1.0 + m


def _minus(m: float) -> float:
    return -m


def _minus_above(m: float) -> float:
    return -1.0 - m


def _unheld(parts: Parts) -> Scores:
    return parts.scores_with(parts.c**2 - parts.loss.m**2)  # type: ignore[attr-defined]


def _unweighted(parts: Parts) -> Scores:
    m = parts.loss.m  # type: ignore[attr-defined]
    return parts._replace(psi=parts.target - (1.0 - m)).scores_with(parts.c - m)


WEIGHTS = "the weights are 1 + m - c of the target and c + m of the other classes"
CIRCLE_STEPS = tuple(
    step(name, sentence, lambda loss: isinstance(loss, CircleLoss), of_parts(change))
    for name, sentence, change in (
        (
            "negative weights",
            "the weights of other classes may be negative: they are 0 where c is below -m",
            _unheld,
        ),
        (
            "margins exchanged",
            "the margins of the target and of the other classes are exchanged: they are 1 - m and m",
            partial(_with_margins, _own, _below, _above, _minus),
        ),
        (
            "target's margin m",
            "the target's margin is m: it is 1 - m",
            partial(_with_margins, _own, _own, _above, _minus),
        ),
        (
            "target's margin 1 + m",
            "the target's margin is 1 + m: it is 1 - m",
            partial(_with_margins, _above, _own, _above, _minus),
        ),
        (
            "target's weight m - c",
            f"the target's weight is m - c: {WEIGHTS}",
            partial(_with_margins, _below, _own, _own, _minus),
        ),
        (
            "weights exchanged",
            f"the weights are m - c and 1 + m + c: {WEIGHTS}",
            partial(_with_margins, _below, _own, _own, _minus_above),
        ),
        ("no weights", f"the cosines have no weights: {WEIGHTS}", _unweighted),
    )
)


def _added(sign: float, parts: Parts) -> Scores:
    own = _penalty_of(parts.loss)
    return parts.scores_with(parts.c + np.where(nearest(parts.c, parts.y, own.k), sign * own.m, 0.0))


def _among(parts: Parts) -> Scores:
    own = _penalty_of(parts.loss)
    chosen = (-parts.c).argsort(axis=1, kind="stable").argsort(axis=1) < own.k
    return parts.scores_with(turned(own, parts, chosen))


INTER_TOP_K_STEPS = tuple(
    step(name, sentence, _has_penalty, of_parts(change))
    for name, sentence, change in (
        (
            "target among the nearest",
            "the target is counted among the nearest classes: leave it out before they are chosen",
            _among,
        ),
        (
            "penalty added to cosines",
            "the penalty is added to the cosines of the nearest classes: it is taken off their angles",
            partial(_added, 1.0),
        ),
        (
            "penalty off cosines",
            "the penalty is taken off the cosines of the nearest classes: it is taken off their angles",
            partial(_added, -1.0),
        ),
    )
)
STEPS = CIRCLE_STEPS + INTER_TOP_K_STEPS
