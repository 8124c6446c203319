"""A loss with defects, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from refloss.engines.call import call_of
from refloss.engines.chain import Step
from refloss.messages import shown
from refloss.testing.defects.gradients import WithChange
from refloss.testing.defects.row import Defect
from refloss.testing.defects.table import TABLE, combined
from refloss.testing.signatures import Inputs, as_loss, fields_of, head_of, inputs_of

ROWS = {row.name: row for row in TABLE}


class Emulated:
    """A loss as code with some defects computes it.

    Other settings, inputs and gradients are as exact as the loss itself; a changed step has a value in plain float64,
    and gradients by differences, right to about eight digits.

    Parameters
    ----------
    loss
        A loss of refloss, or its class for the default settings.
    names
        Names of rows of `refloss.testing.defects.defects`. What is wrong with all gradients may be said of one, as in
        ``"zero gradient of w"``.

    Raises
    ------
    ValueError
        For a name that the table does not have, a defect that the loss cannot have, and defects that do not go
        together.

    Examples
    --------
    >>> import refloss
    >>> from refloss.testing.defects import Emulated
    >>> wrong = Emulated(refloss.CosFace(s=4.0), "no margin", "zero gradient of w")
    >>> value, grad = wrong.value_and_grad([[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]], [1])
    >>> round(float(value), 3), float(abs(grad.w).max())
    (0.371, 0.0)
    """

    def __init__(self, loss: Any, *names: str) -> None:
        self.loss, self.names = as_loss(loss), names
        emulation = combined(self.loss, map(self._row, names))
        if emulation is None or len(set(names)) < len(names):
            raise ValueError(f"names: expected defects that go together; got {', '.join(map(repr, names))}")
        self._emulation: Any = emulation

    def _row(self, name: str) -> Defect:
        """Return the row of a name, of one gradient where that is said."""
        if not isinstance(name, str):
            raise TypeError(f"names: expected names of defects; got {shown(name)}")
        plain, _, field = name.rpartition(" of ")
        row = ROWS.get(name)
        if row is None and field in fields_of(self.loss) and plain in ROWS and not ROWS[plain].whole:
            row = _of_field(ROWS[plain], field)
        if row is None:
            near = get_close_matches(name, ROWS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"names: expected names of defects; got {name!r}{hint}")
        if row.of(self.loss) is None:
            raise ValueError(f"names: expected defects that {self.loss} can have; got {name!r}")
        return row

    @property
    def spec(self) -> Any:
        """The spec of the loss."""
        return self._emulation.spec

    @property
    def reduction(self) -> str:
        """One of "mean", "sum" and "none"."""
        return str(self._emulation.reduction)

    def _arrays(self, inputs: tuple[Any, ...]) -> Inputs:
        """Return inputs that the loss takes: integer labels, and all else in float64."""
        call_of(self.loss, inputs)
        arrays = [np.asarray(entry) for entry in inputs]
        wide = tuple(entry if entry.dtype.kind in "iu" else entry.astype(np.float64) for entry in arrays)
        if head_of(self.loss) in ("logits", "divergence") and wide[0].ndim != 2:
            raise ValueError(f"{inputs_of(self.loss)[0]}: expected logits (N, C); got shape {wide[0].shape}")
        return wide

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self._emulation(*self._arrays(inputs), engine=engine)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the named tuple of its gradients."""
        value, gradient = self._emulation.value_and_grad(*self._arrays(inputs), upstream=upstream, engine=engine)
        return value, gradient

    def trace(self, *inputs: Any, upstream: Any = None) -> Mapping[str, Step]:
        """Return every stage's output and gradient, of the loss before steps, inputs and gradients are changed."""
        steps: Mapping[str, Step] = self._emulation.trace(*self._arrays(inputs), upstream=upstream)
        return steps

    def __repr__(self) -> str:
        """Show the loss and the names."""
        return f"Emulated({', '.join(map(repr, (self.loss, *self.names)))})"


def _of_field(row: Defect, field: str) -> Defect:
    def emulate(loss: Any) -> WithChange:
        changed: WithChange = replace(row.emulate(loss), field=field)
        return changed

    return row._replace(emulate=emulate)
