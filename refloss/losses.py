r"""What: the losses, as frozen settings. No arithmetic happens here.

A loss is made once and then called: it checks its settings when made, its inputs when called, hands a `Spec` to an
engine and gives back what the engine found. Symbols: embeddings x (N, D), class weights w (C, D), labels y (N,), bias b
(C,), logits z (..., C), scale s, margins m in radians where they are angles.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cache, partial
from importlib import import_module
from inspect import signature
from typing import Any, ClassVar, NamedTuple, TypeAlias
from warnings import warn

import numpy as np

from refloss import inputs
from refloss.engines import Request, Spec, chain, contract, over_zero
from refloss.engines.chain import Step
from refloss.engines.threads import Lock
from refloss.error_free import Array, Pair, digits, plain
from refloss.formats import FORMATS
from refloss.messages import shown
from refloss.stages import angle, cross_entropy, margin, triplet
from refloss.stages import log_softmax as log_softmax_stage
from refloss.stages import softmax as softmax_stage

Arrays: TypeAlias = dict[str, Any]
Value: TypeAlias = np.float64 | Array

ENGINES = ("auto", "chain", "fused", "dd", "certified")  # each loaded when first asked for
DTYPES = {"auto": (np.float64, np.float32), "fused": (np.float64, np.float32)}
"""What an engine computes in, where that is not float64 alone."""
LARGE = {"logits": 2**16, "linear": 2**22, "margin": 2**22}
"""Entries of z, or multiplications of a matrix product, from which on the engine "auto" is "fused"."""


class LogitGradient(NamedTuple):
    """Gradient of a loss on logits."""

    z: Array
    """dL/dz (..., C)."""


class HeadGradient(NamedTuple):
    """Gradient of a margin loss."""

    x: Array
    """dL/dx (N, D)."""
    w: Array
    """dL/dw (C, D)."""


class LinearGradient(NamedTuple):
    """Gradient of the softmax loss."""

    x: Array
    """dL/dx (N, D)."""
    w: Array
    """dL/dw (C, D)."""
    b: Array | None
    """dL/db (C,), or None where there was no bias."""


class TripletGradient(NamedTuple):
    """Gradient of the triplet loss."""

    anchor: Array
    """dL/da (N, D)."""
    positive: Array
    """dL/dp (N, D)."""
    negative: Array
    """dL/dn (N, D)."""


@dataclass(frozen=True, kw_only=True, repr=False)
class _Loss(ABC):
    """What every loss does: hand its specification and checked arrays to an engine, and shape what comes back."""

    reduction: str = "mean"
    _gradient: ClassVar[Any]
    """The named tuple of its gradients."""
    _shared: ClassVar[frozenset[str]] = frozenset(
        {"reduction", "label_smoothing", "class_weight", "ignore_index", "gradient"}
    )

    def __post_init__(self) -> None:
        inputs.choice("reduction", self.reduction, inputs.REDUCTIONS)

    def __repr__(self) -> str:
        """Show the settings of this loss, and of those that losses share only what was changed."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name not in self._shared or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _keep(self, name: str, value: object) -> None:
        """Store a checked setting, which frozen forbids to everybody else."""
        object.__setattr__(self, name, value)

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """What an engine needs to know of this loss."""

    @abstractmethod
    def _arrays(self, *given: Any) -> tuple[Arrays, tuple[int, ...]]:
        """Return what it is called with as checked arrays by name, and the shape of the samples."""

    def _value(self, arrays: Arrays, shape: tuple[int, ...], engine: str, dtype: Any) -> Value:
        kind = _dtype(engine, dtype)
        module, *given = self._engine(engine, arrays, Request(kind))
        return self._shaped(self._over_zero(module.value(self.spec, *given), module, *given), shape, kind)

    def _value_and_grad(
        self,
        arrays: Arrays,
        shape: tuple[int, ...],
        upstream: Any,
        engine: str,
        dtype: Any,
        wrt: Any,
        out: Any,
        given: dict[str, Any],
    ) -> tuple[Value, dict[str, Any]]:
        kind = _dtype(engine, dtype)
        checked = inputs.upstream_gradient(upstream, self.reduction, shape)
        shapes = {name: array.shape for name, array in arrays.items() if name != "y"}
        whole = {name: (*shape, it[-1]) if name == "z" else it for name, it in shapes.items()}
        wanted = inputs.wanted_inputs(wrt, tuple(shapes))
        given = given | {"upstream": upstream}
        into = inputs.output_arrays(out, whole, kind, tuple(shapes) if wanted is None else wanted, given)
        room = {name: array.reshape(shapes[name]) for name, array in into.items() if array.flags.carray}
        module, some, *request = self._engine(engine, arrays, Request(kind, wanted, room))
        value, found = module.value_and_grad(self.spec, some, checked, *request)
        value = self._over_zero(value, module, some, *request)
        gradients: dict[str, Any] = dict.fromkeys(shapes)
        for name in shapes if wanted is None else wanted:
            gradients[name] = found[name].astype(kind, copy=False).reshape(whole[name])
            if name in into:
                if found[name] is not room.get(name):
                    into[name][...] = gradients[name]
                gradients[name] = into[name]
        return self._shaped(value, shape, kind), gradients

    def _over_zero(self, value: Array, module: Any, arrays: Arrays, *request: Request) -> Array:
        """Return the value, or what it is where the weights of the labels add up to 0 and "mean" divides by that."""
        return value

    def _error_bound(self, given: Any, engine: str, dtype: Any, upstream: Any) -> tuple[Value, Any]:
        """See `error_bound`."""
        arrays, shape = self._arrays(*given)
        kind = _dtype(engine, dtype)
        checked = inputs.upstream_gradient(upstream, self.reduction, shape)
        shapes = {name: array.shape for name, array in arrays.items() if name != "y"}
        name = self._resolved(engine, arrays, kind)
        exact = inputs.as_float64(arrays, directions=self.spec.head == "margin")
        if name == "certified":
            rounded, gradients = import_module("refloss.engines.certified").value_and_grad(self.spec, exact, checked)
            value = _half_an_ulp(rounded)
            gradients = {name: _half_an_ulp(part) for name, part in gradients.items()}
        else:
            bounds = import_module("refloss.engines.bounds")
            value, gradients = bounds.value_and_grad(self.spec, exact, checked, name, kind)
        found: dict[str, Any] = dict.fromkeys(self._gradient._fields)
        for name, part in gradients.items():
            found[name] = part.reshape(*shape, -1) if name == "z" else part.reshape(shapes[name])
        return self._shaped(value, shape, np.dtype(np.float64)), self._gradient(**found)

    def _resolved(self, name: str, arrays: Arrays, dtype: np.dtype[Any]) -> str:
        """Return the engine that "auto" stands for, and the chain where "fused" cannot be had."""
        if name == "auto":
            head = self.spec.head
            size = arrays["z"].size if head == "logits" else arrays["x"].size * len(arrays["w"]) if "w" in arrays else 0
            large = size >= LARGE.get(head, np.inf) or dtype != np.float64
            name = "fused" if large else "chain"
        return "chain" if name == "fused" and not _fused_works() else name

    def _engine(self, engine: str, arrays: Arrays, request: Request) -> tuple[Any, ...]:
        """Return the module of an engine, and what it is called with."""
        name = self._resolved(engine, arrays, request.dtype)
        module = _module(name)
        if name == "fused":  # it looks at what it is given as it goes
            return module, arrays, request
        exact = inputs.as_float64(arrays, directions=self.spec.head == "margin")
        if name != "certified":
            contract.look(name, self.spec, exact)
        return module, exact

    def _trace(self, arrays: Arrays, shape: tuple[int, ...], upstream: Any) -> dict[str, Step]:
        exact = inputs.as_float64(arrays, directions=self.spec.head == "margin")
        contract.look("chain", self.spec, exact)
        steps = chain.trace(self.spec, exact, inputs.upstream_gradient(upstream, self.reduction, shape))
        last = next(reversed(steps))
        steps[last] = steps[last]._replace(output=self._over_zero(steps[last].output, chain, exact))
        return steps

    def _shaped(self, value: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Value:
        rounded = value.astype(dtype, copy=False)
        return rounded.reshape(shape) if self.reduction == "none" else dtype.type(rounded)


@dataclass(frozen=True, kw_only=True, repr=False)
class _WithLabels(_Loss):
    """What every loss that ends in cross entropy shares."""

    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    ignore_index: int | None = -100

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("label_smoothing", inputs.number("label_smoothing", self.label_smoothing, 0.0, 1.0))
        self._keep("class_weight", inputs.class_weights(self.class_weight))
        if self.ignore_index is not None:
            self._keep("ignore_index", inputs.integer("ignore_index", self.ignore_index))

    @property
    def _settings(self) -> cross_entropy.Settings:
        return cross_entropy.Settings(self.reduction, self.label_smoothing, self.class_weight, self.ignore_index)

    def _over_zero(self, value: Array, module: Any, arrays: Arrays, *request: Request) -> Array:
        y = arrays["y"]
        if self.reduction != "mean" or self.class_weight is None or y.ndim == 2 or not np.isnan(value):
            return value
        kept = y[cross_entropy.kept(y, self._settings)]
        if not np.isnan(digits(cross_entropy.weights(kept, len(self.class_weight), self._settings).divisor)):
            return value
        return over_zero(self.spec, lambda spec: module.value(spec, arrays, *request))


@dataclass(frozen=True, kw_only=True, repr=False)
class CrossEntropy(_WithLabels):
    r"""Cross entropy of softmax on given logits.

    $$L_n = -\sum_k t_{nk}\log p_{nk}, \qquad p_n = \operatorname{softmax}(z_n)$$

    with targets t from labels or probabilities y, class weights v and smoothing ε: $t_{nk} = (1-\varepsilon)\,v_k\,[k =
    y_n] + \varepsilon v_k / C$, or $v_k ((1-\varepsilon)\,y_{nk} + \varepsilon / C)$. Probabilities need not add up to
    1, and they and weights may be negative. What targets of both signs add up to may cancel: accuracy is then relative
    to the magnitudes of its terms, see `error_bound`.

    Settings mean what they mean in ``torch.nn.CrossEntropyLoss``, where class_weight is called weight. Classes are the
    last axis of z, not the second: from (N, C, d) come by ``numpy.moveaxis(z, 1, -1)``. Relative accuracy holds for
    confident targets: a loss of 1e-300 is 1e-300. Logits may be -inf, a masked class; NaN and +inf give NaN, whatever
    their row weighs, unless it is ignored.

    Parameters
    ----------
    reduction
        "mean" (divided by the sum of the weights of the labels that count, by the number of rows for probabilities),
        "sum" or "none". Where weights of both signs add up to 0, that is what it divides by, as PyTorch does: the value
        is infinite or NaN, the gradient NaN.
    label_smoothing
        ε in [0, 1].
    class_weight
        v: one weight a class, any finite numbers.
    ignore_index
        Rows with this label count nothing; their logits are not looked at. All rows ignored: the "mean" is NaN, the
        gradient 0. Probabilities know no ignored rows. None: no label is ignored.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    _gradient = LogitGradient

    @property
    def spec(self) -> Spec:
        """What an engine needs to know of this loss."""
        return Spec("logits", cross_entropy=self._settings)

    def __call__(self, z: Any, y: Any, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of logits z (..., C) with labels y (...) or probabilities y (..., C)."""
        return self._value(*self._arrays(z, y), engine, dtype)

    def value_and_grad(
        self,
        z: Any,
        y: Any,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, LogitGradient]:
        """Return the loss and its gradient, a named tuple with the field z.

        upstream is the gradient of what comes after: a number, or (...) for reduction="none"; 1 if left out.

        wrt names the inputs whose gradients are wanted, all if left out; the others are None. out maps such names to
        arrays that take the gradients. dtype is float64, or float32 for engines that can.
        """
        arrays, shape = self._arrays(z, y)
        given = {"z": z, "y": y}
        value, gradients = self._value_and_grad(arrays, shape, upstream, engine, dtype, wrt, out, given)
        return value, LogitGradient(gradients["z"])

    def trace(self, z: Any, y: Any, *, upstream: Any = None) -> dict[str, Step]:
        """Return every stage's output and gradient by stage name, the rows of z flattened; ignored rows hold 0."""
        return self._trace(*self._arrays(z, y), upstream)

    def _arrays(self, z: Any, y: Any) -> tuple[Arrays, tuple[int, ...]]:
        return inputs.logits_and_targets(z, y, self.class_weight, self.ignore_index)


@dataclass(frozen=True, kw_only=True, repr=False)
class SoftmaxLoss(_WithLabels):
    r"""Softmax loss: cross entropy of softmax on the logits of a linear layer.

    $$L_n = -\log\frac{e^{W_{y_n}\cdot x_n + b_{y_n}}}{\sum_k e^{W_k\cdot x_n + b_k}}$$

    Parameters
    ----------
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    _gradient = LinearGradient

    @property
    def spec(self) -> Spec:
        """What an engine needs to know of this loss."""
        return Spec("linear", cross_entropy=self._settings)

    def __call__(self, x: Any, w: Any, y: Any, b: Any = None, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of embeddings x (N, D), class weights w (C, D), labels y (N,) and, if given, bias b (C,)."""
        return self._value(*self._arrays(x, w, y, b), engine, dtype)

    def value_and_grad(
        self,
        x: Any,
        w: Any,
        y: Any,
        b: Any = None,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, LinearGradient]:
        """Return the loss and its gradients, a named tuple with the fields x, w and b (None without a bias).

        upstream is the gradient of what comes after: a number, or (N,) for reduction="none"; 1 if left out.

        wrt names the inputs whose gradients are wanted, all if left out; the others are None. out maps such names to
        arrays that take the gradients. dtype is float64, or float32 for engines that can.
        """
        given = {"x": x, "w": w, "y": y, "b": b}
        value, gradients = self._value_and_grad(*self._arrays(x, w, y, b), upstream, engine, dtype, wrt, out, given)
        return value, LinearGradient(gradients["x"], gradients["w"], gradients.get("b"))

    def trace(self, x: Any, w: Any, y: Any, b: Any = None, *, upstream: Any = None) -> dict[str, Step]:
        """Return every stage's output and gradient by stage name; ignored rows hold 0."""
        return self._trace(*self._arrays(x, w, y, b), upstream)

    def _arrays(self, x: Any, w: Any, y: Any, b: Any = None) -> tuple[Arrays, tuple[int, ...]]:
        arrays = inputs.embeddings_and_classes(x, w, y, b, self.class_weight, self.ignore_index, directions=False)
        return arrays, arrays["y"].shape


@dataclass(frozen=True, kw_only=True, repr=False)
class _MarginLoss(_WithLabels):
    """What every loss on directions shares: the curve of the target's angle, and a scale."""

    _gradient = HeadGradient

    gradient: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        inputs.choice("gradient", self.gradient, inputs.GRADIENTS)

    @property
    def _margin(self) -> margin.Settings:
        """The settings of the curve; losses with a margin say which."""
        return margin.Settings(gradient=self.gradient)

    @property
    def spec(self) -> Spec:
        """What an engine needs to know of this loss."""
        return Spec("margin", self._margin, getattr(self, "s", None), self._settings)

    def target_logit(self, theta: Any) -> Value:
        """Return ψ(θ), which replaces cos θ of the target before the scale, for angles in [0, pi]."""
        return self._of_angle("psi", theta)

    def target_slope(self, theta: Any) -> Value:
        """Return ψ'(θ) per radian, as this loss's gradient convention has it, for angles in [0, pi]."""
        return self._of_angle("slope", theta)

    def _of_angle(self, what: str, theta: Any) -> Value:
        checked = inputs.angles(theta)
        at = margin.turned(angle.of(checked), self._margin)
        found: Array = getattr(margin.curve_of(self._margin), what)(at).hi
        return found if checked.ndim else np.float64(found)

    def __call__(self, x: Any, w: Any, y: Any, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of embeddings x (N, D), class weights w (C, D) and labels y (N,)."""
        return self._value(*self._arrays(x, w, y), engine, dtype)

    def value_and_grad(
        self,
        x: Any,
        w: Any,
        y: Any,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, HeadGradient]:
        """Return the loss and its gradients, a named tuple with the fields x (N, D) and w (C, D).

        upstream is the gradient of what comes after: a number, or (N,) for reduction="none"; 1 if left out.

        wrt names the inputs whose gradients are wanted, all if left out; the others are None. out maps such names to
        arrays that take the gradients. dtype is float64, or float32 for engines that can.
        """
        given = {"x": x, "w": w, "y": y}
        value, gradients = self._value_and_grad(*self._arrays(x, w, y), upstream, engine, dtype, wrt, out, given)
        return value, HeadGradient(gradients["x"], gradients["w"])

    def trace(self, x: Any, w: Any, y: Any, *, upstream: Any = None) -> dict[str, Step]:
        """Return every stage's output and gradient by stage name; ignored rows hold 0."""
        return self._trace(*self._arrays(x, w, y), upstream)

    def _arrays(self, x: Any, w: Any, y: Any) -> tuple[Arrays, tuple[int, ...]]:
        arrays = inputs.embeddings_and_classes(x, w, y, None, self.class_weight, self.ignore_index, directions=True)
        return arrays, arrays["y"].shape


@dataclass(frozen=True, kw_only=True, repr=False)
class ModifiedSoftmax(_MarginLoss):
    r"""Modified softmax: unit class weights, no bias, the length of the embedding as the scale.

    $$L_n = -\log\frac{e^{\lVert x_n\rVert\cos\theta_{y_n}}}{\sum_k e^{\lVert x_n\rVert\cos\theta_{nk}}}$$

    Source: SphereFace (Liu et al. 2017), eq. 4.

    Parameters
    ----------
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact" or "detached"; without a margin the two are the same.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """


@dataclass(frozen=True, kw_only=True, repr=False)
class _ScaledLoss(_MarginLoss):
    """A margin loss with a scale of its own; None means the length of the embedding."""

    s: float | None = 64.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.s is not None:
            self._keep("s", inputs.number("s", self.s, 0.0, above=True))


@dataclass(frozen=True, kw_only=True, repr=False)
class NormFace(_ScaledLoss):
    r"""NormFace: unit embeddings and unit class weights, one scale.

    $$L_n = -\log\frac{e^{s\cos\theta_{y_n}}}{\sum_k e^{s\cos\theta_{nk}}}$$

    Source: NormFace (Wang et al. 2017).

    Parameters
    ----------
    s
        Scale, above 0; None for the length of the embedding.
    reduction, label_smoothing, class_weight, ignore_index, gradient
        As in `ModifiedSoftmax`.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """


@dataclass(frozen=True, kw_only=True, repr=False)
class ASoftmax(_ScaledLoss):
    r"""A-Softmax (SphereFace): the target's angle multiplied.

    $$L_n = -\log\frac{e^{s\,\psi(\theta_{y_n})}}{e^{s\,\psi(\theta_{y_n})} + \sum_{k\ne y_n} e^{s\cos\theta_{nk}}},
    \qquad \psi(\theta) = (-1)^k\cos m\theta - 2k, \quad k = \lfloor m\theta/\pi\rfloor$$

    At θ = π the fold is that of k = m - 1, and the value 1 - 2m. Source: SphereFace (Liu et al. 2017), eq. 7.

    Parameters
    ----------
    m
        Multiplies the angle, from 1 to 30.
    annealing
        λ in (λ cos θ + ψ) / (1 + λ), 0 or more.
    s
        Scale, above 0; None, the paper's choice, for the length of the embedding.
    boundary
        "monotone", the paper's folds, or "none", cos mθ left to rise again past mθ = π.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 4.0
    annealing: float = 0.0
    s: float | None = None
    boundary: str = "monotone"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 1.0, 30.0))
        self._keep("annealing", inputs.number("annealing", self.annealing, 0.0, 1e100))
        inputs.choice("boundary", self.boundary, ("monotone", "none"))

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(self.m, boundary=self.boundary, annealing=self.annealing, gradient=self.gradient)


@dataclass(frozen=True, kw_only=True, repr=False)
class CosFace(_ScaledLoss):
    r"""CosFace (AM-Softmax): the target's cosine lowered.

    $$L_n = -\log\frac{e^{s(\cos\theta_{y_n} - m)}}
    {e^{s(\cos\theta_{y_n} - m)} + \sum_{k\ne y_n} e^{s\cos\theta_{nk}}}$$

    Sources: CosFace (Wang et al. 2018), eq. 4; AM-Softmax (Wang et al. 2018).

    Parameters
    ----------
    s
        Scale, above 0; None for the length of the embedding.
    m
        Margin on the cosine, in [0, 2].
    boundary
        "none", or "conditional" for a margin only where cos θ > m, as the official AM-Softmax layer has it.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact" or "detached"; for a margin on the cosine the two are the same.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.35
    boundary: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 0.0, 2.0))
        inputs.choice("boundary", self.boundary, ("none", "conditional"))
        margin.check_rule(self.boundary, 1.0, 0.0, self.m)

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(m3=self.m, boundary=self.boundary, gradient=self.gradient)


