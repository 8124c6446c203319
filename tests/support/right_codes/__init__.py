"""Implementations that are right: every formula that the page on budgets calls right, at the standard it is right at.

Each code is written as other projects write it: in NumPy with its own gradients, in torch and jax as formulas that the
framework differentiates. None of them calls refloss. `right_codes` yields those of a dtype; `check` has to pass every
one of them at its standard. Symbols: logits z, embeddings x, class weights w, labels y, targets t, probabilities p,
g = dL/dz; half precision accumulates in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

from support.right_codes.code import DTYPES, WEIGHTS, Right
from support.right_codes.families import FAMILIES
from support.right_codes.jax_codes import jax_head, jax_linear, jax_logits, jax_triplet
from support.right_codes.numpy_codes import (
    blocked,
    max_first,
    numpy_head,
    numpy_linear,
    numpy_logits,
    numpy_triplet,
    pairwise,
    sequential,
)
from support.right_codes.torch_codes import (
    torch_cross_entropy,
    torch_head,
    torch_linear,
    torch_psi,
    torch_settings,
    torch_triplet,
)

__all__ = [
    "DTYPES",
    "WEIGHTS",
    "Right",
    "blocked",
    "jax_head",
    "jax_linear",
    "jax_logits",
    "jax_triplet",
    "max_first",
    "numpy_head",
    "numpy_linear",
    "numpy_logits",
    "numpy_triplet",
    "pairwise",
    "right_codes",
    "sequential",
    "torch_cross_entropy",
    "torch_head",
    "torch_linear",
    "torch_psi",
    "torch_settings",
    "torch_triplet",
]


def right_codes(dtype: str) -> Iterator[Right]:
    """Yield every implementation that is right in a dtype."""
    for family in FAMILIES:
        for code in family(dtype):
            if dtype in code.dtypes:
                yield code
