"""Implementations that are wrong, each in one way: those of public reports, planted ones, and kinds of our own.

`wrong_codes` yields them with the dtypes in which they are wrong. `check` must pass none of them. Where only a stricter
standard can show a defect, the settings name that standard. Most are a right implementation with one thing changed: its
results, a setting of its loss, or a line of its formula. Symbols as in `right_codes`.
"""

from __future__ import annotations

from collections.abc import Iterator

from support.wrong_codes.code import Wrong
from support.wrong_codes.curve_codes import curves
from support.wrong_codes.divergence_codes import divergences
from support.wrong_codes.head_codes import heads
from support.wrong_codes.indexing import indices, writing
from support.wrong_codes.language_models import Named, language_models, named_codes
from support.wrong_codes.link_codes import links
from support.wrong_codes.option_codes import options
from support.wrong_codes.precision import arithmetic
from support.wrong_codes.reductions import means
from support.wrong_codes.sample_codes import samples
from support.wrong_codes.softmaxes import logarithms
from support.wrong_codes.triplet_codes import triplets
from support.wrong_codes.zeros import structural_zeros

__all__ = ["Named", "Wrong", "named_codes", "wrong_codes"]

FAMILIES = (
    structural_zeros,
    indices,
    writing,
    logarithms,
    arithmetic,
    means,
    heads,
    triplets,
    divergences,
    language_models,
    options,
    samples,
    curves,
    links,
)


def wrong_codes() -> Iterator[Wrong]:
    """Yield every implementation that is wrong."""
    for family in FAMILIES:
        for name, framework, fn, loss, dtypes, *settings in family():
            yield Wrong(name, framework, fn, loss, dtypes, settings[0] if settings else {})
