"""Implementations that count as correct by the standard "stable": soundness.py tests budgets against them.

They are those of tests/support/right_codes/ in their textbook forms, each with the orders of summation that a library
may have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import refloss
from support.right_codes import (
    blocked,
    jax_head,
    jax_linear,
    jax_logits,
    jax_triplet,
    max_first,
    numpy_head,
    numpy_linear,
    numpy_logits,
    numpy_triplet,
    pairwise,
    sequential,
    torch_cross_entropy,
    torch_head,
    torch_linear,
    torch_psi,
    torch_settings,
    torch_triplet,
)
from support.right_codes.code import HALVES
from support.right_codes.curve_codes import numpy_curves, torch_curves
from support.right_codes.divergence_codes import jax_divergence, numpy_divergence, torch_divergence
from support.right_codes.option_codes import numpy_options, torch_options
from support.right_codes.quality_codes import numpy_family, torch_family

Array = np.ndarray[Any, Any]
Add = Callable[[Array], Array]
Fn = Callable[..., Any]


class Code(NamedTuple):
    """An implementation that counts as correct."""

    by: str
    framework: str
    fn: Fn
    accumulate: str | None = None
    """The dtype of its sums, where it is not the default of `budget`."""
    skips: tuple[str, ...] = ()
    """Flags of cases for which it has no convention."""
    ordinary: bool = False
    """Whether it is correct for ordinary angles only."""
    standard: str = "stable"


def head(loss: Any) -> str:
    """Return "logits", "linear", "margin", "triplet" or "divergence"."""
    name: str = loss.spec.head
    return name


def on_angle(loss: Any) -> bool:
    """Whether a margin is on the angle of the target, not on its cosine."""
    return head(loss) == "margin" and bool(loss.spec.margin.m1 != 1.0 or loss.spec.margin.m2)


def has_rule(loss: Any) -> bool:
    """Whether a margin has a boundary rule."""
    return head(loss) == "margin" and loss.spec.margin.boundary != "none"


def curve_of(loss: Any) -> str:
    """How the margin's curve is computed: from two lengths, or from the cosine."""
    return "lengths" if on_angle(loss) else "cosine"


def in_numpy(loss: Any, add: Add = pairwise) -> Fn:
    """Value and gradients by hand."""
    return {
        "logits": lambda: numpy_logits(loss, max_first, add),
        "linear": lambda: numpy_linear(loss, max_first, add),
        "margin": lambda: numpy_head(loss, curve_of(loss), add),
        "triplet": lambda: numpy_triplet(loss, add),
        "divergence": lambda: numpy_divergence(loss, add=add),
    }[head(loss)]()


def in_torch(loss: Any) -> Fn:
    """The textbook form of a loss."""
    return {
        "logits": lambda: torch_cross_entropy(loss),
        "linear": lambda: torch_linear(torch_cross_entropy(loss)),
        "margin": lambda: torch_head(loss, curve_of(loss)),
        "triplet": lambda: torch_triplet(loss, "squares" if loss.squared else "safe root"),
        "divergence": lambda: torch_divergence(loss),
    }[head(loss)]()


def in_jax(loss: Any) -> Fn:
    """The textbook form of a loss without rule, smoothing and class weights."""
    return {
        "logits": lambda: jax_logits("log_softmax", loss),
        "linear": lambda: jax_linear("log_softmax", loss),
        "margin": lambda: jax_head(loss),
        "triplet": lambda: jax_triplet(loss),
        "divergence": lambda: jax_divergence(loss),
    }[head(loss)]()


def by_arccos(loss: Any) -> Fn:
    """Cosines in torch, and the target's angle by arccos."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        length = x.norm(dim=1, keepdim=True)
        cos = (x / length) @ (w / w.norm(dim=1, keepdim=True)).T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        c = cos[target]
        psi = torch_psi(loss, c, None, torch.acos(c), "arccos")
        z = (length if loss.spec.scale is None else loss.spec.scale) * torch.where(target, psi[:, None], cos)
        return f.cross_entropy(z, y, **torch_settings(loss, z))

    return fn


def correct(loss: Any, dtype: str) -> Iterator[Code]:
    """Yield the implementations of a loss that count as correct."""
    if head(loss) in ("logits", "linear") and (loss.softcap is not None or loss.z_loss):
        yield from with_options(loss)
        return
    if isinstance(loss, refloss.CircleLoss) or getattr(loss.spec, "class_angles", None) is not None:
        yield Code("NumPy", "numpy", numpy_curves(loss))
        yield Code("torch", "torch", torch_curves(loss))
        return
    if head(loss) == "margin" and not loss.spec.is_plain:
        yield Code("NumPy", "numpy", numpy_family(loss))
        yield Code("torch", "torch", torch_family(loss))
        return
    for add in (sequential, pairwise, blocked):
        yield Code(f"NumPy, {add.__name__}", "numpy", in_numpy(loss, add))
    yield Code("torch", "torch", in_torch(loss))
    if on_angle(loss):
        yield Code("torch, arccos", "torch", by_arccos(loss), ordinary=True)
    weighted = head(loss) not in ("triplet", "divergence") and (loss.label_smoothing or loss.class_weight is not None)
    if not has_rule(loss) and not weighted:  # its backward adds up in what it stores
        summed = dtype if dtype in HALVES else None
        yield Code("jax", "jax", in_jax(loss), summed, ("bias", "soft"))


def with_options(loss: Any) -> Iterator[Code]:
    """Yield the implementations of logits that are scaled and capped: they have tanh and 1 - tanh² as they round."""
    own = torch_options(loss)
    if head(loss) == "logits":
        yield Code("NumPy", "numpy", numpy_options(loss), skips=("soft",), standard="working")
        yield Code("torch", "torch", own, standard="working")
    else:
        yield Code("torch", "torch", torch_linear(own), standard="working")
