"""Griffe extension: parameters that are described together keep the type and default each has of its own.

"reduction, label_smoothing" in a docstring describes two fields; Griffe would give both what the first one has.
"""

from __future__ import annotations

from typing import Any

import griffe


class Parameters(griffe.Extension):
    """Look every described parameter of a class up among its fields, inherited ones included."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through all classes once they are known."""
        for module in (pkg, *pkg.modules.values()):
            for found in module.classes.values():
                if not found.is_alias and found.docstring:
                    _own(found)


def _own(found: Any) -> None:
    # Here dataclasses have no signature yet, of which the parser would complain: what it misses is filled in below.
    options = {**(found.docstring.parser_options or {}), "warnings": False}
    sections = found.docstring.parse(**options)
    for section in sections:
        for parameter in section.value if section.kind is griffe.DocstringSectionKind.parameters else ():
            field = found.all_members[parameter.name]
            parameter.annotation, parameter.value = field.annotation, field.value
    found.docstring.parsed = sections
