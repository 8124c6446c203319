"""Changes that mutants are made of beyond mutmut's own, for the record mutants.md.

`undecorated` and `with_lambdas_named` rewrite a file so that mutmut reaches all of its code; `operators` are the
changes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any


def undecorated(source: str) -> str:
    """Turn decorators into assignments after the function, since mutmut leaves decorated functions alone."""
    lines, tree = source.splitlines(), ast.parse(source)
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: -node.lineno):
        decorators = [ast.unparse(each) for each in node.decorator_list]
        if decorators and not {"overload", "staticmethod", "classmethod"} & {*decorators}:
            calls = "".join(f"{decorator}(" for decorator in decorators)
            indent = " " * node.col_offset
            lines.insert(node.end_lineno or 0, f"{indent}{node.name} = {calls}{node.name}{')' * len(decorators)}")
            del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "\n".join(lines) + "\n"


def with_lambdas_named(source: str) -> str:
    """Turn the lambdas of a module's tables into functions, since mutmut changes nothing outside of functions."""

    def outermost(node: ast.AST) -> Iterator[ast.Lambda]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Lambda):
                yield child
            else:
                yield from outermost(child)

    lines = source.splitlines(keepends=True)
    for statement in ast.parse(source).body[::-1]:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            first, last = statement.lineno - 1, statement.end_lineno
            text = "".join(lines[first:last])
            functions: list[str] = []
            for each in outermost(statement):
                target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
                name, old = f"_{ast.unparse(target)}_{len(functions)}", ast.get_source_segment(source, each)
                functions.append(f"def {name}({ast.unparse(each.args)}):\n    return ({ast.unparse(each.body)})\n\n")
                text = text.replace(old or "", name, 1)
            lines[first:last] = [*functions, text]
    return "".join(lines)


def operators() -> Iterator[tuple[type, Any]]:
    """What is changed beside what mutmut changes by itself: a kind of node, and what becomes of it."""
    import libcst as cst

    def text(node: Any) -> str:
        return f"({cst.Module([]).code_for_node(node)})"

    def hundredfold(node: Any) -> Iterator[Any]:
        def more(term: Any) -> Any:
            return cst.parse_expression(f"(100.0 * {text(term)})")

        if isinstance(node, cst.AugAssign):
            if isinstance(node.operator, cst.AddAssign | cst.SubtractAssign):
                yield node.with_changes(value=more(node.value))
        elif isinstance(node.operator, cst.Add | cst.Subtract):
            yield node.with_changes(right=more(node.right))
            left = node.left
            if not (isinstance(left, cst.BinaryOperation) and isinstance(left.operator, cst.Add | cst.Subtract)):
                yield node.with_changes(left=more(left))

    def without_a_term(node: Any) -> Iterator[Any]:
        if isinstance(node.operator, cst.Add | cst.Subtract):
            yield cst.parse_expression(text(node.left))
            yield cst.parse_expression(text(node.right))

    def first_argument(node: Any) -> Iterator[Any]:
        if node.args and not node.args[0].star and node.args[0].keyword is None:
            yield cst.parse_expression(text(node.args[0].value))
        elif not node.args and isinstance(node.func, cst.Attribute):
            yield cst.parse_expression(text(node.func.value))

    def left_out(node: Any) -> Iterator[Any]:
        if isinstance(node, cst.Raise) or isinstance(node.value, cst.Call):
            yield cst.Pass()

    def from_the_front(node: Any) -> Iterator[Any]:
        if len(node.slice) == 1 and isinstance(node.slice[0].slice, cst.Index):
            index = node.slice[0].slice.value
            if isinstance(index, cst.Name | cst.Attribute | cst.Comparison | cst.UnaryOperation | cst.Subscript):
                yield cst.parse_expression(f"{text(node.value)}[: len({text(node)})]")

    def up_to_64(node: Any) -> Iterator[Any]:
        if isinstance(node, cst.Call):
            length = isinstance(node.func, cst.Name) and node.func.value == "len"
        else:
            length = isinstance(node.value, cst.Attribute) and node.value.attr.value == "shape"
        if length:
            yield cst.parse_expression(f"min({text(node)}, 64)")

    yield cst.AugAssign, hundredfold
    yield cst.BinaryOperation, hundredfold
    yield cst.BinaryOperation, without_a_term
    yield cst.Call, first_argument
    yield cst.Expr, left_out
    yield cst.Raise, left_out
    yield cst.Subscript, from_the_front
    yield cst.Call, up_to_64
    yield cst.Subscript, up_to_64
