"""Public code that `check` is asked about: the table "Public code" of the record budgets.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import libraries

import refloss
from refloss.testing import naive

Fn = Callable[..., Any]


class PublicCode(NamedTuple):
    """An implementation that others published, and the loss that it is meant to be."""

    name: str
    run: str
    """"as it is", or written by us "after its description"."""
    framework: str
    fn: Fn
    loss: Any


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

    normface, cosface = refloss.NormFace(), refloss.CosFace()
    hard = refloss.ArcFace(m=libraries.M, boundary="hard")
    pml_arcface = of_pml("ArcFaceLoss", margin=28.6, scale=64)
    optax_loss = optax.softmax_cross_entropy_with_integer_labels
    sqrt_hard = by_scale(libraries.torch_head(libraries.psi_by_sqrt_hard))

    def as_it_is(name: str, framework: str, fn: Fn, loss: Any) -> PublicCode:
        return PublicCode(name, "as it is", framework, fn, loss)

    def described(name: str, fn: Fn, loss: Any) -> PublicCode:
        return PublicCode(name, "after its description", "torch", fn, loss)

    yield as_it_is("torch cross_entropy", "torch", f.cross_entropy, refloss.CrossEntropy())
    yield as_it_is(
        "optax softmax_cross_entropy_with_integer_labels", "jax", optax_loss, refloss.CrossEntropy(reduction="none")
    )
    yield as_it_is("PML NormalizedSoftmaxLoss", "torch", of_pml("NormalizedSoftmaxLoss", temperature=1 / 64), normface)
    yield as_it_is("PML CosFaceLoss", "torch", of_pml("CosFaceLoss", margin=0.35, scale=64), cosface)
    yield as_it_is("PML ArcFaceLoss", "torch", pml_arcface, hard)
    yield as_it_is("PML ArcFaceLoss, by the paper's rule", "torch", pml_arcface, replace(hard, boundary="none"))
    yield as_it_is("PML SphereFaceLoss", "torch", of_pml("SphereFaceLoss", margin=4, scale=1), refloss.ASoftmax())
    yield described("InsightFace arcface_torch", insightface, refloss.ArcFace())
    yield described("arcface-pytorch, sqrt(1 - c^2)", sqrt_hard, hard)
    yield described("OpenSphere cosface, cosine clamped", opensphere, cosface)
    yield described("weights never normalised (zoo: NeMo, cvqluu)", unnormalised, cosface)
    yield as_it_is("refloss.testing.naive", "numpy", naive.arcface_value_and_grad, refloss.ArcFace())
