r"""Formulas of docstrings and pages, read and evaluated: a small grammar of TeX, and no more of TeX than it needs.

    formula    = statement { separator statement }      separators: a comma, \quad, \qquad, \text{...}
    statement  = sum { relation sum }                    relations: = \ne \le \ge < >
    sum        = [-] product { (+ | -) product }
    product    = factor { [\cdot | /] factor }           \cdot of two vectors is their inner product
    factor     = atom { ^ group | _ indices }
    atom       = number | symbol | ( sum ) | \frac{sum}{sum} | \sqrt{sum} | \lVert sum\rVert | \lvert sum\rvert
               | \lfloor sum\rfloor | \cos, \sin, \log, \arccos factors | \operatorname{name}(sum, ...)
               | \max(sum, ...) | \min(sum, ...) | \psi(sum) | d(sum, sum) | R(sum, sum, sum)
               | \sum_i product | \sum_{i \ne i} product | \max_i product | [statement]
               | \begin{cases} sum & statement \\ sum & statement \end{cases}
               | \frac{\partial symbol}{\partial symbol}

A function takes the factors that follow it, or the bracket if one follows. The magnitude of a vector is that of each
entry. A symbol is a letter or a Greek name, with \hat, \bar, \mathcal or \Delta (the error of what follows), also
several of them, a prime, and subscripts: those in `INDICES` are indices, others belong to the name. A partial
derivative is a symbol, named after its two parts, with the indices of the lower one. A statement without a
relation is another right-hand side of the one before it, as in "A (mean), B (sum)".

A formula is evaluated in a `Scope`. Statements whose left side the scope knows are checked; the others define their
left side, for the rest of the formula. Whatever is not in the grammar, or not known, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from mpmath import mp, mpf

TOKEN = re.compile(
    r"\\text\{[^}]*\}|\\operatorname\{[^}]*\}|\\(?:begin|end)\{cases\}|\\\\|\\[A-Za-z]+|\\[,;!]|\d+(?:\.\d+)?|[^\s]"
)
SPACING = {r"\,", r"\;", r"\!", r"\left", r"\right"} | {rf"\{size}{side}" for size in ("big", "Big") for side in "lr"}
SEPARATORS = {",", r"\quad", r"\qquad"}
RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    r"\ne": lambda a, b: bool(a != b),
    r"\le": lambda a, b: bool(a <= b),
    r"\ge": lambda a, b: bool(a >= b),
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
}
NEGATED = {"=": r"\ne", r"\ne": "=", r"\le": ">", ">": r"\le", r"\ge": "<", "<": r"\ge"}
INDICES = frozenset("nkija")  # and y_n
ACCENTS = {r"\hat", r"\bar", r"\mathcal", r"\Delta"}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    r"\cos": mp.cos,
    r"\sin": mp.sin,
    r"\arccos": mp.acos,
    r"\log": mp.log,
    r"\sqrt": mp.sqrt,
    "log1p": mp.log1p,
    "atan2": mp.atan2,
    "softmax": lambda z: [mp.exp(entry) / mp.fsum(map(mp.exp, z)) for entry in z],
    r"\max": max,
    r"\min": min,
}
APPLIED = {r"\psi", r"\psi'", "d", "R"}  # symbols that a bracket after them is the argument of
CLOSED = {
    "(": ("", ")"),
    r"\lVert": ("norm", r"\rVert"),
    r"\lvert": ("abs", r"\rvert"),
    r"\lfloor": ("floor", r"\rfloor"),
}
LETTER = re.compile(
    r"[A-Za-z]|\\(?:theta|varphi|phi|psi|pi|lambda|varepsilon|ell|alpha|beta|gamma|Gamma|delta|zeta|eta|kappa|rho|sigma|tau|omega)"
)


class UnreadableError(ValueError):
    """What the grammar has no rule for."""


class UnknownError(LookupError):
    """A symbol that nobody has given a value."""


class Node(NamedTuple):
    """A piece of a formula."""

    kind: str
    value: Any = None
    parts: tuple[Node, ...] = ()


class Statement(NamedTuple):
    """Sides of an equation, in order; or a further right-hand side of the one before."""

    sides: tuple[Node, ...]


# ------------------------------------------------------------------------------------------------------------- reading


def read(tex: str) -> tuple[Statement, ...]:
    """Parse a formula."""
    return _Reader(tex).formula()


class _Reader:
    def __init__(self, tex: str) -> None:
        self._tex = tex
        self._tokens = [token for token in TOKEN.findall(tex) if token not in SPACING]
        self._at = 0

    def formula(self) -> tuple[Statement, ...]:
        statements = []
        while self._next() is not None:
            sides = [self._sum()]
            while self._next() in RELATIONS:
                if self._take() != "=":
                    raise self._error()
                sides.append(self._sum())
            if len(sides) == 1 and statements:
                sides.insert(0, statements[-1].sides[0])
            statements.append(Statement(tuple(sides)))
            if self._next() is not None and not self._separated():
                raise self._error()
            while self._separated():
                self._take()
        return tuple(statements)

    def _separated(self) -> bool:
        token = self._next()
        return token in SEPARATORS or (token or "").startswith(r"\text{")

    def _sum(self) -> Node:
        terms = [_minus(self._product()) if self._skip("-") else self._product()]
        while self._next() in ("+", "-"):
            terms.append(_minus(self._product()) if self._take() == "-" else self._product())
        return terms[0] if len(terms) == 1 else Node("sum", None, tuple(terms))

    def _product(self) -> Node:
        found = self._factor()
        while True:
            if self._skip(r"\cdot"):
                found = Node("dot", None, (found, self._factor()))
            elif self._skip("/"):
                found = Node("quotient", None, (found, self._factor()))
            elif self._starts_factor():
                found = _times(found, self._factor())
            else:
                return found

    def _starts_factor(self) -> bool:
        token = self._next()
        if token is None or token in RELATIONS or token in SEPARATORS or token.startswith((r"\text{", r"\end")):
            return False
        return token not in {"+", "-", ")", "]", "}", "&", "\\\\", r"\rVert", r"\rvert", r"\rfloor", r"\cdot", "/"}

    def _factor(self) -> Node:
        atom = self._atom()
        while self._skip("^"):
            atom = Node("power", None, (atom, self._group()))
        return atom

    def _atom(self) -> Node:
        token = self._take()
        if token[0].isdigit():
            return Node("number", mpf(token))
        if token in CLOSED:
            kind, end = CLOSED[token]
            return Node(kind, None, (self._closed(end),)) if kind else self._closed(end)
        if token == r"\max" and self._next() == "_":
            return self._over(token)
        name = token.removeprefix(r"\operatorname{").removesuffix("}")
        if name in FUNCTIONS:
            return self._function(name)
        read = {"[": self._bracket, r"\frac": self._fraction, r"\begin{cases}": self._cases}.get(token)
        if read:
            return read()
        return self._over(token) if token == r"\sum" else self._symbol(token)

    def _bracket(self) -> Node:
        left, relation, right = self._sum(), self._take(), self._sum()
        self._expect("]")
        return Node("bracket", None, (_relation(relation, left, right),))

    def _closed(self, end: str) -> Node:
        found = self._sum()
        self._expect(end)
        return found

    def _group(self) -> Node:
        if self._skip("{"):
            return self._closed("}")
        token = self._take()
        return Node("number", mpf(token)) if token[0].isdigit() else self._symbol(token)

    def _fraction(self) -> Node:
        self._expect("{")
        if self._skip(r"\partial"):
            above = self._factor()
            self._expect("}")
            self._expect("{")
            self._expect(r"\partial")
            below = self._factor()
            self._expect("}")
            return Node("symbol", rf"\partial {named(above)}/\partial {named(below)}", _indices(below))
        above = self._closed("}")
        return Node("quotient", None, (above, self._group()))

    def _function(self, name: str) -> Node:
        if name == r"\sqrt":
            return Node("function", name, (self._group(),))
        if self._skip("("):
            arguments = [self._sum()]
            while self._skip(","):
                arguments.append(self._sum())
            self._expect(")")
            return Node("function", name, tuple(arguments))
        argument = self._factor()
        while self._starts_factor() and not self._starts_function():
            argument = _times(argument, self._factor())
        return Node("function", name, (argument,))

    def _starts_function(self) -> bool:
        token = self._next() or ""
        return token in FUNCTIONS or token.startswith(r"\operatorname{")

    def _over(self, name: str) -> Node:
        self._expect("_")
        braced = self._skip("{")
        index, condition = self._take(), ()
        if braced and self._next() in RELATIONS:
            relation = self._take()
            condition = (_relation(relation, Node("symbol", index), self._index()),)
        if braced:
            self._expect("}")
        return Node("over", (name, index), (self._product(), *condition))

    def _cases(self) -> Node:
        parts: list[Node] = []
        while True:
            parts.append(self._sum())
            self._expect("&")
            left, relation, right = self._sum(), self._take(), self._sum()
            parts.append(_relation(relation, left, right))
            if not self._skip(r"\\"):
                self._expect(r"\end{cases}")
                return Node("cases", None, tuple(parts))

    def _symbol(self, token: str) -> Node:
        accent = ""
        while token in ACCENTS:
            accent, token = f"{accent}{token} ", self._take()
        if not LETTER.fullmatch(token):
            raise self._error()
        name = accent + token + ("'" if self._skip("'") else "")
        if name in APPLIED and self._skip("("):
            arguments = [self._sum()]
            while self._skip(","):
                arguments.append(self._sum())
            self._expect(")")
            return Node("call", name, tuple(arguments))
        indices: list[Node] = []
        if self._skip("_"):
            for entry in self._subscripts():
                if entry.kind == "symbol" and (entry.value in INDICES or entry.value == "y"):
                    indices.append(entry)
                else:
                    name += f"_{named(entry)}"
        return Node("symbol", name, tuple(indices))

    def _subscripts(self) -> Iterator[Node]:
        if not self._skip("{"):
            yield self._index()
            return
        while not self._skip("}"):
            yield self._index()

    def _index(self) -> Node:
        token = self._take()
        if token[0].isdigit():
            return Node("number", mpf(token))
        if token == "y":
            self._expect("_")
            return Node("symbol", "y", (self._index(),))
        return Node("symbol", token)

    def _next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self) -> str:
        token = self._next()
        if token is None:
            raise self._error()
        self._at += 1
        return token

    def _skip(self, token: str) -> bool:
        found = self._next() == token
        self._at += found
        return found

    def _expect(self, token: str) -> None:
        if not self._skip(token):
            raise self._error()

    def _error(self) -> UnreadableError:
        return UnreadableError(f"{' '.join(self._tokens[: self._at])} >>> {' '.join(self._tokens[self._at :])}")


def _minus(node: Node) -> Node:
    return Node("minus", None, (node,))


def _times(a: Node, b: Node) -> Node:
    return Node("product", None, (*(a.parts if a.kind == "product" else (a,)), b))


def _relation(name: str, left: Node, right: Node) -> Node:
    if name not in RELATIONS:
        raise UnreadableError(f"{name} is no relation")
    return Node("relation", name, (left, right))


def named(node: Node) -> str:
    """What a symbol, or what stands for one, is called, without its indices."""
    if node.kind == "symbol":
        return str(node.value)
    if node.kind == "number":
        return mp.nstr(node.value, 4).removesuffix(".0")
    inner = ", ".join(map(named, node.parts))
    if node.kind == "call":
        return f"{node.value}({inner})"
    return {"norm": rf"\lVert {inner}\rVert", "function": f"{node.value} {inner}"}[node.kind]


def _indices(node: Node) -> tuple[Node, ...]:
    if node.kind == "symbol":
        return node.parts
    return tuple(index for part in node.parts for index in _indices(part)) if node.kind != "call" else ()


# ---------------------------------------------------------------------------------------------------------- evaluating


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
        return name in self._scope.values or f"{name}:{len(_indices(node))}" in self._scope.values

    def sides(self, statement: Statement) -> Iterator[list[Any]]:
        """Every side of a statement, for each value of the indices on its left."""
        head = statement.sides[0]
        free = [index.value for index in _indices(head)] if _key(head) != "left" else []
        free = list(dict.fromkeys(free))
        for values in product(*(range(self._scope.ranges[name]) for name in free)):
            bound = dict(zip(free, values, strict=True))
            yield [self._left(statement.sides[0], bound), *(self.value(side, bound) for side in statement.sides[1:])]

    def _left(self, node: Node, bound: Mapping[str, Any]) -> Any:
        """What the code says; a left side that is an expression is not computed."""
        if node.kind == "call":
            return self.value(node, bound)
        key = _key(node)
        return self._symbol(Node("symbol", key, () if key == "left" else _indices(node)), bound)

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
        found = values.get(f"{name}:{len(indices)}", values.get(name))
        if found is None and name in self._defined:
            statement = self._defined[name]
            inner = {key: value for key, value in bound.items() if key not in INDICES}
            if statement.sides[0].parts:
                inner |= {part.value: i for part, i in zip(statement.sides[0].parts, indices, strict=True)}
                return self.value(statement.sides[1], inner)
            found = self.value(statement.sides[1], inner)
        if found is None:
            if name == "e":
                return +mp.e
            if name == r"\pi":
                return +mp.pi
            raise UnknownError(name)
        if callable(found):  # a symbol of the sample at hand
            found = found(bound)
        for index in indices:
            if index < 0:
                raise UnknownError(f"{name} at {index}")
            found = found[index]
        return found

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
        found, *rest = self._each(node, bound)
        for factor in rest:
            found = _scaled(found, factor) if not isinstance(found, list) else _scaled(factor, found)
        return found

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
        found = self.value(node.parts[0], bound)
        return [abs(entry) for entry in found] if isinstance(found, list) else abs(found)

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


# ------------------------------------------------------------------------------------------------------------ altering


def alterations(statements: Sequence[Statement]) -> Iterator[tuple[str, tuple[Statement, ...]]]:
    """Every formula that differs in a sign, a factor, a term, an index, a function or a condition; and what differs."""
    for at, statement in enumerate(statements):
        names = sorted({node.value for side in statement.sides for node in _walk(side) if _is_index(node)})
        for place, side in enumerate(statement.sides[1:], 1):
            whole = [("sign of all", _minus(side)), ("twice all", _times(Node("number", mpf(2)), side))]
            for what, altered in (*whole, *_altered(side, names)):
                sides = (*statement.sides[:place], altered, *statement.sides[place + 1 :])
                yield f"{at}: {what}", (*statements[:at], Statement(sides), *statements[at + 1 :])


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for part in node.parts:
        yield from _walk(part)


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
            turned = term.parts[0] if term.kind == "minus" else _minus(term)
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
