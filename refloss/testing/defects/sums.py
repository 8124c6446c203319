"""Defects of what follows the logits: the softmax, sums over classes, targets, a z-loss, the cap of a loss.

Symbols: those of `loss_rows`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from refloss.error_free import Array
from refloss.testing.defects.emulations import Emulation, Retargeted
from refloss.testing.defects.link_steps import ADDED_TO_PROBABILITIES
from refloss.testing.defects.loss_rows import LossRows, Scores
from refloss.testing.defects.row import Defect
from refloss.testing.defects.settings import is_softmax
from refloss.testing.defects.smoothing import ALL_CLASSES, SMOOTHINGS
from refloss.testing.defects.steps import plain_scores, plain_value, step
from refloss.testing.signatures import Inputs, cross_entropy_of, has_cap, head_of, softcap_of, with_settings

WORLDS = (2, 4, 8, 16, 32, 64)
"""Numbers of shards of the classes."""
MULTIPLES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Numbers to a multiple of which kernels round the number of classes up."""
ADDED_TO_SOFTMAX = (*ADDED_TO_PROBABILITIES, 1e-4, 1e-3, 1e-2)
"""What code adds to the probabilities of a softmax."""
CLAMPS = (1.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 64.0, 80.0, 88.0, 100.0)
"""Sizes at which code clamps logits."""

# ------------------------------------------------------------------------------------------------------------- softcaps


def _is_smoothed(loss: Any) -> bool:
    return is_softmax(loss) and cross_entropy_of(loss).label_smoothing != 0.0


def _is_capped(loss: Any) -> bool:
    return has_cap(loss) and softcap_of(loss).softcap is not None


def _uncapped(loss: Any, inputs: Inputs) -> Scores:
    return cast(Scores, plain_scores(with_settings(loss, softcap=None), inputs))


def _clamped(loss: Any, inputs: Inputs) -> Scores:
    scores = _uncapped(loss, inputs)
    return scores._replace(z=np.clip(scores.z, -loss.softcap, loss.softcap))


def _capped_value(loss: Any, rows: LossRows) -> Array:
    return np.asarray(loss.softcap * np.tanh(plain_value(loss, rows) / loss.softcap))


def _capped_rows(loss: Any, rows: LossRows) -> Array:
    return rows.value(loss.softcap * np.tanh(rows.losses(rows.t) / loss.softcap))


CAPS = (
    *(
        step(name, "the softcap is applied to the loss, not to the logits", _is_capped, _uncapped, total)
        for name, total in (("softcap of the loss", _capped_value), ("softcap of each row's loss", _capped_rows))
    ),
    step(
        "logits clamped, not capped",
        "the logits are clamped to ±{loss.softcap:g}, not capped by a tanh",
        _is_capped,
        _clamped,
    ),
)

# -------------------------------------------------------------------------------------------------------------- softmax


def _twice(loss: Any, rows: LossRows) -> Array:
    return plain_value(loss, rows.of_logits(rows.p))


def _over_samples(loss: Any, rows: LossRows) -> Array:
    return rows.value((rows.t * (rows.of_logits(rows.z.T).lse - rows.z)).sum(axis=1))


def _held(eps: float, loss: Any, rows: LossRows) -> Array:
    return rows.value(np.where(rows.t == 0.0, 0.0, -rows.t * np.log(np.maximum(rows.p, eps))).sum(axis=1))


def _of_short_softmax(loss: Any, rows: LossRows) -> Array:
    """The logarithm of a softmax in float32: of probabilities that vanish it is infinite."""
    p = np.exp(rows.z - rows.lse[:, None]).astype(np.float32).astype(np.float64)
    return rows.value(np.where(rows.t == 0.0, 0.0, -rows.t * np.log(p)).sum(axis=1))


def _by_difference(loss: Any, rows: LossRows) -> Array:
    """Take z_y from the log-sum-exp in float32, where both may be large."""
    gaps = rows.lse.astype(np.float32)[:, None] - rows.z.astype(np.float32)
    return rows.value(np.where(rows.t == 0.0, 0.0, rows.t * gaps.astype(np.float64)).sum(axis=1))