@dataclass(frozen=True, kw_only=True, repr=False)
class ArcFace(_ScaledLoss):
    r"""ArcFace: a margin added to the target's angle.

    $$L_n = -\log\frac{e^{s\cos(\theta_{y_n} + m)}}
    {e^{s\cos(\theta_{y_n} + m)} + \sum_{k\ne y_n} e^{s\cos\theta_{nk}}}$$

    Source: ArcFace (Deng et al. 2019), eq. 3, which has no rule for θ + m > π; those here are found in public code.

    Parameters
    ----------
    s
        Scale, above 0; None for the length of the embedding.
    m
        Margin on the angle in radians, in [0, pi].
    boundary
        What holds where the margin itself does not: "none", nothing, since the margin holds everywhere; past θ + m = π
        "hard", cos θ - m sin m, "keep", cos θ, "continuous", cos θ + cos m - 1, "monotone", -cos(θ + m) - 2, or
        "clamp", -1; "easy", cos θ where that is not above 0; "min", cos θ where that is the smaller.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ, as InsightFace has it since 2022.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.5
    boundary: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.angle("m", self.m))
        inputs.choice("boundary", self.boundary, [rule for rule in margin.RULES if rule != "conditional"])
        margin.check_rule(self.boundary, 1.0, self.m, 0.0)

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(m2=self.m, boundary=self.boundary, gradient=self.gradient)


@dataclass(frozen=True, kw_only=True, repr=False)
class CombinedMargin(_ScaledLoss):
    r"""Combined margin: multiplied and moved angle, lowered cosine.

    $$\psi(\theta) = \cos(m_1\theta + m_2) - m_3 \text{ where the rule lets the margin hold}$$

    Source: ArcFace (Deng et al. 2019), eq. 4.

    Parameters
    ----------
    s
        Scale, above 0; None for the length of the embedding.
    m1
        Multiplies the angle, above 0 and at most 30.
    m2
        Added to the angle in radians, in [0, pi].
    m3
        Taken off the cosine, in [0, 2].
    boundary
        As in `ArcFace` with m1 θ + m2 for θ + m, and m3 taken off as well ("continuous" joins at π, "monotone" folds at
        every multiple of π); "min" and "conditional", cos θ where that is not above m3, take nothing off. The table is
        in `refloss.stages.margin`.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m1: float = 1.0
    m2: float = 0.3
    m3: float = 0.2
    boundary: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m1", inputs.number("m1", self.m1, 0.0, 30.0, above=True))
        self._keep("m2", inputs.angle("m2", self.m2))
        self._keep("m3", inputs.number("m3", self.m3, 0.0, 2.0))
        inputs.choice("boundary", self.boundary, margin.RULES)
        margin.check_rule(self.boundary, self.m1, self.m2, self.m3)

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(self.m1, self.m2, self.m3, self.boundary, gradient=self.gradient)


