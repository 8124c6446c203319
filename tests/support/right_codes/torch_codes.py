"""Right implementations in torch, differentiated by autograd or by a backward of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def torch_reduced(rows: Any, y: Any, loss: Any) -> Any:
    """Mean over the rows that count, sum, or the rows; ignored ones are 0."""
    import torch

    kept = y != loss.ignore_index if y.ndim == 1 else torch.ones(len(y), dtype=torch.bool)
    rows = torch.where(kept, rows, torch.zeros_like(rows))
    return {"none": lambda: rows, "sum": rows.sum, "mean": lambda: rows.sum() / kept.sum().clamp(min=1)}[
        loss.reduction
    ]()


def picked(a: Any, y: Any) -> Any:
    """The label's entry of each row; of ignored rows, that of class 0."""
    return a.gather(1, y.clamp(min=0)[:, None])[:, 0]


def torch_rows(name: str) -> Callable[..., Any]:
    """Loss of each row of logits with labels, as formulas that autograd differentiates."""
    import torch

    def by_max(top: Callable[[Any], Any]) -> Callable[..., Any]:
        def rows(z: Any, y: Any) -> Any:
            gap = z - top(z)
            return gap.exp().sum(dim=1).log() - picked(gap, y)

        return rows

    return {
        "log_softmax, gather": lambda z, y: -picked(z.log_softmax(dim=1), y),
        "F.nll_loss of log_softmax": lambda z, y: torch.nn.functional.nll_loss(
            z.log_softmax(dim=1), y.clamp(min=0), reduction="none"
        ),
        "logsumexp - z_y": lambda z, y: z.logsumexp(dim=1) - picked(z, y),
        "maximum off, detached": by_max(lambda z: z.detach().max(dim=1, keepdim=True).values),
        "maximum off, max with its gradient": by_max(lambda z: z.max(dim=1, keepdim=True).values),
        "maximum off, amax with its gradient": by_max(lambda z: z.amax(dim=1, keepdim=True)),
        "one-hot times log_softmax": lambda z, y: (
            -(
                torch.nn.functional.one_hot(y.clamp(min=0), z.shape[1]) * z.log_softmax(dim=1).nan_to_num(neginf=0.0)
            ).sum(dim=1)
        ),
    }[name]


def torch_logits(rows: Callable[..., Any], loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """A loss of logits from its rows."""

    def fn(z: Any, y: Any) -> Any:
        reduced = torch_reduced(rows(z.float() if upcast else z, y), y, loss)
        return reduced.to(z.dtype) if upcast else reduced

    return fn


def torch_settings(loss: Any, z: Any) -> dict[str, Any]:
    """What torch calls the settings of a loss."""
    import torch

    weight = None if loss.class_weight is None else torch.tensor(loss.class_weight, dtype=z.dtype)
    return {
        "reduction": loss.reduction,
        "label_smoothing": loss.label_smoothing,
        "ignore_index": loss.ignore_index,
        "weight": weight,
    }


def torch_cross_entropy(loss: Any, cast: Callable[[Any], Any] = lambda z: z) -> Callable[..., Any]:
    """torch's own, of the logits as they are or cast."""
    import torch

    def fn(z: Any, y: Any) -> Any:
        settings = torch_settings(loss, cast(z))
        if y.ndim == 2:
            settings.pop("ignore_index")
        return torch.nn.functional.cross_entropy(cast(z), y, **settings)

    return fn


def torch_p_minus_one(loss: Any, upcast: bool) -> Callable[..., Any]:
    """A kernel that stores p - t of each row, and multiplies it by the upstream gradient in the storage dtype."""
    import torch

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Any, y: Any) -> Any:
            work = z.float() if upcast and z.dtype.itemsize == 2 else z
            kept = y != loss.ignore_index
            n = int(kept.sum()) if loss.reduction == "mean" else 1
            log_p = work.log_softmax(dim=1)
            t = torch.nn.functional.one_hot(y.clamp(min=0), z.shape[1]).to(work.dtype)
            eps = loss.label_smoothing
            t = (1.0 - eps) * t + eps / z.shape[1]
            rows = torch.where(kept, -(t * log_p.masked_fill(t == 0, 0.0)).sum(dim=1), 0.0 * work[:, 0].nan_to_num())
            g = (log_p.exp() - t) * kept[:, None] / max(n, 1)
            ctx.save_for_backward(g.to(z.dtype))
            return (rows if loss.reduction == "none" else rows.sum() / max(n, 1)).to(z.dtype)

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            (g,) = ctx.saved_tensors
            return g * (upstream[:, None] if upstream.ndim else upstream), None

    return Kernel.apply


def torch_probabilities(loss: Any) -> Callable[..., Any]:
    """-sum t log p with labels or probabilities for targets."""

    def fn(z: Any, y: Any) -> Any:
        if y.ndim == 2:
            return -(y * z.log_softmax(dim=1)).sum(dim=1).mean()
        return torch_logits(torch_rows("log_softmax, gather"), loss)(z, y)

    return fn