def _less_entropy(loss: Any, rows: LossRows) -> Array:
    entropy = np.where(rows.t == 0.0, 0.0, -rows.t * np.log(np.where(rows.t == 0.0, 1.0, rows.t))).sum(axis=1)
    return rows.value(rows.losses(rows.t) - entropy)


def _clipped(bound: float, loss: Any, inputs: Inputs) -> Scores:
    scores: Scores = plain_scores(loss, inputs)
    return scores._replace(z=np.clip(scores.z, -bound, bound))


def _without_ignored(loss: Any, inputs: Inputs) -> Scores:
    scores: Scores = plain_scores(loss, inputs)
    z = scores.z.copy()
    z[:, cross_entropy_of(loss).ignore_index] = -np.inf
    return scores._replace(z=z)


def _ignores_a_class(loss: Any) -> bool:
    index = cross_entropy_of(loss).ignore_index if is_softmax(loss) else None
    return index is not None and index >= 0


def _with_constant(eps: float, loss: Any, rows: LossRows) -> Array:
    return rows.value(np.where(rows.t == 0.0, 0.0, -rows.t * np.log(rows.p + eps)).sum(axis=1))


SOFTMAX = (
    step(
        "softmax twice",
        "softmax taken twice: of the logits, and of the probabilities again",
        is_softmax,
        total=_twice,
    ),
    step(
        "softmax over samples",
        "softmax over the samples, not over the classes",
        is_softmax,
        total=_over_samples,
    ),
    *(
        step(
            f"{eps:g} added to p",
            f"{eps:g} added to probabilities before their logarithm: take log_softmax",
            is_softmax,
            total=functools.partial(_with_constant, eps),
        )
        for eps in ADDED_TO_SOFTMAX
    ),
    *(
        step(
            f"p at least {eps:g}",
            f"probabilities are held above {eps:g} before their logarithm: take log_softmax",
            is_softmax,
            total=functools.partial(_held, eps),
        )
        for eps in (1e-30, 1e-16, 1e-15, *ADDED_TO_SOFTMAX)
    ),
    step(
        "log of a softmax",
        "the logarithm is taken of a softmax in float32: take log_softmax",
        is_softmax,
        total=_of_short_softmax,
    ),
    step(
        "logsumexp less logit",
        "the loss is logsumexp(z) - z_y in float32, which loses the digits of a small loss of large logits",
        is_softmax,
        total=_by_difference,
    ),
    *(
        step(
            f"logits within {bound:g}",
            f"logits are clamped to ±{bound:g}",
            is_softmax,
            functools.partial(_clipped, bound),
        )
        for bound in CLAMPS
    ),
    step(
        "ignored class left out",
        "the class ignore_index is left out of the softmax: its rows are ignored, its logits count",
        _ignores_a_class,
        _without_ignored,
    ),
    step(
        "KL divergence",
        "the entropy of the smoothed targets is taken off, as in a KL divergence",
        lambda loss: _is_smoothed(loss) and not cross_entropy_of(loss).class_weight,
        total=_less_entropy,
    ),
)

# ---------------------------------------------------------------------------------------------------- sums over classes


def _with_log(log: float, loss: Any, rows: LossRows) -> Array:
    return rows.value(rows.losses(rows.t) + rows.total * log)


def _of_one_copy(world: int, loss: Any, rows: LossRows) -> Array:
    """Return what has the gradients p/world - t: those of one copy of the logits."""
    return rows.value(rows.losses(rows.t) - rows.total * rows.lse * (1.0 - 1.0 / world))


def padded(multiple: int, pad: float, loss: Any, rows: LossRows) -> Array:
    """Return the value with classes up to a multiple of a number, whose logits are `pad`."""
    others = -rows.classes % multiple
    return rows.value(rows.losses(rows.t) + rows.total * np.log1p(others * np.exp(pad - rows.lse)))


def padding(multiple: int, pad: float) -> Defect:
    """Return the row of padded classes."""
    return step(
        f"C padded to {multiple}, logits {pad:g}",
        f"padded classes count in the softmax: C is rounded up to a multiple of {multiple}, with logits of {pad:g}",
        is_softmax,
        total=functools.partial(padded, multiple, pad),
    )


