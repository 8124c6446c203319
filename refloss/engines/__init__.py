"""How: every engine takes the same specification of a loss and offers the same calls.

An engine reads the `Spec` and never a loss's name. It offers ``value(spec, arrays)`` and ``value_and_grad(spec, arrays,
upstream)``, with arrays already looked over by `refloss.inputs`; the chain also ``trace(spec, arrays, upstream)``. Only
`fused` takes a `Request` besides, and large arrays as they come: it looks at them and converts them a block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.stages import cross_entropy, margin, triplet

Arrays: TypeAlias = dict[str, Any]


class Spec(NamedTuple):
    """What an engine needs to know of a loss."""

    head: str
    """What the loss begins with: "logits", "linear", "margin" or "triplet"."""
    margin: margin.Settings = margin.Settings()
    """m1, m2, m3, rule, annealing and gradient convention, for a margin head."""
    scale: float | None = None
    """The scale of a margin head; None for the length of the embedding."""
    cross_entropy: cross_entropy.Settings = cross_entropy.Settings()
    """Reduction, label smoothing, class weights and the ignored label."""
    triplet: triplet.Settings = triplet.Settings()
    """Margin, distance and reduction of the triplet loss."""


class Request(NamedTuple):
    """How it is to be computed, and what of it is wanted; only the engine `fused` can do less for less."""

    dtype: Any = np.float64
    """In which dtype."""
    wrt: tuple[str, ...] | None = None
    """Inputs whose gradients are wanted; None for all."""
    out: Mapping[str, Any] = {}
    """Arrays that take gradients, by the name of the input."""

    def wanted(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of the names whose gradients are wanted."""
        return tuple(name for name in names if self.wrt is None or name in self.wrt)

    def into(self, name: str, shape: tuple[int, ...]) -> Any:
        """Return the array that takes a gradient."""
        return self.out[name] if name in self.out else np.empty(shape, self.dtype)


def without_ignored(
    spec: Spec, arrays: Arrays, upstream: Array | None
) -> tuple[Arrays, Array | None, Callable[[str, Array], Array]]:
    """Leave out the rows that are ignored: inputs, upstream gradient, and what puts results by name back into place."""
    kept = cross_entropy.kept(arrays["y"], spec.cross_entropy) if "y" in arrays else np.ones(1, np.bool_)
    if kept.all():
        return arrays, upstream, lambda name, part: part
    some = {name: array[kept] if name in ("x", "y", "z") else array for name, array in arrays.items()}

    def restored(name: str, part: Array) -> Array:
        if name in ("normalize_w", "w", "b") or part.ndim == 0:  # these have no row a sample
            return part
        whole = np.zeros((len(kept), *part.shape[1:]), part.dtype)
        whole[kept] = part
        return whole

    return some, upstream[kept] if upstream is not None and upstream.ndim else upstream, restored


def over_zero(spec: Spec, value_of: Callable[[Spec], Array]) -> Array:
    r"""Return the "mean" where the weights of the labels add up to 0: infinite or NaN, as PyTorch has it.

    $$\frac{L^{(0)}}{0} \text{ for } \varepsilon = 0, \qquad
    (1-\varepsilon)\,\frac{L^{(0)}}{0} + \varepsilon\,\frac{L^{(1)}}{0} \text{ otherwise}$$

    with the sums $L^{(0)}$ without label smoothing and $L^{(1)}$ with smoothing 1, by value_of.
    """
    settings = spec.cross_entropy
    smoothing = settings.label_smoothing
    sums = [settings._replace(reduction="sum", label_smoothing=each) for each in ((0.0, 1.0) if smoothing else (0.0,))]
    with np.errstate(divide="ignore", invalid="ignore"):
        labels, *shared = (value_of(spec._replace(cross_entropy=each)) / np.float64(0.0) for each in sums)
        return np.asarray((1.0 - smoothing) * labels + smoothing * shared[0] if shared else labels)