def torch_linear(of_logits: Callable[..., Any], upcast: bool = False) -> Callable[..., Any]:
    """A linear layer and a loss of its logits."""
    import torch

    def fn(x: Any, w: Any, y: Any, b: Any = None) -> Any:
        kind = x.dtype
        if upcast:
            x, w, b = x.float(), w.float(), None if b is None else b.float()
        value = of_logits(torch.nn.functional.linear(x, w, b), y)
        return value.to(kind) if upcast else value

    return fn


def torch_chunked(loss: Any, chunk: int = 3) -> Callable[..., Any]:
    """Linear cross entropy a few rows at a time, in float32, gradients stored once; no logits are kept."""
    import torch

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, w: Any, y: Any, b: Any) -> Any:
            wide = torch.float32 if x.dtype.itemsize == 2 else x.dtype
            kept = y != loss.ignore_index
            n = max(int(kept.sum()), 1) if loss.reduction == "mean" else 1
            full = w.to(wide)
            dx, dw, db = torch.zeros_like(x), torch.zeros_like(full), torch.zeros(len(w), dtype=wide)
            rows = torch.zeros(len(x), dtype=wide)
            for start in range(0, len(x), chunk):
                part = slice(start, start + chunk)
                some, on = x[part].to(wide), kept[part]
                z = some @ full.T + (0.0 if b is None else b.to(wide))
                label = y[part].clamp(min=0)
                log_p = z.log_softmax(dim=1)
                rows[part] = -picked(log_p, label) * on
                g = (log_p.exp() - torch.nn.functional.one_hot(label, len(w))) * on[:, None] / n
                dx[part] = (g @ full).to(x.dtype)
                dw += g.T @ some
                db += g.sum(dim=0)
            ctx.save_for_backward(dx, dw.to(x.dtype), db.to(x.dtype))
            ctx.has_bias = b is not None
            return (rows.sum() / n).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            dx, dw, db = ctx.saved_tensors
            return upstream * dx, upstream * dw, None, upstream * db if ctx.has_bias else None

    def fn(x: Any, w: Any, y: Any, b: Any = None) -> Any:
        return Kernel.apply(x, w, y, b)

    return fn


def torch_psi(loss: Any, c: Any, s: Any, theta: Any, curve: str) -> Any:
    """The target's cosine with its margin, rule, annealing and gradient convention (N,)."""
    import torch

    margin = loss.spec.margin
    m1, m2, m3, a = margin.m1, margin.m2, margin.m3, margin.annealing
    if m1 == 1.0 and m2 == 0.0:
        if margin.boundary == "conditional":
            return torch.where(c > m3, c - m3, c)
        return c - m3
    phi = m1 * theta + m2
    exceeds_pi, k = phi > math.pi, torch.floor(phi.detach() / math.pi)
    if curve == "addition":
        cos = c * math.cos(m2) - s * math.sin(m2)
    elif curve == "polynomial":
        cos = 8.0 * c**4 - 8.0 * c**2 + 1.0
        k = sum((c.detach() < math.cos(i * math.pi / 4.0)).to(c.dtype) for i in (1, 2, 3))
    else:
        cos = torch.cos(phi)
    psi = {
        "none": lambda: cos - m3,
        "hard": lambda: torch.where(exceeds_pi, c - m2 * math.sin(m2) - m3, cos - m3),
        "easy": lambda: torch.where(c > 0.0, cos - m3, c - m3),
        "keep": lambda: torch.where(exceeds_pi, c - m3, cos - m3),
        "continuous": lambda: torch.where(exceeds_pi, c - (math.cos((math.pi - m2) / m1) + 1.0 + m3), cos - m3),
        "monotone": lambda: (1.0 - 2.0 * (k % 2.0)) * cos - 2.0 * k - m3,
        "clamp": lambda: torch.where(exceeds_pi, torch.full_like(c, -1.0 - m3), cos - m3),
        "min": lambda: torch.minimum(cos - m3, c),
        "conditional": lambda: torch.where(c > m3, cos - m3, c),
    }[margin.boundary]()
    psi = (a * c + psi) / (1.0 + a) if a else psi
    return c + (psi - c).detach() if margin.gradient == "detached" else psi


