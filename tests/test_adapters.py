"""What foreign code gets, and how what it returns is read."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refloss.formats import dtype_of
from refloss.testing import adapters
from refloss.testing.adapters import results as came
from support.odd_values import Unprintable, contains_itself

INF = math.inf
NAN = math.nan


def test_what_came_back_is_told_apart_by_its_form():
    one, two = np.ones((2, 3)), np.ones(3)
    parts = came.parts
    assert parts(1.5, "xw") == came.Parts(1.5, None, ())
    assert parts((1.5,), "xw") == came.Parts(1.5, None, ())
    assert parts([1.5, 2.5], "xw") == came.Parts([1.5, 2.5], None, ())
    assert parts([one, two], "xw").gradients[0] is two
    assert parts((1.5, one, two), "xw") == came.Parts(1.5, (one, two), ())
    for pair in ((one, two), [one, two]):
        assert parts((1.5, pair), "xw") == came.Parts(1.5, (one, two), ())
    assert parts((1.5, {"w": two, "x": one, "aux": 7}), "xw") == came.Parts(1.5, (one, two), (7,))
    assert parts((1.5, {"aux": 7}), "xw") == came.Parts(1.5, None, (7,))
    assert parts((1.5, one, {"x": one}), "xw").gradients == (one, {"x": one})
    for key in ("loss", "value"):
        assert parts({key: 1.5, "dx": one, "grad_w": two, "n": 7}, "xw") == came.Parts(1.5, (one, two), (7,))
        assert parts({key: 1.5, "grad": (one, two), "n": 7}, "xw") == came.Parts(1.5, (one, two), (7,))
        for nested in ("gradients", "gradient", "grads"):
            assert parts({key: 1.5, nested: {"x": one, "m": 8}, "n": 7}, "xw") == came.Parts(1.5, (one, None), (8, 7))
    assert parts({"loss": None, "value": 1.5}, "xw").value == 1.5
    for nothing, said in (
        (None, "expected a value, or a tuple of the value and its gradients; got None"),
        ((), "expected a value, or a tuple of the value and its gradients; got nothing"),
        (((1.0, 2.0), one), r"expected a value first, then its gradients; got a tuple first \(has_aux, perhaps\)"),
        ((None, one), r"expected a value first, then its gradients; got a NoneType first \(has_aux, perhaps\)"),
        (({"loss": 1.0}, one), r"expected a value first, then its gradients; got a dict first \(has_aux, perhaps\)"),
        ({"logits": one, 3: two}, r"expected 'loss' or 'value' in what was returned; got a dict of \['3', 'logits'\]"),
    ):
        with pytest.raises(TypeError, match=rf"^{said}$"):
            parts(nothing, "xw")


def test_gradients_have_the_form_of_gradients():
    one, two, shapes = np.ones((2, 3)), np.ones((4, 3)), [(2, 3), (4, 3)]
    both = came.Parts(1.5, (one, two), (7,))
    for differentiable in (True, False):
        assert came.separate_gradients(both, shapes, differentiable) == both
        assert came.separate_gradients(came.Parts(1.5, None, (7,)), shapes, differentiable) == came.Parts(
            1.5, None, (7,)
        )
        assert came.separate_gradients(came.Parts(1.5, (None, None), ()), shapes, differentiable).gradients is None
    partly = came.Parts(1.5, (None, two), ())
    assert came.separate_gradients(partly, shapes, True) == came.separate_gradients(partly, shapes, False) == partly
    turned = came.Parts(1.5, (one.T, two), (7,))
    assert came.separate_gradients(turned, shapes, True) == came.Parts(1.5, None, (*turned.gradients, 7))
    assert came.separate_gradients(turned, shapes, False) == turned
    logits = came.Parts(1.5, (one, two, one), ())
    assert came.separate_gradients(logits, shapes, True).gradients is None
    assert came.separate_gradients(logits, shapes, False) == logits
    count = came.Parts(1.5, (3,), ())
    assert came.separate_gradients(count, shapes, False) == came.Parts(1.5, None, (3,))


def test_what_came_back_is_read_into_float64():
    one = np.ones((2, 3), np.float32)
    found = came.finish(came.Parts(np.float32(1.5), (one, None, 7, None), ([1, 2], None)), None, ("x", "w"))
    assert found.value == 1.5
    assert found.value.dtype == np.float64
    assert found.gradients[0].dtype == np.float64
    assert found.gradients[1] is None
    assert len(found.gradients) == 2
    assert found.upstream == np.ones(())
    assert (found.kind, found.hint, found.changed) == ("float32", "", ())
    assert found.others == "list of shape (2,), int of shape ()"
    found = came.finish(came.Parts(1.5, (one,), ()), 3.0, ("x", "w"), doubtful=True)
    assert (found.kind, found.others, found.upstream) == ("", "", 3.0)
    assert found.hint == "what came beside the value was read as dx; if it is something else, return the value alone"
    two = came.finish(came.Parts([1.0, 2.0], (one, one), ()), None, ("x", "w"), doubtful=True)
    assert "read as dx, dw;" in two.hint
    assert two.upstream.tolist() == [1.0, 1.0]
    none = came.finish(came.Parts(1.5, None, ()), None, ("x",), doubtful=True)
    assert (none.gradients, none.hint) == (None, "")
    for wrong, said in (
        ("1.5", "str of dtype <U3"),
        (1.5j, "complex of dtype complex128"),
        ([None], "list of dtype object"),
    ):
        with pytest.raises(TypeError, match=rf"^what was returned has to be real numbers; got {said}$"):
            came.read(wrong)
    twice = contains_itself()
    twice.append(twice)  # NumPy would follow both, 2^64 times
    with pytest.raises(ValueError, match=r"^it contains itself$"):
        came.read(twice)
    for right in (True, 3, np.uint8(3), np.asarray(3.0, dtype_of("bfloat16"))):
        assert came.read(right) == float(right)


def test_numbers_from_upstream_are_repeated_and_rounded():
    some = came.upstream_for(np.array([1.0 + 2.0**-20, 2.0]), (3, 1), "float16")
    assert some.tolist() == [[1.0], [2.0], [1.0]]
    assert some.dtype == np.float64
    assert came.upstream_for(np.arange(1.0, 5.0), (), "float32") == 1.0


def test_changes_are_seen_bit_by_bit():
    before = [np.array([0.0, NAN]), np.array([1, 2]), np.zeros(2)]
    after = [np.array([-0.0, NAN]), np.array([1, 2]), np.zeros(2)]
    assert came.changed(before, after) == (0,)
    assert came.changed(after[:2], after[:2]) == ()
    with pytest.raises(ValueError, match="zip"):
        came.changed(before, after[:2])


def test_code_gets_copies_in_the_dtype():
    arguments = []

    def fn(x, w, y):
        arguments.extend((x, w, y))
        x[:] = 7.0
        return 1.0, x, w

    x, w, y = np.eye(2), np.eye(2) / 3.0, np.array([0, 1])
    found = adapters.call(fn, "numpy", "float16", None, (x, w, y), np.ones(1), ("x", "w"), 2)
    assert [entry.dtype for entry in arguments] == [np.float16, np.float16, y.dtype]
    assert (x == np.eye(2)).all()
    assert arguments[2] is not y
    assert found.changed == (0,)
    dict_of = adapters.call(lambda x: {"loss": 1.5, "grad_x": x}, "numpy", "float32", None, (x,), np.ones(1), ("x",))
    assert (dict_of.value, dict_of.gradients[0].tolist(), dict_of.hint) == (1.5, x.tolist(), "")
    short = adapters.call(lambda x: (1.5, x[:, :1]), "numpy", "float32", None, (x,), np.ones(1), ("x",))
    assert short.gradients[0].shape == (2, 1)
    soft = np.full((2, 2), 1.0 / 3.0)
    for dtype, kind in (
        ("float16", np.float32),
        ("bfloat16", np.float32),
        ("float32", np.float32),
        ("float64", np.float64),
    ):
        arguments.clear()
        adapters.call(lambda z, t: arguments.append(t) or 1.0, "numpy", dtype, None, (x, soft), np.ones(1), ("z",), 1)
        assert arguments[0].dtype == kind
    with pytest.raises(ValueError, match=r"^framework: expected one of 'numpy', 'torch', 'jax'; got 'mxnet'$"):
        adapters.ready("mxnet", "float32", None)
    with pytest.raises(ValueError, match=r"^device: NumPy has none but 'cpu'; got 'cuda'$"):
        adapters.ready("numpy", "float32", "cuda")
    adapters.ready("numpy", "float32", "cpu")
    huge = adapters.call(lambda x: np.exp(1e4 * x).sum(), "numpy", "float32", None, (x,), np.ones(1), ("x",))
    assert huge.value == INF  # and no warning


def test_tensors_are_differentiated_with_the_upstream_gradient_that_is_given():
    torch = pytest.importorskip("torch")
    x, y, upstream = np.array([[1.0, 2.0]]), np.array([[0.25, 0.75]]), np.array([3.0, 5.0])
    arguments = []

    def fn(x, w, t):
        arguments.extend((x, w, t))
        return (x**2).sum(1)

    found = adapters.call(fn, "torch", "float64", None, (x, x, y), upstream, ("x", "w"), 2)
    assert [grad.tolist() for grad in found.gradients] == [[[6.0, 12.0]], [[0.0, 0.0]]]
    assert (found.value.tolist(), found.upstream.tolist(), found.kind) == ([5.0], [3.0], "float64")
    assert [entry.requires_grad for entry in arguments] == [True, True, False]
    assert [entry.dtype for entry in arguments] == [torch.float64] * 3
    arguments.clear()
    one = adapters.call(fn, "torch", "float64", None, (x, x, y), upstream, ("x", "w"), 2, ("x",))
    assert [entry.requires_grad for entry in arguments] == [True, False, False]
    assert (one.gradients[0].tolist(), one.gradients[1]) == ([[6.0, 12.0]], None)
    arguments.clear()
    adapters.call(fn, "torch", "bfloat16", "cpu", (x, x, y), upstream, ("x", "w"), 2)
    assert [entry.dtype for entry in arguments] == [torch.bfloat16, torch.bfloat16, torch.float32]
    own = adapters.call(
        lambda x: (x.detach().sum(), 2.0 * x.detach()), "torch", "float32", None, (x,), upstream, ("x",)
    )
    assert own.gradients[0].tolist() == [[2.0, 4.0]]
    assert (own.upstream, own.hint) == (1.0, "")
    doubtful = adapters.call(lambda x: (x.sum(), x), "torch", "float32", None, (x,), upstream, ("x",))
    assert doubtful.hint.startswith("what came beside the value was read as dx;")
    logits = adapters.call(lambda x: (x.sum(), x[:, :1]), "torch", "float32", None, (x,), upstream, ("x",))
    assert logits.gradients[0].tolist() == [[3.0, 3.0]]
    assert (logits.others, logits.hint) == ("Tensor of shape (1, 1)", "")

    def writing(x, t):
        with torch.no_grad():
            t.zero_()
        return x.sum()

    assert adapters.call(writing, "torch", "float32", None, (x, np.array([1])), upstream, ("x",), 1).changed == (1,)
    sparse = torch.eye(2).to_sparse().requires_grad_()
    assert came.read(sparse).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert came.as_array(torch.tensor([1, 2])).dtype == np.int64
    for odd in (["cpu"], np.zeros(2), object(), Unprintable()):
        with pytest.raises(ValueError, match=r"^device: expected one that torch has here, for float32; got "):
            adapters.ready("torch", "float32", odd)
    with pytest.raises(ValueError, match=r"^device: expected one that torch has here, for float32; got 'tpu' \("):
        adapters.ready("torch", "float32", "tpu")
    adapters.ready("torch", "bfloat16", "cpu")


def test_jax_arrays_are_differentiated_with_the_upstream_gradient_that_is_given():
    jax = pytest.importorskip("jax")
    x, y, upstream = np.array([[1.0, 2.0]]), np.array([1]), np.array([3.0, 5.0])
    arguments = []

    def fn(x, w, y):
        arguments.append((x, w, y))
        return (x**2).sum(1)

    found = adapters.call(fn, "jax", "float32", None, (x, 3.0 * x, y), upstream, ("x", "w"), 2)
    assert [grad.tolist() for grad in found.gradients] == [[[6.0, 12.0]], [[0.0, 0.0]]]
    assert (found.value.tolist(), found.upstream.tolist(), found.kind) == ([5.0], [3.0], "float32")
    assert (found.hint, found.changed) == ("", ())
    assert all(isinstance(each[2], np.ndarray) for each in arguments)
    assert arguments[0][1].tolist() == [[3.0, 6.0]]
    one = adapters.call(fn, "jax", "float32", None, (x, x, y), upstream, ("x", "w"), 2, ("w",))
    assert (one.gradients[0], one.gradients[1].tolist()) == (None, [[0.0, 0.0]])
    soft = adapters.call(lambda z, t: (z * t).sum(), "jax", "bfloat16", "cpu:0", (x, x / 3.0), upstream, ("z",), 1)
    assert soft.value.dtype == np.float64
    own = adapters.call(
        lambda x, w, y: (x.sum(), (2.0 * x, w)), "jax", "float32", "cpu", (x, x, y), upstream, ("x", "w"), 2
    )
    assert [grad.tolist() for grad in own.gradients] == [[[2.0, 4.0]], [[1.0, 2.0]]]
    assert own.upstream == 1.0
    assert own.hint.startswith("what came beside the value was read as dx, dw;")
    number = adapters.call(lambda x: 1.5, "jax", "float32", jax.devices("cpu")[0], (x,), upstream, ("x",))
    assert (number.value, number.gradients) == (1.5, None)
    logits = adapters.call(lambda x: (x.sum(), x[:, :1]), "jax", "float32", None, (x,), upstream, ("x",))
    assert logits.gradients[0].tolist() == [[3.0, 3.0]]

    def writing(x, w, y):
        y[:] = 0
        return x.sum()

    assert adapters.call(writing, "jax", "float32", None, (x, x, y), upstream, ("x", "w"), 2).changed == (2,)
    for wrong in ("cpu:99", "cpu:x", "tpu"):
        with pytest.raises(ValueError, match=rf"^device: expected one that jax has here; got '{wrong}' \("):
            adapters.ready("jax", "float32", wrong)
    for odd in (3, ["cpu"], np.zeros(2), object()):
        with pytest.raises(ValueError, match=r"^device: expected one that jax has here; got "):
            adapters.ready("jax", "float32", odd)
    adapters.ready("jax", "float32", "cpu:0")
    if not jax.config.jax_enable_x64:
        with pytest.raises(ValueError, match=r"^dtype: JAX computes 'float64' in float32 unless told otherwise"):
            adapters.ready("jax", "float64", None)