@dataclass(frozen=True, kw_only=True, repr=False)
class Triplet(_Loss):
    r"""Triplet loss: the positive nearer to the anchor than the negative, by a margin.

    $$L_n = \max\bigl(0,\; d(a_n, p_n) - d(a_n, n_n) + m\bigr)$$

    Whether a row is active, L_n > 0, is decided exactly, and L_n is right relative to itself however little is left of
    the distances: the loss of the anchor 0 with (1, 1e-100) and (1, 0) is 1e-200 for m = 0. At the hinge itself, and
    where the plain distance is 0, the gradient of least norm, 0, is used. Distances, squares and sums may be beyond the
    range of float64 if the result is not. Source: FaceNet (Schroff, Kalenichenko and Philbin 2015), eq. 3.

    Parameters
    ----------
    m
        Margin in units of the distance, 0 or more.
    squared
        True for the squared Euclidean distance of FaceNet, False for the plain one.
    reduction
        "mean" over all triplets, also those whose loss is 0; "sum" or "none".

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    _gradient = TripletGradient

    m: float = 0.2
    squared: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 0.0))
        self._keep("squared", inputs.flag("squared", self.squared))

    @property
    def spec(self) -> Spec:
        """What an engine needs to know of this loss."""
        return Spec("triplet", triplet=triplet.Settings(self.m, self.squared, self.reduction))

    def __call__(self, anchor: Any, positive: Any, negative: Any, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of anchors, positives and negatives, all (N, D)."""
        return self._value(*self._arrays(anchor, positive, negative), engine, dtype)

    def value_and_grad(
        self,
        anchor: Any,
        positive: Any,
        negative: Any,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, TripletGradient]:
        """Return the loss and its gradients, a named tuple with the fields anchor, positive and negative.

        upstream is the gradient of what comes after: a number, or (N,) for reduction="none"; 1 if left out.

        wrt names the inputs whose gradients are wanted, all if left out; the others are None. out maps such names to
        arrays that take the gradients. dtype is float64, or float32 for engines that can.
        """
        arrays, shape = self._arrays(anchor, positive, negative)
        given = {"anchor": anchor, "positive": positive, "negative": negative}
        value, gradients = self._value_and_grad(arrays, shape, upstream, engine, dtype, wrt, out, given)
        return value, TripletGradient(**gradients)

    def trace(self, anchor: Any, positive: Any, negative: Any, *, upstream: Any = None) -> dict[str, Step]:
        """Return every stage's output and gradient by stage name."""
        return self._trace(*self._arrays(anchor, positive, negative), upstream)

    def _arrays(self, anchor: Any, positive: Any, negative: Any) -> tuple[Arrays, tuple[int, ...]]:
        arrays = inputs.triplets(anchor, positive, negative)
        return arrays, arrays["anchor"].shape[:1]


