"""Griffe extension: parameters that are described together keep the type and default each has of its own.

"reduction, label_smoothing" in a docstring describes two fields; Griffe would give both the type of the first one.
"""

from __future__ import annotations

from typing import Any

import griffe


class Parameters(griffe.Extension):
    """Look every described parameter of a class up among its fields, inherited ones included."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through all classes of the package and of the packages in it."""
        for each in pkg.classes.values():
            if not each.is_alias and each.docstring:
                _describe(each)
        for module in pkg.modules.values():
            if not module.is_alias:  # of a module imported there
                self.on_package(pkg=module)


def _describe(class_: Any) -> None:
    # Here dataclasses have no signature yet, of which the parser would complain: what it misses is filled in below.
    options = {**(class_.docstring.parser_options or {}), "warnings": False}
    sections = class_.docstring.parse(**options)
    for section in sections:
        for parameter in section.value if section.kind is griffe.DocstringSectionKind.parameters else ():
            field = class_.all_members.get(parameter.name)
            if field is not None:  # of a class with an __init__ the parser has read the signature
                parameter.annotation, parameter.value = field.annotation, field.value
    class_.docstring.parsed = sections
