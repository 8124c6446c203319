"""Formulas of docstrings and pages as trees: parsed by lark with the rules of grammar.lark, next to this file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lark import Lark, LarkError, Token, Transformer
from mpmath import mp, mpf

INDICES = frozenset("nkija")  # and y_n


class UnreadableError(ValueError):
    """What the grammar has no rule for."""


class Node(NamedTuple):
    r"""A part of a formula.

    - number: its value.
    - symbol: its name, and its indices.
    - sum, product, dot, quotient, power: two parts, or more of the first two.
    - minus, norm, abs, floor: one part.
    - function, call: its name, and its arguments.
    - over: \sum or \max with the index; the term, and a relation that the index has to satisfy, if there is one.
    - relation: its sign, and two sides; bracket: one relation; cases: values and relations in turn.
    """

    kind: str
    value: Any = None
    parts: tuple[Node, ...] = ()


class Statement(NamedTuple):
    """Sides of an equation, in order; or a further right-hand side of the one before."""

    sides: tuple[Node, ...]


def read(tex: str) -> tuple[Statement, ...]:
    """Parse a formula; its decimal numbers have mpmath's working precision."""
    return _read(tex, mp.prec)


@cache
def _read(tex: str, precision: int) -> tuple[Statement, ...]:
    del precision  # of the numbers: a key of the cache
    try:
        return _parser().parse(tex)
    except LarkError as error:
        raise UnreadableError(f"{tex}: {error}") from error


@cache
def _parser() -> Lark:
    grammar = Path(__file__).with_name("grammar.lark")
    return Lark.open(grammar, parser="lalr", start="formula", maybe_placeholders=False, transformer=_Nodes())


def _with_parts(kind: str) -> Callable[[Any, list[Node]], Node]:
    return lambda nodes, parts: Node(kind, None, tuple(parts))


class _Nodes(Transformer):
    """A method for each rule of the grammar, and for each name that a rule gives to an alternative."""

    dot, quotient, power = _with_parts("dot"), _with_parts("quotient"), _with_parts("power")
    norm, abs, floor = _with_parts("norm"), _with_parts("abs"), _with_parts("floor")
    bracket, cases = _with_parts("bracket"), _with_parts("cases")

    def formula(self, statements: list[tuple[Node, ...]]) -> tuple[Statement, ...]:
        formula: list[Statement] = []
        for sides in statements:
            head = formula[-1].sides[:1] if formula and len(sides) == 1 else ()
            formula.append(Statement((*head, *sides)))
        return tuple(formula)

    def statement(self, sides: list[Node]) -> tuple[Node, ...]:
        return tuple(sides)

    def sum(self, signs_and_terms: list[Any]) -> Node:
        if not isinstance(signs_and_terms[0], Token):
            signs_and_terms = ["+", *signs_and_terms]
        signed = zip(signs_and_terms[::2], signs_and_terms[1::2], strict=True)
        terms = [minus(term) if sign == "-" else term for sign, term in signed]
        return terms[0] if len(terms) == 1 else Node("sum", None, tuple(terms))

    def times(self, factors: list[Node]) -> Node:
        return times(*factors)

    def number(self, tokens: list[Token]) -> Node:
        return Node("number", mpf(str(tokens[0])))

    def relation(self, parts: list[Any]) -> Node:
        left, sign, right = parts
        return Node("relation", str(sign), (left, right))

    def partial(self, variables: list[Node]) -> Node:
        above, below = variables
        return Node("symbol", rf"\partial {named(above)}/\partial {named(below)}", indices_of(below))

    def function(self, parts: list[Any]) -> Node:
        name, *arguments = parts
        return Node("function", str(name).removeprefix(r"\operatorname{").removesuffix("}"), tuple(arguments))

    def call(self, parts: list[Any]) -> Node:
        name = "".join(part for part in parts if isinstance(part, Token))
        return Node("call", name, tuple(part for part in parts if isinstance(part, Node)))

    def over(self, parts: list[Any]) -> Node:
        name, index, *condition, term = parts
        conditions = tuple(Node("relation", str(sign), (Node("symbol", str(index)), end)) for sign, end in condition)
        return Node("over", (str(name), str(index)), (term, *conditions))

    largest = over

    def condition(self, parts: list[Any]) -> tuple[Token, Node]:
        sign, end = parts
        return sign, end

    def index(self, parts: list[Any]) -> Node:
        (part,) = parts
        return part if isinstance(part, Node) else Node("symbol", str(part))

    def label(self, parts: list[Any]) -> Node:
        return Node("symbol", "y", (parts[1],))

    def symbol(self, parts: list[Any]) -> Node:
        accents = "".join(f"{part} " for part in parts if isinstance(part, Token) and part.type == "ACCENT")
        letters = "".join(part for part in parts if isinstance(part, Token) and part.type != "ACCENT")
        subscripts = [part for part in parts if isinstance(part, Node)]
        indices = tuple(part for part in subscripts if _is_index(part))
        others = "".join(f"_{named(part)}" for part in subscripts if not _is_index(part))
        return Node("symbol", accents + letters + others, indices)


def _is_index(subscript: Node) -> bool:
    return subscript.kind == "symbol" and (subscript.value in INDICES or subscript.value == "y")


def minus(node: Node) -> Node:
    """The part with its sign changed."""
    return Node("minus", None, (node,))


def times(a: Node, b: Node) -> Node:
    """The product; a product of more than two is one node."""
    return Node("product", None, (*(a.parts if a.kind == "product" else (a,)), b))


def named(node: Node) -> str:
    """The name of a symbol, or of what stands for one, without its indices."""
    if node.kind == "symbol":
        return str(node.value)
    if node.kind == "number":
        return mp.nstr(node.value, 4).removesuffix(".0")
    inner = ", ".join(map(named, node.parts))
    if node.kind == "call":
        return f"{node.value}({inner})"
    return {"norm": rf"\lVert {inner}\rVert", "function": f"{node.value} {inner}"}[node.kind]


def indices_of(node: Node) -> tuple[Node, ...]:
    """The indices of a symbol, or of the symbols in what stands for one."""
    if node.kind == "symbol":
        return node.parts
    return tuple(index for part in node.parts for index in indices_of(part)) if node.kind != "call" else ()


def walk(node: Node) -> Iterator[Node]:
    """The part and all parts in it."""
    yield node
    for part in node.parts:
        yield from walk(part)
