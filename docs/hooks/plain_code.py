"""MkDocs hook: a line `::plain arcface` becomes the plain code of a loss, one tab for each way to write it.

The code stands in examples/, and what `check` says of it in examples/verdicts.csv. The site is built without the
frameworks; tests/test_examples.py compares that table with what `check` says now.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

EXAMPLES = Path(__file__).parents[2] / "examples"
DIRECTIVE = re.compile(r"^(?:(`{3,}|~{3,}).*?^\1`*$|::plain (\S+)$)", re.MULTILINE | re.DOTALL)
TABS = {
    "numpy": "NumPy",
    "torch": "PyTorch",
    "torch_function": "PyTorch, backward by hand",
    "jax": "JAX",
}
STANDARDS = "../testing/oracle.md#what-a-verdict-says"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the tabs in."""

    def show(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[0]
        try:
            return "\n".join(_tab(folder, match[2]) for folder in TABS)
        except OSError as error:
            raise PluginError(f"{page.file.src_uri}: {match[0]}: {error}") from error

    return DIRECTIVE.sub(show, markdown)


def _tab(folder: str, name: str) -> str:
    source = (EXAMPLES / folder / f"{name}.py").read_text().rstrip()
    block = f'```python title="examples/{folder}/{name}.py"\n{source}\n```'
    content = f"{block}\n\n{_said(f'{folder}/{name}')}"
    return f'=== "{TABS[folder]}"\n\n' + re.sub(r"^(?=.)", "    ", content, flags=re.MULTILINE) + "\n"


def _said(file: str) -> str:
    """What `check` says, in one sentence for each loss."""
    with (EXAMPLES / "verdicts.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["file"] == file]
    sentences = []
    for loss in dict.fromkeys(row["loss"] for row in rows):
        dtypes = defaultdict(list)
        for row in rows:
            if row["loss"] == loss:
                dtypes[row["state"], row["meets"], row["range"]].append(row["dtype"])
        verdicts = "; ".join(_verdict(*verdict, " and ".join(names)) for verdict, names in dtypes.items())
        sentences.append(f"`check` against `{loss}`: {verdicts}.")
    return "\n\n".join(sentences)


def _verdict(state: str, meets: str, beyond: str, dtypes: str) -> str:
    failed = f", fails {', '.join(f'`{name}`' for name in beyond.split())} of the group `range`" if beyond else ""
    return f"**{state}** in {dtypes}, meets [`{meets}`]({STANDARDS}){failed}"
