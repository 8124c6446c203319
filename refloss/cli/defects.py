"""``refloss defects``: what goes wrong in code of losses, and how each is called in `refloss.testing.defects`."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Option

from refloss.cli.loss_names import parse_loss
from refloss.cli.options import AsJson
from refloss.cli.printing import make_console, show_json
from refloss.cli.refusals import refusing
from refloss.testing.defects import defects


def command(
    loss: Annotated[
        Any,
        Option(parser=refusing()(parse_loss), metavar="LOSS", help="those that this loss can have; all if left out"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List defects of code, each with a name and a sentence."""
    rows = [{"name": row.name, "kind": row.kind, "sentence": row.sentence} for row in defects(loss)]
    if as_json:
        show_json(rows)
        return
    console = make_console()
    for row in rows:
        console.print(f"{row['name']}: {row['sentence']}", soft_wrap=True)
