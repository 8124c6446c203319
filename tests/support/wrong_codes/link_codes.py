"""Wrong SphereFace2, UniFace, SigLIP and InfoNCE: one step of right code replaced, or one of its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import refloss
from support.right_codes.code import DTYPES, HALVES, SINGLES
from support.right_codes.link_codes import (
    LinkSteps,
    jax_links,
    numpy_links,
    torch_curve,
    torch_links,
    torch_reduced,
    torch_unit,
    torch_ways,
    torch_weighted,
)
from support.wrong_codes.code import Array, gradient_changed, identity, put, tampered, value_changed

POWER = refloss.SphereFace2()
CONSTANT = refloss.SphereFace2(gradient="detached")
UNI = refloss.UniFace()
PAIRS = refloss.SigLIP()
CLIP = refloss.InfoNCE()
ONE_WAY = refloss.InfoNCE(ways=1)
ANSWERS = (POWER, UNI, PAIRS)
ALL = (*ANSWERS, CLIP)

SCALES = {
    "exp of the scale": LinkSteps(scaled=lambda c, s: s.exp() * c),
    "log of the scale": LinkSteps(scaled=lambda c, s: s.log() * c),
    "scale a constant": LinkSteps(scaled=lambda c, s: s.detach() * c),
    "scale at most 50": LinkSteps(scaled=lambda c, s: s.clamp(max=50.0) * c),
    "scale at least 1": LinkSteps(scaled=lambda c, s: s.clamp(min=1.0) * c),
    "gradient of the scale's logarithm": LinkSteps(scaled=lambda c, s: s.detach() * (1.0 + s - s.detach()) * c),
}
"""What becomes of a scale that is an input."""

Named = tuple[str, str, Any, Callable[..., Any], tuple[str, ...], dict[str, Any]]


def links() -> Iterator[tuple[Any, ...]]:
    """Yield wrong code of answers of their own, and of pairs."""
    for name, framework, loss, fn, dtypes, settings in named_links():
        bias = {"bias": True} if hasattr(loss, "ignore_index") else {}
        yield f"{name}, {loss}", framework, fn, loss, dtypes, bias | settings


def named_links() -> Iterator[Named]:
    """Yield the name of a defect, the framework, the loss, the code, its dtypes, and further settings of `check`."""
    for name, loss, steps in (*of_every_loss(), *of_answers(), *of_power(), *of_uniface(), *of_siglip(), *of_infonce()):
        yield name, "torch", loss, torch_links(loss, steps=steps), seen(name, loss), {}
    for name, loss, other in other_settings():
        for framework, links in (("torch", torch_links), ("jax", jax_links)):
            if framework == "torch" or name in IN_JAX:
                yield name, framework, loss, links(other), seen(name, loss), {}
    for name, loss, fn in gradients():
        yield name, "numpy", loss, fn, seen(name, loss), {}
    for name, loss, fn in whole():
        yield name, "torch", loss, fn, seen(name, loss), {}
    yield from of_precision()


SEEN: dict[str, tuple[str, ...]] = {
    "1e-5 added to lengths": SINGLES,
    "cosines in bfloat16": SINGLES,
    "logits in bfloat16": SINGLES,
    "unit vectors in float16": SINGLES,
    "m = 0.399": SINGLES,
    "maximum not taken off": (*HALVES, "float32"),  # exp(100) fits float64
    "dx off by one part in 32": ("float16", *SINGLES),
    "dw off by one part in 32": ("float16", *SINGLES),
    "focal, SphereFace2": ("float16", *SINGLES),  # in bfloat16 no logit near 0 has a digit, for s = 40
    "log of 1 + exp(z), UniFace": ("float16",),  # exp(64) fits the others
    "log1p of exp(z), UniFace": ("float16",),
}
"""Dtypes in which a defect shows at its standard, of each loss or of one, where that is not in all of them."""
IN_JAX = {"detached", "l left out", "the mean for the sum", "columns left out"}


def seen(name: str, loss: Any) -> tuple[str, ...]:
    """Dtypes in which a defect shows."""
    return SEEN.get(f"{name}, {type(loss).__name__}", SEEN.get(name, DTYPES))


# ------------------------------------------------------------------------------------------------------- all of these


def constant(rows: Any) -> Any:
    """Rows of length 1, their length a constant."""
    return rows / rows.norm(dim=1, keepdim=True).detach()


def longer(rows: Any) -> Any:
    """Rows over their length and a small number."""
    return rows / (rows.norm(dim=1, keepdim=True) + 1e-5)


def stored(dtype: str) -> Callable[[Any], Any]:
    """Rounded to a dtype, with the gradient of what was rounded."""

    def rounded(a: Any) -> Any:
        import torch

        return a + (a.detach().to(getattr(torch, dtype)).to(a.dtype) - a.detach())

    return rounded


def padded(rows: Any) -> Any:
    """Unit rows, and one of zeros."""
    import torch

    return torch.nn.functional.pad(torch_unit(rows), (0, 0, 0, 1))


def of_every_loss() -> Iterator[tuple[str, Any, LinkSteps]]:
    """Yield what can be wrong in cosines, scale, labels and reduction."""
    in_half = stored("bfloat16")
    for loss in ALL:
        for name, steps in {
            "x as it is": LinkSteps(unit_x=lambda rows: rows),
            "w as it is": LinkSteps(unit_w=lambda rows: rows),
            "no unit lengths": LinkSteps(unit_x=lambda rows: rows, unit_w=lambda rows: rows),
            "unit columns": LinkSteps(unit_x=lambda rows: torch_unit(rows.T).T),
            "length of x a constant": LinkSteps(unit_x=constant),
            "length of w a constant": LinkSteps(unit_w=constant),
            "1e-5 added to lengths": LinkSteps(unit_x=longer, unit_w=longer),
            "unit vectors in float16": LinkSteps(unit_x=lambda rows: stored("float16")(torch_unit(rows))),
            "cosines in bfloat16": LinkSteps(curve=lambda loss, c, own: torch_curve(loss, in_half(c), own)),
            "no gradient of x": LinkSteps(unit_x=lambda rows: torch_unit(rows).detach()),
            "no gradient of w": LinkSteps(unit_w=lambda rows: torch_unit(rows).detach()),
            "half of the gradient of w": LinkSteps(unit_w=lambda rows: halved(torch_unit(rows))),
            "no scale": LinkSteps(scaled=lambda f, scale: f),
            "scale squared": LinkSteps(scaled=lambda f, scale: scale * scale * f),
            "scale as a temperature": LinkSteps(scaled=lambda f, scale: f / scale),
            "scale of the wrong sign": LinkSteps(scaled=lambda f, scale: -scale * f),
            "cosines of the wrong sign": LinkSteps(curve=lambda loss, c, own: torch_curve(loss, -c, own)),
            "angles for cosines": LinkSteps(
                curve=lambda loss, c, own: torch_curve(loss, -c.clamp(-1 + 1e-3, 1 - 1e-3).acos(), own)
            ),
        }.items():
            if loss is not POWER or name != "angles for cosines":
                yield name, loss, steps


def halved(a: Any) -> Any:
    """The same, with half of its gradient."""
    return a / 2 + (a / 2).detach()


# ------------------------------------------------------------------------------------------------------------ answers


def of_answers() -> Iterator[tuple[str, Any, LinkSteps]]:
    """Yield what can be wrong in binary cross entropies."""
    import torch

    f = torch.nn.functional

    def signed(z: Any, own: Any) -> Any:
        return torch.where(own, -z, z)

    def of_probability(small: float = 0.0, least: float = 0.0) -> Callable[[Any, Any], Any]:
        """Logarithms of a sigmoid and of 1 less it."""

        def answers(z: Any, own: Any) -> Any:
            p = z.sigmoid()
            p = p.clamp(least, 1.0 - least) if least else p
            return -torch.where(own, (p + small).log(), (1.0 - p + small).log())

        return answers

    def as_rows(z: Any, own: Any) -> Any:
        """Each row a softmax."""
        return torch.where(own, -z.log_softmax(1), 0.0 * z)

    forms: dict[str, Callable[[Any, Any], Any]] = {
        "logarithm of a sigmoid": lambda z, own: -torch.sigmoid(-signed(z, own)).log(),
        "logarithms of a sigmoid and of 1 less it": of_probability(),
        "1e-6 in the logarithm": of_probability(small=1e-6),
        "probabilities held at 1e-7": of_probability(least=1e-7),
        "probabilities held at 1e-3": of_probability(least=1e-3),
        "log of 1 + exp(z)": lambda z, own: (1.0 + signed(z, own).exp()).log(),
        "log1p of exp(z)": lambda z, own: signed(z, own).exp().log1p(),
        "every answer no": lambda z, own: f.softplus(z),
        "every answer yes": lambda z, own: f.softplus(-z),
        "yes and no exchanged": lambda z, own: f.softplus(-signed(z, own)),
        "targets left out": lambda z, own: torch.where(own, 0.0 * z, f.softplus(z)),
        "others left out": lambda z, own: torch.where(own, f.softplus(-z), 0.0 * z),
        "the target counts as another too": lambda z, own: torch.where(
            own, f.softplus(-z) + f.softplus(z), f.softplus(z)
        ),
        "softmax for sigmoid": as_rows,
        "hinges": lambda z, own: signed(z, own).relu(),
        "squares": lambda z, own: torch.where(own, 1.0 - z.sigmoid(), z.sigmoid()).square(),
        "focal": lambda z, own: f.softplus(signed(z, own)) * signed(z, own).sigmoid().square().detach(),
        "answers of 0.05 and 0.95": lambda z, own: (
            0.95 * f.softplus(signed(z, own)) + 0.05 * f.softplus(-signed(z, own))
        ),
        "base 2": lambda z, own: f.softplus(signed(z, own)) / math.log(2.0),
        "logits between -15 and 15": lambda z, own: f.softplus(signed(z, own).clamp(-15.0, 15.0)),
    }
    means = {
        "mean of all answers": LinkSteps(summed=lambda answers: answers.mean(dim=1)),
        "the largest answer": LinkSteps(summed=lambda answers: answers.max(dim=1).values),
        "last class left out": LinkSteps(summed=lambda answers: answers[:, :-1].sum(dim=1)),
        "last sample left out": LinkSteps(reduced=lambda loss, rows, kept: torch_reduced(loss, rows, put_last(kept))),
        "last class twice": LinkSteps(summed=lambda answers: answers.sum(dim=1) + answers[:, -1]),
        "a class of zeros counts": LinkSteps(unit_w=padded),
        "labels of the next class": LinkSteps(own=lambda own: own.roll(1, 1)),
        "labels of the next sample": LinkSteps(own=lambda own: own.roll(1, 0)),
        "class 0 the label of all": LinkSteps(own=lambda own: own[:1].expand(own.shape)),
        "bias left out": LinkSteps(biased=lambda z, b, own: z),
        "bias subtracted": LinkSteps(biased=lambda z, b, own: z - b),
        "bias twice": LinkSteps(biased=lambda z, b, own: z + 2 * b),
        "bias a constant": LinkSteps(biased=lambda z, b, own: z + b.detach()),
        "half of the gradient of the bias": LinkSteps(biased=lambda z, b, own: z + halved(b)),
        "bias of targets alone": LinkSteps(biased=lambda z, b, own: torch.where(own, z + b, z)),
        "bias of others alone": LinkSteps(biased=lambda z, b, own: torch.where(own, z, z + b)),
        "bias times label": LinkSteps(biased=lambda z, b, own: torch.where(own, z - b, z + b)),
        "sum for the mean": LinkSteps(reduced=lambda loss, rows, kept: torch_reduced(summed(loss), rows, kept)),
        "ignored rows in the count": LinkSteps(reduced=lambda loss, rows, kept: rows.where(kept, 0 * rows).mean()),
        "ignored rows count": LinkSteps(reduced=lambda loss, rows, kept: rows.mean()),
    }
    for loss in ANSWERS:
        for name, answers in forms.items():
            yield name, loss, LinkSteps(answers=answers)
        for name, steps in means.items():
            if loss is not PAIRS or "ignored" not in name:
                yield name, loss, steps


def put_last(kept: Any) -> Any:
    """Rows that count, the last one not."""
    kept = kept.clone()
    kept[-1] = False
    return kept


def summed(loss: Any) -> Any:
    """The loss with the sum."""
    return replace(loss, reduction="sum")


# --------------------------------------------------------------------------------------------------------- each of them


def of_power() -> Iterator[tuple[str, Any, LinkSteps]]:
    """Yield wrong SphereFace2."""
    import torch

    def power(loss: Any, c: Any) -> Any:
        return 2.0 * ((1.0 + c) / 2.0) ** loss.t - 1.0

    def curve(of_target: Callable[..., Any], of_others: Callable[..., Any]) -> LinkSteps:
        def both(loss: Any, c: Any, own: Any) -> Any:
            return torch.where(own, of_target(loss, c), of_others(loss, c))

        return LinkSteps(curve=both)

    def same(g: Callable[..., Any]) -> LinkSteps:
        return curve(lambda loss, c: g(loss, c) - loss.m, lambda loss, c: g(loss, c) + loss.m)

    def weighted(of_target: float, of_others: float) -> LinkSteps:
        def both(loss: Any, answers: Any, own: Any) -> Any:
            return torch.where(own, of_target * answers, of_others * answers)

        return LinkSteps(weighted=both)

    a, lw, r, m, t = POWER.alpha, POWER.weight, POWER.s, POWER.m, POWER.t
    for name, steps in {
        "margin of the wrong sign": curve(lambda o, c: power(o, c) + m, lambda o, c: power(o, c) - m),
        "margin of targets alone": curve(lambda o, c: power(o, c) - m, power),
        "margin of others alone": curve(power, lambda o, c: power(o, c) + m),
        "margin off every class": curve(lambda o, c: power(o, c) - m, lambda o, c: power(o, c) - m),
        "half of the margin on each side": LinkSteps(
            curve=lambda o, c, own: power(o, c) - torch.where(own, m / 2, -m / 2)
        ),
        "margin within the power": LinkSteps(curve=lambda o, c, own: power(o, c - torch.where(own, m, -m))),
        "margin on the angle": LinkSteps(curve=lambda o, c, own: power(o, angular(c, torch.where(own, m, -m)))),
        "margin after the scale": LinkSteps(
            curve=lambda o, c, own: power(o, c), biased=lambda z, b, own: z - torch.where(own, m, -m) + b
        ),
        "the power of 1 - cos": same(lambda o, c: 1.0 - 2.0 * ((1.0 - c) / 2.0) ** t),
        "no power": same(lambda o, c: c),
        "power t + 1": same(lambda o, c: 2.0 * ((1.0 + c) / 2.0) ** (t + 1) - 1.0),
        "no 2 before the power": same(lambda o, c: ((1.0 + c) / 2.0) ** t - 1.0),
        "no 1 off the power": same(lambda o, c: 2.0 * ((1.0 + c) / 2.0) ** t),
        "the power of 1 + cos": same(lambda o, c: 2.0 * (1.0 + c) ** t - 1.0),
        "the power of cos": same(lambda o, c: 2.0 * c**t - 1.0),
        "power of targets alone": curve(lambda o, c: power(o, c) - m, lambda o, c: c + m),
        "power of others alone": curve(lambda o, c: c - m, lambda o, c: power(o, c) + m),
        "slope of targets 1": curve(lambda o, c: c + (power(o, c) - c).detach() - m, lambda o, c: power(o, c) + m),
        "slope of others 1": curve(lambda o, c: power(o, c) - m, lambda o, c: c + (power(o, c) - c).detach() + m),
        "t left out of the slope": same(lambda o, c: power(o, c) / t + (power(o, c) * (1 - 1 / t)).detach()),
        "weights exchanged": weighted((1 - a) * lw / r, a * lw / r),
        "alpha for all": weighted(a * lw / r, a * lw / r),
        "1 - alpha for all": weighted((1 - a) * lw / r, (1 - a) * lw / r),
        "no alpha": weighted(lw / r, lw / r),
        "alpha of targets alone": weighted(a * lw / r, lw / r),
        "lw alone": weighted(a * lw, (1 - a) * lw),
        "no lw / r": weighted(a, 1 - a),
        "r / lw": weighted(a * r / lw, (1 - a) * r / lw),
        "lw of targets alone": weighted(a * lw / r, (1 - a) / r),
        "bias times the scale": LinkSteps(biased=lambda z, b, own: z + r * b),
        "bias over the scale": LinkSteps(biased=lambda z, b, own: z + b / r),
        "scale of targets alone": LinkSteps(biased=lambda z, b, own: torch.where(own, z, z / r) + b),
    }.items():
        yield name, POWER, steps
    one = torch_curve
    yield "exact", CONSTANT, LinkSteps(curve=lambda loss, c, own: one(POWER, c, own))
    yield "all of the curve detached", CONSTANT, LinkSteps(curve=lambda loss, c, own: one(POWER, c, own).detach())
    yield (
        "slope of targets exact",
        CONSTANT,
        curve(lambda o, c: power(o, c) - m, lambda o, c: c + (power(o, c) - c).detach() + m),
    )
    yield (
        "slope of others exact",
        CONSTANT,
        curve(lambda o, c: c + (power(o, c) - c).detach() - m, lambda o, c: power(o, c) + m),
    )


def angular(c: Any, m: Any) -> Any:
    """cos(θ + m)."""
    return (c.clamp(-1.0 + 1e-3, 1.0 - 1e-3).acos() + m).cos()


def of_uniface() -> Iterator[tuple[str, Any, LinkSteps]]:
    """Yield wrong UniFace."""
    import torch

    s, m = UNI.s, UNI.m

    def curve(of_target: Callable[..., Any], of_others: Callable[..., Any]) -> LinkSteps:
        return LinkSteps(curve=lambda loss, c, own: torch.where(own, of_target(c), of_others(c)))

    def held(of: Callable[[Any], Any]) -> LinkSteps:
        return LinkSteps(held=lambda loss, z, own: of(z))

    for name, steps in {
        "no margin": curve(lambda c: c, lambda c: c),
        "margin of the wrong sign": curve(lambda c: c + m, lambda c: c),
        "margin on the others": curve(lambda c: c, lambda c: c + m),
        "margin on both sides": curve(lambda c: c - m, lambda c: c + m),
        "margin off every class": curve(lambda c: c - m, lambda c: c - m),
        "margin after the scale": LinkSteps(
            curve=lambda loss, c, own: c, biased=lambda z, b, own: z - torch.where(own, m, 0.0) + b
        ),
        "margin on the angle": curve(lambda c: angular(c, m), lambda c: c),
        "cosine times 1 - m": curve(lambda c: (1.0 - m) * c, lambda c: c),
        "no bounds": held(lambda z: z),
        "upper bound left out": held(lambda z: z.clamp(min=-s)),
        "lower bound left out": held(lambda z: z.clamp(max=s)),
        "bounds of targets alone": LinkSteps(held=lambda o, z, own: torch.where(own, z.clamp(-s, s), z)),
        "bounds of others alone": LinkSteps(held=lambda o, z, own: torch.where(own, z, z.clamp(-s, s))),
        "bounds that pass gradients on": held(lambda z: z + (z.clamp(-s, s) - z).detach()),
        "bounds without a slope within": held(lambda z: z.clamp(-s, s).detach() + 0.0 * z),
        "bounds of s/2": held(lambda z: z.clamp(-s / 2, s / 2)),
        "bounds of 2 s": held(lambda z: z.clamp(-2 * s, 2 * s)),
        "tanh for bounds": held(lambda z: s * (z / s).tanh()),
        "bounds before the bias": LinkSteps(
            scaled=lambda f, scale: (scale * f).clamp(-s, s), held=lambda loss, z, own: z
        ),
        "bounds on the cosine": LinkSteps(
            curve=lambda loss, c, own: torch_curve(loss, c, own).clamp(-1.0, 1.0), held=lambda loss, z, own: z
        ),
        "bias times the scale": LinkSteps(biased=lambda z, b, own: z + s * b),
        "bias of a mean": LinkSteps(biased=lambda z, b, own: z + b / z.shape[1]),
    }.items():
        yield name, UNI, steps
    less = replace(UNI, l=0.5)
    for name, weighted in {
        "l of targets": lambda loss, a, own: torch.where(own, a / 2, a),
        "l of both": lambda loss, a, own: a / 2,
        "l squared": lambda loss, a, own: torch.where(own, a, a / 4),
        "mean of others": lambda loss, a, own: torch_weighted(loss, a, own).where(
            own, a / (2 * max(a.shape[1] - 1, 1))
        ),
    }.items():
        yield name, less, LinkSteps(weighted=weighted)


def of_siglip() -> Iterator[tuple[str, Any, LinkSteps]]:
    """Yield wrong SigLIP."""
    import torch

    eye = torch.eye
    for name, steps in {
        **SCALES,
        "gradient of the scale of pairs alone": LinkSteps(
            scaled=lambda c, t: torch.where(eye(len(c), dtype=torch.bool), t * c, t.detach() * c)
        ),
        "bias times the scale": LinkSteps(curve=lambda loss, c, own: c, biased=lambda z, b, own: z + 10.0 * b),
        "bias of -10 times the scale": LinkSteps(scaled=lambda c, t: t * (c - 10.0), biased=lambda z, b, own: z),
        "bias of -10 whatever is given": LinkSteps(biased=lambda z, b, own: z - 10.0 + 0.0 * b),
        "labels of 1 and 0": LinkSteps(
            answers=lambda z, own: torch.nn.functional.softplus(-torch.where(own, z, 0.0 * z))
        ),
        "labels of columns in reverse": LinkSteps(own=lambda own: own.flip(1)),
        "pairs alone": LinkSteps(weighted=lambda loss, a, own: torch.where(own, a, 0.0 * a)),
        "all but pairs": LinkSteps(weighted=lambda loss, a, own: torch.where(own, 0.0 * a, a)),
        "columns after the diagonal alone": LinkSteps(weighted=lambda loss, a, own: a.triu()),
        "mean over N squared": LinkSteps(reduced=lambda loss, rows, kept: rows.mean() / len(rows)),
        "mean over N (N - 1)": LinkSteps(reduced=lambda loss, rows, kept: rows.mean() / max(len(rows) - 1, 1)),
        "halved": LinkSteps(reduced=lambda loss, rows, kept: rows.mean() / 2),
        "pairs and others averaged apart": LinkSteps(
            weighted=lambda loss, a, own: torch.where(own, a, a / max(len(a) - 1, 1))
        ),
        "others as often as pairs": LinkSteps(weighted=lambda loss, a, own: torch.where(own, (len(a) - 1.0) * a, a)),
    }.items():
        yield name, PAIRS, steps
    rows = replace(PAIRS, reduction="none")
    yield "rows of the other side", rows, LinkSteps(summed=lambda answers: answers.sum(dim=0))
    yield (
        "the mean of both sides",
        rows,
        LinkSteps(summed=lambda answers: (answers.sum(dim=0) + answers.sum(dim=1)) / 2),
    )


def of_infonce() -> Iterator[tuple[str, Any, LinkSteps]]:
    """Yield wrong InfoNCE."""
    import torch

    cross_entropy = torch.nn.functional.cross_entropy

    def way(of: Callable[[Any, Any], Any], sides: int = 2) -> LinkSteps:
        """Cross entropy, a function of logits and labels, of rows and of columns."""
        return LinkSteps(ways=lambda loss, z, y: sum(of(each, y) for each in (z, z.T)[:sides]) / sides)

    def small_number(z: Any, y: Any, small: float = 1e-8) -> Any:
        return -(z.softmax(1).diagonal() + small).log().mean()

    def added_number(z: Any, y: Any) -> Any:
        e = (z - z.max(dim=1, keepdim=True).values.detach()).exp()
        return -(e.diagonal() / (e.sum(dim=1) + 1e-2)).log().mean()

    def plain(z: Any, y: Any) -> Any:
        return (z.exp().sum(dim=1).log() - z.diagonal()).mean()

    def without_pair(z: Any, y: Any) -> Any:
        apart = z.masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf)
        return (torch.logsumexp(apart, 1) - z.diagonal()).mean() if len(z) > 1 else 0.0 * z.sum()

    def same_side(z: Any, y: Any) -> Any:
        return cross_entropy(torch.cat([z, z.detach().T], dim=1), y)

    def by_matrix(z: Any, y: Any) -> Any:
        return -z.reshape(-1).log_softmax(0).reshape(z.shape).diagonal().mean()

    for name, steps in {
        "rows alone": way(cross_entropy, 1),
        "columns alone": LinkSteps(ways=lambda loss, z, y: cross_entropy(z.T, y)),
        "rows twice": LinkSteps(ways=lambda loss, z, y: (cross_entropy(z, y) + cross_entropy(z, y)) / 2),
        "both ways added": LinkSteps(ways=lambda loss, z, y: cross_entropy(z, y) + cross_entropy(z.T, y)),
        "weights of 0.75 and 0.25": LinkSteps(
            ways=lambda loss, z, y: 0.75 * cross_entropy(z, y) + 0.25 * cross_entropy(z.T, y)
        ),
        "logits of both ways averaged": LinkSteps(ways=lambda loss, z, y: cross_entropy((z + z.T) / 2, y)),
        "probabilities of both ways averaged": LinkSteps(
            ways=lambda loss, z, y: -((z.softmax(1) + z.softmax(0)) / 2).log().diagonal().mean()
        ),
        "softmax over all": way(by_matrix),
        "softmax over columns of the first way": LinkSteps(
            ways=lambda loss, z, y: -(z.log_softmax(0) + z.T.log_softmax(1)).diagonal().mean() / 2
        ),
        "softmax twice": way(lambda z, y: cross_entropy(z.log_softmax(1).exp(), y)),
        "sigmoid for softmax": way(lambda z, y: -torch.nn.functional.logsigmoid(z).diagonal().mean()),
        "pairs left out of the softmax": way(without_pair),
        "both sides among the answers": way(same_side),
        "1e-8 in the logarithm": way(small_number),
        "1e-2 added to the sum": way(added_number),
        "maximum not taken off": way(plain),
        "labels of the next pair": way(lambda z, y: cross_entropy(z, y.roll(1))),
        "labels in reverse": way(lambda z, y: cross_entropy(z, y.flip(0))),
        "label 0 for all": way(lambda z, y: cross_entropy(z, 0 * y)),
        "labels smoothed": way(lambda z, y: cross_entropy(z, y, label_smoothing=0.1)),
        "sum for the mean": way(lambda z, y: cross_entropy(z, y, reduction="sum")),
        "mean over N squared": way(lambda z, y: cross_entropy(z, y) / len(y)),
        "mean over both sides": way(lambda z, y: cross_entropy(z, y) / 2),
        "last pair left out": way(lambda z, y: cross_entropy(z[:-1], y[:-1], reduction="sum") / len(y)),
        "last column left out": way(lambda z, y: cross_entropy(torch.cat([z[:, :-1], z[:, -1:].detach()], dim=1), y)),
        "a row of zeros counts": way(lambda z, y: cross_entropy(torch.nn.functional.pad(z, (0, 1)), y)),
        "the diagonal without gradient": way(lambda z, y: cross_entropy(z - (z - z.detach()).diagonal().diag(), y)),
        "other pairs without gradient": way(
            lambda z, y: cross_entropy(z.detach() + (z - z.detach()).diagonal().diag(), y)
        ),
        "second way without gradient": LinkSteps(
            ways=lambda loss, z, y: (cross_entropy(z, y) + cross_entropy(z.detach().T, y)) / 2
        ),
        "nearest other alone": way(nearest),
        **SCALES,
        "gradient of a temperature": LinkSteps(
            scaled=lambda c, s: c * (s.detach() - s.detach() ** 2 * (s - s.detach()))
        ),
        "logits in bfloat16": LinkSteps(scaled=lambda c, s: stored("bfloat16")(s * c)),
        "margin of 0.1": LinkSteps(curve=lambda loss, c, own: torch.where(own, c - 0.1, c)),
    }.items():
        yield name, CLIP, steps
    for name, steps in {
        "both ways": LinkSteps(ways=lambda loss, z, y: torch_ways(CLIP, z, y)),
        "columns for rows": LinkSteps(ways=lambda loss, z, y: cross_entropy(z.T, y)),
        "half of the loss": LinkSteps(ways=lambda loss, z, y: cross_entropy(z, y) / 2),
    }.items():
        yield name, ONE_WAY, steps


def nearest(z: Any, y: Any) -> Any:
    """A softmax of the pair and of the nearest other one alone."""
    import torch

    other = z.masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf).max(dim=1).values
    return torch.nn.functional.softplus(other - z.diagonal()).mean()


def other_settings() -> Iterator[tuple[str, Any, Any]]:
    """Yield a loss, and another one for it."""
    for loss in (POWER, UNI):
        yield "m = 0.399", loss, replace(loss, m=0.399)
        yield "m = 0", loss, replace(loss, m=0.0)
        yield "margin twice", loss, replace(loss, m=0.8)
    yield "detached", POWER, CONSTANT
    yield "t = 2", POWER, replace(POWER, t=2)
    yield "alpha = 0.5", POWER, replace(POWER, alpha=0.5)
    yield "weights of wespeaker", POWER, replace(POWER, weight=40.0)
    yield "l left out", replace(UNI, l=0.5), UNI
    for loss in ALL:
        yield "the mean for the sum", summed(loss), loss
        yield "the sum for rows", replace(loss, reduction="none"), summed(loss)
    yield "columns left out", CLIP, ONE_WAY


# ---------------------------------------------------------------------------------------------------------- gradients


def gradients() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Yield right values with a gradient that is wrong."""
    for loss in (*ALL, CONSTANT):
        right = numpy_links(loss)
        for place, of in ((0, "x"), (1, "w")):
            for name, change in {
                "negated": lambda g, inputs: -g,
                "halved": lambda g, inputs: g / 2,
                "times N": lambda g, inputs: g * g.dtype.type(len(inputs[0])),
                "zeros": lambda g, inputs: 0 * g,
                "last row zeros": lambda g, inputs: put(g, -1, 0.0),
                "last column zeros": lambda g, inputs: put(g, (slice(None), -1), 0.0),
                "of the next row": lambda g, inputs: np.roll(g, 1, 0),
                "off by one part in 32": lambda g, inputs: g * g.dtype.type(1 + 2**-5),
            }.items():
                yield f"d{of} {name}", loss, gradient_changed(right, change, place)
            yield f"d{of} not projected", loss, gradient_changed(right, along(place), place)
            yield f"d{of} not divided by the length", loss, gradient_changed(right, of_unit(place), place)
        yield "0.5 added to the value", loss, value_changed(right, lambda value, inputs: value + value.dtype.type(0.5))
        yield "no gradient of w returned", loss, tampered(right, without(1))
        last = {"SphereFace2": "b", "UniFace": "b", "SigLIP": "b", "InfoNCE": "s"}[type(loss).__name__]
        for place, of in ((2, "t"), (3, "b")) if loss is PAIRS else ((2, last),):
            for name, change in {
                "negated": lambda g, inputs: -g,
                "halved": lambda g, inputs: g / 2,
                "zero": lambda g, inputs: 0 * g,
                "times N": lambda g, inputs: g * g.dtype.type(len(inputs[0])),
                "over N": lambda g, inputs: g / g.dtype.type(len(inputs[0])),
                "over C": lambda g, inputs: g / g.dtype.type(len(inputs[1])),
            }.items():
                yield f"d{of} {name}", loss, when_given(right, gradient_changed(right, change, place), loss)
            yield f"d{of} not returned", loss, tampered(right, without(place))
    for loss in (PAIRS, CLIP, ONE_WAY):
        yield (
            "dx and dw exchanged",
            loss,
            tampered(numpy_links(loss), lambda inputs, value, dx, dw, *more: (value, dw, dx, *more)),
        )
        name = "t" if loss is PAIRS else "s"
        for what, power in (("log", 1), ("temperature", 2)):
            sign = -1.0 if power == 2 else 1.0
            yield (
                f"d{name} of the {what}",
                loss,
                gradient_changed(
                    numpy_links(loss),
                    lambda g, inputs, sign=sign, power=power: g * g.dtype.type(sign) * inputs[2] ** power,
                    2,
                ),
            )
    yield (
        "dt and db exchanged",
        PAIRS,
        tampered(numpy_links(PAIRS), lambda inputs, value, dx, dw, dt, db: (value, dx, dw, db, dt)),
    )


