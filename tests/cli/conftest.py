"""A file of a user's, and modules forgotten after each test."""

import sys

import pytest

MINE = """
from __future__ import annotations

import sys
from dataclasses import dataclass

import refloss

print("printed at import")


@dataclass
class Settings:  # looks its module up, since annotations are strings
    m: float = 0.35


def good(x, w, y):
    print("printed in a call")
    value, grad = refloss.CosFace(m=Settings().m).value_and_grad(x, w, y)
    return value, grad.x, grad.w

def bad(x, w, y):
    value, grad = refloss.CosFace(reduction="sum").value_and_grad(x, w, y)
    return value, grad.x, float("nan") * grad.w

def value_only(x, w, y):
    return refloss.CosFace()(x, w, y)

def without_ignored(x, w, y):
    if (y < 0).any():
        raise ValueError("[/b] is no markup, :smile: no picture, \\u03b8 no ascii")
    return good(x, w, y)

def leaves(x, w, y):
    sys.exit(0)

class Inside:
    good = staticmethod(good)

number, nothing = 3, None
"""


@pytest.fixture(autouse=True)
def imports(tmp_path, monkeypatch):
    """Forget what a test loads from its directory, and restore sys.path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)
