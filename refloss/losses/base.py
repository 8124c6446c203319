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
from refloss.engines.call import Call
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
        {
            "reduction",
            "label_smoothing",
            "class_weight",
            "ignore_index",
            "logit_scale",
            "softcap",
            "z_loss",
            "gradient",
        }
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
        """Check the arguments of a call."""

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
