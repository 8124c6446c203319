"""Wrong scales, caps and z-losses: left out, left on, in the wrong order, without their slopes, averaged otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import refloss
from support.right_codes.code import DTYPES, SINGLES, WEIGHTS
from support.right_codes.option_codes import numpy_options, torch_capped, torch_options
from support.right_codes.torch_codes import torch_linear
from support.wrong_codes.code import Array

CAPPED = refloss.CrossEntropy(softcap=15.0)
SCALED = refloss.CrossEntropy(logit_scale=0.25)
ROWS = replace(CAPPED, reduction="none")
BOTH = refloss.CrossEntropy(logit_scale=0.25, softcap=15.0)
Z_LOSS = refloss.CrossEntropy(z_loss=0.125)
WEIGHTED = refloss.CrossEntropy(z_loss=0.125, class_weight=WEIGHTS)
HEAD = refloss.SoftmaxLoss(softcap=15.0, z_loss=0.125)


def options() -> Iterator[tuple[Any, ...]]:
    """Yield code that is right for another loss, or changed in one step."""
    forgotten = {
        "no softcap": (CAPPED, replace(CAPPED, softcap=None)),
        "another softcap": (CAPPED, replace(CAPPED, softcap=30.0)),
        "softcap of 50 for 30": (replace(CAPPED, softcap=30.0), replace(CAPPED, softcap=50.0)),
        "softcap left on": (refloss.CrossEntropy(), CAPPED),
        "another logit scale": (SCALED, replace(SCALED, logit_scale=0.125)),
        "logit scale left on": (refloss.CrossEntropy(), SCALED),
        "another logit scale beside the cap": (BOTH, replace(BOTH, logit_scale=0.375)),
        "another softcap beside the scale": (BOTH, replace(BOTH, softcap=2.5)),
        "tanh without its cap after it": (CAPPED, replace(CAPPED, logit_scale=1.0 / 15.0, softcap=1.0)),
        "no logit scale": (SCALED, replace(SCALED, logit_scale=1.0)),
        "the scale forgotten beside the cap": (BOTH, replace(BOTH, logit_scale=1.0)),
        "no z-loss": (Z_LOSS, replace(Z_LOSS, z_loss=0.0)),
        "z-loss left on": (replace(Z_LOSS, z_loss=0.0), Z_LOSS),
        "half of the z-loss": (Z_LOSS, replace(Z_LOSS, z_loss=0.0625)),
        "a small z-loss left on": (refloss.CrossEntropy(), refloss.CrossEntropy(z_loss=1e-3)),
    }
    for name, (loss, other) in forgotten.items():
        dtypes = SINGLES if "small" in name else DTYPES
        yield name, "torch", torch_options(other), loss, dtypes
        yield name, "numpy", numpy_options(other), loss, dtypes
    no_cap = torch_linear(torch_options(replace(HEAD, softcap=None)))
    yield "no softcap behind a linear layer", "torch", no_cap, HEAD, DTYPES
    other_cap = torch_linear(torch_options(replace(HEAD, softcap=20.0)))
    yield "another softcap behind a linear layer", "torch", other_cap, HEAD, DTYPES
    no_z_loss = torch_linear(torch_options(replace(HEAD, z_loss=0.0)))
    yield "no z-loss behind a linear layer", "torch", no_z_loss, HEAD, DTYPES

    yield "softcap after the loss", "torch", capped_loss(CAPPED), CAPPED, DTYPES
    yield "softcap after the loss of each row", "torch", capped_loss(ROWS), ROWS, DTYPES
    yield "scaled after the cap", "torch", torch_options(BOTH, capped=capped_then_scaled), BOTH, DTYPES
    yield "tanh without its cap before it", "torch", torch_options(CAPPED, capped=tanh_of_logits), CAPPED, DTYPES
    yield "clamp instead of tanh", "torch", torch_options(CAPPED, capped=clamped), CAPPED, DTYPES
    for name, loss in {"tanh": CAPPED, "the scale": SCALED, "tanh and of the scale": BOTH}.items():
        fn = torch_options(loss, capped=straight_through)
        yield f"no slope of {name} in the backward", "torch", fn, loss, DTYPES
    yield "slope 1 - tanh for 1 - tanh²", "numpy", with_slope(CAPPED, lambda tanh: 1 - np.abs(tanh)), CAPPED, DTYPES
    yield "slope of the capped logit", "numpy", with_slope(CAPPED, lambda tanh: 1 - np.tanh(tanh) ** 2), CAPPED, DTYPES

    yield "z-loss weighted by class weights", "torch", with_terms(WEIGHTED, of_weights), WEIGHTED, DTYPES
    yield "z-loss divided by the sum of weights", "torch", with_terms(WEIGHTED, over_weights), WEIGHTED, DTYPES
    yield "z-loss divided by all rows", "torch", with_terms(Z_LOSS, over_rows), Z_LOSS, DTYPES
    yield "z-loss of ignored rows too", "torch", with_terms(Z_LOSS, of_ignored), Z_LOSS, DTYPES
    yield "z-loss summed in a mean", "torch", with_terms(Z_LOSS, summed), Z_LOSS, DTYPES
    yield "z-loss without a square", "torch", with_terms(Z_LOSS, absolute), Z_LOSS, DTYPES
    yield "z-loss without a gradient", "torch", with_terms(Z_LOSS, detached), Z_LOSS, DTYPES
    yield "z-loss with half its slope", "torch", with_terms(Z_LOSS, half_detached), Z_LOSS, DTYPES
    capped = replace(Z_LOSS, softcap=4.0)
    yield "z-loss of logits before the cap", "torch", with_terms(capped, over_kept, before_cap=True), capped, DTYPES


def capped_loss(loss: Any) -> Callable[..., Any]:
    """The cap around the loss instead of the logits."""
    import torch

    plain = torch_options(replace(loss, softcap=None))

    def fn(z: Any, y: Any) -> Any:
        return loss.softcap * torch.tanh(plain(z, y) / loss.softcap)

    return fn


def capped_then_scaled(loss: Any, z: Any) -> Any:
    return torch_capped(replace(loss, logit_scale=1.0), z) * loss.logit_scale


def tanh_of_logits(loss: Any, z: Any) -> Any:
    return loss.softcap * z.tanh()


def clamped(loss: Any, z: Any) -> Any:
    return z.clamp(-loss.softcap, loss.softcap)


def straight_through(loss: Any, z: Any) -> Any:
    """The value of the cap with the gradient of the identity."""
    finite = z.nan_to_num(neginf=-1e4)
    return finite + (torch_capped(loss, z) - finite).detach()


def with_slope(loss: Any, slope: Callable[[Array], Array]) -> Callable[..., Any]:
    """The gradient by hand, with another slope of the tanh."""
    right = numpy_options(loss)

    def fn(z: Array, y: Array) -> Any:
        value, _ = right(z, y)
        tanh = np.tanh(z / z.dtype.type(loss.softcap))
        _, g = numpy_options(replace(loss, softcap=None))(z.dtype.type(loss.softcap) * tanh, y)
        return value, (g * slope(tanh)).astype(z.dtype)

    return fn


Reduce = Callable[[Any, Any, Any], Any]


def with_terms(loss: Any, reduce: Reduce, before_cap: bool = False) -> Callable[..., Any]:
    """Cross entropy, and λ lse² reduced in another way: reduce(λ lse², y, class weights)."""
    import torch

    plain = torch_options(replace(loss, z_loss=0.0))

    def fn(z: Any, y: Any) -> Any:
        logits = z if before_cap else torch_capped(loss, z)
        v = torch.ones(z.shape[1]) if loss.class_weight is None else torch.tensor(loss.class_weight)
        return plain(z, y) + reduce(loss.z_loss * logits.logsumexp(dim=1) ** 2, y, v.to(z.dtype)).to(z.dtype)

    return fn


def kept_of(terms: Any, y: Any) -> tuple[Any, Any]:
    """Terms of the rows that count, those of others 0, and the number of those rows."""
    import torch

    kept = y >= 0
    return torch.where(kept, terms, torch.zeros_like(terms)), kept.sum().clamp(min=1)


def over_kept(terms: Any, y: Any, v: Any) -> Any:
    kept, count = kept_of(terms, y)
    return kept.sum() / count


def of_weights(terms: Any, y: Any, v: Any) -> Any:
    kept, count = kept_of(terms * v[y.clamp(min=0)], y)
    return kept.sum() / count


def over_weights(terms: Any, y: Any, v: Any) -> Any:
    kept, _ = kept_of(terms, y)
    weights, _ = kept_of(v[y.clamp(min=0)], y)
    return kept.sum() / weights.sum()


def over_rows(terms: Any, y: Any, v: Any) -> Any:
    return kept_of(terms, y)[0].mean()


def of_ignored(terms: Any, y: Any, v: Any) -> Any:
    return terms.sum() / kept_of(terms, y)[1]


def summed(terms: Any, y: Any, v: Any) -> Any:
    return kept_of(terms, y)[0].sum()


def absolute(terms: Any, y: Any, v: Any) -> Any:
    return over_kept(terms.clamp(min=1e-30).sqrt(), y, v)


def detached(terms: Any, y: Any, v: Any) -> Any:
    return over_kept(terms, y, v).detach()


def half_detached(terms: Any, y: Any, v: Any) -> Any:
    mean = over_kept(terms, y, v)
    return mean / 2 + (mean / 2).detach()
