"""The table of defects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from refloss.testing.defects import (
    centers,
    class_curves,
    gradients,
    head_steps,
    inputs,
    links,
    roundings,
    settings,
    sums,
    triplets,
    variants,
)
from refloss.testing.defects.emulations import Emulation
from refloss.testing.defects.link_steps import steps_of
from refloss.testing.defects.row import KINDS, Defect, listed
from refloss.testing.defects.steps import OfValue
from refloss.testing.signatures import as_loss

LINK_STEPS = listed(steps_of, links.LOSSES, "step", lambda loss, value: OfValue(loss, "", value))
"""Steps of losses that end in another way on scaled cosines."""
TABLE: tuple[Defect, ...] = (
    *settings.REDUCTIONS,
    *settings.GRADIENTS,
    *settings.RULES,
    *settings.MARGINS,
    *variants.LENGTHS,
    *variants.HARD_CLASSES,
    *class_curves.SPHERE_FACE_R,
    *class_curves.CIRCLE,
    *class_curves.INTER_TOP_K,
    *links.ROWS,
    *settings.FAMILY,
    *settings.FORMS,
    *triplets.SETTINGS,
    *settings.CAPS,
    *settings.TARGETS,
    *settings.MEANS,
    *settings.FACTORS,
    *head_steps.UPDATES,
    *inputs.PAIRS,
    *inputs.LABELS,
    *inputs.OTHER_ROWS,
    *head_steps.MARGINS,
    *centers.LAYOUTS,
    *settings.DIVERGENCES,
    *triplets.EXCHANGED,
    *triplets.STEPS,
    *LINK_STEPS,
    *sums.CAPS,
    *sums.SOFTMAX,
    *head_steps.LENGTHS,
    *head_steps.HARD_CLASSES,
    *centers.STEPS,
    *class_curves.STEPS,
    *head_steps.NORMALIZATION,
    *head_steps.GEOMETRY,
    *sums.CLASSES,
    *sums.Z_LOSSES,
    *gradients.CENTERS,
    *gradients.UPSTREAMS,
    *gradients.SLOPES,
    *gradients.FACTORS,
    *gradients.DIRECTIONS,
    *gradients.MISSING,
    *gradients.MAXIMUM,
    *gradients.ROUNDED,
    *roundings.FACTORS,
    *roundings.SUMS,
    *roundings.RESULTS,
)
"""All rows; of those that explain the same, the first is named."""


def defects(loss: Any = None) -> tuple[Defect, ...]:
    """Return the rows of the table.

    Parameters
    ----------
    loss
        The loss that the rows have to apply to; all rows if left out.

    Returns
    -------
    tuple of Defect
        Each with its ``name``, its ``sentence``, and ``applies``, a function of a loss.

    Examples
    --------
    >>> import refloss
    >>> from refloss.testing.defects import defects
    >>> [row.name for row in defects(refloss.Triplet()) if row.kind == "setting"]
    ['reduction=sum']
    """
    if loss is None:
        return TABLE
    own = as_loss(loss)
    return tuple(row for row in TABLE if row.of(own) is not None)


def combined(loss: Any, rows: Iterable[Defect]) -> Any | None:
    """Return a loss with several defects; None where it cannot have them together."""
    rows = list(rows)
    last = [isinstance(row.of(loss), Emulation) for row in rows]  # of settings, those that are a loss of refloss first
    order = sorted(range(len(rows)), key=lambda place: (KINDS.index(rows[place].kind), last[place]))
    for place in order:
        loss = None if loss is None else rows[place].of(loss)
    return loss
