r"""Logits: where the branches meet. The scale on every cosine, ψ in the target's place.

Symbols: cosines c (N, C); ψ (N,); labels y (N,); scale s, one number, or one per row where it is the length of the
embedding; logits z (N, C).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Exponents, Integers, Numbers, Pair, StageResult, dot, ldexp, scale_rows, shift


class Saved(NamedTuple):
    """What backward needs."""

    scale: Numbers
    """s (N,)."""
    f: Pair
    """c with ψ in the target's place (N, C)."""
    y: Integers
    """Labels (N,)."""


def scale_of(s: float | None, length: Pair, exponent: Exponents, kind: type[Pair] = Pair) -> tuple[Pair, Exponents]:
    """Return the scale of every row as ``scale * 2**exponent`` (N,): s, or if that is None the length of its row."""
    if s is None:
        return length, exponent
    mantissa, exponent_s = np.frexp(np.full(len(exponent), s))
    return kind.of(mantissa), exponent_s


def forward(c: Pair, psi: Pair, y: Integers, scale: Pair, exponent: Exponents) -> tuple[Pair, Saved]:
    r"""Scale the cosines, the target's replaced by ψ.

    $$z_{nk} = s_n f_{nk}, \qquad f_{nk} = \begin{cases}\psi_n & k = y_n\\ c_{nk} & k \ne y_n\end{cases}$$

    Parameters
    ----------
    c, psi, y
        Cosines (N, C), the target's ψ (N,), labels (N,).
    scale, exponent
        The scale of each row as ``scale * 2**exponent`` (N,): a length of 1e200 must not overflow on the way.

    Returns
    -------
    Pair
        Logits (N, C).
    Saved
        What `backward` needs.
    """
    rows = np.arange(len(y))
    f = c.copy()
    f[rows, y] = psi
    z = ldexp(f * scale[:, None], exponent[:, None])
    return z, Saved(shift(scale.rounded(), exponent), f, y)


def backward(upstream: Numbers, saved: Saved) -> tuple[StageResult, StageResult, StageResult]:
    r"""Split the gradient of the logits between the two branches and the scale.

    $$\frac{\partial L}{\partial c_{nk}} = [k \ne y_n]\,s_n\frac{\partial L}{\partial z_{nk}}, \qquad
    \frac{\partial L}{\partial\psi_n} = s_n\frac{\partial L}{\partial z_{ny_n}}, \qquad
    \frac{\partial L}{\partial s_n} = \sum_k \frac{\partial L}{\partial z_{nk}}\,f_{nk}$$

    Parameters
    ----------
    upstream
        dL/dz (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    tuple of Numbers
        dL/dc (N, C), 0 at the targets; dL/dψ (N,); dL/ds (N,).
    """
    rows = np.arange(len(saved.y))
    cosines = upstream * saved.scale[:, None]
    psi = cosines[rows, saved.y]
    cosines[rows, saved.y] = 0.0
    scaled, exponent = scale_rows(upstream)
    return cosines, psi, shift(dot(scaled, saved.f).rounded(), exponent)
