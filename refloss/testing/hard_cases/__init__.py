"""Named inputs on which implementations differ, exact in the dtype they are for.

Groups: `ordinary`, inputs like those of training; `boundary`, every boundary of the loss, on it and on both sides,
labels that are ignored, classes that are masked, ties; `hard`, angles next to 0 and π, confident and wrong targets,
logits far apart or far from 0, points and classes that coincide; `range`, lengths that overflow when they are squared,
rows of zeros, and inputs that a convention may refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.formats import dtype_name, rounded
from refloss.messages import shown
from refloss.testing.hard_cases.case import GROUPS, SHAPES, VERDICT, Case, Draft, Setting, Shape
from refloss.testing.hard_cases.directions import direction_cases
from refloss.testing.hard_cases.divergences import divergence_cases
from refloss.testing.hard_cases.labels import can_ignore, counts_nothing, label_source, weights_cancel
from refloss.testing.hard_cases.links import link_cases
from refloss.testing.hard_cases.logits import logit_cases
from refloss.testing.hard_cases.triplets import triplet_cases
from refloss.testing.options import as_flag, as_seed, is_shape
from refloss.testing.signatures import Loss, as_loss, class_weight_of, head_of, labels_of

__all__ = ["GROUPS", "SHAPES", "VERDICT", "Case", "Shape", "cases", "counts_nothing", "sizes", "weights_cancel"]

ACCEPTED = {
    "ignored": ("truth", "refusal"),
    "zero vector": ("refusal", "finite"),
    "negative": ("truth", "refusal"),
}
"""Accepted results of cases with a flag, where there is more than one convention."""


def cases(
    loss: Any,
    dtype: Any = "float32",
    shapes: Any = None,
    seed: int = 0,
    *,
    bias: bool = False,
    soft: bool = False,
    ignored: bool = True,
    margins: bool = False,
) -> list[Case]:
    """Return the cases of a loss.

    Parameters
    ----------
    loss
        Any loss of refloss, or its class for the default settings.
    dtype
        "float16", "bfloat16", "float32" or "float64", or such a dtype of NumPy or a framework, which holds every
        number of the cases.
    shapes
        (N, C, D) of the cases, one or several, for kernels that need D % 16 == 0 or a certain C. `SHAPES` if left out,
        with as many classes as the loss has class weights.
    seed
        Seed of the random numbers.
    bias
        Whether a linear head has cases with a bias, and all cases of SphereFace2 and UniFace have one.
    soft
        Whether probabilities for labels are in the group "boundary". Otherwise they are in "range", since code that
        takes labels only may do anything there.
    ignored
        Whether there are cases with ignored labels.
    margins
        Whether a loss that can be given margins, one per sample, has cases with them.

    Returns
    -------
    list of Case
        With distinct ids.

    Raises
    ------
    ValueError, TypeError
        For an invalid argument, naming it.
    """
    loss, dtype, seed = as_loss(loss), dtype_name(dtype), as_seed("seed", seed)
    given = (("bias", bias), ("soft", soft), ("ignored", ignored), ("margins", margins))
    bias, soft, ignored, margins = (as_flag(name, value) for name, value in given)
    selected = []
    for size in sizes(loss, shapes):
        for draft in _drafts(loss, dtype, size, seed, bias):
            flags = set(draft.flags)
            place = labels_of(loss)
            if place is not None and weights_cancel(loss, draft.inputs[place]):
                continue
            if "soft" in flags and not soft and head_of(loss) == "linear":
                continue  # few heads take them, and then they say so
            if ("bias" in flags and not bias) or ("margins" in flags and not margins):
                continue
            if "ignored" in flags and not (ignored and can_ignore(loss)):
                continue
            group = "range" if "soft" in flags and not soft else draft.group
            exact = tuple(_rounded(entry, dtype, i == place) for i, entry in enumerate(draft.inputs))
            accepts = next((ACCEPTED[flag] for flag in ACCEPTED if flag in flags), ("truth",))
            accepts = ("truth", "refusal") if "soft" in flags and not soft else accepts
            name = f"{group}-{draft.name}-{'x'.join(map(str, size))}"
            selected.append(Case(name, group, draft.flags, draft.reason, exact, accepts))
    return selected


def sizes(loss: Loss, shapes: Any) -> list[Shape]:
    """Return the shapes of cases, from one, several or None for the defaults."""
    weights = class_weight_of(loss)
    if shapes is None:
        counts = [c if weights is None else len(weights) for _, c, _ in SHAPES]
        return list(dict.fromkeys(shape._replace(c=c) for shape, c in zip(SHAPES, counts, strict=True)))
    several = [shapes] if is_shape(shapes) else shapes.tolist() if isinstance(shapes, np.ndarray) else shapes
    valid = isinstance(several, Sequence) and all(map(is_shape, several))
    if not valid or not several:
        raise ValueError(f"shapes: expected (N, C, D), three positive integers, or a list of such; got {shown(shapes)}")
    chosen = [Shape(*map(int, shape)) for shape in several]
    for shape in chosen:
        if weights is not None and shape.c != len(weights):
            raise ValueError(f"shapes: expected C={len(weights)}, as many as class weights; got {tuple(shape)}")
    return list(dict.fromkeys(chosen))


def _drafts(loss: Loss, dtype: str, size: Shape, seed: int, bias: bool) -> Iterator[Draft]:
    setting = Setting(loss, dtype, size, np.random.default_rng(seed), label_source(size.n, size.c), bias)
    heads = {
        "logits": logit_cases,
        "linear": direction_cases,
        "margin": direction_cases,
        "sigmoid": link_cases,
        "two_way": link_cases,
        "triplet": triplet_cases,
        "divergence": divergence_cases,
    }
    return heads[head_of(loss)](setting)


def _rounded(entry: NDArray[Any], dtype: str, label: bool = False) -> NDArray[Any]:
    """Round numbers to the dtype; labels are not rounded."""
    return entry if label or entry.dtype.kind == "i" else rounded(entry, dtype)
