"""The application: its commands, and the option ``--version``."""

from __future__ import annotations

from typing import Annotated

import typer

import refloss
from refloss.cli.budget import command as budget
from refloss.cli.cases import command as cases
from refloss.cli.check import command as check
from refloss.cli.defects import command as defects
from refloss.cli.demo import command as demo
from refloss.cli.diagnose import command as diagnose
from refloss.cli.known import command as known
from refloss.cli.listing import command as losses
from refloss.cli.printing import escape_unencodable

# Without rich's panels an error is one line, however narrow the terminal, and ASCII.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(refloss.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The numerical truth about softmax and margin losses."""
    escape_unencodable()


app.command("check")(check)
app.command("diagnose")(diagnose)
app.command("budget")(budget)
app.command("cases")(cases)
app.command("defects")(defects)
app.command("demo")(demo)
app.command("losses")(losses)
app.command("known")(known)
