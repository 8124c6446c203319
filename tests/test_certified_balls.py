"""Balls: flint is loaded when first used, and its precision left as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

import refloss
from refloss.engines.certified import enclose, heads
from support import cases
from support.enclosures import random

flint = pytest.importorskip("flint")


def test_the_precision_of_others_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flint.ctx, "prec", 77)
    enclose(refloss.ArcFace(boundary="min"), *cases.ordinary(random()))
    refloss.Triplet()(*random().standard_normal((3, 2, 4)), engine="certified")
    assert flint.ctx.prec == 77
    monkeypatch.setattr(heads, "_argmax", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        enclose(refloss.ArcFace(), *cases.ordinary(random()))
    assert flint.ctx.prec == 77


def test_without_flint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(ImportError, match=r"pip install refloss\[certified\]"):
        enclose(refloss.ArcFace(), *cases.ordinary(random()))


def test_flint_loads_when_first_used() -> None:
    code = "import sys, refloss, refloss.engines.certified; sys.exit('flint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
