"""The value of a formula where its symbols have values, and how far the sides of an equation are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from mpmath import mp, mpf

from support.tex.reading import INDICES, Node, Statement, indices_of, named

RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    r"\ne": lambda a, b: bool(a != b),
    r"\le": lambda a, b: bool(a <= b),
    r"\ge": lambda a, b: bool(a >= b),
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
    r"\in": lambda a, b: a in b,
    r"\notin": lambda a, b: a not in b,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    r"\cos": mp.cos,
    r"\sin": mp.sin,
    r"\tanh": mp.tanh,
    r"\arccos": mp.acos,
    r"\log": mp.log,
    r"\sqrt": mp.sqrt,
    "log1p": mp.log1p,
    "atan2": mp.atan2,
    "softmax": lambda z: [mp.exp(entry) / mp.fsum(map(mp.exp, z)) for entry in z],
    "clip": lambda a, low, high: min(max(a, low), high),
    r"\max": max,
    r"\min": min,
}


class UnknownError(LookupError):
    """A symbol that has no value."""


class Scope(NamedTuple):
    """What symbols mean: numbers, vectors and matrices (nested lists), or functions for symbols with a bracket.

    `name:1` is a symbol with one index where that means something else than the first index of two. A function in the
    place of a symbol without a bracket is called with the indices that are bound. `left` is the value of a left side
    that is no symbol. ranges says how far an index runs; choice, which of several right-hand sides holds.
    """

    values: Mapping[str, Any]
    ranges: Mapping[str, int] = {}
    choice: int = 0


class _Evaluator:
    def __init__(self, statements: Sequence[Statement], scope: Scope) -> None:
        self._scope = scope
        groups: dict[Node, list[Statement]] = {}
        for statement in statements:
            groups.setdefault(statement.sides[0], []).append(statement)
        chosen = [group[scope.choice if len(group) > 1 else 0] for group in groups.values()]
        self.checked = [statement for statement in chosen if self._known(statement.sides[0])]
        self._defined = {_key(s.sides[0]): s for s in chosen if not self._known(s.sides[0])}

    def _known(self, node: Node) -> bool:
        name = _key(node)
        return name in self._scope.values or f"{name}:{len(indices_of(node))}" in self._scope.values

    def sides(self, statement: Statement) -> Iterator[list[Any]]:
        """Every side of a statement, for each value of the indices on its left."""
        head = statement.sides[0]
        free = [index.value for index in indices_of(head)] if _key(head) != "left" else []
        free = list(dict.fromkeys(free))
        for values in product(*(range(self._scope.ranges[name]) for name in free)):
            bound = dict(zip(free, values, strict=True))
            yield [self._left(statement.sides[0], bound), *(self.value(side, bound) for side in statement.sides[1:])]

    def _left(self, node: Node, bound: Mapping[str, Any]) -> Any:
        """What the code says; a left side that is an expression is not computed."""
        if node.kind == "call":
            return self.value(node, bound)
        key = _key(node)
        return self._symbol(Node("symbol", key, () if key == "left" else indices_of(node)), bound)

    def value(self, node: Node, bound: Mapping[str, Any]) -> Any:
        return getattr(self, f"_{node.kind}")(node, bound)

    def _each(self, node: Node, bound: Mapping[str, Any]) -> list[Any]:
        return [self.value(part, bound) for part in node.parts]

    def _number(self, node: Node, bound: Mapping[str, Any]) -> mpf:
        return node.value

    def _symbol(self, node: Node, bound: Mapping[str, Any]) -> Any:
        values, name = self._scope.values, node.value
        if not node.parts and name in bound:
            return bound[name]
        indices = [int(index) for index in self._each(node, bound)]
        value = values.get(f"{name}:{len(indices)}", values.get(name))
        if value is None and name in self._defined:
            statement = self._defined[name]
            inner = {key: value for key, value in bound.items() if key not in INDICES}
            if statement.sides[0].parts:
                inner |= {part.value: i for part, i in zip(statement.sides[0].parts, indices, strict=True)}
                return self.value(statement.sides[1], inner)
            value = self.value(statement.sides[1], inner)
        if value is None:
            if name == "e":
                return +mp.e
            if name == r"\pi":
                return +mp.pi
            raise UnknownError(name)
        if callable(value):  # a symbol of the sample at hand
            value = value(bound)
        for index in indices:
            if index < 0:
                raise UnknownError(f"{name} at {index}")
            value = value[index]
        return value

    def _call(self, node: Node, bound: Mapping[str, Any]) -> Any:
        arguments = self._each(node, bound)
        if node.value in self._scope.values:
            return self._scope.values[node.value](*arguments)
        if node.value not in self._defined:
            raise UnknownError(node.value)
        head, body = self._defined[node.value].sides
        return self.value(body, {part.value: argument for part, argument in zip(head.parts, arguments, strict=True)})

    def _minus(self, node: Node, bound: Mapping[str, Any]) -> Any:
        return _scaled(mpf(-1), self.value(node.parts[0], bound))

    def _sum(self, node: Node, bound: Mapping[str, Any]) -> Any:
        total, *rest = self._each(node, bound)
        for term in rest:
            total = _added(total, term)
        return total

    def _product(self, node: Node, bound: Mapping[str, Any]) -> Any:
        product, *rest = self._each(node, bound)
        for factor in rest:
            product = _scaled(product, factor) if not isinstance(product, list) else _scaled(factor, product)
        return product

    def _dot(self, node: Node, bound: Mapping[str, Any]) -> Any:
        a, b = self._each(node, bound)
        if isinstance(a, list) and isinstance(b, list):
            return mp.fsum(i * j for i, j in zip(a, b, strict=True))
        return _scaled(a, b)

    def _quotient(self, node: Node, bound: Mapping[str, Any]) -> Any:
        above, below = self._each(node, bound)
        return _scaled(1 / mpf(below), above)

    def _power(self, node: Node, bound: Mapping[str, Any]) -> Any:
        base, exponent = self._each(node, bound)
        return base ** int(exponent) if exponent == int(exponent) else base**exponent

    def _norm(self, node: Node, bound: Mapping[str, Any]) -> Any:
        vector = self.value(node.parts[0], bound)
        return mp.sqrt(mp.fsum(entry**2 for entry in vector))

    def _abs(self, node: Node, bound: Mapping[str, Any]) -> Any:
        value = self.value(node.parts[0], bound)
        return [abs(entry) for entry in value] if isinstance(value, list) else abs(value)

    def _floor(self, node: Node, bound: Mapping[str, Any]) -> Any:
        return mp.floor(self.value(node.parts[0], bound))

    def _function(self, node: Node, bound: Mapping[str, Any]) -> Any:
        if node.parts[0].kind == "symbol" and self._known(node):  # such as log p
            return self._symbol(Node("symbol", named(node), node.parts[0].parts), bound)
        return FUNCTIONS[node.value](*self._each(node, bound))

    def _over(self, node: Node, bound: Mapping[str, Any]) -> Any:
        (name, index), body, condition = node.value, node.parts[0], node.parts[1:]
        within = [{**bound, index: i} for i in range(self._scope.ranges[index])]
        terms = [self.value(body, inner) for inner in within if all(self.value(c, inner) for c in condition)]
        if name == r"\max":
            return max(terms)
        total = terms[0]
        for term in terms[1:]:
            total = _added(total, term)
        return total

    def _bracket(self, node: Node, bound: Mapping[str, Any]) -> Any:
        return mpf(self.value(node.parts[0], bound))

    def _relation(self, node: Node, bound: Mapping[str, Any]) -> bool:
        left, right = self._each(node, bound)
        return RELATIONS[node.value](left, right)

    def _cases(self, node: Node, bound: Mapping[str, Any]) -> Any:
        for body, condition in zip(node.parts[::2], node.parts[1::2], strict=True):
            if self.value(condition, bound):
                return self.value(body, bound)
        raise UnknownError("no case holds")


def _key(node: Node) -> str:
    """The name under which a left side is given or defined; `left` for one that has none."""
    if node.kind == "call":
        return str(node.value)
    try:
        return named(node)
    except KeyError:
        return "left"


def _added(a: Any, b: Any) -> Any:
    if isinstance(a, list):
        return [_added(i, j) for i, j in zip(a, b, strict=True)]
    return a + b


def _scaled(a: Any, b: Any) -> Any:
    if isinstance(a, list):
        raise TypeError("a vector cannot be a factor of a vector")
    return [a * entry for entry in b] if isinstance(b, list) else a * b


def gap(statements: Sequence[Statement], scope: Scope) -> mpf:
    """By how much the sides of the checked statements differ, at most, relative to the largest of them."""
    evaluator = _Evaluator(statements, scope)
    if not evaluator.checked:
        raise UnknownError("nothing to compare with")
    worst = mpf(0)
    for statement in evaluator.checked:
        rows = [[_flat(side) for side in sides] for sides in evaluator.sides(statement)]
        size = max(abs(entry) for sides in rows for side in sides for entry in side) or mpf(1)
        for first, *rest in rows:
            for other in rest:
                worst = max([worst, *(abs(i - j) / size for i, j in zip(first, other, strict=True))])
    return worst


def _flat(side: Any) -> list[Any]:
    return [mpf(entry) for entry in side] if isinstance(side, list) else [mpf(side)]
