r"""Fused: the chain's losses at real sizes: a few matrix products, and one sweep over what they give.

    for every block of classes   g = x W_kᵀ ──► exponentials, in place ──► online-softmax state; all are merged
    for every sample             the state and the target ──► the loss, dL/dz of the target, dL/dx
    for every block of classes   dL/dW_k = eᵀ (f x) ──► projected

Here e are exponentials relative to the maximum of their row, and f one factor per row that makes probabilities of them.
Rows are multiplied as they come, and the factors that make them unit vectors are folded into the sweep. The target is
left out of it: it goes through the chain's own stages, in float64, one number per sample.

The way of an embedding x_n to dL/dx_n, in groups of samples: `samples` scales it by a power of two if its length is
extreme, and keeps ‖x_n‖ as a factor; `blocks` multiplies it with the classes of a block and adds up e_nk ŵ_k, which
`online_softmax` merges over blocks; `target` takes it through its angle to its own class; `Samples.dx` weights the sum,
subtracts the part of smoothed targets and the part along x_n, adds the gradient of ‖x_n‖ where that is the scale,
divides by ‖x_n‖, adds the target's part and scales back. Before, `counting` leaves out ignored samples, and afterwards
puts 0 in their place. Margins by the length of x_n are the target's part. Where classes count more above a threshold,
`target` comes first, and `hard_classes` says of each block which of them do. Of classes with several centers, rows of
W side by side, `centers` leaves the nearest one in a block; the others are as if their logits were -inf.

- `heads`: the passes for embeddings and class weights, in order; `logits`: the one pass for logits.
- `online_softmax`: what a block contributes, how two contributions become one, and what they make with the target.
- `sweep`: the passes over blocks, shared out among threads; `blocks`: how classes are cut and read.
- `samples`, `target`, `smoothed_targets`: embeddings and dL/dx; the target logit; the targets of label smoothing.
- `hard_classes`: classes that count more, decided exactly; `centers`: the nearest center of a class, likewise.
- `row_scaling`, `products`, `reduction`, `headroom`: numbers near the ends of the range; sums of any length; from rows
  to the loss and back; what has no room, and is left to the chain.
"""

from __future__ import annotations

import numpy as np

from refloss import inputs
from refloss.engines import chain, contract
from refloss.engines.fused import heads, logits
from refloss.engines.fused.headroom import TooLargeError
from refloss.engines.protocol import IN_FLOAT64, Request, ValueAndGradients
from refloss.engines.spec import UPSTREAM_LSE, Arrays, Linear, Logits, Margin, Spec, centers_of
from refloss.error_free import Array


def value(spec: Spec, arrays: Arrays, request: Request = IN_FLOAT64) -> Array:
    """Return the loss."""
    return _in_dtype(spec, arrays, None, request)[0]


def value_and_grad(spec: Spec, arrays: Arrays, upstream: Array, request: Request = IN_FLOAT64) -> ValueAndGradients:
    """Return the loss and its gradients by the name of the input; those that are wanted."""
    return _in_dtype(spec, arrays, upstream, request)


def _in_dtype(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> ValueAndGradients:
    """Return the loss and the gradients in the dtype; what does not fit the sweep is computed by the chain."""
    try:
        with np.errstate(all="ignore"):
            loss, gradients = _fused(spec, arrays, upstream, request)
    except TooLargeError:
        with np.errstate(over="ignore"):
            loss, gradients = _by_chain(spec, arrays, upstream, request)
    with np.errstate(over="ignore"):
        return loss.astype(request.dtype), gradients


def _fused(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> ValueAndGradients:
    """Compute by the kind of loss; what ends in no softmax of rows alone is left to the chain."""
    match spec:
        case Logits():
            return logits.value_and_grad(spec, arrays, upstream, request)
        case Linear() | Margin() if not _fits_sweep(spec, arrays):
            return _by_chain(spec, arrays, upstream, request)
        case Linear() | Margin():
            return heads.value_and_grad(spec, arrays, upstream, request)
        case _:  # Sigmoid, TwoWay, Triplet, Divergence
            return _by_chain(spec, arrays, upstream, request)


def _fits_sweep(spec: Linear | Margin, arrays: Arrays) -> bool:
    """Whether one number per sample is enough beside the blocks of classes.

    It is not for probabilities in place of labels, for smoothed targets behind a cap, of hard classes, whose slopes
    differ from sample to sample, or of centers, of which another may stand for a class in every sample, where the
    length of the embedding scales hard classes, whose logits are not the sum that the gradient of x has along x, where
    the log-sum-exp has an upstream gradient, and where the cosines of classes change by their angle or are squared,
    hard or not.
    """
    smoothed = spec.cross_entropy.label_smoothing != 0.0
    if isinstance(spec, Margin):
        if spec.centers is not None and spec.centers > 1:
            return not smoothed
        if spec.class_angles is not None or (spec.negatives is not None and spec.negatives.rule == "circle"):
            return False
        return spec.negatives is None or (spec.scale is not None and not smoothed)
    return arrays["y"].ndim == 1 and UPSTREAM_LSE not in arrays and not (smoothed and spec.softcap.softcap is not None)


def _by_chain(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> ValueAndGradients:
    """Compute by the chain, in float64; warn where its result may be wrong altogether."""
    exact = inputs.as_float64(arrays, directions=spec.directions, centers=centers_of(spec))
    contract.warn_if_unreliable("chain", spec, exact)
    if upstream is None:
        return chain.value(spec, exact), {}
    loss, gradients = chain.value_and_grad(spec, exact, upstream)
    return loss, {name: gradients[name].astype(request.dtype) for name in request.wanted(tuple(gradients))}
