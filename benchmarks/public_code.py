"""Public code that `check` is asked about: the table "Public code" of the record budgets.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import libraries

import refloss
from refloss.testing import Implementation, known, naive

Fn = Callable[..., Any]


class PublicCode(NamedTuple):
    """An implementation that others published, and the loss that it is meant to be."""

    name: str
    run: str
    """"as it is", or written by us "after its description"."""
    framework: str
    fn: Fn
    loss: Any


def stated(library: str, code: str) -> Implementation:
    """What is known of a library's code, by the beginning of how it is called."""
    return next(row for row in known() if row.library == library and row.code.startswith(f"{code}("))


def public_codes() -> Iterator[PublicCode]:
    """Yield implementations that others published."""
    import optax
    import torch
    from pytorch_metric_learning import losses as pml

    f = torch.nn.functional

    def by_scale(fn: Fn) -> Fn:
        return lambda x, w, y: fn(torch, x, w, y, 64.0)

    def of_pml(name: str, **settings: Any) -> Fn:
        def fn(x: Any, w: Any, y: Any) -> Any:
            module = getattr(pml, name)(num_classes=len(w), embedding_size=w.shape[1], **settings)
            return torch.func.functional_call(module, {"W": w.T}, (x, y))

        return fn

    def insightface(x: Any, w: Any, y: Any) -> Any:
        cos = f.linear(f.normalize(x), f.normalize(w)).clamp(-1, 1)
        with torch.no_grad():
            moved = torch.where(f.one_hot(y, len(w)).bool(), torch.cos(torch.acos(cos) + 0.5), cos)
        return f.cross_entropy(64 * (cos + (moved - cos).detach()), y)

    def opensphere(x: Any, w: Any, y: Any) -> Any:
        cos = f.linear(f.normalize(x), f.normalize(w)).clamp(-1 + 1e-5, 1 - 1e-5)
        return f.cross_entropy(64 * (cos - 0.35 * f.one_hot(y, len(w))), y)

    def unnormalised(x: Any, w: Any, y: Any) -> Any:
        cos = f.linear(f.normalize(x), w)
        return f.cross_entropy(64 * (cos - 0.35 * f.one_hot(y, len(w))), y)

    hard = stated("pytorch-metric-learning", "ArcFaceLoss").loss
    cosface = refloss.CosFace()
    sqrt_hard = by_scale(libraries.torch_head(libraries.psi_by_sqrt_hard))

    def as_it_is(name: str, framework: str, fn: Fn, loss: Any) -> PublicCode:
        return PublicCode(name, "as it is", framework, fn, loss)

    def of_library(name: str, fn: Fn, library: str, code: str) -> PublicCode:
        row = stated(library, code)
        return as_it_is(name, row.framework, fn, row.loss)

    def described(name: str, fn: Fn, loss: Any) -> PublicCode:
        return PublicCode(name, "after its description", "torch", fn, loss)

    yield of_library("torch cross_entropy", f.cross_entropy, "PyTorch", "F.cross_entropy")
    yield of_library(
        "optax softmax_cross_entropy_with_integer_labels",
        optax.softmax_cross_entropy_with_integer_labels,
        "optax",
        "softmax_cross_entropy_with_integer_labels",
    )
    for name, settings in {
        "NormalizedSoftmaxLoss": {"temperature": 1 / 64},
        "CosFaceLoss": {"margin": 0.35, "scale": 64},
        "ArcFaceLoss": {"margin": 28.6, "scale": 64},
        "SphereFaceLoss": {"margin": 4, "scale": 1},
    }.items():
        yield of_library(f"PML {name}", of_pml(name, **settings), "pytorch-metric-learning", name)
    pml_arcface = of_pml("ArcFaceLoss", margin=28.6, scale=64)
    yield as_it_is("PML ArcFaceLoss, by the paper's rule", "torch", pml_arcface, replace(hard, boundary="none"))
    yield described("InsightFace arcface_torch", insightface, refloss.ArcFace())
    yield described("arcface-pytorch, sqrt(1 - c^2)", sqrt_hard, hard)
    yield described("OpenSphere cosface, cosine clamped", opensphere, cosface)
    yield described("weights never normalised (zoo: NeMo, cvqluu)", unnormalised, cosface)
    yield as_it_is("refloss.testing.naive", "numpy", naive.arcface_value_and_grad, refloss.ArcFace())