SphereFace = ASoftmax
AMSoftmax = CosFace


def _dtype(engine: Any, dtype: Any) -> np.dtype[Any]:
    """Return the dtype to compute in; refuse an engine that is none, and a dtype that it does not know."""
    inputs.choice("engine", engine, ENGINES)
    return inputs.compute_dtype(engine, dtype, DTYPES.get(engine, (np.float64,)))


def error_bound(
    loss: Any, *inputs: Any, engine: str = "chain", dtype: Any = None, upstream: Any = None
) -> tuple[Value, Any]:
    r"""Return the absolute error that an engine may have on the value and on every entry of the gradients.

    Of a value it is r |L|, of a gradient's entry ρ times the absolute terms of its row, with r and ρ by
    `refloss.engines.contract.promise`: each counts the rounding errors of its engine. Terms are what adds up to a row
    before anything cancels. For heads with G = dL/dz and the slope ψ' of the target's curve, 1 off the
    target: $\sum_k |s\,G_{nk}\,\psi'_{nk}|/\lVert x_n\rVert$ for x, and
    $\sum_n |s\,G_{nk}\,\psi'_{nk}|/\lVert w_k\rVert$ for w; where ‖x‖ is the scale $\sum_k |G_{nk} f_{nk}|$ more, f the
    logit over the scale; for `SoftmaxLoss` $\sum_k |G_{nk}|\lVert w_k\rVert$, $\sum_n |G_{nk}|\lVert x_n\rVert$ and,
    for b, $\sum_n |G_{nk}|$. For "dd" ψ' is sin θ off the target. For `CrossEntropy` |G|; for `Triplet` the lengths of
    the two gradients of distances. Where several classes are targets, by smoothing or probabilities, the terms of |G|
    are $|c_n|(p_{nk}\sum_j|t_{nj}| + |t_{nk}|)$ and those of a loss $|t_{nk}\log p_{nk}|$. Probabilities below the
    smallest normal number may be lost, and so may as much of a result.

    The truth is that of the inputs as they are; with dtype float32, of the inputs rounded to float32. "certified"
    rounds correctly, so its bound is half an ulp.

    Parameters
    ----------
    loss
        A loss of refloss.
    inputs
        What it is called with.
    engine, dtype, upstream
        As in ``value_and_grad``.

    Returns
    -------
    value, gradients
        Bounds, in the form in which ``value_and_grad`` returns what they bound; inf where nothing can be said.

    Raises
    ------
    ValueError, TypeError
        As the loss itself, naming the argument.
    """
    if not isinstance(loss, _Loss):
        raise TypeError(f"loss must be a loss of refloss, such as refloss.ArcFace(m=0.5); got {shown(loss)}")
    signature(type(loss).__call__).bind(loss, *inputs)  # says which are missing
    return loss._error_bound(inputs, engine, dtype, upstream)


