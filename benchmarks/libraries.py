"""Cross entropy and margin losses as they are written elsewhere: in PyTorch, JAX, optax, NumPy and SciPy.

implementations.py measures their errors, pictures.py draws them, and public_code.py passes one through `check`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import scipy.special

import refloss
from refloss.testing import naive

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Result = tuple[Any, Arrays]
"""The value, and the gradients by name."""
Implementation = Callable[[Arrays, Array, float], Result]
"""A function of the float inputs by name, the labels and the scale; it computes in the dtype of its inputs."""

M = math.radians(28.6)  # the default of pytorch-metric-learning's ArcFace


class Formula(NamedTuple):
    """A formula: refloss's loss for a scale, and who else computes it."""

    loss: Callable[[float], Any]
    others: dict[str, Implementation]


# ---------------------------------------------------------------------------------------------------------------- torch


def by_torch(f: Callable[..., Any]) -> Implementation:
    """Value and gradients by autograd of f(torch, arrays as tensors, y, s)."""

    def implementation(arrays: Arrays, y: Array, s: float) -> Result:
        import torch

        torch.set_num_threads(1)
        tensors = {name: tensor(array).requires_grad_() for name, array in arrays.items()}
        value = f(torch, **tensors, y=torch.from_numpy(y), s=s)
        value.backward()
        return value.item(), {name: leaf.grad.double().numpy() for name, leaf in tensors.items()}

    return implementation


def tensor(array: Array) -> Any:
    """A torch tensor of the same numbers in the same dtype."""
    import torch

    return torch.from_numpy(array.astype(np.float64)).to(getattr(torch, array.dtype.name))


def torch_cross_entropy(torch: Any, z: Any, y: Any, s: float) -> Any:
    return torch.nn.functional.cross_entropy(z, y)


def torch_linear(torch: Any, x: Any, w: Any, y: Any, s: float) -> Any:
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, w), y)


def torch_head(psi: Callable[..., Any], by_norm: bool = False) -> Callable[..., Any]:
    """Cosines by normalize and linear, psi in the target's place, and cross entropy."""

    def head(torch: Any, x: Any, w: Any, y: Any, s: float) -> Any:
        f = torch.nn.functional
        cosine = f.linear(f.normalize(x), f.normalize(w))
        one_hot = f.one_hot(y, len(w)).to(cosine.dtype)
        scale = x.norm(dim=1, keepdim=True) if by_norm else s
        return f.cross_entropy(scale * (one_hot * psi(torch, cosine) + (1 - one_hot) * cosine), y)

    return head


def psi_by_acos(torch: Any, c: Any) -> Any:
    return torch.cos(torch.acos(c.clamp(-1, 1)) + M)


def psi_by_sqrt(torch: Any, c: Any) -> Any:
    return c * math.cos(M) - torch.sqrt((1 - c * c).clamp(0, 1)) * math.sin(M)


def psi_by_sqrt_hard(torch: Any, c: Any) -> Any:
    return torch.where(c > math.cos(math.pi - M), psi_by_sqrt(torch, c), c - math.sin(math.pi - M) * M)


def folded(torch: Any, c: Any) -> Any:
    theta = torch.acos(c.clamp(-1, 1))
    k = (4 * theta / math.pi).floor()
    return (1 - 2 * (k % 2)) * torch.cos(4 * theta) - 2 * k


def folded_polynomial(torch: Any, c: Any) -> Any:
    k = (4 * torch.acos(c.detach().clamp(-1, 1)) / math.pi).floor()
    return (1 - 2 * (k % 2)) * (8 * c**4 - 8 * c**2 + 1) - 2 * k


# ------------------------------------------------------------------------------------------------------------------ jax


def by_jax(f: Callable[..., Any]) -> Implementation:
    """Value and gradients by jax.value_and_grad of f(arrays in order, y, s), compiled."""

    @cache
    def compiled() -> Any:
        import jax

        jax.config.update("jax_enable_x64", True)
        return jax.jit(jax.value_and_grad(lambda arrays, y, s: f(**arrays, y=y, s=s)))

    def implementation(arrays: Arrays, y: Array, s: float) -> Result:
        value, gradients = compiled()(arrays, y, s)
        return np.float64(value), {name: np.asarray(part, np.float64) for name, part in gradients.items()}

    return implementation


def optax_cross_entropy(z: Any, y: Any, s: float) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()


def jax_log_softmax(z: Any, y: Any, s: float) -> Any:
    import jax

    return -jax.nn.log_softmax(z)[np.arange(len(z)), y].mean()


def jax_linear(x: Any, w: Any, y: Any, s: float) -> Any:
    return optax_cross_entropy(x @ w.T, y, s)


def jax_head(psi: Callable[..., Any], by_norm: bool = False) -> Callable[..., Any]:
    """Cosines of rows over their norms, psi in the target's place, and optax's cross entropy."""

    def head(x: Any, w: Any, y: Any, s: float) -> Any:
        import jax.numpy as jnp

        lengths = jnp.linalg.norm(x, axis=1, keepdims=True)
        cosine = (x / lengths) @ (w / jnp.linalg.norm(w, axis=1, keepdims=True)).T
        target = jnp.arange(len(w)) == y[:, None]
        z = jnp.where(target, psi(jnp, cosine), cosine) * (lengths if by_norm else s)
        return optax_cross_entropy(z, y, s)

    return head


