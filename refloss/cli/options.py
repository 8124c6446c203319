"""The options that several commands share.

dtypes, standards and groups are plain strings and not Literals: typer would refuse other names in words of its own, and
names such as 'torch.float32' that the library takes. The library has the only list of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, TypeAlias

from typer import Option

from refloss.cli.loss_names import parse_loss
from refloss.cli.refusals import refusing
from refloss.formats import FORMATS, PRECISION_BITS
from refloss.testing.budgets import STANDARDS


def choices(names: Iterable[str]) -> str:
    """Write the values of an option as its help shows them."""
    return f"[{'|'.join(names)}]"


def parse_shape(text: str) -> tuple[int, ...]:
    """Read N,C,D."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"expected N,C,D such as 9,7,13, got {text!r}")
    return tuple(map(int, parts))


LossOption: TypeAlias = Annotated[
    Any, Option(parser=refusing()(parse_loss), metavar="LOSS", help='as in Python: "ArcFace(s=64.0, m=0.5)"')
]
Dtype: TypeAlias = Annotated[str, Option(metavar=choices(FORMATS), help="what it computes in")]
Shapes: TypeAlias = Annotated[
    list[Any] | None,  # Any: typer takes no list of tuples
    Option("--shape", parser=refusing()(parse_shape), metavar="N,C,D", help="of the cases; several may be given"),
]
Standard: TypeAlias = Annotated[str, Option(metavar=choices(STANDARDS), help="what counts as right")]
Accumulate: TypeAlias = Annotated[str | None, Option(metavar=choices(FORMATS), help="what sums are accumulated in")]
Matmul: TypeAlias = Annotated[
    str | None, Option(metavar=choices(PRECISION_BITS), help="what matrix products round their factors to")
]
Seed: TypeAlias = Annotated[int, Option(min=0, help="of the random numbers")]
AsJson: TypeAlias = Annotated[bool, Option("--json", help="Print JSON.")]
