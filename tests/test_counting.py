"""Counting: samples that are ignored, and "mean" where weights add up to 0, against results written out by hand."""

import numpy as np
import pytest

import refloss
from refloss.engines.counting import counted, mean_over_zero

IGNORED = -100
SPEC = refloss.SoftmaxLoss().spec
ARRAYS = {
    "x": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    "w": np.array([[0.5, 0.0], [0.0, 0.5]]),
    "b": np.array([0.25, -0.25]),
    "y": np.array([1, IGNORED, 0]),
}


def test_ignored_samples_are_left_out():
    rows = counted(SPEC, ARRAYS, np.array([7.0, 8.0, 9.0]))
    assert rows.kept.tolist() == [True, False, True]
    assert rows.arrays["x"].tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert rows.arrays["y"].tolist() == [1, 0]
    assert rows.upstream.tolist() == [7.0, 9.0]
    for name in ("w", "b"):
        assert rows.arrays[name] is ARRAYS[name]


@pytest.mark.parametrize("upstream", [None, np.asarray(2.0)])
def test_an_upstream_gradient_for_all_samples_stays(upstream):
    assert counted(SPEC, ARRAYS, upstream).upstream is upstream


def test_restored_results_are_0_for_ignored_samples():
    rows = counted(SPEC, ARRAYS, None)
    assert rows.restored(np.array([0.5, 1.5])).tolist() == [0.5, 0.0, 1.5]
    assert rows.restored(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]
    assert rows.restored(np.array([1.0, 2.0], np.float32)).dtype == np.float32


def test_a_reduced_loss_is_restored_as_it_is():
    loss = np.asarray(3.0)
    assert counted(SPEC, ARRAYS, None).restored(loss) is loss


def test_gradients_of_samples_are_restored_and_those_of_classes_are_not():
    dx, dw = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])
    gradients = counted(SPEC, ARRAYS, None).gradients({"x": dx, "w": dw})
    assert gradients["x"].tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]
    assert gradients["w"] is dw


@pytest.mark.parametrize(
    ("spec", "arrays"),
    [
        (SPEC, ARRAYS | {"y": np.array([1, 0, 0])}),
        (refloss.CrossEntropy().spec, {"z": np.zeros((2, 2)), "y": np.array([[0.5, 0.5], [1.0, 0.0]])}),
        (refloss.Triplet().spec, dict.fromkeys(("anchor", "positive", "negative"), np.zeros((2, 2)))),
    ],
    ids=["labels", "probabilities", "triplets"],
)
def test_where_no_sample_is_ignored_arrays_stay(spec, arrays):
    upstream = np.ones(len(next(iter(arrays.values()))))
    rows = counted(spec, arrays, upstream)
    assert rows.arrays is arrays
    assert rows.upstream is upstream
    assert rows.kept is None
    assert rows.restored(upstream) is upstream


def over_zero(label_smoothing, sums):
    """The mean over weights of sum 0, for sums of losses by their label smoothing."""
    requests = []

    def value_of(spec):
        requests.append((spec.reduction, spec.cross_entropy.label_smoothing))
        return np.asarray(sums[spec.cross_entropy.label_smoothing])

    mean = mean_over_zero(refloss.CrossEntropy(label_smoothing=label_smoothing).spec, value_of)
    assert requests == [("sum", smoothing) for smoothing in sums]
    return mean


@pytest.mark.parametrize(("total", "mean"), [(2.0, np.inf), (-2.0, -np.inf), (0.0, np.nan)])
def test_a_sum_over_zero_is_infinite_or_nan(total, mean):
    np.testing.assert_array_equal(over_zero(0.0, {0.0: total}), mean)


@pytest.mark.parametrize(
    ("plain", "uniform", "mean"),
    [(2.0, 3.0, np.inf), (-2.0, -3.0, -np.inf), (2.0, -3.0, np.nan), (0.0, 3.0, np.nan)],
)
def test_smoothing_adds_two_quotients(plain, uniform, mean):
    np.testing.assert_array_equal(over_zero(0.25, {0.0: plain, 1.0: uniform}), mean)


@pytest.mark.parametrize("engine", ["chain", "dd"])
def test_a_loss_over_weights_that_cancel(engine):
    """Losses of log 2 and log 4, of weights 1 and -1: their sum is negative."""
    z, loss = np.log([[1.0, 1.0], [3.0, 1.0]]), refloss.CrossEntropy(class_weight=(1.0, -1.0))
    assert loss(z, [0, 1], engine=engine) == -np.inf


def test_a_regularizer_is_no_part_of_a_sum_over_zero():
    """Two equal losses of weights 1 and -1; the lengths' terms, which no weight multiplies, are both positive."""
    loss = refloss.MagFace(class_weight=(1.0, -1.0))
    assert np.isnan(loss(np.ones((2, 2)), np.ones((2, 2)), [0, 1], engine="chain"))
