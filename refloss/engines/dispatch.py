"""Dispatch: which engine computes a call of a loss, and in which dtype.

The engine "auto" is the chain for small work and "fused" for large; where "fused" cannot be had, the chain takes its
place. Engines are loaded when first asked for.
"""

from __future__ import annotations

import threading
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias, cast
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from refloss import inputs
from refloss.engines import chain, contract
from refloss.engines.call import Call
from refloss.engines.chain import Step
from refloss.engines.counting import mean_over_zero
from refloss.engines.locks import Lock
from refloss.engines.protocol import IN_FLOAT64, Engine, Request
from refloss.engines.spec import Arrays, Divergence, OnCosines, Spec, Triplet
from refloss.error_free import Array, digits
from refloss.formats import FORMATS
from refloss.stages import cross_entropy

Value: TypeAlias = np.float64 | Array
Gradients: TypeAlias = dict[str, NDArray[Any] | None]

_FLOAT64, _FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)
ENGINES = {
    "auto": (_FLOAT64, _FLOAT32),
    "chain": (_FLOAT64,),
    "fused": (_FLOAT64, _FLOAT32),
    "dd": (_FLOAT64,),
    "certified": (_FLOAT64,),
}
"""Names of the engines, and the dtypes that each computes in."""
LARGE = {"logits": 2**16, "linear": 2**22, "margin": 2**22}
"""Entries of z, or multiplications of a matrix product, from which on the engine "auto" is "fused"."""


def value(call: Call, engine: str, dtype: Any) -> Value:
    """Return the loss."""
    request = Request(compute_dtype(engine, dtype))
    run = _Run.of(call, engine, request)
    return _shaped(run.value(), call, request.dtype)


def value_and_grad(call: Call, upstream: Any, wrt: Any, out: Any, engine: str, dtype: Any) -> tuple[Value, Gradients]:
    """Return the loss and a gradient for each input that has one; None where it is not wanted, or was not given."""
    computed_in = compute_dtype(engine, dtype)
    checked_upstream = inputs.upstream_gradient(upstream, call.spec.reduction, call.samples)
    shapes = call.shapes
    wanted = inputs.wanted_inputs(wrt, tuple(shapes))
    names = tuple(shapes) if wanted is None else wanted
    arguments = {**call.arguments, "upstream": upstream}
    given_out = inputs.output_arrays(out, shapes, computed_in, names, arguments)
    contiguous_out = {
        name: array.reshape(call.arrays[name].shape) for name, array in given_out.items() if array.flags.carray
    }
    run = _Run.of(call, engine, Request(computed_in, wanted, contiguous_out))
    loss, by_name = run.value_and_grad(checked_upstream)
    gradients: Gradients = dict.fromkeys(call.fields)
    for name in names:
        gradient = by_name[name].astype(computed_in, copy=False).reshape(shapes[name])
        if name in given_out:
            if by_name[name] is not contiguous_out.get(name):
                given_out[name][...] = gradient
            gradient = given_out[name]
        gradients[name] = gradient if gradient.ndim or name in given_out else gradient[()]
    return _shaped(loss, call, computed_in), gradients


def trace(call: Call, upstream: Any) -> dict[str, Step]:
    """Return every stage's output and the gradient with respect to it, by stage name."""
    exact = call.in_float64()
    contract.warn_if_unreliable("chain", call.spec, exact)
    steps = chain.trace(call.spec, exact, inputs.upstream_gradient(upstream, call.spec.reduction, call.samples))
    last = next(reversed(steps))
    loss = _Run(chain, call.spec, exact, IN_FLOAT64).corrected(steps[last].output)
    return steps | {last: steps[last]._replace(output=loss)}


def error_bound(call: Call, engine: str, dtype: Any, upstream: Any) -> tuple[Value, Gradients]:
    """Return the absolute error that an engine may have on the value and on each entry of the gradients."""
    computed_in = compute_dtype(engine, dtype)
    checked_upstream = inputs.upstream_gradient(upstream, call.spec.reduction, call.samples)
    name = resolved(engine, call, computed_in)
    exact = call.in_float64()
    if name == "certified":
        rounded, by_name = load(name).value_and_grad(call.spec, exact, checked_upstream)
        bound, by_name = _half_an_ulp(rounded), {name: _half_an_ulp(part) for name, part in by_name.items()}
    else:
        bounds = _module("bounds")
        bound, by_name = bounds.value_and_grad(call.spec, exact, checked_upstream, name, computed_in)
    gradients: Gradients = dict.fromkeys(call.fields)
    for name, shape in call.shapes.items():
        gradients[name] = by_name[name].reshape(shape) if shape else by_name[name][()]
    return _shaped(bound, call, _FLOAT64), gradients


