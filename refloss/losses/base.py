"""What all losses share: frozen settings, and a call that is handed to an engine.

No arithmetic happens here. A loss checks its settings when it is made and its inputs when it is called, hands both to
`refloss.engines.dispatch`, and returns the value and a named tuple of gradients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

from refloss import inputs
from refloss.engines import dispatch
from refloss.engines.call import Call, call_of
from refloss.engines.chain import Step
from refloss.engines.dispatch import Value
from refloss.engines.spec import Spec
from refloss.stages import cross_entropy

Trace: TypeAlias = dict[str, Step]


@dataclass(frozen=True, kw_only=True, repr=False)
class Loss(ABC):
    """Settings of a loss, and what every loss can do."""

    reduction: str = "mean"
    _gradient: ClassVar[Callable[..., Any]]
    """The named tuple of its gradients, one field for each input that has one."""
    _common: ClassVar[frozenset[str]] = frozenset(
        {"reduction", "label_smoothing", "class_weight", "ignore_index", "gradient"}
    )
    """Settings that many losses have; printed where they are not the default."""

    def __post_init__(self) -> None:
        inputs.check_choice("reduction", self.reduction, inputs.REDUCTIONS)

    def __repr__(self) -> str:
        """Show the settings of this loss, and of those that many losses have only what is not the default."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name not in self._common or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _keep(self, name: str, value: object) -> None:
        """Store a checked setting, which frozen forbids to everybody else."""
        object.__setattr__(self, name, value)

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """What an engine needs to know of this loss."""

    @abstractmethod
    def _call(self, *arguments: Any) -> Call:
        """Look over the arguments of a call."""

    def _value_and_grad(
        self, call: Call, upstream: Any, wrt: Any, out: Any, engine: str, dtype: Any
    ) -> tuple[Value, Any]:
        """Return the value, and the gradients in their named tuple."""
        value, gradients = dispatch.value_and_grad(call, upstream, wrt, out, engine, dtype)
        return value, self._gradient(**gradients)


@dataclass(frozen=True, kw_only=True, repr=False)
class LabelledLoss(Loss):
    """What every loss that ends in cross entropy shares."""

    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    ignore_index: int | None = -100

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("label_smoothing", inputs.number("label_smoothing", self.label_smoothing, 0.0, 1.0))
        self._keep("class_weight", inputs.class_weights(self.class_weight))
        if self.ignore_index is not None:
            self._keep("ignore_index", inputs.integer("ignore_index", self.ignore_index))

    @property
    def _cross_entropy(self) -> cross_entropy.Settings:
        return cross_entropy.Settings(self.reduction, self.label_smoothing, self.class_weight, self.ignore_index)


def error_bound(
    loss: Any, *inputs: Any, engine: str = "chain", dtype: Any = None, upstream: Any = None
) -> tuple[Value, Any]:
    r"""Return the absolute error that an engine may have on the value and on every entry of the gradients.

    Of a value it is r |L|, of a gradient's entry ρ times the absolute terms of its row, with r and ρ by
    `refloss.engines.contract.promise`: each counts the rounding errors of its engine. Terms are what adds up to a row
    before anything cancels. For heads with G = dL/dz and the slope ψ' of the target's curve, 1 off the
    target: $\sum_k |s\,G_{nk}\,\psi'_{nk}|/\lVert x_n\rVert$ for x, and
    $\sum_n |s\,G_{nk}\,\psi'_{nk}|/\lVert w_k\rVert$ for w; where ‖x‖ is the scale $\sum_k |G_{nk} f_{nk}|$ more, f the
    logit over the scale; for `SoftmaxLoss` $\sum_k |G_{nk}|\lVert w_k\rVert$, $\sum_n |G_{nk}|\lVert x_n\rVert$ and,
    for b, $\sum_n |G_{nk}|$. For "dd" ψ' is sin θ off the target. For `CrossEntropy` |G|; for `Triplet` the lengths of
    the two gradients of distances. Where several classes are targets, by smoothing or probabilities, the terms of |G|
    are $|c_n|(p_{nk}\sum_j|t_{nj}| + |t_{nk}|)$ and those of a loss $|t_{nk}\log p_{nk}|$. Probabilities below the
    smallest normal number may be lost, and so may as much of a result.

    The truth is that of the inputs as they are; with dtype float32, of the inputs rounded to float32. "certified"
    rounds correctly, so its bound is half an ulp.

    Parameters
    ----------
    loss
        A loss of refloss.
    inputs
        What it is called with.
    engine, dtype, upstream
        As in ``value_and_grad``.

    Returns
    -------
    value, gradients
        Bounds, in the form in which ``value_and_grad`` returns what they bound; inf where nothing can be said.

    Raises
    ------
    ValueError, TypeError
        As the loss itself, naming the argument.
    """
    bound, gradients = dispatch.error_bound(call_of(loss, inputs), engine, dtype, upstream)
    return bound, loss._gradient(**gradients)
