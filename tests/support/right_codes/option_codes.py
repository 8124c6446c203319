"""Right implementations of a logit scale, a softcap and a z-loss, as the code of language models has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from support.right_codes.code import Array
from support.right_codes.numpy_codes import log_sum_exp, numpy_logits, pairwise, targets_of, widened
from support.right_codes.torch_codes import torch_settings


def torch_capped(loss: Any, z: Any) -> Any:
    """Scaled logits, capped as Gemma's code has it: divided, tanh, multiplied."""
    import torch

    z = z if loss.logit_scale == 1.0 else z * loss.logit_scale
    return z if loss.softcap is None else loss.softcap * torch.tanh(z / loss.softcap)


def torch_capped_in_place(loss: Any, z: Any) -> Any:
    """The same with operations that write over their input."""
    if loss.logit_scale != 1.0:
        z = z * loss.logit_scale
    if loss.softcap is not None:
        z = z / loss.softcap
        z = z.tanh_() * loss.softcap
    return z


def torch_options(
    loss: Any, cast: Callable[[Any], Any] = lambda z: z, capped: Callable[[Any, Any], Any] = torch_capped
) -> Callable[..., Any]:
    """torch's cross entropy of capped logits, and squares of log-sum-exps, averaged over the rows that count."""
    import torch

    def fn(z: Any, y: Any) -> Any:
        kind = z.dtype
        z = capped(loss, cast(z))
        settings = torch_settings(loss, z)
        kept = y != loss.ignore_index if y.ndim == 1 else torch.ones(len(y), dtype=torch.bool)
        if y.ndim == 2:
            settings.pop("ignore_index")
        value = torch.nn.functional.cross_entropy(z, y, **settings)
        if loss.z_loss:
            terms = torch.where(kept, loss.z_loss * z.logsumexp(dim=1) ** 2, torch.zeros_like(z[:, 0]))
            total = {"none": terms, "sum": terms.sum(), "mean": terms.sum() / kept.sum().clamp(min=1)}[loss.reduction]
            value = value + total
        return value.to(kind)

    return fn


def numpy_options(loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """Cross entropy by hand: lse kept for the z-loss, 2 λ lse p beside p - t, and all times 1 - tanh²."""
    plain = numpy_logits(loss, log_sum_exp)

    def fn(z: Array, y: Array) -> Any:
        kind, z = z.dtype, widened(z) if upcast else z
        number = z.dtype.type
        scaled = z * number(loss.logit_scale)
        tanh = None if loss.softcap is None else np.tanh(scaled / number(loss.softcap))
        logits = scaled if tanh is None else number(loss.softcap) * tanh
        value, g = plain(logits, y)
        if targets_of(y, z.shape[1], loss, z.dtype).divisor == 0:
            value, g = np.full_like(value, np.nan), np.full_like(g, np.nan)  # a mean over no weight
        with np.errstate(invalid="ignore"):
            log_p, p = log_sum_exp(logits, pairwise)
            top = logits.argmax(axis=1)
            each = np.arange(len(z))
            lse = logits[each, top] - log_p[each, top]
        kept = y != loss.ignore_index
        n = number(max(int(kept.sum()), 1) if loss.reduction == "mean" else 1)
        terms = np.where(kept, number(loss.z_loss) * lse * lse, number(0))
        slope = np.where(kept, number(2.0 * loss.z_loss) * lse, number(0))
        value = value + (terms if loss.reduction == "none" else pairwise(widened(terms)).astype(z.dtype) / n)
        g = g + np.where(kept[:, None], slope[:, None] * p, number(0)) / n
        g = g if tanh is None else g * (number(1) - tanh * tanh)
        return value.astype(kind), (g * number(loss.logit_scale)).astype(kind)

    return fn
