"""MkDocs hook: run every example, and stop the build where it does not print what is printed below it.

An example is a `python` fence directly followed by a `text` fence. Both may be indented, as in a folded answer.
"""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from typing import Any

from mkdocs.exceptions import PluginError

EXAMPLE = re.compile(
    r"^( *)```python\n((?:(?! *```)[^\n]*\n)*)\1```\n\n\1```text\n(.*?)^\1```$", re.MULTILINE | re.DOTALL
)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> None:
    """Run the examples of a page."""
    for _, *blocks in EXAMPLE.findall(markdown):
        source, expected = map(textwrap.dedent, blocks)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, page.file.src_uri, "exec"), {"__name__": "__main__"})
        if printed.getvalue().rstrip() != expected.rstrip():
            raise PluginError(
                f"{page.file.src_uri}: an example prints\n{printed.getvalue()}\nand not\n{expected}\nfrom\n{source}"
            )
