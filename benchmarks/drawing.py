"""What the pictures of docs/records/ share: panels, logarithmic axes, a legend below."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure and its rows of panels; those of a row share their y axis."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    return plt.subplots(rows, columns, squeeze=False, sharey="row", figsize=size, layout="constrained")


def log_axes(plot: Any, **settings: Any) -> None:
    """Two logarithmic axes with a grid at their labels."""
    plot.set(xscale="log", yscale="log", **settings)
    plot.minorticks_off()
    plot.grid(visible=True, color="#dddddd", linewidth=0.5)


def save(figure: Any, path: Path, title: str, *, columns: int, entries: Iterable[Any] = ()) -> None:
    """Write a figure with its title and legend; `entries` are the legend's handles and labels, by default all."""
    from matplotlib import pyplot as plt

    figure.suptitle(title, fontsize=11)
    place = {"loc": "outside lower center", "ncols": columns}
    figure.legend(*entries, **place, fontsize=9, frameon=False, handlelength=3.5)
    figure.savefig(path, dpi=90)
    plt.close(figure)