class _Run(NamedTuple):
    """An engine, and what it is called with."""

    engine: Engine
    spec: Spec
    arrays: Arrays
    request: Request

    @classmethod
    def of(cls, call: Call, engine: str, request: Request) -> _Run:
        """Choose the engine and prepare its inputs; warn where its result may be wrong altogether."""
        name = resolved(engine, call, request.dtype)
        module = load(name)
        if name == "fused":  # it looks at its inputs as it goes
            return cls(module, call.spec, call.arrays, request)
        exact = call.in_float64()
        if name != "certified":
            contract.warn_if_unreliable(name, call.spec, exact)
        return cls(module, call.spec, exact, request)

    def value(self) -> Array:
        """Return the loss."""
        return self.corrected(self.engine.value(self.spec, self.arrays, self.request))

    def value_and_grad(self, upstream: Array) -> tuple[Array, Arrays]:
        """Return the loss and its gradients."""
        loss, gradients = self.engine.value_and_grad(self.spec, self.arrays, upstream, self.request)
        return self.corrected(loss), gradients

    def corrected(self, loss: Array) -> Array:
        """Return the value, or what it is where the weights of the labels add up to 0 and "mean" divides by that."""
        spec = self.spec
        if isinstance(spec, Triplet | Divergence | OnCosines):
            return loss
        if spec.reduction != "mean" or spec.cross_entropy.class_weight is None:
            return loss
        y, settings = self.arrays["y"], spec.cross_entropy
        if y.ndim == 2 or not np.isnan(loss):
            return loss
        labels = y[cross_entropy.kept(y, settings)]
        if not np.isnan(digits(cross_entropy.weights(labels, len(spec.cross_entropy.class_weight), settings).divisor)):
            return loss
        return mean_over_zero(spec, lambda spec: self.engine.value(spec, self.arrays, self.request))


def _shaped(loss: Array, call: Call, dtype: np.dtype[Any]) -> Value:
    rounded = loss.astype(dtype, copy=False)
    return rounded.reshape(call.samples) if call.spec.reduction == "none" else dtype.type(rounded)


def _half_an_ulp(rounded: NDArray[Any]) -> Array:
    """Return half the distance to the next number, or the smallest number there is."""
    apart = np.spacing(np.abs(np.where(np.isfinite(rounded), rounded, 0.0)))
    return np.maximum(apart / 2.0, FORMATS["float64"].spacing)


# ------------------------------------------------------------------------------------------------------- which engine


def compute_dtype(engine: object, dtype: Any) -> np.dtype[Any]:
    """Return the dtype to compute in; refuse an engine that is none, and a dtype that it does not know."""
    inputs.check_choice("engine", engine, ENGINES)
    return inputs.compute_dtype(str(engine), dtype, ENGINES[str(engine)])


def resolved(engine: str, call: Call, dtype: np.dtype[Any]) -> str:
    """Return the engine that "auto" stands for, and the chain where "fused" cannot be had."""
    if engine == "auto":
        large = _work(call) >= LARGE.get(call.spec.head, np.inf) or dtype != np.float64
        engine = "fused" if large else "chain"
    return "chain" if engine == "fused" and not _fused_works() else engine


def _work(call: Call) -> int:
    """Return the entries of z, or how many multiplications the product of x and w takes."""
    arrays = call.arrays
    if "z" in arrays:
        return arrays["z"].size
    return arrays["x"].size * len(arrays["w"]) if "w" in arrays else 0


def load(engine: str) -> Engine:
    """Return an engine."""
    return cast(Engine, _module(engine))


_loading, _loaded = Lock(), set[str]()


def _module(name: str) -> ModuleType:
    """Return a module of the engines; a process that forks waits while it is loaded, for the child could not go on."""
    load_module = partial(import_module, f"refloss.engines.{name}")
    module = load_module() if name in _loaded else _loading.run(load_module)
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
        _module("kernels.jit").ready()
    except Exception as error:  # an import that fails, a compiler that does
        reason = f"{type(error).__name__}: {error}"
        message = f"engine='fused' needs numba, which fails here ({reason}); the chain takes its place"
        warn(message, RuntimeWarning, stacklevel=2)
        return False
    return True