def _half_an_ulp(rounded: Array) -> Array:
    """Return half the distance to the next number, or the smallest number there is."""
    apart = np.spacing(np.abs(np.where(np.isfinite(rounded), rounded, 0.0)))
    return np.maximum(apart / 2.0, FORMATS["float64"].spacing)


_loading, _loaded = Lock(), set[str]()


def _module(name: str) -> Any:
    """Return a module of the engines; a process that forks waits while it is loaded, for the child could not go on."""
    load = partial(import_module, f"refloss.engines.{name}")
    module = load() if name in _loaded else _loading.run(load)
    _loaded.add(name)
    return module


def _fused_works() -> bool:
    """Whether the engine "fused" can be had: not from `atexit` on, where neither threads nor numba need start.

    Of threads only the main one gets there. To ask whether it is alive is no way: that ends it if an interrupt comes.
    """
    at_exit = getattr(threading, "_SHUTTING_DOWN", False) and threading.current_thread() is threading.main_thread()
    return not at_exit and _numba_works()


@cache
def _numba_works() -> bool:
    """Whether numba can be had; if not, say once why the chain takes the place of "fused"."""
    try:
        _module("kernels").ready()
    except Exception as error:  # an import that fails, a compiler that does
        reason = f"{type(error).__name__}: {error}"
        message = f"engine='fused' needs numba, which fails here ({reason}); the chain takes its place"
        warn(message, RuntimeWarning, stacklevel=2)
        return False
    return True


