"""Cases of losses of logits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refloss.testing.hard_cases.angles import SURE, log_odds, log_sum_exp
from refloss.testing.hard_cases.case import FAR_GAPS, Draft, Setting
from refloss.testing.hard_cases.labels import (
    NOTHING,
    SATURATED,
    WEIGHTLESS,
    can_ignore,
    every_second_ignored,
    ignored_reason,
    weightless_labels,
)
from refloss.testing.signatures import cross_entropy_of, ignore_index_of, softcap_of


def logit_cases(setting: Setting) -> Iterator[Draft]:
    """Yield the cases of a loss of logits."""
    n, c, _ = setting.size
    loss, labels, normal, each = setting.loss, setting.labels, setting.normal, np.arange(n)
    yield Draft(
        "ordinary", "random", ("random",), "independent normal numbers, nothing special", (normal(n, c), labels())
    )
    yield Draft("ordinary", "wide", ("random",), "logits of size 5", (5.0 * normal(n, c), labels()))
    for gap in (5.0, 10.0, 30.0):
        z, y = normal(n, c), labels()
        z[each, y] = z.max(axis=1) + gap
        yield Draft("hard", f"confident-{gap:g}", ("confident",), f"the label's logit leads by {gap:g}", (z, y))
    if c > 1:
        yield from _rival_cases(setting)
    if n > 1:
        yield Draft(
            "boundary",
            "ignored",
            ("ignored",),
            ignored_reason(loss),
            (normal(n, c), every_second_ignored(loss, labels())),
        )
    if can_ignore(loss):
        all_ignored = np.full(n, ignore_index_of(loss))
        yield Draft("boundary", "all-ignored", ("ignored",), NOTHING, (normal(n, c), all_ignored))
    if (weightless := weightless_labels(loss, n)) is not None:
        yield Draft("boundary", "weight-0", ("weightless",), WEIGHTLESS, (normal(n, c), weightless))
    shares = np.array([setting.rng.multinomial(64, row) for row in setting.rng.dirichlet(np.ones(c), n)]) / 64.0
    yield Draft("boundary", "soft", ("soft",), "probabilities for labels, some of them 0", (normal(n, c), shares))
    yield Draft("hard", "equal", ("equal",), "all logits equal: the loss is log C", (np.full((n, c), 2.0), labels()))
    quarters = np.round(4.0 * normal(n, c)) / 4.0
    reason = "logits of 1000 and more: their exponentials overflow"
    yield Draft("hard", "offset", ("offset",), reason, (quarters + 1000.0, labels()))
    reason = "logits of -1000 and less: their exponentials all vanish"
    yield Draft("hard", "offset-below", ("offset",), reason, (quarters - 1000.0, labels()))
    most = 3e4 if setting.dtype == "float16" else 1e8
    yield Draft("range", "offset-huge", ("offset",), f"logits of {most:g}", (np.full((n, c), most), labels()))
    targets = setting.rng.integers(0, 65, (n, c)) / 32.0
    reason = "targets for labels that do not add up to 1, by whose sum nothing is divided"
    yield Draft("boundary", "soft-sums", ("soft",), reason, (normal(n, c), targets))
    targets = setting.rng.integers(-32, 65, (n, c)) / 32.0
    reason = "targets of both signs for labels; code that takes probabilities only may refuse"
    yield Draft("boundary", "soft-signs", ("soft", "negative"), reason, (normal(n, c), targets))
    sigma, cap = softcap_of(loss)
    if cap is not None:
        z = 8.0 * cap / sigma * setting.rng.uniform(-1.0, 1.0, (n, c))
        yield Draft("hard", "saturated", ("saturated",), SATURATED, (z, labels()))


def _rival_cases(setting: Setting) -> Iterator[Draft]:
    """Cases in which another class leads the label, ties with it, or is masked."""
    n, c, _ = setting.size
    labels, normal, each = setting.labels, setting.normal, np.arange(n)
    for gap in (5.0, 10.0, 30.0, *setting.gaps):
        z, y = normal(n, c), labels()
        z[each, (y + 1) % c] = z.max(axis=1) + gap
        where = " in float32" if gap == FAR_GAPS[0] else ""
        note = f": exp(-gap) is 0{where}" if gap in FAR_GAPS else ""
        flags = ("wrong", "gap") if gap in FAR_GAPS else ("wrong",)
        yield Draft("hard", f"wrong-{gap:g}", flags, f"another class's logit leads by {gap:g}{note}", (z, y))
    z, y = normal(n, c), labels()
    z[each, y] = -np.inf
    z[each, y] = log_sum_exp(z) + log_odds(n)
    yield Draft("hard", "certain", ("confident",), f"targets of probability 1 - 2^-k, k from 1 to {SURE}", (z, y))
    z, y = normal(n, c), labels()
    z[each, y] = z[each, (y + 1) % c] = z.max(axis=1)
    yield Draft("boundary", "tied", ("equal",), "the label's logit and another are the largest, and equal", (z, y))
    if c > 2 and not cross_entropy_of(setting.loss).label_smoothing:
        z, y = normal(n, c), labels()
        z[each, (y + 1) % c] = -np.inf
        z[0, np.arange(c) != y[0]] = -np.inf
        reason = "logits of -inf: masked classes, which have no probability and no gradient"
        yield Draft("boundary", "masked", ("masked",), reason, (z, y))
