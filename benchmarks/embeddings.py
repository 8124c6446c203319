"""The records gallery.md and gallery.json: what examples/gallery.py learns, over several seeds.

The page has the numbers; of the first seed the file also has where every digit is drawn, and the site draws from it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pages
from pages import Measured, Rows

SPEC: Any = importlib.util.spec_from_file_location("gallery", pages.ROOT / "examples" / "gallery.py")
gallery: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)

SEEDS = range(5)
PACKAGES = ("numpy", "scikit-learn")
NUMBERS = {"within": "within", "between": "between", "nearest": "nearest", "accuracy": "accuracy, %"}
"""Names of what is measured, and the titles of their columns."""


def measured(seed: int) -> Rows:
    """One round: every panel."""
    data = gallery.digits(seed)
    return [
        {"seed": seed} | gallery.trained(title, dimensions, data, seed, lambda step: None)
        for dimensions in gallery.DIMENSIONS
        for title in gallery.LOSSES
    ]


def write(measured: Measured, commit: str, folder: Path) -> None:
    """Write the page, and the panels of the first seed."""
    facts = pages.facts(measured, commit, PACKAGES, "rounds, one per seed")
    tables = {
        f"of_{dimensions}": table(pages.where(measured.rows, dimensions=dimensions))
        for dimensions in gallery.DIMENSIONS
    }
    pages.write(folder, "gallery.md", facts=facts, seeds=measured.rounds, **tables)
    panels = pages.where(measured.rows, seed=SEEDS[0])
    record = {"script": digest(), "facts": facts, "panels": panels}
    (folder / "gallery.json").write_text(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def digest() -> str:
    """What tells whether the script trains and measures as it did for the record; its drawing may change."""
    text, drawing, _ = Path(gallery.__file__).read_text().partition("- the drawing\n")
    assert drawing
    return hashlib.sha256(text.encode()).hexdigest()


def table(rows: Rows) -> str:
    """Return one row per loss: each number for the first seed, and its range over all seeds."""
    return pages.table(
        ("loss", *NUMBERS.values()),
        (
            (f"{title}: `{loss}`", *(number(each, name) for name in NUMBERS))
            for (title, loss), each in pages.grouped(rows, "title", "loss").items()
        ),
    )


def number(rows: Rows, name: str) -> str:
    """Return the number of the first seed, and the range of all."""
    factor = 100.0 if name == "accuracy" else 1.0
    values: list[Any] = [factor * row[name] for row in rows]
    return f"{values[0]:.1f} ({min(values):.1f} to {max(values):.1f})"
