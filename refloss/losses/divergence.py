r"""Losses that compare one distribution over the classes with another, as knowledge distillation does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from refloss import inputs
from refloss.engines import dispatch, spec
from refloss.engines.call import Call
from refloss.engines.dispatch import Value
from refloss.error_free import Array
from refloss.losses.base import Loss, Trace
from refloss.stages import divergence


class DivergenceGradient(NamedTuple):
    """Gradient of a divergence."""

    z: Array
    """dL/dz (..., C)."""
    target: Array
    """Gradient of the target's logits (..., C)."""


@dataclass(frozen=True, kw_only=True, repr=False)
class KLDivergence(Loss):
    r"""Kullback-Leibler divergence of the softmax of some logits from that of a target's logits.

    $$L_n = \sum_k p_{nk}\,(\log p_{nk} - \log q_{nk})$$

    with q = softmax(z) of the model (the student), and p the softmax of the target's logits (the teacher); that is
    $\operatorname{KL}(p_n\Vert q_n)$. Or $\operatorname{KL}(q_n\Vert p_n)$, or the Jensen-Shannon divergence
    $(\operatorname{KL}(p_n\Vert m_n) + \operatorname{KL}(q_n\Vert m_n))/2$ with m = (p + q)/2. It is
    ``torch.nn.functional.kl_div(log_softmax(z), log_softmax(target), log_target=True)``, whose reduction "batchmean" of
    logits (N, C) is "mean" here.

    Value and gradients keep their accuracy however little p and q differ: a divergence of 1e-24, where they agree to
    twelve digits, is 1e-24. Logits may be -inf, a masked class: where q is 0 and p is not, forward is infinite, reverse
    the other way round, and Jensen-Shannon is always finite. A class masked on both sides is absent. NaN, +inf, or
    nothing but -inf on either side make a row NaN.

    For a temperature T divide both logits by T, and multiply the upstream gradient and the value by T². Sources:
    Kullback and Leibler (1951), https://doi.org/10.1214/aoms/1177729694; Hinton, Vinyals and Dean (2015),
    https://arxiv.org/abs/1503.02531.

    Parameters
    ----------
    form
        "forward" for KL(p||q), "reverse" for KL(q||p), or "jensen-shannon".
    reduction
        "mean" over all rows, "sum" or "none".

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    _gradient = DivergenceGradient

    form: str = "forward"

    def __post_init__(self) -> None:
        super().__post_init__()
        inputs.check_choice("form", self.form, divergence.FORMS)

    @cached_property
    def spec(self) -> spec.Divergence:
        """What an engine needs to know of this loss."""
        return spec.Divergence(divergence.Settings(self.form, self.reduction))

    def __call__(self, z: Any, target: Any, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of logits z and target, both (..., C)."""
        return dispatch.value(self._call(z, target), engine, dtype)

    def value_and_grad(
        self,
        z: Any,
        target: Any,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, DivergenceGradient]:
        """Return the loss and its gradients, a named tuple with the fields z and target.

        The options are those of `CrossEntropy.value_and_grad`; upstream is a number, or (...) for reduction="none".
        """
        return self._value_and_grad(self._call(z, target), upstream, wrt, out, engine, dtype)

    def trace(self, z: Any, target: Any, *, upstream: Any = None) -> Trace:
        """Return every stage's output and gradient by stage name, the rows of z flattened."""
        return dispatch.trace(self._call(z, target), upstream)

    def _call(self, z: Any, target: Any) -> Call:
        arrays, samples = inputs.logits_and_logits(z, target)
        return Call(self.spec, arrays, samples, {"z": z, "target": target})
