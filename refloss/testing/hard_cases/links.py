"""Cases of losses that end in another way on scaled cosines: a binary cross entropy, or a cross entropy of pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refloss.error_free import Array
from refloss.testing.hard_cases.angles import at_angles, orthogonal, with_rivals
from refloss.testing.hard_cases.case import Draft, Labels, Setting, Shape
from refloss.testing.hard_cases.curves import EITHER, around
from refloss.testing.hard_cases.directions import length_cases
from refloss.testing.hard_cases.labels import NOTHING, can_ignore, every_second_ignored, ignored_reason
from refloss.testing.signatures import (
    Inputs,
    head_of,
    ignore_index_of,
    inputs_of,
    link_of,
    margin_of,
    of_pairs,
    scale_of,
)

USUAL = {"t": 10.0, "s": 16.0}
"""Scales of ordinary pairs, by their name."""
USUAL_BIAS = -10.0
"""The bias that SigLIP begins with."""
ANGLES = (1e-1, 1e-2, 1e-3)
"""How near targets are to their class, or to its opposite."""


def link_cases(setting: Setting) -> Iterator[Draft]:
    """Yield the cases of a loss with labels and perhaps a bias, or of pairs with a scale and perhaps a bias."""
    if of_pairs(setting.loss):
        n, _, d = setting.size
        setting = setting._replace(size=Shape(n, n, d), labels=lambda: np.arange(n))
    yield from _ordinary_cases(setting)
    yield from _angle_cases(setting)
    if has_answers(setting):
        yield from _answer_cases(setting)
    if of_pairs(setting.loss):
        yield from _pair_cases(setting)
    else:
        yield from _label_cases(setting)
        yield from _bound_cases(setting)
    for draft in length_cases(setting, lambda y: _random(setting, y)):
        yield draft._replace(inputs=given(setting, draft.inputs))


def has_answers(setting: Setting) -> bool:
    """Whether every class is an answer of its own."""
    return head_of(setting.loss) == "sigmoid"


def given(setting: Setting, inputs: Inputs, shift: float | None = None, s: float | None = None) -> Inputs:
    """Return the inputs of a loss from embeddings, classes and labels.

    shift is what the bias adds to all logits, 0 of losses with labels where it is left out; s is a scale that is no
    setting.
    """
    x, w, y = inputs
    if not of_pairs(setting.loss):
        numbers = [link_of(setting.loss).bias_sign * (shift or 0.0)] if setting.bias else []
        return (x, w, y, *map(np.asarray, numbers))
    name, *bias = inputs_of(setting.loss)[2:]
    numbers = [USUAL[name] if s is None else s, *([USUAL_BIAS if shift is None else shift] if bias else [])]
    return (x, w, *map(np.asarray, numbers))


def _flags(setting: Setting, *flags: str) -> tuple[str, ...]:
    """Return flags of a case with a bias that matters; pairs always have theirs."""
    return flags if of_pairs(setting.loss) else (*flags, "bias")


def _random(setting: Setting, y: Labels) -> tuple[Array, Array]:
    n, c, d = setting.size
    return setting.normal(n, d), setting.normal(c, d)


def _ordinary_cases(setting: Setting) -> Iterator[Draft]:
    """Inputs like those of training."""
    n, labels = setting.size.n, setting.labels
    y = labels()
    inputs = given(setting, (*_random(setting, y), y))
    yield Draft("ordinary", "random", ("random",), "independent normal numbers, nothing special", inputs)
    x, w = _random(setting, y := labels())
    reason = "embeddings of lengths from 1/8 to 8 times another"
    inputs = given(setting, (x * np.geomspace(0.125, 8.0, n)[:, None], w, y))
    yield Draft("ordinary", "lengths", ("lengths",), reason, inputs)
    reason = "targets at 0.5 to 1.2 rad of their class"
    inputs = given(setting, at_angles(setting, labels(), (0.5, 1.2)))
    yield Draft("ordinary", "trained", ("near",), reason, inputs)
    for sign, name in ((1.0, "above"), (-1.0, "below")) if has_answers(setting) else ():
        inputs = given(setting, (*_random(setting, y := labels()), y), 4.0 * sign)
        reason = f"a bias that adds {4.0 * sign:g} to all logits"
        yield Draft("ordinary", f"bias-{name}", _flags(setting, "random"), reason, inputs)


def _angle_cases(setting: Setting) -> Iterator[Draft]:
    """Targets near their class, near its opposite, at right angles to it, and on it."""
    labels, (_, c, d) = setting.labels, setting.size
    for theta in ANGLES if d > 1 else ():
        reason = f"targets at {theta:g} rad of their class"
        inputs = given(setting, at_angles(setting, labels(), (theta, theta)))
        yield Draft("hard", f"theta-{theta:.0e}", ("small angle",), reason, inputs)
        reason = f"targets at pi - {theta:g} rad, nearly opposite to their class"
        inputs = given(setting, at_angles(setting, labels(), (np.pi - theta, np.pi - theta)))
        yield Draft("hard", f"pi-minus-{theta:.0e}", ("angle near pi",), reason, inputs)
    if d > 1:
        reason = "targets at right angles to their class, or 2^-16 from it"
        yield Draft("hard", "orthogonal", ("orthogonal",), reason, given(setting, orthogonal(setting, labels())))
    if d > 1 and c > 1 and not of_pairs(setting.loss):
        reason = "targets at 0.01 rad of their class, and other classes as near"
        inputs = given(setting, with_rivals(setting, labels() % ((c + 1) // 2), 1e-2))
        yield Draft("hard", "rivals", ("small angle", "rivals"), reason, inputs)
    for name, sign, reason in (("same", 1.0, "targets on their class"), ("opposite", -1.0, "targets opposite to it")):
        _, w = _random(setting, y := labels())
        yield Draft("hard", name, ("same",), reason, given(setting, (sign * w[y], w, y)))


def _answer_cases(setting: Setting) -> Iterator[Draft]:
    """Answers that are sure, right or wrong, of targets and of other classes."""
    labels, (_, c, d) = setting.labels, setting.size
    s = scale_of(setting.loss) or 64.0
    right = -s / 2.0 if of_pairs(setting.loss) else 0.0
    for name, theta, shift, reason in (
        ("right", 0.1, right, "sure answers, right ones"),
        ("wrong-targets", np.pi - 0.1, -s / 2.0, "sure answers, wrong ones of all targets"),
        ("wrong-others", 0.1, s, "sure answers, wrong ones of most other classes"),
    ):
        y = labels()
        x, w, y = at_angles(setting, y, (theta, theta / 2.0 if theta < 1.0 else (theta + np.pi) / 2.0))
        flags = ("confident",) if shift == 0.0 else _flags(setting, "confident" if name == "right" else "wrong")
        yield Draft("hard", name, flags, reason, given(setting, (x, w, y), shift, s))
    if c > 1 and d > 1 and not of_pairs(setting.loss):
        reason = "all answers right and sure: softplus(z) - z loses a target's"
        inputs = given(setting, around(setting, 0.1, np.pi - 0.2))
        yield Draft("hard", "all-right", ("confident",), reason, inputs)
    for sign, name in ((1.0, "above"), (-1.0, "below")):
        gap = sign * setting.gaps[-1]
        reason = f"a bias that adds {gap:g} to all logits: an exponential overflows"
        y = labels()
        inputs = given(setting, (*_random(setting, y), y), gap)
        yield Draft("hard", f"bias-far-{name}", _flags(setting, "gap"), reason, inputs)


def _pair_cases(setting: Setting) -> Iterator[Draft]:
    """One pair alone, pairs that are all the same, and scales that are small and large."""
    x, w, y = at_angles(setting, setting.labels(), (0.1, 0.2))
    reason = "one pair alone, its answer right and sure: softplus(z) - z loses it"
    yield Draft("hard", "alone", ("confident", "alone"), reason, given(setting, (x[:1], w[:1], y[:1]), 0.0, 32.0))
    x, w = _random(setting, y)
    same = np.tile(x[:1], (len(x), 1))
    yield Draft("hard", "equal", ("equal",), "all embeddings are the same", given(setting, (same, same.copy(), y)))
    for name, s in (("small", 2.0**-6), ("large", 100.0)):
        inputs = given(setting, (*_random(setting, y), y), s=s)
        yield Draft("ordinary", f"scale-{name}", ("scale",), f"a scale of {s:g}", inputs)


def _label_cases(setting: Setting) -> Iterator[Draft]:
    """Labels that are ignored."""
    loss, n, labels = setting.loss, setting.size.n, setting.labels
    x, w = _random(setting, y := labels())
    if n > 1:
        inputs = given(setting, (x, w, every_second_ignored(loss, y)))
        yield Draft("boundary", "ignored", ("ignored",), ignored_reason(loss), inputs)
    if can_ignore(loss):
        inputs = given(setting, (x, w, np.full(n, ignore_index_of(loss))))
        yield Draft("boundary", "all-ignored", ("ignored",), NOTHING, inputs)


def _bound_cases(setting: Setting) -> Iterator[Draft]:
    """Logits of targets, or of other classes, on the bound that holds them and on both sides of it."""
    bound, s = link_of(setting.loss).bound, scale_of(setting.loss) or 1.0
    if bound is None or setting.size.d == 1:
        return
    for name, m in (("target", float(margin_of(setting.loss).m3)), ("others", 0.0)):
        for sign, edge in ((1.0, "upper"), (-1.0, "lower")):
            for shift in (0.0, sign * s / 2.0):
                c = (sign * bound - shift) / s + m
                if not abs(c) < 0.95 or (name == "others" and setting.size.c == 1):
                    continue
                flags = ("bound",) if shift == 0.0 else _flags(setting, "bound")
                for side, off in (("above", -0.02), ("below", 0.02), ("on", 0.0)):
                    theta = float(np.arccos(c)) + off
                    at = EITHER if side == "on" else "where gradients begin or end"
                    where = "on" if side == "on" else f"0.02 rad {side}"
                    inputs = (
                        at_angles(setting, setting.labels(), (theta, theta))
                        if name == "target"
                        else around(setting, 0.8, theta)
                    )
                    label = f"bound-{name}-{edge}{'-biased' * (shift != 0.0)}-{side}"
                    reason = f"logits of {'targets' if name == 'target' else 'other classes'} {where} their bound, {at}"
                    yield Draft("boundary", label, flags, reason, given(setting, inputs, shift))
