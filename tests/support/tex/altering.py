"""Formulas that differ from one in a single place: a test that accepts any of them is no test of the formula."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpmath import mpf

from support.tex.reading import INDICES, Node, Statement, minus, named, times, walk

NEGATED = {"=": r"\ne", r"\ne": "=", r"\le": ">", ">": r"\le", r"\ge": "<", "<": r"\ge"}
NEGATED |= {r"\in": r"\notin", r"\notin": r"\in"}


def alterations(statements: Sequence[Statement]) -> Iterator[tuple[str, tuple[Statement, ...]]]:
    """Yield what is altered, and the formula with it: a sign, a factor, a term, an index, a function or a condition."""
    for at, statement in enumerate(statements):
        names = sorted({node.value for side in statement.sides for node in walk(side) if _is_index(node)})
        for place, side in enumerate(statement.sides[1:], 1):
            of_all = [("sign of all", minus(side)), ("twice all", times(Node("number", mpf(2)), side))]
            for what, altered in (*of_all, *_altered(side, names)):
                sides = (*statement.sides[:place], altered, *statement.sides[place + 1 :])
                yield f"{at}: {what}", (*statements[:at], Statement(sides), *statements[at + 1 :])


def _is_index(node: Node) -> bool:
    return node.kind == "symbol" and node.value in INDICES and not node.parts


def _altered(node: Node, names: Sequence[str]) -> Iterator[tuple[str, Node]]:
    for alter in (_values, _terms, _factors, _functions, _conditions):
        yield from alter(node)
    yield from _other_indices(node, names)
    for place, part in enumerate(node.parts):
        for what, altered in _altered(part, names):
            yield what, node._replace(parts=_put(node.parts, place, altered))


def _put(parts: tuple[Node, ...], place: int, *new: Node) -> tuple[Node, ...]:
    return (*parts[:place], *new, *parts[place + 1 :])


def _without(node: Node, place: int) -> Node:
    rest = _put(node.parts, place)
    return rest[0] if len(rest) == 1 else node._replace(parts=rest)


def _values(node: Node) -> Iterator[tuple[str, Node]]:
    if node.kind == "number":
        yield f"{named(node)} + 1", node._replace(value=node.value + 1)
    if node.kind == "power":
        yield "exponent dropped", node.parts[0]


def _terms(node: Node) -> Iterator[tuple[str, Node]]:
    if node.kind == "minus":
        yield "minus dropped", node.parts[0]
    if node.kind == "sum":
        for i, term in enumerate(node.parts):
            turned = term.parts[0] if term.kind == "minus" else minus(term)
            yield f"sign of term {i}", node._replace(parts=_put(node.parts, i, turned))
            yield f"term {i} dropped", _without(node, i)


def _factors(node: Node) -> Iterator[tuple[str, Node]]:
    if node.kind in ("product", "quotient", "dot"):
        for i in range(len(node.parts)):
            yield f"factor {i} dropped", _without(node, i)
    if node.kind == "quotient":
        yield "upside down", node._replace(parts=node.parts[::-1])


def _functions(node: Node) -> Iterator[tuple[str, Node]]:
    exchanged = {r"\cos": r"\sin", r"\sin": r"\cos"}
    if node.kind == "function" and node.value in exchanged:
        yield f"{node.value} exchanged", node._replace(value=exchanged[node.value])
    if node.kind in ("function", "norm", "abs", "floor", "call") and len(node.parts) == 1:
        yield f"{node.kind} dropped", node.parts[0]
    if node.kind in ("function", "call") and len(node.parts) == 2:
        yield "arguments exchanged", node._replace(parts=node.parts[::-1])


def _conditions(node: Node) -> Iterator[tuple[str, Node]]:
    if node.kind == "over" and node.parts[1:]:
        yield "condition dropped", node._replace(parts=node.parts[:1])
    if node.kind == "relation":
        yield "condition negated", node._replace(value=NEGATED[node.value])
    if node.kind == "cases":
        first, condition, second, other = node.parts
        yield "cases exchanged", node._replace(parts=(second, condition, first, other))


def _other_indices(node: Node, names: Sequence[str]) -> Iterator[tuple[str, Node]]:
    if node.kind != "symbol":
        return
    label = Node("symbol", "y", (Node("symbol", "n"),))
    for i, index in enumerate(node.parts):
        for other in (*(Node("symbol", name) for name in names), label):
            if other != index:
                called = other.value + "_n" * len(other.parts)
                yield f"index {i} of {node.value} is {called}", node._replace(parts=_put(node.parts, i, other))
