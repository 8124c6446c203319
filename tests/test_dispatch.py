"""Dispatch: the engine and the dtype of a call, against the sizes and names that the module documents."""

import inspect

import numpy as np
import pytest

import refloss
from refloss.engines import dispatch
from refloss.engines.call import call_of
from refloss.engines.protocol import IN_FLOAT64, Engine

FLOAT64, FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)


@pytest.fixture
def with_numba(monkeypatch):
    """A numba that compiles, whether or not it is installed."""
    monkeypatch.setattr(dispatch, "_numba_works", lambda: True)


def logits_call(samples):
    return call_of(refloss.CrossEntropy(), (np.zeros((samples, 2**8)), np.zeros(samples, int)))


def head_call(loss, samples):
    return call_of(loss, (np.ones((samples, 2**6)), np.ones((2**10, 2**6)), np.zeros(samples, int)))


def triplet_call(samples):
    return call_of(refloss.Triplet(), tuple(np.zeros((3, samples, 2**8))))


@pytest.mark.usefixtures("with_numba")
def test_auto_is_fused_from_the_documented_size_on():
    """2^16 logits, or 2^22 multiplications of the product of 2^6 samples, 2^10 classes and 2^6 dimensions."""
    assert dispatch.resolved("auto", logits_call(2**8), FLOAT64) == "fused"
    assert dispatch.resolved("auto", logits_call(2**8 - 1), FLOAT64) == "chain"
    for loss in (refloss.SoftmaxLoss(), refloss.ArcFace()):
        assert dispatch.resolved("auto", head_call(loss, 2**6), FLOAT64) == "fused"
        assert dispatch.resolved("auto", head_call(loss, 2**6 - 1), FLOAT64) == "chain"


@pytest.mark.usefixtures("with_numba")
def test_auto_is_the_chain_for_triplets_of_any_size():
    assert dispatch.resolved("auto", triplet_call(2**12), FLOAT64) == "chain"


@pytest.mark.usefixtures("with_numba")
def test_auto_is_fused_in_float32():
    for call in (logits_call(1), head_call(refloss.ArcFace(), 1), triplet_call(1)):
        assert dispatch.resolved("auto", call, FLOAT32) == "fused"


@pytest.mark.usefixtures("with_numba")
@pytest.mark.parametrize("engine", ["chain", "fused", "dd", "certified"])
def test_a_named_engine_is_taken_at_every_size(engine):
    assert dispatch.resolved(engine, logits_call(1), FLOAT64) == engine
    assert dispatch.resolved(engine, logits_call(2**8), FLOAT64) == engine


@pytest.mark.parametrize(("engine", "resolved"), [("auto", "chain"), ("fused", "chain"), ("dd", "dd")])
def test_without_numba_the_chain_takes_the_place_of_fused(monkeypatch, engine, resolved):
    monkeypatch.setattr(dispatch, "_numba_works", lambda: False)
    assert dispatch.resolved(engine, logits_call(2**8), FLOAT64) == resolved


@pytest.mark.parametrize("engine", ["chain", "dd", "certified"])
def test_float32_is_refused_by_engines_of_float64(engine):
    message = f"^dtype must be float64, the only one engine='{engine}' computes in; got float32$"
    with pytest.raises(ValueError, match=message):
        dispatch.compute_dtype(engine, np.float32)
    assert dispatch.compute_dtype(engine, None) == FLOAT64


@pytest.mark.parametrize("engine", ["auto", "fused"])
def test_float16_is_refused_by_engines_of_two_dtypes(engine):
    with pytest.raises(ValueError, match=f"^dtype must be float64 or float32, those engine='{engine}' computes in"):
        dispatch.compute_dtype(engine, "float16")
    for dtype in (FLOAT64, FLOAT32):
        assert dispatch.compute_dtype(engine, dtype) == dtype


def test_an_unknown_engine_is_refused_before_its_dtype():
    with pytest.raises(ValueError, match=r"^engine must be one of"):
        dispatch.compute_dtype("exact", "float16")


@pytest.mark.parametrize("name", ["chain", "fused", "dd", "certified"])
def test_every_engine_keeps_the_protocol(name):
    if name == "certified":
        pytest.importorskip("flint")
    engine = dispatch.load(name)
    for method in ("value", "value_and_grad"):
        expected = inspect.signature(getattr(Engine, method)).parameters
        offered = inspect.signature(getattr(engine, method)).parameters
        assert list(offered) == [each for each in expected if each != "self"]
        assert offered["request"].default == IN_FLOAT64
