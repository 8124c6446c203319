"""Cases of divergences of two softmaxes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS
from refloss.testing.hard_cases.angles import SURE, log_odds, log_sum_exp
from refloss.testing.hard_cases.case import FAR_GAPS, Draft, Setting

NEAR = (4, 8, 12, 16, 20)
"""Negative binary exponents of what rows differ by that nearly agree."""


def divergence_cases(setting: Setting) -> Iterator[Draft]:
    """Yield the cases of a divergence; inputs are z and target."""
    n, c, _ = setting.size
    normal, each = setting.normal, np.arange(n)

    def quarters() -> Array:
        return np.asarray(np.round(4.0 * normal(n, c)) / 4.0)

    yield Draft(
        "ordinary", "random", ("random",), "independent normal numbers, nothing special", (normal(n, c), normal(n, c))
    )
    wide = (5.0 * normal(n, c), 5.0 * normal(n, c))
    yield Draft("ordinary", "wide", ("random",), "logits of size 5", wide)
    for k in NEAR:
        if k > FORMATS[setting.dtype].bits - 4:
            break
        target = quarters()
        near = target + np.ldexp(np.round(4.0 * normal(n, c)), -k - 2)
        reason = f"rows that differ by about 2^-{k}: p - q and log p - log q cancel"
        yield Draft("hard", f"near-{k}", ("cancellation",), reason, (near, target))
    rows = normal(n, c)
    reason = "every second row equal on both sides: no loss and no gradient"
    some = np.where(each[:, None] % 2 == 1, rows, normal(n, c))
    yield Draft("boundary", "equal", ("equal",), reason, (some, rows))
    rows = quarters()
    reason = "rows that are a constant apart: no loss and no gradient"
    yield Draft("boundary", "constant-apart", ("equal",), reason, (rows + 2.0, rows))
    reason = "logits of 1000 and more on one side and of -1000 and less on the other: exponentials overflow or vanish"
    yield Draft("hard", "offset", ("offset",), reason, (quarters() + 1000.0, quarters() - 1000.0))
    if c > 1:
        yield from _apart(setting)
        masked = normal(n, c)
        masked[each, each % c] = -np.inf
        reason = "classes masked on both sides: absent, where code may take 0 times the difference of infinities"
        yield Draft("range", "masked", ("masked",), reason, (np.where(np.isinf(masked), masked, normal(n, c)), masked))
        reason = "a class masked on one side alone: it has no probability there, or the divergence is infinite"
        yield Draft("range", "masked-target", ("masked",), reason, (normal(n, c), masked))
    most = 3e4 if setting.dtype == "float16" else 1e8
    yield Draft("range", "offset-huge", ("offset",), f"logits of {most:g}", (np.full((n, c), most), normal(n, c)))


def _apart(setting: Setting) -> Iterator[Draft]:
    """Cases in which one class leads on a side."""
    n, c, _ = setting.size
    normal, each = setting.normal, np.arange(n)
    y = each % c

    def led(gap: float) -> Array:
        rows = normal(n, c)
        rows[each, y] = rows.max(axis=1) + gap
        return rows

    def sure() -> Array:
        rows = normal(n, c)
        rows[each, y] = -np.inf
        rows[each, y] = log_sum_exp(rows) + log_odds(n)
        return rows

    for gap in setting.gaps:
        where = " in float32" if gap == FAR_GAPS[0] else ""
        for name, inputs in (("z", (led(gap), normal(n, c))), ("target", (normal(n, c), led(gap)))):
            reason = f"a class leads by {gap:g} on one side: exp(-gap) is 0{where}"
            yield Draft("hard", f"gap-{name}-{gap:g}", ("gap",), reason, inputs)
    rows = sure()
    reason = f"both sides of probability 1 - 2^-k at a class, k from 1 to {SURE}"
    yield Draft("hard", "certain", ("confident",), reason, (rows + 0.25 * normal(n, c), rows))
    reason = "both sides confident, in different classes"
    yield Draft("hard", "disagree", ("confident",), reason, (led(10.0), np.roll(led(10.0), 1, axis=1)))
