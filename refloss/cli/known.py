"""``refloss known``: public implementations, each with the loss that it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from typer import Option

from refloss import testing
from refloss.cli.loss_names import parse_loss
from refloss.cli.options import AsJson
from refloss.cli.printing import make_console, show_json
from refloss.cli.refusals import refusing
from refloss.testing import Implementation


def loss_or_name(text: str) -> Any:
    """Read a loss such as "ArcFace(s=30)", or leave a name for all losses of the class."""
    return parse_loss(text) if "(" in text else text


def command(
    loss: Annotated[
        Any,
        Option(
            parser=refusing()(loss_or_name),
            metavar="LOSS",
            help='a class, as "ArcFace", or a loss that it equals, as "ArcFace(s=30)"',
        ),
    ] = None,
    framework: Annotated[str | None, Option(help="torch, jax, tensorflow and others")] = None,
    as_json: AsJson = False,
) -> None:
    """List public implementations, each with the loss that it is."""
    with refusing():
        rows = testing.known(loss, framework)
    show_json([row_data(row) for row in rows]) if as_json else show_rows(rows)


def show_rows(rows: Iterable[Implementation]) -> None:
    """Print a paragraph per implementation."""
    console = make_console()
    for row in rows:
        lines = [
            f"{row.library}: {row.code}",
            f"= {row.emulated}" if row.emulated else f"nearest: {row.loss}",
            row.differs,
            row.remarks,
            f"defaults: {row.defaults}" if row.defaults else "",
            f"margin in {row.units}" if row.units else "",
            f"{row.framework}, {row.status}: {where(row)}",
        ]
        console.print("\n  ".join(line for line in lines if line), soft_wrap=True)


def where(row: Implementation) -> str:
    """Return where the code is: the file at its commit, or in the package that the tests run."""
    return f"{row.package} {row.revision}, {row.path}" if row.package else row.url


def row_data(row: Implementation) -> dict[str, object]:
    """Return what is known of an implementation."""
    emulated = str(row.emulated) if row.emulated else None
    return row._asdict() | {
        "loss": str(row.loss),
        "emulated": emulated,
        "status": row.status,
        "equal": row.equal,
        "url": row.url,
    }
