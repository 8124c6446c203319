r"""Cross entropy of softmax, on given logits and after a linear layer.

Symbols: embeddings x (N, D), class weights w (C, D), labels y (N,), bias b (C,), logits z (..., C).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from refloss import inputs
from refloss.engines import dispatch
from refloss.engines.call import Call
from refloss.engines.dispatch import Value
from refloss.engines.spec import Linear, Logits
from refloss.error_free import Array
from refloss.losses.base import LabelledLoss, Trace
from refloss.stages import cross_entropy
from refloss.stages.softcap import Settings as CapSettings


class LogitGradient(NamedTuple):
    """Gradient of a loss on logits."""

    z: Array
    """dL/dz (..., C)."""


class LinearGradient(NamedTuple):
    """Gradient of the softmax loss."""

    x: Array
    """dL/dx (N, D)."""
    w: Array
    """dL/dw (C, D)."""
    b: Array | None
    """dL/db (C,), or None where there was no bias."""


@dataclass(frozen=True, kw_only=True, repr=False)
class _LogitLoss(LabelledLoss):
    """What losses on logits share: the options of language models."""

    logit_scale: float = 1.0
    softcap: float | None = None
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("logit_scale", inputs.number("logit_scale", self.logit_scale, 0.0, above=True))
        if self.softcap is not None:
            self._keep("softcap", inputs.number("softcap", self.softcap, 0.0, above=True))
        self._keep("z_loss", inputs.number("z_loss", self.z_loss, 0.0))

    @property
    def _cross_entropy(self) -> cross_entropy.Settings:
        return super()._cross_entropy._replace(z_loss=self.z_loss)

    @property
    def _softcap(self) -> CapSettings:
        return CapSettings(self.logit_scale, self.softcap)


@dataclass(frozen=True, kw_only=True, repr=False)
class CrossEntropy(_LogitLoss):
    r"""Cross entropy of softmax on given logits.

    $$L_n = -\sum_k t_{nk}\log p_{nk}, \qquad p_n = \operatorname{softmax}(z_n)$$

    with targets t from labels or probabilities y, class weights v and smoothing ε: $t_{nk} = (1-\varepsilon)\,v_k\,[k =
    y_n] + \varepsilon v_k / C$, or $v_k ((1-\varepsilon)\,y_{nk} + \varepsilon / C)$. Probabilities need not add up to
    1, and they and weights may be negative. What targets of both signs add up to may cancel: accuracy is then relative
    to the magnitudes of its terms, see `error_bound`.

    Settings mean what they mean in ``torch.nn.CrossEntropyLoss``, where class_weight is called weight. Classes are the
    last axis of z, not the second: from (N, C, d) come by ``numpy.moveaxis(z, 1, -1)``. Relative accuracy holds for
    confident targets: a loss of 1e-300 is 1e-300. Logits may be -inf, a masked class; NaN and +inf give NaN, whatever
    their row weighs, unless it is ignored.

    Parameters
    ----------
    reduction
        "mean" (divided by the sum of the weights of the labels that count, by the number of rows for probabilities),
        "sum" or "none". Where weights of both signs add up to 0, that is what it divides by, as PyTorch does: the value
        is infinite or NaN, the gradient NaN.
    label_smoothing
        ε in [0, 1].
    class_weight
        v: one weight per class, any finite numbers.
    ignore_index
        Rows with this label do not count; their logits are not looked at. All rows ignored: the "mean" is NaN, the
        gradient 0. With probabilities no row is ignored. None: no label is ignored.
    logit_scale
        σ, a positive number by which logits are multiplied first.
    softcap
        K, a positive number: after the scale, logits become $K\tanh(z/K)$, see `refloss.stages.softcap`. A logit of
        -inf is then -K, as PyTorch has it, and masks no class. None: no cap.
    z_loss
        λ, 0 or more: $\lambda\operatorname{lse}_n^2$ is added to the loss of every row that counts, with the
        log-sum-exp of its scaled and capped logits. No class weight multiplies it, and "mean" divides it by the number
        of those rows.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    _gradient = LogitGradient

    @cached_property
    def spec(self) -> Logits:
        """What an engine needs to know of this loss."""
        return Logits(self._cross_entropy, self._softcap)

    def __call__(self, z: Any, y: Any, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of logits z (..., C) with labels y (...) or probabilities y (..., C)."""
        return dispatch.value(self._call(z, y), engine, dtype)

    def value_and_grad(
        self,
        z: Any,
        y: Any,
        *,
        upstream: Any = None,
        upstream_lse: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, LogitGradient]:
        """Return the loss and its gradient, a named tuple with the field z.

        Parameters
        ----------
        z, y
            Logits (..., C), and labels (...) or probabilities (..., C).
        upstream
            The gradient of what comes after the loss: a number, or (...) for reduction="none". 1 if left out.
        upstream_lse
            The gradient of what else is computed from the log-sum-exp of each row (...), the output of the stage
            "logsumexp" in `trace`; it is added to the gradient. Of ignored rows it is not looked at. 0 if left out.
        wrt
            The name of an input, or a tuple of names, whose gradients are wanted; the others are None. All if left out.
        out
            Arrays that take gradients, by the name of the input.
        engine
            "auto", "chain", "fused", "dd" or "certified".
        dtype
            float64, or float32 for the engines "auto" and "fused": of the arithmetic and of the results.

        Returns
        -------
        value, gradient
            A number, or (...) for reduction="none", and the named tuple.

        Raises
        ------
        ValueError, TypeError
            For arguments out of range, naming the argument.
        """
        call = self._call(z, y).with_upstream_lse(upstream_lse)
        return self._value_and_grad(call, upstream, wrt, out, engine, dtype)

    def trace(self, z: Any, y: Any, *, upstream: Any = None, upstream_lse: Any = None) -> Trace:
        """Return every stage's output and gradient by stage name, the rows of z flattened; ignored rows hold 0."""
        return dispatch.trace(self._call(z, y).with_upstream_lse(upstream_lse), upstream)

    def _call(self, z: Any, y: Any) -> Call:
        arrays, samples = inputs.logits_and_targets(z, y, self.class_weight, self.ignore_index)
        return Call(self.spec, arrays, samples, {"z": z, "y": y})


@dataclass(frozen=True, kw_only=True, repr=False)
class SoftmaxLoss(_LogitLoss):
    r"""Softmax loss: cross entropy of softmax on the logits of a linear layer.

    $$L_n = -\log\frac{e^{W_{y_n}\cdot x_n + b_{y_n}}}{\sum_k e^{W_k\cdot x_n + b_k}}$$

    Parameters
    ----------
    reduction, label_smoothing, class_weight, ignore_index, logit_scale, softcap, z_loss
        As in `CrossEntropy`; the scale multiplies the bias too.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    _gradient = LinearGradient

    @cached_property
    def spec(self) -> Linear:
        """What an engine needs to know of this loss."""
        return Linear(self._cross_entropy, self._softcap)

    def __call__(self, x: Any, w: Any, y: Any, b: Any = None, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of embeddings x (N, D), class weights w (C, D), labels y (N,) and, if given, bias b (C,).

        In place of labels there may be probabilities (N, C), as in `CrossEntropy`.
        """
        return dispatch.value(self._call(x, w, y, b), engine, dtype)

    def value_and_grad(
        self,
        x: Any,
        w: Any,
        y: Any,
        b: Any = None,
        *,
        upstream: Any = None,
        upstream_lse: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, LinearGradient]:
        """Return the loss and its gradients, a named tuple with the fields x, w and b (None without a bias).

        The options are those of `CrossEntropy.value_and_grad`; upstream is a number, or (N,) for reduction="none", and
        upstream_lse (N,).
        """
        call = self._call(x, w, y, b).with_upstream_lse(upstream_lse)
        return self._value_and_grad(call, upstream, wrt, out, engine, dtype)

    def trace(self, x: Any, w: Any, y: Any, b: Any = None, *, upstream: Any = None, upstream_lse: Any = None) -> Trace:
        """Return every stage's output and gradient by stage name; ignored rows hold 0."""
        return dispatch.trace(self._call(x, w, y, b).with_upstream_lse(upstream_lse), upstream)

    def _call(self, x: Any, w: Any, y: Any, b: Any = None) -> Call:
        arrays = inputs.embeddings_and_classes(x, w, y, b, self.class_weight, self.ignore_index, directions=False)
        return Call(self.spec, arrays, arrays["y"].shape[:1], {"x": x, "w": w, "y": y, "b": b})
