"""Cases of the triplet loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refloss.error_free import Array
from refloss.testing.hard_cases.angles import unit
from refloss.testing.hard_cases.case import Draft, Setting
from refloss.testing.signatures import triplet_of


def triplet_cases(setting: Setting) -> Iterator[Draft]:
    """Yield the cases of a triplet loss."""
    n, _, d = setting.size
    settings = triplet_of(setting.loss)

    def rows(spread: float = 1.0) -> Array:
        return spread * setting.normal(n, d)

    yield Draft(
        "ordinary", "random", ("random",), "independent normal numbers, nothing special", (rows(), rows(), rows())
    )
    a = rows()
    near = (a, a + rows(0.01), a + rows(0.01))
    yield Draft("hard", "near", ("cancellation",), "positive and negative next to the anchor", near)
    direction = unit(a)
    away = a + direction * (10.0 + 10.0 * settings.m)
    yield Draft(
        "boundary", "kept", ("inactive",), "the margin is kept: no loss and no gradient", (a, a + rows(0.1), away)
    )
    partly = np.where(np.arange(n)[:, None] % 2 == 0, a + rows(0.1), away)
    reason = "every second triplet keeps the margin, and counts in the mean"
    yield Draft("ordinary", "partly", ("inactive",), reason, (a, a + rows(0.1), partly))
    m = float(np.sqrt(settings.m) if settings.squared else settings.m) or 1.0
    for factor in (0.75, 1.25):
        reason = f"positive on the anchor, negative at {factor:g} of the margin from it"
        edge = (a, a + 0.0, a + factor * m * direction)
        yield Draft("boundary", f"edge-{factor:g}", ("coinciding",), reason, edge)
    reason = "the positive is the anchor: its distance is 0"
    yield Draft("hard", "on-positive", ("coinciding",), reason, (a, a + 0.0, a + rows(0.5) * m))
    reason = "the negative is the anchor: its distance is 0"
    yield Draft("hard", "on-negative", ("coinciding",), reason, (a, a + rows(), a + 0.0))
    reason = "anchor, positive and negative are one point"
    yield Draft("hard", "all-one", ("coinciding",), reason, (a, a + 0.0, a + 0.0))
    far = tuple(np.round((part + 100.0) * 64.0) / 64.0 for part in (a, a + rows(0.5), a + rows(0.5)))
    yield Draft("hard", "far", ("offset",), "points 100 from the origin, and 1 apart", far)