def jax_psi_by_acos(jnp: Any, c: Any) -> Any:
    return jnp.cos(jnp.arccos(c) + M)


def jax_folded(jnp: Any, c: Any) -> Any:
    theta = jnp.arccos(c)
    k = jnp.floor(4 * theta / math.pi)
    return (1 - 2 * (k % 2)) * jnp.cos(4 * theta) - 2 * k


# ----------------------------------------------------------------------------------- pytorch-metric-learning, and NumPy


def by_pml(name: str, **options: Callable[[float], float]) -> Implementation:
    """A loss of pytorch-metric-learning, which keeps its weights (D, C)."""

    def implementation(arrays: Arrays, y: Array, s: float) -> Result:
        import torch
        from pytorch_metric_learning import losses

        classes, width = arrays["w"].shape
        x = tensor(arrays["x"]).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy 2, about __array_wrap__
            settings = {key: setting(s) for key, setting in options.items()}
            loss = getattr(losses, name)(num_classes=classes, embedding_size=width, **settings)
            loss.W = torch.nn.Parameter(tensor(arrays["w"]).T.contiguous())
            value = loss(x, torch.from_numpy(y))
            value.backward()
        return value.item(), {"x": x.grad.double().numpy(), "w": loss.W.grad.double().numpy().T}

    return implementation


def textbook(arrays: Arrays, y: Array, s: float) -> Result:
    """Cross entropy as in a textbook: exp, its sum, the log of that."""
    z, rows = arrays["z"], np.arange(len(y))
    with np.errstate(all="ignore"):
        e = np.exp(z)
        p = e / e.sum(axis=1, keepdims=True)
        value = (np.log(e.sum(axis=1)) - z[rows, y]).mean()
        p[rows, y] -= 1
    return np.float64(value), {"z": p.astype(np.float64) / len(y)}


def scipy_log_softmax(arrays: Arrays, y: Array, s: float) -> Result:
    """Cross entropy of scipy's log_softmax, and p - 1."""
    z, rows = arrays["z"], np.arange(len(y))
    log_p = scipy.special.log_softmax(z, axis=1)
    with np.errstate(all="ignore"):
        p = np.exp(log_p)
        p[rows, y] -= 1
    return np.float64(-log_p[rows, y].mean()), {"z": p.astype(np.float64) / len(y)}


def naive_arcface(arrays: Arrays, y: Array, s: float) -> Result:
    """ArcFace of refloss.testing.naive, which knows float64 only."""
    value, x, w = naive.arcface_value_and_grad(arrays["x"], arrays["w"], y, s, M)
    return value, {"x": x, "w": w}


FORMULAS: dict[str, Formula] = {
    "cross entropy on logits": Formula(
        lambda s: refloss.CrossEntropy(),
        {
            "torch": by_torch(torch_cross_entropy),
            "optax": by_jax(optax_cross_entropy),
            "jax, log_softmax": by_jax(jax_log_softmax),
            "scipy, log_softmax": scipy_log_softmax,
            "textbook NumPy": textbook,
        },
    ),
    "SoftmaxLoss": Formula(
        lambda s: refloss.SoftmaxLoss(), {"torch": by_torch(torch_linear), "jax and optax": by_jax(jax_linear)}
    ),
    "NormFace": Formula(
        lambda s: refloss.NormFace(s=s),
        {
            "torch": by_torch(torch_head(lambda torch, c: c)),
            "jax and optax": by_jax(jax_head(lambda jnp, c: c)),
            "PML NormalizedSoftmaxLoss": by_pml("NormalizedSoftmaxLoss", temperature=lambda s: 1 / s),
        },
    ),
    "CosFace": Formula(
        lambda s: refloss.CosFace(s=s, m=0.35),
        {
            "torch": by_torch(torch_head(lambda torch, c: c - 0.35)),
            "jax and optax": by_jax(jax_head(lambda jnp, c: c - 0.35)),
            "PML CosFaceLoss": by_pml("CosFaceLoss", margin=lambda s: 0.35, scale=lambda s: s),
        },
    ),
    "ArcFace": Formula(
        lambda s: refloss.ArcFace(s=s, m=M),
        {
            "torch, acos": by_torch(torch_head(psi_by_acos)),
            "torch, sqrt(1 - c^2)": by_torch(torch_head(psi_by_sqrt)),
            "jax, arccos": by_jax(jax_head(jax_psi_by_acos)),
            "textbook NumPy": naive_arcface,
        },
    ),
    'ArcFace, boundary="hard"': Formula(
        lambda s: refloss.ArcFace(s=s, m=M, boundary="hard"),
        {
            "torch, sqrt(1 - c^2)": by_torch(torch_head(psi_by_sqrt_hard)),
            "PML ArcFaceLoss": by_pml("ArcFaceLoss", margin=lambda s: 28.6, scale=lambda s: s),
        },
    ),
    "ASoftmax": Formula(
        lambda s: refloss.ASoftmax(m=4),
        {
            "torch, acos": by_torch(torch_head(folded, by_norm=True)),
            "torch, polynomial": by_torch(torch_head(folded_polynomial, by_norm=True)),
            "jax, arccos": by_jax(jax_head(jax_folded, by_norm=True)),
            "PML SphereFaceLoss": by_pml("SphereFaceLoss", margin=lambda s: 4, scale=lambda s: 1),
        },
    ),
}
