"""The diagnosis of a black box: what it is, how it deviates, by how much, in text, as JSON and in a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from refloss.error_free import Array
from refloss.testing.black_box.deviations import Deviation


class Curve(NamedTuple):
    """A measured curve, and the fitted one at the same places."""

    name: str
    """What is measured."""
    by: str
    """What it depends on."""
    at: Array
    """Where it was measured (P,)."""
    measured: Array
    """Measured numbers (P,)."""
    fitted: Array | None
    """The numbers of the loss with its deviations (P,); None for an unknown loss."""


class Diagnosis(NamedTuple):
    """What a black box computes."""

    loss: Any
    """The loss of refloss that it is, with the settings fitted; None if it is unknown."""
    deviations: tuple[Deviation, ...]
    """What it does beside that loss."""
    residual: float
    """The largest error over its budget, of values and gradients at inputs that no fit has seen."""
    settings: dict[str, str]
    """The fitted settings as they are written: exact, or with how far they may be off."""
    values_of: Any
    """The loss that has its values, where the gradients are none of that loss: else None."""
    curves: tuple[Curve, ...]
    """Measured and fitted curves."""
    remarks: tuple[str, ...]
    """What was not measured, and what could not be told apart."""
    dtype: str
    framework: str

    def __bool__(self) -> bool:
        """Whether the loss is known."""
        return self.loss is not None

    def __str__(self) -> str:
        """Return the report: the loss or "unknown", its settings, deviations and residual."""
        lines = [f"{self.framework}, {self.dtype}: {self.loss if self else 'unknown'}"]
        if self:
            inexact = {name: text for name, text in self.settings.items() if not _is_number(text)}
            lines += [f"  {name}: {text}" for name, text in inexact.items()]
            lines += [f"  deviates: {deviation.sentence}" for deviation in self.deviations]
            lines.append(f"  residual: {self.residual:.2g} of the budget")
        else:
            if self.values_of is not None:
                lines.append(f"  its values are those of {self.values_of}; its gradients are not")
            lines += [f"  nearest: residual {self.residual:.2g} of the budget"] if math.isfinite(self.residual) else []
            lines += [_table(curve) for curve in self.curves[:1]]
        return "\n".join([*lines, *(f"  {remark}" for remark in self.remarks)])

    def data(self) -> dict[str, Any]:
        """Return the diagnosis in numbers, strings, lists and dicts alone."""
        return {
            "loss": None if self.loss is None else repr(self.loss),
            "deviations": [deviation._asdict() for deviation in self.deviations],
            "residual": _json_number(self.residual),
            "settings": dict(self.settings),
            "values_of": None if self.values_of is None else repr(self.values_of),
            "remarks": list(self.remarks),
            "dtype": self.dtype,
            "framework": self.framework,
            "curves": [
                {
                    "name": curve.name,
                    "by": curve.by,
                    "at": curve.at.tolist(),
                    "measured": [_json_number(number) for number in curve.measured.tolist()],
                    "fitted": None if curve.fitted is None else [_json_number(x) for x in curve.fitted.tolist()],
                }
                for curve in self.curves
            ],
        }

    def json(self) -> str:
        """Return the diagnosis as JSON; numbers that are not finite are strings."""
        return json.dumps(self.data(), indent=2, allow_nan=False)

    def figure(self) -> Any:
        """Draw measured and fitted curves: a `matplotlib.figure.Figure`, to be saved or shown.

        Functions of logits have no curves: their figure has a title alone.

        Raises
        ------
        ImportError
            Where matplotlib is not installed.
        """
        new: Callable[..., Any] = import_module("matplotlib.figure").Figure
        figure = new(figsize=(4.2 * max(1, len(self.curves)), 3.4), layout="constrained")
        panels = figure.subplots(1, len(self.curves), squeeze=False)[0] if self.curves else ()
        for axes, curve in zip(panels, self.curves, strict=True):
            axes.plot(curve.at, curve.measured, "o", markersize=3, label="measured")
            if curve.fitted is not None:
                axes.plot(curve.at, curve.fitted, linewidth=1, label="fitted")
            axes.set(xlabel=curve.by, title=curve.name)
            axes.legend()
        figure.suptitle(f"{self.loss}" if self else "unknown", fontsize="medium")
        return figure


def _json_number(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace("-", "").replace("e", "").replace("+", "").isdigit()


def _table(curve: Curve) -> str:
    """Return some places of a curve as a table."""
    step = max(1, len(curve.at) // 8)
    rows = [f"    {at:10.4g} {number:14.7g}" for at, number in zip(curve.at, curve.measured, strict=True)][::step]
    return "\n".join([f"  {curve.name}, by {curve.by}:", *rows])
