"""SphereFace2, UniFace, SigLIP and InfoNCE with one part otherwise than it should be.

Symbols: those of `refloss.losses.sigmoid` and `refloss.losses.contrastive`; N samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np

from refloss.engines.spec import Sigmoid
from refloss.losses import InfoNCE, SigLIP, SphereFace2, UniFace
from refloss.stages import class_angles, margin
from refloss.testing.defects.emulations import Change, Recombined, Variant, WithGradient
from refloss.testing.defects.row import listed
from refloss.testing.signatures import Inputs, Loss, margin_head, scale_place, with_settings

EXPONENTS = (2, 3, 4, 5)
"""Exponents that code may have instead."""
LOG_CLAMP = math.log(100.0)
"""Where CLIP holds the logarithm of its scale."""
EXCHANGED = {"x": {"w": 1.0}, "w": {"x": 1.0}}
"""Whose gradients those of x and w are where each is taken for the other."""


def other_links(loss: Loss) -> Iterator[tuple[str, Any]]:
    """Yield what code of losses that end in another way on scaled cosines is often mistaken in."""
    settings = cast(object, loss)
    match settings:
        case SphereFace2():
            yield from _of_sphere_face2(loss, settings)
            yield from _of_labels(loss, settings.spec, "added")
        case UniFace():
            yield from _of_uniface(loss, settings)
            yield from _of_labels(loss, settings.spec, "taken off")
        case SigLIP():
            yield from _of_siglip(loss, settings.spec)
            yield from _scales(loss, "t")
        case InfoNCE():
            yield from _of_info_nce(loss, settings.ways)
            yield from _scales(loss, "s")
        case _:
            return


# ------------------------------------------------------------------------------------------------ SphereFace2, UniFace


def _of_sphere_face2(loss: Loss, settings: SphereFace2) -> Iterator[tuple[str, Any]]:
    m, s, weight = settings.m, settings.s, settings.weight
    if settings.t > 1:
        yield "the cosines have no exponent", with_settings(loss, t=1)
    for t in EXPONENTS:
        if t != settings.t:
            yield f"value and gradient agree with t={t}", with_settings(loss, t=t)
    if m:
        remedy = "m is taken off the target's g, and added to that of other classes"
        margins = {
            "the margin is on the target alone": (m, 0.0),
            "the margin is on the other classes alone": (0.0, m),
            "the target's margin has the wrong sign": (-m, m),
            "the margin of the other classes has the wrong sign": (m, -m),
            "both margins have the wrong sign": (-m, -m),
            "the margin is not multiplied by the scale": (m / s, m / s),
        }
        yield from _margins(loss, settings.spec, settings.t, remedy, margins)
    alpha, remedy = settings.alpha, "those of the target and of the other classes are alpha w/s and (1 - alpha) w/s"
    if alpha != 0.5:
        yield "alpha and 1 - alpha are exchanged", with_settings(loss, alpha=1.0 - alpha)
        share = Fraction(weight) / Fraction(s)
        yield "the weights lack alpha and 1 - alpha", Variant(loss, remedy, _linked(settings.spec, share, share))
    if weight != 1.0:
        yield "the weight w is left out", with_settings(loss, weight=1.0)
        yield "the weights are alpha and 1 - alpha, as wespeaker's", with_settings(loss, weight=s)
    if s != 1.0:
        yield "1/s is left out of the weights", with_settings(loss, weight=weight * s)
        yield "no scale of g, beside 1/s in the weights", _unscaled(loss, settings.spec)


def _of_uniface(loss: Loss, settings: UniFace) -> Iterator[tuple[str, Any]]:
    m, s, l, spec = settings.m, settings.s, Fraction(settings.l), settings.spec  # noqa: E741 (the paper's letter)
    if m:
        margins = {
            "all classes have the margin": (m, -m),
            "the margin is added to the other classes too, as SphereFace2's": (m, m),
            "the margin is on the other classes, not on the target": (0.0, m),
            "the margin has the wrong sign": (-m, 0.0),
            "the margin is not multiplied by the scale": (m / s, 0.0),
        }
        yield from _margins(loss, spec, 1, "m is taken off the target's cosine alone", margins)
    if l != 1:
        remedy = "it is that of the other classes"
        yield "the weight l of the other classes is left out", with_settings(loss, l=1.0)
        yield "the weight l is that of the target", Variant(loss, remedy, _linked(spec, l, Fraction(1)))
        yield "the weight l is that of all classes", Variant(loss, remedy, _linked(spec, l, l))
    if s != 1.0:
        yield "no scale of cosines, beside a bound of ±s", _unscaled(loss, spec)
    unbounded = replace(spec, link=spec.link._replace(bound=None))
    yield "the logits are not held to ±s", Variant(loss, "beyond ±s they have the gradient 0", unbounded)
    averaged = Recombined(loss, "add them up", partial(_averaged, loss, settings))
    yield "the losses of the other classes are averaged", averaged


def _unscaled(loss: Loss, spec: Sigmoid) -> Variant:
    unscaled = replace(spec, logits=replace(spec.logits, scale=1.0))
    return Variant(loss, "s multiplies them before the bias is added", unscaled)


def _averaged(loss: Loss, settings: UniFace, inputs: Inputs) -> Change:
    return Change(with_settings(loss, l=settings.l / max(len(inputs[1]) - 1, 1)), inputs)


def _of_labels(loss: Loss, spec: Sigmoid, how: str) -> Iterator[tuple[str, Any]]:
    """Yield what may be wrong with the bias of a loss of labels, with its answers and their mean."""
    yield from _answers(loss, spec)
    reverse = replace(spec, link=spec.link._replace(bias_sign=-spec.link.bias_sign))
    yield "the bias has the wrong sign", Variant(loss, f"it is {how}", reverse)
    scale = float(margin_head(loss).scale or 1.0)
    yield (
        "the bias is left out",
        Recombined(loss, f"it is {how}", lambda inputs: Change(loss, inputs[:3], parts={"b": {}})),
    )
    if scale != 1.0:
        remedy = f"it is {how} after the scale"
        yield "the bias is multiplied by the scale", Recombined(loss, remedy, partial(_scaled_bias, loss, scale))
    if loss.reduction == "mean":
        of_classes = Recombined(loss, "divide by N", lambda inputs: Change(loss, inputs, 1.0 / len(inputs[1])))
        yield "the mean over samples and classes, divided by N C", of_classes


def _scaled_bias(loss: Loss, s: float, inputs: Inputs) -> Change:
    return Change(loss, (*inputs[:3], *(s * b for b in inputs[3:])), parts={"b": {"b": s}})


def _answers(loss: Loss, spec: Sigmoid) -> Iterator[tuple[str, Any]]:
    """Yield losses of one of the two kinds of answers alone."""
    remedy, (positive, negative, *_) = "add up the losses of both kinds of answers", spec.link
    if positive and negative:
        yield "the targets alone count", Variant(loss, remedy, _linked(spec, positive, Fraction(0)))
        yield "the other classes alone count", Variant(loss, remedy, _linked(spec, Fraction(0), negative))


def _linked(spec: Sigmoid, positive: Fraction, negative: Fraction) -> Sigmoid:
    """Return a spec with other weights of the target and of the other classes."""
    return replace(spec, link=spec.link._replace(positive=positive, negative=negative))


def _margins(
    loss: Loss, spec: Sigmoid, power: int, remedy: str, margins: dict[str, tuple[float, float]]
) -> Iterator[tuple[str, Any]]:
    """Yield the loss with a margin that is taken off the target's g, and another that is added to the others'."""
    for sentence, (of_target, of_others) in margins.items():
        gradient = spec.logits.margin.gradient
        curve = margin.Settings(m3=of_target, boundary=margin.POWER, gradient=gradient, power=power)
        others = class_angles.Settings("power", of_others, power, gradient)
        head = replace(spec.logits, margin=curve, class_angles=others)
        yield sentence, Variant(loss, remedy, replace(spec, logits=head))


# --------------------------------------------------------------------------------------------------------------- pairs


def _of_siglip(loss: Loss, spec: Sigmoid) -> Iterator[tuple[str, Any]]:
    yield from _answers(loss, spec)
    reverse = replace(spec, link=spec.link._replace(bias_sign=-1))
    yield "the bias has the wrong sign", Variant(loss, "it is added", reverse)

    def without_bias(inputs: Inputs) -> Change:
        return Change(loss, (*inputs[:3], np.zeros(())), parts={"b": {}})

    def scaled_bias(inputs: Inputs) -> Change:
        x, w, t, b = inputs
        return Change(loss, (x, w, t, t * b), parts={"t": {"t": 1.0, "b": float(b)}, "b": {"b": float(t)}})

    def of_targets(inputs: Inputs) -> Change:
        n, positive = len(inputs[0]), Variant(loss, "", _linked(spec, spec.link.positive, Fraction(0)))
        return Change(positive, inputs, constant=math.log(2.0) * (n - 1) * (n if loss.reduction == "sum" else 1))

    yield "the bias is left out", Recombined(loss, "it is added", without_bias)
    yield "the bias is multiplied by the scale", Recombined(loss, "it is added after the scale", scaled_bias)
    yield "answers are multiplied by labels of 0 and 1", Recombined(loss, "labels are 1 and -1", of_targets)
    if loss.reduction == "mean":
        by_pairs = Recombined(loss, "divide by N", lambda inputs: Change(loss, inputs, 1.0 / len(inputs[0])))
        yield "the mean over all pairs, divided by N^2", by_pairs


def _of_info_nce(loss: Loss, ways: int) -> Iterator[tuple[str, Any]]:
    one = with_settings(loss, ways=1)

    def columns(inputs: Inputs) -> Change:
        x, w, s = inputs
        return Change(one, (w, x, s), parts=EXCHANGED)

    yield f"value and gradient agree with ways={3 - ways}", with_settings(loss, ways=3 - ways)
    if ways == 1:
        yield "the softmax is over x, not over w", Recombined(loss, "each x is against all w", columns)
        half = Recombined(loss, "there is one", lambda inputs: Change(loss, inputs, 0.5))
        yield "half of the loss, as of the mean of two ways", half
        return
    yield "w against all x alone", Recombined(loss, "x against all w counts as much", columns)
    both = Recombined(loss, "take their mean", lambda inputs: Change(loss, inputs, 2.0))
    yield "the two ways are added up", both
    remedy = "each way has the gradients of both"
    yield "in each way the other embeddings count as constants", WithGradient(loss, remedy, OwnWays(loss))


class OwnWays(NamedTuple):
    """The gradient of a loss of two ways, in each of which the embeddings of the other kind count as constants."""

    loss: Loss

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        value, gradient = self.loss.value_and_grad(*inputs, upstream=upstream, engine=engine)
        one, (x, w, s) = with_settings(self.loss, ways=1), inputs
        dx, dw = (
            one.value_and_grad(*embeddings, s, upstream=upstream, engine=engine)[1].x / 2.0
            for embeddings in ((x, w), (w, x))
        )
        return value, gradient._replace(x=dx, w=dw)


def _scales(loss: Loss, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the loss with what code takes for its scale."""

    def by(scale_and_slope: Callable[[float], tuple[float, float]]) -> Callable[[Inputs], Change]:
        place = scale_place(loss)

        def change(inputs: Inputs) -> Change:
            with np.errstate(over="ignore"):
                scale, slope = scale_and_slope(float(inputs[place]))
            changed = (*inputs[:place], np.asarray(scale), *inputs[place + 1 :])
            return Change(loss, changed, parts={name: {name: slope}})

        return change

    remedy = f"{name} is the scale itself"
    for sentence, taken in {
        f"{name} is taken for the logarithm of the scale": lambda s: (np.exp(s), np.exp(s)),
        f"{name} is taken for the logarithm of the scale, and held to log 100": lambda s: (
            np.exp(min(s, LOG_CLAMP)),
            np.exp(s) if s <= LOG_CLAMP else 0.0,
        ),
        f"{name} is taken for the temperature, one over the scale": lambda s: (1.0 / s, -1.0 / s**2),
        f"{name} is not used": lambda s: (1.0, 0.0),
    }.items():
        yield sentence, Recombined(loss, remedy, by(taken))


LOSSES = (
    *(replace(SphereFace2(), t=t) for t in (3, 2)),
    UniFace(),
    UniFace(l=0.5),
    SigLIP(),
    InfoNCE(),
    InfoNCE(ways=1),
)
"""Losses that have all of these rows."""
ROWS = listed(other_links, LOSSES)
