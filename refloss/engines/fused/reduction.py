"""Reduction: from the losses of rows to the loss, and from the upstream gradient to one weight per row."""

from __future__ import annotations

import numpy as np

from refloss.engines.fused.headroom import DType, TooLargeError
from refloss.engines.fused.row_scaling import ScaledNumbers, add_exponents
from refloss.error_free import Array
from refloss.stages import cross_entropy


def reduced(losses: Array, reduction: str, divisor: Array) -> Array:
    """Reduce losses; refuse a sum that overflows though the losses do not."""
    loss = np.asarray(cross_entropy.reduce(losses, reduction, divisor))
    if not np.isfinite(loss).all() and np.isfinite(losses).all() and len(losses):
        raise TooLargeError
    return loss


def with_row_terms(loss: Array, row_terms: Array | None, reduction: str) -> Array:
    """Add row terms to a loss that is reduced already; refuse a sum that overflows though the terms do not."""
    if row_terms is None:
        return loss
    terms = reduced(row_terms, reduction, np.asarray(float(len(row_terms)) or np.nan))
    return np.asarray(loss + terms)


def row_weights(upstream: Array, reduction: str, divisor: Array, rows: int, dtype: DType) -> ScaledNumbers:
    """Return dL/dL_n of every row (N,): the upstream gradient, by the reduction."""
    scaled = ScaledNumbers.of(upstream, dtype)
    weights = ScaledNumbers.of(cross_entropy.row_weights(scaled.mantissa, reduction, divisor, rows), dtype)
    exponent = add_exponents(weights.exponent, scaled.exponent)
    return ScaledNumbers(weights.mantissa, None if exponent is None else np.broadcast_to(exponent, rows))
