"""SphereFace-R, circle loss and inter-top-k with one part otherwise than it should be.

Symbols: those of `refloss.losses.class_curves`; ψ stands for the cosine of the target, η for those of other classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np

from refloss.error_free import Array, Pair, plain
from refloss.losses import CircleLoss, InterTopK, SphereFaceR
from refloss.stages import angle, class_angles
from refloss.testing.diagnosis.heads import Parts, nearest, parts_of, turned
from refloss.testing.diagnosis.references import Explained
from refloss.testing.diagnosis.variants import Variant, WithGradient
from refloss.testing.diagnosis.wrong_sums import WrongStep
from refloss.testing.signatures import Inputs, Loss, ignore_index_of, with_settings

OTHER = {"exact": "detached", "detached": "exact"}
"""The other gradient convention."""
EVERY = 2**31
"""More classes than a case has."""


Change = Callable[[Parts], Any]
"""The value from the parts, one of them changed."""


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


def other_curves(loss: Loss) -> Iterator[tuple[str, Explained]]:
    """Yield what code of losses that change the cosines of all classes is often mistaken in."""
    settings = cast(object, loss)
    match settings:
        case SphereFaceR() if settings.m != 1.0:
            yield from _of_sphere_face_r(loss, settings)
        case CircleLoss():
            yield from _of_circle(loss, settings)
        case InterTopK() if settings.penalty != 0.0:
            yield from _of_inter_top_k(loss, settings)
        case _:
            return


def _of_sphere_face_r(loss: Loss, settings: SphereFaceR) -> Iterator[tuple[str, Explained]]:
    spec, other = settings.spec, 3 - settings.version
    yield f"value and gradient agree with version={other}", with_settings(loss, version=other)
    if spec.class_angles is None:
        for sentence, rule in (
            ("cos(m theta) rises again beyond pi", "none"),
            ("cos(m theta) goes on in folds beyond pi, as A-Softmax's", "monotone"),
        ):
            curve = replace(spec, margin=spec.margin._replace(boundary=rule))
            yield sentence, Variant(loss, "m theta is held at pi", curve)
        return
    divided = replace(spec, margin=spec.margin._replace(m1=1.0 / settings.m))
    yield "the target's angle is divided by m too", Variant(loss, "only those of the other classes are", divided)
    multiplied = replace(spec, class_angles=spec.class_angles._replace(m=1.0 / settings.m))
    yield "the angles of the other classes are multiplied by m", Variant(loss, "divide them by m", multiplied)
    if settings.gradient == "exact":
        remedy = "the slope of cos(theta/m) is -sin(theta/m)/m"
        slopes = AngleSlopes(loss, spec.class_angles, _slope_without_m)
        yield "1/m is left out of the slope of the other classes", WithGradient(loss, remedy, slopes)


def _of_circle(loss: Loss, settings: CircleLoss) -> Iterator[tuple[str, Explained]]:
    spec, other = settings.spec, OTHER[settings.gradient]
    curve = replace(spec, margin=spec.margin._replace(gradient=other))
    classes = replace(spec, negatives=settings._negatives._replace(gradient=other))
    if other == "detached":
        remedy = "every weight has a gradient"
        yield "the target's weight counts as a constant", Variant(loss, remedy, curve)
        yield "the weights of the other classes count as constants", Variant(loss, remedy, classes)
    else:
        remedy = "every weight counts as a constant"
        yield "the target's weight has a gradient", Variant(loss, remedy, curve)
        yield "the weights of the other classes have a gradient", Variant(loss, remedy, classes)


def _of_inter_top_k(loss: Loss, settings: InterTopK) -> Iterator[tuple[str, Explained]]:
    spec, own, k = settings.spec, _penalty_of(settings), settings.k
    without = with_settings(loss, penalty=0.0)
    yield "the nearest classes have no penalty, as in wespeaker until update() is called", without
    yield "the penalty is taken in degrees", with_settings(loss, penalty=float(np.radians(settings.penalty)))
    wrong_sign = replace(spec, class_angles=own._replace(m=-own.m))
    yield "the penalty has the wrong sign", Variant(loss, "it is taken off the angles", wrong_sign)
    on_all = replace(spec, class_angles=own._replace(k=EVERY))
    yield "the penalty is on all other classes", Variant(loss, f"it is on the nearest, k={k}", on_all)
    for other in (k - 1, k + 1):
        if other:
            yield f"value and gradient agree with k={other}", with_settings(loss, k=other)
    remedy = "the slope of cos(theta - m') is -sin(theta - m')"
    exact, detached = (
        WithGradient(loss, remedy, AngleSlopes(with_settings(loss, gradient=gradient), own, _slope_of_cosine))
        for gradient in ("exact", "detached")
    )
    yield "the penalty counts as a constant", exact
    yield "margin and penalty count as constants", detached


def _penalty_of(settings: InterTopK) -> class_angles.Settings:
    return class_angles.Settings("nearest", settings.penalty, settings.k)


def _slope(theta: angle.Angle, own: class_angles.Settings) -> Pair:
    _, sin_phi, _ = class_angles.of_angle(theta.theta, theta.cos, theta.sin, own)
    return class_angles.slope_of(sin_phi, theta.sin, own)


def _slope_without_m(theta: angle.Angle, own: class_angles.Settings) -> Pair:
    return _slope(theta, own) * own.m


def _slope_of_cosine(theta: angle.Angle, own: class_angles.Settings) -> Pair:
    return -theta.sin


def curve_steps(loss: Loss) -> Iterator[WrongStep]:
    """Yield the steps of losses that change the cosines of all classes that code may get wrong."""

    def of(change: Change) -> Callable[[Inputs], Any]:
        return lambda inputs: change(parts_of(loss, inputs))

    settings, steps = cast(object, loss), dict[str, Change]()
    if isinstance(settings, CircleLoss):
        steps = _circle_steps(settings.m)
    elif isinstance(settings, InterTopK) and settings.penalty:
        steps = _inter_top_k_steps(_penalty_of(settings))
    for sentence, change in steps.items():
        yield sentence, of(change)


def _circle_steps(m: float) -> dict[str, Change]:
    def held(weights: Array) -> Array:
        return np.maximum(weights, 0.0)

    def with_margins(of_target: float, of_others: float, high: float = 1.0 + m, low: float = -m) -> Change:
        """Margins of the target and of the other classes, and the cosines at which their weights are 0."""

        def change(parts: Parts) -> Any:
            psi = held(high - parts.target) * (parts.target - of_target)
            return parts._replace(psi=psi).value_with(held(parts.c - low) * (parts.c - of_others))

        return change

    def unheld(parts: Parts) -> Any:
        return parts.value_with(parts.c**2 - m**2)

    def unweighted(parts: Parts) -> Any:
        return parts._replace(psi=parts.target - (1.0 - m)).value_with(parts.c - m)

    weights = "the weights are 1 + m - c of the target and c + m of the other classes"
    return {
        "the weights of other classes may be negative: they are 0 where c is below -m": (unheld),
        "the margins of the target and of the other classes are exchanged: they are 1 - m and m": with_margins(
            m, 1.0 - m
        ),
        "the target's margin is m: it is 1 - m": with_margins(m, m),
        "the target's margin is 1 + m: it is 1 - m": with_margins(1.0 + m, m),
        f"the target's weight is m - c: {weights}": with_margins(1.0 - m, m, high=m),
        f"the weights are m - c and 1 + m + c: {weights}": with_margins(1.0 - m, m, m, -1.0 - m),
        f"the cosines have no weights: {weights}": unweighted,
    }


def _inter_top_k_steps(own: class_angles.Settings) -> dict[str, Change]:
    def added(penalty: float) -> Change:
        def change(parts: Parts) -> Any:
            return parts.value_with(parts.c + np.where(nearest(parts.c, parts.y, own.k), penalty, 0.0))

        return change

    def among(parts: Parts) -> Any:
        chosen = (-parts.c).argsort(axis=1, kind="stable").argsort(axis=1) < own.k
        return parts.value_with(turned(own, parts, chosen))

    remedy = "it is taken off their angles"
    return {
        "the target is counted among the nearest classes: leave it out before they are chosen": among,
        f"the penalty is added to the cosines of the nearest classes: {remedy}": added(own.m),
        f"the penalty is taken off the cosines of the nearest classes: {remedy}": added(-own.m),
    }
