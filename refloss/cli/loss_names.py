"""Losses by the names that a user writes: the public ones, and a loss from text such as "ArcFace(s=64.0, m=0.5)"."""

from __future__ import annotations

import ast
from typing import Any

import refloss
from refloss.losses import LOSSES, Loss
from refloss.messages import shown


def public_losses() -> dict[type[Loss], list[str]]:
    """Return every public loss with its other names."""
    return {
        loss: [name for name in refloss.__all__ if getattr(refloss, name) is loss and name != loss.__name__]
        for loss in LOSSES
    }


def parse_loss(text: str) -> Loss:
    """Return the loss that a text names. The text is parsed, never run."""
    try:
        call = ast.parse(text, mode="eval").body
        ast.unparse(call)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a null character; more levels than Python reads
        raise ValueError(f"expected a loss such as 'ArcFace(m=0.5)', got {shown(text)}") from None
    callee = call.func if isinstance(call, ast.Call) else call
    names = {name: loss for loss, aliases in public_losses().items() for name in (loss.__name__, *aliases)}
    if not isinstance(callee, ast.Name) or callee.id not in names:
        raise ValueError(f"expected one of {', '.join(names)}, got {shown(text)}")
    if not isinstance(call, ast.Call):
        return names[callee.id]()
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"expected settings by name, got {shown(text)}")
    return names[callee.id](**{str(keyword.arg): parse_setting(keyword) for keyword in call.keywords})


def parse_setting(keyword: ast.keyword) -> Any:
    """Return the value of a setting, which has to be a literal."""
    try:
        return ast.literal_eval(keyword.value)
    except (ValueError, TypeError) as error:  # TypeError: a set of lists
        why, came = str(error).partition(":")[0], shown(ast.unparse(keyword.value))
        raise ValueError(f"{keyword.arg}: expected a literal such as 0.5 or 'sum', got {came}: {why}") from None
