"""``refloss diagnose``: which loss a user's function computes."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from refloss import testing
from refloss.cli.loading import load_function
from refloss.cli.options import Accumulate, AsJson, Dtype, Matmul, Seed, Standard, choices
from refloss.cli.refusals import refusing
from refloss.testing.adapters import FRAMEWORKS


def command(
    target: Annotated[
        Any, Argument(parser=refusing()(load_function), metavar="TARGET", help="module:function or path.py:function")
    ],
    framework: Annotated[str, Option(metavar=choices(FRAMEWORKS), help="what it takes")] = "numpy",
    dtype: Dtype = "float32",
    standard: Standard = "working",
    accumulate: Accumulate = None,
    matmul: Matmul = None,
    seed: Seed = 0,
    device: Annotated[str | None, Option(help="where tensors are made")] = None,
    logits: Annotated[bool | None, Option("--logits/--no-logits", help="The code takes logits and labels.")] = None,
    centers: Annotated[int | None, Option(min=1, help="how many centers a class has, for w (C, K, D)")] = None,
    figure: Annotated[Path | None, Option(help="a file for the curves: .png, .svg or .pdf")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure which loss a function computes: exit status 0 if it is known, 1 if not, 2 if the call is wrong."""
    with refusing(), redirect_stdout(sys.stderr):
        diagnosis = testing.diagnose(
            target,
            framework=framework,
            dtype=dtype,
            device=device,
            standard=standard,
            accumulate=accumulate,
            matmul=matmul,
            logits=logits,
            centers=centers,
            seed=seed,
        )
    if figure is not None:
        with refusing():
            diagnosis.figure().savefig(figure)
    typer.echo(diagnosis.json() if as_json else str(diagnosis))
    raise typer.Exit(0 if diagnosis else 1)
