"""The formulas of docstrings and pages: read from their TeX, evaluated, and altered.

`read` parses a formula by the rules of grammar.lark, which is the documentation of the TeX that a displayed formula may
use. `gap` evaluates it in a `Scope`: statements whose left side the scope knows are compared with it; the others define
their left side, for the rest of the formula. `alterations` are the formulas that differ from it in one place. Whatever
is not in the grammar (`UnreadableError`), or has no value (`UnknownError`), is an error.
"""

from support.tex.altering import alterations
from support.tex.evaluating import Scope, UnknownError, gap
from support.tex.reading import Node, Statement, UnreadableError, read

__all__ = ["Node", "Scope", "Statement", "UnknownError", "UnreadableError", "alterations", "gap", "read"]