def _of_targets(targets: Callable[[float, Array], Array], loss: Any, rows: LossRows) -> Array:
    return rows.value(rows.losses(rows.v * targets(cross_entropy_of(loss).label_smoothing, rows.label)))


def retargeted(
    name: str, sentence: str, applies: Callable[[Any], bool], remedy: str, targets: Callable[[float, Array], Array]
) -> Defect:
    """Return a row of other targets (N, C), from the smoothing and from rows of 0 and a 1 at the label."""
    changed = step(name, sentence, applies, None, functools.partial(_of_targets, targets), remedy)

    def emulate(loss: Any) -> Any:
        if isinstance(loss, Emulation) or head_of(loss) != "logits" or _weighs_z_loss(loss):
            return changed.emulate(loss)
        return Retargeted(loss, remedy, functools.partial(targets, cross_entropy_of(loss).label_smoothing))

    return changed._replace(emulate=emulate)


CLASSES = (
    *(
        step(
            name,
            f"log {world} is added to every loss: classes that were gathered count {world} times in the sum",
            is_softmax,
            total=functools.partial(_with_log, float(np.log(world))),
            slope=slope,
        )
        for world in WORLDS
        for name, slope in (
            (f"log {world} added", None),
            (f"classes gathered {world} times, gradients of one copy", functools.partial(_of_one_copy, world)),
        )
    ),
    *(padding(multiple, 0.0) for multiple in MULTIPLES),
    *(retargeted(name, sentence, _is_smoothed, ALL_CLASSES, targets) for name, sentence, targets in SMOOTHINGS),
    *(
        retargeted(name, sentence, _is_smoothed, "take eps/C on all", targets)
        for name, sentence, targets in (
            (
                "smoothing eps/(C - 2)",
                "label smoothing of eps/(C - 2) on the other classes",
                lambda eps, label: (1.0 - eps) * label + eps / max(label.shape[1] - 2, 1) * (1.0 - label),
            ),
            (
                "smoothing eps/C on the others",
                "label smoothing of eps/C on the other classes alone",
                lambda eps, label: (1.0 - eps) * label + eps / label.shape[1] * (1.0 - label),
            ),
            (
                "smoothing beside a whole target",
                "label smoothing of eps/C beside a target that keeps its 1",
                lambda eps, label: label + eps / label.shape[1],
            ),
            (
                "smoothing of the target alone",
                "label smoothing of the target alone, 1 - eps, and 0 on the other classes",
                lambda eps, label: (1.0 - eps) * label,
            ),
        )
    ),
)

# --------------------------------------------------------------------------------------------------------------- z-loss


def _with_z_loss(weighted: bool, loss: Any, rows: LossRows) -> Array:
    weights = rows.label @ rows.v if weighted else 1.0
    return np.asarray(rows.reduced(rows.losses(rows.t)) + rows.reduced(weights * rows.z_loss * rows.lse**2))


def added_z_loss(lam: float, loss: Any, rows: LossRows) -> Array:
    """Return the value with another factor of the z-loss."""
    return plain_value(loss, rows._replace(z_loss=lam))


def z_loss(lam: float, sentence: str) -> Defect:
    """Return the row of another factor of the z-loss."""
    return step(f"z-loss {lam:g}", sentence, is_softmax, total=functools.partial(added_z_loss, lam))


def _weighs_z_loss(loss: Any) -> bool:
    settings = cross_entropy_of(loss) if is_softmax(loss) else None
    return settings is not None and settings.z_loss != 0.0 and bool(settings.class_weight)


Z_LOSSES = (
    step(
        "z-loss weighted",
        "class weights multiply the z-loss too",
        _weighs_z_loss,
        total=functools.partial(_with_z_loss, True),
    ),
    step(
        "z-loss over weights",
        "the z-loss is divided by the sum of class weights, not by the number of rows",
        _weighs_z_loss,
        total=functools.partial(_with_z_loss, False),
    ),
)
STEPS = (*CAPS, *SOFTMAX, *CLASSES, *Z_LOSSES)
