"""``refloss losses``: every public loss with its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any, TypedDict

from rich.table import Table

import refloss
from refloss.cli.loss_names import public_losses
from refloss.cli.options import AsJson
from refloss.cli.printing import make_console, make_table, show_json
from refloss.testing.signatures import fields_of, head_of, margin_head, on_cosines

PSI = {
    "ModifiedSoftmax": "cos(theta)",
    "NormFace": "cos(theta)",
    "ASoftmax": "(-1)^k * cos(m*theta) - 2*k",
    "CosFace": "cos(theta) - m",
    "ArcFace": "cos(theta + m)",
    "CombinedMargin": "cos(m1*theta + m2) - m3",
    "AdaFace": "cos(theta - m*v) - m*(1 + v)",
    "MagFace": "cos(theta + l_m + (u_m - l_m)*v)",
    "CurricularFace": "cos(theta + m)",
    "MVSoftmax": "cos(theta) - m",
    "SubCenterArcFace": "cos(theta + m)",
    "SphereFaceR": "cos(min(m*theta, pi))",
    "CircleLoss": "m^2 - (1 - cos(theta))^2",
    "InterTopK": "cos(theta + m)",
}
"""ψ of the losses that have one, with their default settings; k = floor(m*theta/pi), v grows with the length of x."""


class LossData(TypedDict):
    """A loss as it is listed; None for what it does not have."""

    name: str
    aliases: list[str]
    defaults: dict[str, object]
    psi: str | None
    scale: str | None
    weights: str | None
    gradients: list[str]


def command(as_json: AsJson = False) -> None:
    """List every loss with its defaults."""
    show_json([loss_data(*entry) for entry in public_losses().items()]) if as_json else show_losses()


def show_losses() -> None:
    """Print a table with one row per loss, and below it the defaults that losses share."""
    losses = public_losses()
    common = fields(refloss.ModifiedSoftmax)  # the loss that has these and no other
    console, table = make_console(), make_table(padding=0)
    # On 80 columns the names of the triplet's gradients fold first, then psi, and each default has a line.
    widths = {"gradients": 9} | ({"psi(theta)": 17} if console.width < 100 else {})
    for header in ("loss", "defaults", "psi(theta)", "scale", "weights", "gradients"):
        table.add_column(header, max_width=widths.get(header))
    for loss, aliases in losses.items():
        data = loss_data(loss, aliases)
        table.add_row(
            "\n".join([data["name"], *(f"= {alias}" for alias in aliases)]),
            ", ".join(default(field) for field in fields(loss) if field.name not in names(common)) or "-",
            *(cell or "-" for cell in (data["psi"], data["scale"], data["weights"])),
            ", ".join(data["gradients"]),
        )
    settings = Table.grid(padding=(0, 2))
    for field in common:
        without = [loss.__name__ for loss in losses if field.name not in names(fields(loss))]
        settings.add_row(f"  {default(field)}", f"not {', '.join(without)}" if without else "")
    console.print(table)
    console.print(
        "\nIn psi k = floor(m*theta/pi); ||x|| is the length of the embedding, v grows with it. m has a gradient where "
        "margins of samples are given. Defaults that losses share:\n"
    )
    console.print(settings)


def loss_data(loss: type[Any], aliases: Sequence[str]) -> LossData:
    """Return what is listed of a loss."""
    one = loss()
    head = margin_head(one) if head_of(one) == "margin" or on_cosines(one) else None
    return {
        "name": loss.__name__,
        "aliases": list(aliases),
        "defaults": {field.name: field.default for field in fields(loss)},
        "psi": PSI.get(loss.__name__),
        "scale": None if head is None else head.scale_input or ("||x||" if head.scale is None else "s"),
        "weights": "given" if head_of(one) == "linear" else None if head is None else "unit",
        "gradients": list(fields_of(one)),
    }


def names(settings: Sequence[Field[Any]]) -> set[str]:
    """Return the names of settings."""
    return {field.name for field in settings}


def default(setting: Field[Any]) -> str:
    """Write a setting with its default, as in a call."""
    return f"{setting.name}={setting.default!r}"
