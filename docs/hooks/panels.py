"""The panels of the gallery, drawn by examples/gallery.py from what docs/records/gallery.json keeps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SPEC: Any = importlib.util.spec_from_file_location("gallery", ROOT / "examples" / "gallery.py")
gallery: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)


def recorded() -> list[dict[str, Any]]:
    """All panels, with their numbers."""
    return json.loads((ROOT / "docs" / "records" / "gallery.json").read_text())["panels"]


def drawn(dimensions: int) -> str:
    """Panels with embeddings of so many dimensions, one beside the other."""
    chosen = (panel for panel in recorded() if panel["dimensions"] == dimensions)
    shape = "flat" if dimensions == 2 else "sphere"
    return f'<div class="panels {shape}">{"".join(map(gallery.figure, chosen))}</div>'