def when_given(right: Callable[..., Any], wrong: Callable[..., Any], loss: Any) -> Callable[..., Any]:
    """The wrong code where all inputs are given."""
    count = 3 if isinstance(loss, refloss.InfoNCE) else 4
    return lambda *inputs: wrong(*inputs) if len(inputs) == count else right(*inputs)


def without(place: int) -> Callable[..., Any]:
    """Results without one gradient."""
    return lambda inputs, value, *parts: (value, *(part for at, part in enumerate(parts) if at != place))


def along(place: int) -> Callable[[Array, Any], Array]:
    """A part of the gradient along the rows that it belongs to."""

    def change(g: Array, inputs: Any) -> Array:
        rows = inputs[place].astype(np.float64)
        size = np.linalg.norm(g.astype(np.float64), axis=1, keepdims=True)
        return np.asarray((g + 0.3 * size * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(g.dtype))

    return change


def of_unit(place: int) -> Callable[[Array, Any], Array]:
    """The gradient of the unit vectors."""

    def change(g: Array, inputs: Any) -> Array:
        length = np.linalg.norm(inputs[place].astype(np.float64), axis=1, keepdims=True)
        return np.asarray((g * length).astype(g.dtype))

    return change


def whole() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Yield code that is wrong as a whole: upstream gradients, inputs written into, sides."""
    import torch

    def upstream(loss: Any, change: Callable[[Any], Any]) -> Callable[..., Any]:
        """The upstream gradient, changed."""
        right, changed = torch_links(loss), identity(change)
        return lambda *inputs: changed(right(*inputs))

    for loss in ALL:
        rows, right = replace(loss, reduction="none"), torch_links(loss)
        yield "upstream left out", loss, upstream(loss, torch.ones_like)
        yield "upstream of rows left out", rows, upstream(rows, torch.ones_like)
        yield "upstream of the first row", rows, upstream(rows, lambda g: g[:1].expand(len(g)))
        yield "upstream in reverse", rows, upstream(rows, lambda g: g.flip(0))
        yield "upstream squared", loss, upstream(loss, lambda g: g * g)

        def writes(x: Any, w: Any, *given: Any, right: Any = right) -> Any:
            with torch.no_grad():
                x.copy_(torch_unit(x))
            return right(x, w, *given)

        yield "x written into", loss, writes
        yield "times N", loss, lambda x, w, *given, right=right: right(x, w, *given) * len(x)
        yield "noise", loss, lambda x, w, *given, right=right: right(x + 0.1 * torch.rand_like(x), w, *given)
    for loss in (POWER, UNI):
        right = torch_links(loss)
        yield "ignored labels are class 0", loss, lambda x, w, y, *b, right=right: right(x, w, y.clamp(min=0), *b)
        yield (
            "labels one too small",
            loss,
            lambda x, w, y, *b, right=right: right(x, w, torch.where(y > 0, y - 1, y), *b),
        )
        yield "no bias taken", loss, lambda x, w, y, *b, right=right: right(x, w, y)
    rows = replace(CLIP, reduction="none")
    yield "rows of one way", rows, torch_links(replace(ONE_WAY, reduction="none"))

    one = torch_links(ONE_WAY)

    def of_questions(x: Any, w: Any, s: Any) -> Any:
        """Each way with the gradient of its own side alone, as several devices without gathered gradients."""
        return (one(x, w.detach(), s) + one(w, x.detach(), s)) / 2

    yield "gradient of questions alone", CLIP, of_questions
    yield "first way against x itself", CLIP, lambda x, w, s: torch_links(CLIP)(x, x, s) + 0.0 * w.sum()
    yield "w against itself", PAIRS, lambda x, w, *given: torch_links(PAIRS)(w, w, *given) + 0.0 * x.sum()
    yield "w in reverse", PAIRS, lambda x, w, *given: torch_links(PAIRS)(x, w.flip(0), *given)
    yield "w of the pair before", CLIP, lambda x, w, s: torch_links(CLIP)(x, w.roll(1, 0), s)
    for loss in (PAIRS, CLIP):
        halves = torch_links(loss)

        def by_halves(x: Any, w: Any, *given: Any, halves: Any = halves) -> Any:
            """Each half of the batch against itself."""
            cut = max(len(x) // 2, 1)
            parts = [
                halves(x[some], w[some], *given) * len(x[some])
                for some in (slice(cut), slice(cut, None))
                if len(x[some])
            ]
            return sum(parts) / len(x)

        yield "halves of the batch", loss, by_halves
        yield "scale of 10 whatever is given", loss, lambda x, w, s, *b, halves=halves: halves(x, w, 0.0 * s + 10.0, *b)


# ---------------------------------------------------------------------------------------------------------- precision


def of_precision() -> Iterator[Named]:
    """Yield code in the wrong dtype, and code that a stricter standard refuses."""
    for loss in ALL:
        single = torch_links(loss, upcast=True)

        def by_half(x: Any, w: Any, *given: Any, loss: Any = loss) -> Any:
            """All of it in bfloat16."""
            kept = (entry.bfloat16() if entry.is_floating_point() else entry for entry in (x, w, *given))
            return torch_links(loss)(*kept).to(x.dtype)

        yield "all in float32", "torch", loss, single, ("float64",), {}
        yield "all in bfloat16", "torch", loss, by_half, SINGLES, {}
        yield "stored in the dtype between steps", "torch", loss, torch_links(loss), HALVES, {"standard": "mixed"}
        yield "summed in the dtype", "numpy", loss, numpy_links(loss), HALVES, {"standard": "mixed"}
    relative = {"standard": "relative"}
    for loss in ANSWERS:
        for name, form, dtypes in (
            ("softplus less z", "softplus less z", SINGLES),
            ("log of 1 + exp(-|z|)", "log of 1 + exp", SINGLES),
            ("softplus from 20 on", "softplus", ("float64",)),
        ):
            yield name, "torch", loss, torch_links(loss, form), dtypes, relative
    held = LinkSteps(answers=lambda z, own: (1.0 + z.where(~own, -z).exp()).log())
    yield "log of 1 + exp(z)", "torch", UNI, torch_links(UNI, steps=held), SINGLES, relative
