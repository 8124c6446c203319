"""SphereFace2, UniFace, SigLIP and InfoNCE in torch, step by step: any of them may be replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import refloss
from support.right_codes.link_codes import numbers, weights_of


def unit(rows: Any) -> Any:
    """Rows of length 1."""
    return rows / rows.norm(dim=1, keepdim=True)


def right_curve(loss: Any, cos: Any) -> Any:
    """g of SphereFace2, of other losses the cosine itself."""
    if not isinstance(loss, refloss.SphereFace2):
        return cos
    g = 2.0 * ((1.0 + cos) / 2.0) ** loss.t - 1.0
    return cos + (g - cos).detach() if loss.gradient == "detached" else g


def right_margin(loss: Any, g: Any, target: Any) -> Any:
    """What is scaled."""
    import torch

    m = getattr(loss, "m", 0.0)
    return torch.where(target, g - m, g + m if isinstance(loss, refloss.SphereFace2) else g)


def right_logits(loss: Any, f: Any, scale: Any, b: Any) -> Any:
    """Logits."""
    z = scale * f if b is None else scale * f + b
    return z.clamp(-loss.s, loss.s) if isinstance(loss, refloss.UniFace) else z


def softplus(a: Any) -> Any:
    """The loss of an answer."""
    import torch

    return -torch.nn.functional.logsigmoid(-a)


def right_rows(loss: Any, z: Any, target: Any) -> Any:
    """The losses of rows."""
    import torch

    if isinstance(loss, refloss.InfoNCE):
        y = torch.arange(len(z))
        ways = [torch.nn.functional.cross_entropy(each, y, reduction="none") for each in (z, z.T)[: loss.ways]]
        return sum(ways) / loss.ways
    positive, negative = weights_of(loss)
    return torch.where(target, positive * softplus(-z), negative * softplus(z)).sum(dim=1)


def right_value(loss: Any, rows: Any, kept: Any) -> Any:
    """The value."""
    import torch

    rows = torch.where(kept, rows, 0.0 * rows)
    return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / max(int(kept.sum()), 1)}[loss.reduction]


class LinkSteps(NamedTuple):
    """The steps of a loss."""

    unit_x: Callable[[Any], Any] = unit
    unit_w: Callable[[Any], Any] = unit
    numbers: Callable[..., Any] = numbers
    """Scale and bias, from what is given."""
    curve: Callable[..., Any] = right_curve
    margin: Callable[..., Any] = right_margin
    logits: Callable[..., Any] = right_logits
    rows: Callable[..., Any] = right_rows
    value: Callable[..., Any] = right_value
    cosine: Callable[..., Any] = lambda x, w: x @ w.T


RIGHT = LinkSteps()


def torch_link(loss: Any, steps: LinkSteps = RIGHT) -> Callable[..., Any]:
    """The loss from its steps."""
    import torch

    def value(x: Any, w: Any, y: Any, given: tuple[Any, ...], ignored: int | None) -> Any:
        scale, b = steps.numbers(loss, given)
        cos = steps.cosine(steps.unit_x(x), steps.unit_w(w))
        target = torch.nn.functional.one_hot(y.clamp(min=0), len(w)).bool()
        f = steps.margin(loss, steps.curve(loss, cos), target)
        return steps.value(loss, steps.rows(loss, steps.logits(loss, f, scale, b), target), y != ignored)

    if isinstance(loss, refloss.SigLIP):
        return lambda x, w, t, b: value(x, w, torch.arange(len(x)), (t, b), -1)
    if isinstance(loss, refloss.InfoNCE):
        return lambda x, w, s: value(x, w, torch.arange(len(x)), (s,), -1)

    def fn(x: Any, w: Any, y: Any, b: Any) -> Any:
        return value(x, w, y, (b,), loss.ignore_index)

    return fn
