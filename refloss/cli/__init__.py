"""The command line: ``refloss check``, ``budget``, ``cases``, ``demo``, ``losses``, and ``refloss --version``.

It needs typer and rich, the extra ``cli``. `main` imports them, so that this package can be imported without them.
There is one file per command; `app` puts them together.
"""


def main() -> None:
    """Run the command line, or say in one line what is missing."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError:
        raise SystemExit("refloss: the command line needs typer and rich: pip install 'refloss[cli]'") from None
    from refloss.cli.app import app

    app(prog_name="refloss")