def torch_head(
    loss: Any, curve: str = "lengths", unit: str = "norm", upcast: bool = False, gathered: bool = False
) -> Callable[..., Any]:
    """A margin loss: cosines, ψ in the target's place, cross entropy.

    curve says how the angle is found: "lengths", 2 atan2(|x - w|, |x + w|); "projection", atan2(|x - (x.w) w|, x.w);
    "addition", cos θ cos m - sin θ sin m; "polynomial", cos 4θ of the cosine.
    """
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        kind = x.dtype
        if upcast:
            x, w = x.float(), w.float()
        length = x.norm(dim=1, keepdim=True)
        ux, uw = (
            (f.normalize(x), f.normalize(w)) if unit == "normalize" else (x / length, w / w.norm(dim=1, keepdim=True))
        )
        cos = ux @ uw.T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        mine = uw[y.clamp(min=0)] if gathered else target.to(w.dtype) @ uw
        c = (ux * mine).sum(dim=1)
        if curve == "projection":
            s = (ux - c[:, None] * mine).norm(dim=1)
            theta = torch.atan2(s, c)
        else:
            near, far = (ux - mine).norm(dim=1), (ux + mine).norm(dim=1)
            s, theta = near * far / 2.0, 2.0 * torch.atan2(near, far)
        psi = torch_psi(loss, cos[target] if curve in ("cosine", "polynomial") else c, s, theta, curve)
        scale = length if loss.spec.scale is None else loss.spec.scale
        z = scale * torch.where(target, psi[:, None], cos)
        value = f.cross_entropy(z, y, **torch_settings(loss, z))
        return value.to(kind) if upcast else value

    return fn


def torch_lowered(loss: Any, rows: str = "") -> Callable[..., Any]:
    """CosFace and NormFace as most have it: F.linear of F.normalize, less m at the labels."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        cos = f.linear(f.normalize(x), f.normalize(w))
        z = loss.s * (cos - loss.spec.margin.m3 * f.one_hot(y.clamp(min=0), len(w)).to(x.dtype))
        if rows:
            return torch_reduced(torch_rows(rows)(z, y), y, loss)
        return f.cross_entropy(z, y, **torch_settings(loss, z))

    return fn


def torch_quotient(loss: Any) -> Callable[..., Any]:
    """CosFace and NormFace with x.w divided by the product of the lengths."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        cos = (x @ w.T) / (x.norm(dim=1)[:, None] * w.norm(dim=1))
        z = loss.s * (cos - loss.spec.margin.m3 * f.one_hot(y.clamp(min=0), len(w)).to(x.dtype))
        return f.cross_entropy(z, y, **torch_settings(loss, z))

    return fn


def torch_scaled_first(loss: Any) -> Callable[..., Any]:
    """CosFace and NormFace with the scale on the unit embedding, and s m taken off."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        z = (loss.s * f.normalize(x)) @ f.normalize(w).T
        z = z - loss.s * loss.spec.margin.m3 * f.one_hot(y.clamp(min=0), len(w)).to(x.dtype)
        return f.cross_entropy(z, y, **torch_settings(loss, z))

    return fn


def torch_arccos_in_double(loss: Any) -> Callable[..., Any]:
    """The textbook form in float64, where an arccos has digits to spare for shorter dtypes."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        cos = f.normalize(x.double()) @ f.normalize(w.double()).T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        theta = torch.acos(cos[target].clamp(-1.0, 1.0))
        psi = torch_psi(loss, cos[target], torch.sin(theta), theta, "lengths")
        z = loss.spec.scale * torch.where(target, psi[:, None], cos)
        return f.cross_entropy(z, y, **torch_settings(loss, z)).to(x.dtype)

    return fn


def torch_detached(loss: Any) -> Callable[..., Any]:
    """The margin put in place without gradient, as InsightFace does, the angle by two lengths."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        ux, uw = f.normalize(x), f.normalize(w)
        cos = ux @ uw.T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        with torch.no_grad():
            mine = uw[y.clamp(min=0)]
            theta = 2.0 * torch.atan2((ux - mine).norm(dim=1), (ux + mine).norm(dim=1))
            moved = torch.cos(theta + loss.m)
            change = torch.where(target, moved[:, None] - cos, torch.zeros_like(cos))
        return f.cross_entropy(loss.s * (cos + change), y)

    return fn


def torch_triplet(loss: Any, form: str, upcast: bool = False) -> Callable[..., Any]:
    """A triplet loss, the plain distance by a root that has no gradient at 0, a norm, or torch's own loss."""
    import torch

    f = torch.nn.functional

    def root(v: Any) -> Any:
        square = v.pow(2).sum(dim=1)
        apart = square > 0
        return torch.where(apart, torch.where(apart, square, torch.ones_like(square)).sqrt(), torch.zeros_like(square))

    distance = {
        "squares": lambda a, b: (a - b).pow(2).sum(dim=1),
        "products": lambda a, b: ((a - b) * (a - b)).sum(dim=1),
        "safe root": lambda a, b: root(a - b),
        "norm": lambda a, b: (a - b).norm(dim=1),
        "pairwise_distance": lambda a, b: f.pairwise_distance(a, b, eps=0.0),
    }.get(form)

    def fn(a: Any, p: Any, n: Any) -> Any:
        kind = a.dtype
        if upcast:
            a, p, n = a.float(), p.float(), n.float()
        if distance is None:
            value = f.triplet_margin_loss(a, p, n, margin=loss.m, eps=0.0, reduction=loss.reduction)
        else:
            rows = torch.relu(distance(a, p) - distance(a, n) + loss.m)
            value = {"none": lambda: rows, "sum": rows.sum, "mean": rows.mean}[loss.reduction]()
        return value.to(kind) if upcast else value

    return fn