def softmax(z: Any, axis: int = -1) -> Array:
    r"""Softmax along an axis.

    $$p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}$$

    Parameters
    ----------
    z
        Logits; -inf has probability 0; NaN, +inf, or nothing but -inf make a row NaN.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Probabilities, each to a few units in the last place.

    Raises
    ------
    ValueError, TypeError
        For input that holds no real numbers or has no such axis.
    """
    rows, restore = inputs.rows_along("z", z, axis)
    p: Array = restore(softmax_stage.forward(Pair.of(rows))[0])
    return p


def log_softmax(z: Any, axis: int = -1) -> Array:
    r"""Log of softmax along an axis, accurate relative to itself: log_softmax([0, -40])[0] is -4.2e-18, not 0.

    $$\log p_k = z_k - \log\sum_j e^{z_j}$$

    Parameters
    ----------
    z
        Logits; -inf stays -inf; NaN, +inf, or nothing but -inf make a row NaN.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Log probabilities.

    Raises
    ------
    ValueError, TypeError
        For input that holds no real numbers or has no such axis.
    """
    rows, restore = inputs.rows_along("z", z, axis)
    log_p: Array = restore(plain(log_softmax_stage.forward(Pair.of(rows))[0]))
    return log_p


def logsumexp(z: Any, axis: int = -1) -> Value:
    r"""Log of the sum of exponentials along an axis, which is taken out.

    $$\log\sum_k e^{z_k} = M + \operatorname{log1p}\Bigl(\sum_{k\ne a} e^{z_k - M}\Bigr), \qquad M = z_a = \max_k z_k$$

    Absolute error at most a few units of roundoff of max(|M|, log C): where M and the logarithm cancel there is no
    relative accuracy to be had from float64 results.

    Parameters
    ----------
    z
        Logits; all -inf give -inf, any +inf gives inf, any NaN gives NaN.
    axis
        The axis to sum over.

    Returns
    -------
    Array
        One number for each row, or one number where z has no other axis.

    Raises
    ------
    ValueError, TypeError
        For input that holds no real numbers or has no such axis.
    """
    rows, restore = inputs.rows_along("z", z, axis)
    summed: Value = restore(log_softmax_stage.log_sum_exp(Pair.of(rows)))
    return summed
