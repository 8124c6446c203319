"""Wrong divergences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from support.right_codes.code import DTYPES, SINGLES
from support.right_codes.divergence_codes import FORWARD, JENSEN_SHANNON, REVERSE, numpy_divergence, torch_divergence
from support.wrong_codes.code import gradient_changed, tampered


def divergences() -> Iterator[tuple[Any, ...]]:
    """Means, directions, targets and logarithms of divergences."""
    import torch

    f = torch.nn.functional

    def kl(log_q: Any, log_p: Any, **settings: Any) -> Any:
        return f.kl_div(log_q, log_p, **({"reduction": "batchmean", "log_target": True} | settings))

    def of(change_z: Callable[[Any], Any], change_t: Callable[[Any], Any], **settings: Any) -> Callable[..., Any]:
        return lambda z, t: kl(change_z(z), change_t(t), **settings)

    def log_softmax(z: Any) -> Any:
        return f.log_softmax(z, dim=-1)

    def log_of_sum(z: Any, t: Any) -> Any:
        p, q = f.softmax(t, dim=-1), f.softmax(z, dim=-1)
        return (p * ((p + 1e-3).log() - (q + 1e-3).log())).sum(dim=-1).mean()

    def heated(z: Any, t: Any) -> Any:
        return 4.0 * kl(log_softmax(z / 2.0), log_softmax(t / 2.0))

    def no_teacher(z: Any, t: Any) -> Any:
        return kl(log_softmax(z), log_softmax(t).detach()) + 0.0 * t.sum()

    def cross_entropy(z: Any, t: Any) -> Any:
        return -(f.softmax(t, dim=-1) * log_softmax(z)).sum(dim=-1).mean()

    def jeffreys(z: Any, t: Any) -> Any:
        return (torch_divergence(FORWARD)(z, t) + torch_divergence(REVERSE)(z, t)) / 2

    def mean_of_logits(z: Any, t: Any) -> Any:
        m = (z + t) / 2
        return (torch_divergence(FORWARD)(m, t) + torch_divergence(FORWARD)(m, z)) / 2

    def unhalved(z: Any, t: Any) -> Any:
        return 2.0 * torch_divergence(JENSEN_SHANNON)(z, t)

    def mean_without_gradient(z: Any, t: Any) -> Any:
        q, p = f.softmax(z, dim=-1), f.softmax(t, dim=-1)
        log_m = ((q + p) / 2).log().detach()
        return ((q * (log_softmax(z) - log_m)).sum() + (p * (log_softmax(t) - log_m.exp().log())).sum()) / len(z)

    every = {
        "a mean over all entries": (FORWARD, of(log_softmax, log_softmax, reduction="mean"), DTYPES),
        "sum instead of mean, divergences": (FORWARD, of(log_softmax, log_softmax, reduction="sum"), DTYPES),
        "sides exchanged": (FORWARD, lambda z, t: torch_divergence(FORWARD)(t, z), DTYPES),
        "reverse for forward": (FORWARD, torch_divergence(REVERSE), DTYPES),
        "forward for reverse": (REVERSE, torch_divergence(FORWARD), DTYPES),
        "forward for Jensen-Shannon": (JENSEN_SHANNON, torch_divergence(FORWARD), DTYPES),
        "the mean of forward and reverse": (JENSEN_SHANNON, jeffreys, DTYPES),
        "the mean of logits": (JENSEN_SHANNON, mean_of_logits, DTYPES),
        "Jensen-Shannon not halved": (JENSEN_SHANNON, unhalved, DTYPES),
        "Jensen-Shannon twice, of a constant mean": (JENSEN_SHANNON, mean_without_gradient, DTYPES),
        "no softmax of z": (FORWARD, of(lambda z: z, log_softmax), DTYPES),
        "log_target forgotten": (FORWARD, of(log_softmax, log_softmax, log_target=False), DTYPES),
        "softmax of softmax": (FORWARD, of(lambda z: log_softmax(f.softmax(z, dim=-1)), log_softmax), DTYPES),
        "softmax over the rows": (FORWARD, of(lambda z: f.log_softmax(z, dim=0), log_softmax), DTYPES),
        "1e-3 in the logarithms": (FORWARD, log_of_sum, SINGLES),
        "a temperature of 2": (FORWARD, heated, DTYPES),
        "the teacher detached": (FORWARD, no_teacher, DTYPES),
        "the entropy left out": (FORWARD, cross_entropy, DTYPES),
    }
    for name, (loss, fn, dtypes) in every.items():
        yield name, "torch", fn, loss, dtypes
    for loss in (FORWARD, REVERSE, JENSEN_SHANNON):
        right = numpy_divergence(loss)
        for place, side in enumerate(("z", "target")):
            for what, change in {
                "of the other sign": lambda g, i: -g,
                "doubled": lambda g, i: g + g,
                "of zeros": lambda g, i: 0 * g,
                "with the first class left out": lambda g, i: g * (i[0][:1] != i[0][:1, :1]),
            }.items():
                yield (
                    f"gradient of {side} {what}, {loss.form}",
                    "numpy",
                    gradient_changed(right, change, place),
                    loss,
                    DTYPES,
                )
        exchanged = tampered(right, lambda i, v, dz, dtarget: (v, dtarget, dz))
        yield f"gradients exchanged, {loss.form}", "numpy", exchanged, loss, DTYPES
