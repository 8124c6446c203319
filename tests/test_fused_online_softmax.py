"""Online softmax: states of blocks merge to the state of all classes, and make the loss with the label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf

import refloss
from refloss.engines.fused import online_softmax
from refloss.engines.fused.online_softmax import PartialState, no_vectors
from refloss.error_free import Pair
from support.fused_cases import U, in_blocks


def random_blocks(random, sizes, n=4, d=3):
    """Yield random logits, targets and directions of blocks of classes."""
    for size in sizes:
        z = 20.0 * random.standard_normal((n, size))
        z[0, :] = -np.inf if size == 1 else z[0, :]  # no class but the label
        t, w = random.uniform(0.0, 1.0, size), random.standard_normal((size, d))
        yield z, t, w


def state_of(z, t, w):
    """Return the state of a block, by its definition."""
    largest = z.max(axis=1)
    targets = np.isfinite(z) * t
    with np.errstate(invalid="ignore"):  # -inf less -inf
        e = np.where(np.isfinite(largest)[:, None], np.exp(z - largest[:, None]), 0.0)
        gaps = np.where(np.isfinite(z), largest[:, None] - z, 0.0)
    return PartialState(
        max=largest,
        max_low=np.zeros_like(largest),
        sum_exp_minus_one=np.where(np.isfinite(largest), np.sort(e, axis=1)[:, :-1].sum(axis=1), 0.0),
        target_sum=targets.sum(axis=1),
        target_gap=(targets * gaps).sum(axis=1),
        grad_x_exp=e @ w,
        grad_x_targets=targets @ w,
    )


def state_of_all(blocks):
    """Return the state of all blocks as one."""
    z, t, w = (np.concatenate(part, axis=axis) for part, axis in zip(zip(*blocks, strict=True), (1, 0, 0), strict=True))
    return state_of(z, t, w)


merge = np.errstate(invalid="ignore")(online_softmax.merge)  # as the engine calls it
merge_all = np.errstate(invalid="ignore")(online_softmax.merge_all)


def close(a, b):
    """Within what a few additions and products round, and a gap of up to 200 in the exponent: 256u of the terms."""
    np.testing.assert_array_equal(a.max, b.max)
    for name in ("sum_exp_minus_one", "target_sum", "target_gap"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=256 * U, atol=0.0, err_msg=name)
    for name in ("grad_x_exp", "grad_x_targets"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0.0, atol=1024 * U, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_states_merge_to_the_state_of_all_and_in_any_order(seed):
    blocks = list(random_blocks(np.random.default_rng(seed), (3, 1, 5)))
    a, b, c = (state_of(*block) for block in blocks)
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    close(left, right)
    close(left, merge(c, merge(b, a)))
    close(left, state_of_all(blocks))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(0, 1000))
def test_any_split_makes_the_same_state(sizes, seed):
    blocks = list(random_blocks(np.random.default_rng(seed), sizes))
    close(merge_all(state_of(*block) for block in blocks), state_of_all(blocks))


def test_states_of_no_class_change_nothing():
    [one] = [state_of(*block) for block in random_blocks(np.random.default_rng(1), (4,))]
    nothing = state_of(np.full((4, 1), -np.inf), np.zeros(1), np.ones((1, 3)))
    for both in (merge(one, nothing), merge(nothing, one)):
        for name in PartialState._fields:
            np.testing.assert_array_equal(getattr(both, name), getattr(one, name))
    empty = merge(nothing, nothing)
    assert (empty.max == -np.inf).all()
    assert not any(getattr(empty, name).any() for name in PartialState._fields[1:])


def test_merging_ties_counts_every_largest_but_one():
    states = [state_of(np.zeros((2, 1)), np.ones(1), np.ones((1, 1))).without_gradients() for _ in range(5)]
    together = merge_all(iter(states))
    assert together.sum_exp_minus_one.tolist() == [4.0, 4.0]
    assert together.grad_x_exp.shape == together.grad_x_targets.shape == (2, 0)


def test_the_rounding_error_of_the_largest_counts():
    """Logits of 1e6 with low parts: states merge, and meet the label, as the numbers they stand for do."""
    n, lows = 3, np.array([[1e-11, -2e-11, 3e-11], [0.0, 4e-11, -4e-11]])
    largest = np.array([[1e6, 1e6, 1e6 - 3.0], [1e6, 1e6 - 2.0, 1e6]])
    a, b = (
        PartialState(top, low, np.full(n, 0.5), np.full(n, 0.1), np.full(n, 0.2), no_vectors(n), no_vectors(n))
        for top, low in zip(largest, lows, strict=True)
    )
    both = merge(a, b)
    row = online_softmax.finish(both, Pair(np.full(n, 1e6 + 1.0), np.full(n, 5e-11)), np.ones(n))
    with mp.workdps(40):
        for i in range(n):
            exact_max = [mpf(float(state.max[i])) + mpf(float(state.max_low[i])) for state in (a, b)]
            top = exact_max[0] if a.max[i] >= b.max[i] else exact_max[1]
            assert mpf(float(both.max[i])) + mpf(float(both.max_low[i])) == top
            sums = mp.fsum(mpf(1.5) * mp.exp(each - top) for each in exact_max)
            target_gap = mp.fsum(mpf(0.2) + mpf(0.1) * (top - each) for each in exact_max)
            assert abs(mpf(float(both.sum_exp_minus_one[i])) - (sums - 1)) <= 8 * mpf(U) * sums
            assert abs(mpf(float(both.target_gap[i])) - target_gap) <= 8 * mpf(U) * target_gap
            z_y = mpf(1e6 + 1.0) + mpf(5e-11)
            log_sum = mp.log1p(sums * mp.exp(top - z_y))
            loss = log_sum + target_gap + mpf(0.2) * (z_y - top) + mpf(0.2) * log_sum
            assert abs(mpf(float(row.loss[i])) - loss) <= 16 * mpf(U) * loss


def test_a_state_and_a_label_make_the_loss():
    """Against mpmath, on both sides of the largest other class, to 8u."""
    gaps = np.array([-700.0, -36.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 36.0, 700.0])
    n = len(gaps)
    z = np.array([[0.0, -1.0, -3.0]]) + 0.5 * gaps[:, None]
    row = online_softmax.finish(state_of(z, np.zeros(3), np.ones((3, 1))), Pair.of(-0.5 * gaps), np.full(n, 2.0))
    with mp.workdps(400):
        for i in range(n):
            label, rest = mp.exp(mpf(-0.5 * gaps[i])), [mp.exp(mpf(v)) for v in z[i].tolist()]
            p = label / (label + mp.fsum(rest))
            for number, true in (
                (row.loss[i], -2 * mp.log(p)),
                (row.grad_label[i], -2 * mp.fsum(rest) / (label + mp.fsum(rest))),
                (row.grad_per_exp[i], 2 * rest[0] / (label + mp.fsum(rest))),
            ):
                assert abs(mpf(number) - true) <= 8 * mpf(2) ** -53 * abs(true)


def test_exponentials_keep_low_parts():
    """2u of exp, which NumPy keeps below an ulp, and one rounding each of 1 + low and of the product."""
    high, low = np.array([-700.0, -30.5, -1.0, 0.25]), np.array([5e-14, -1.5e-15, 1e-16, 2e-17])
    with mp.workdps(40):
        for computed, one, other in zip(online_softmax.exp_of_sum(high, low), high, low, strict=True):
            true = mp.exp(mpf(float(one)) + mpf(float(other)))
            assert abs(mpf(float(computed)) / true - 1) <= 4.01 * U


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("block", [1, 64])
def test_the_rounding_error_of_a_huge_logit_is_not_small(monkeypatch, block, dtype):
    """Products are equal, and so large that they round biases off: softmax of the biases, in closed form."""
    in_blocks(monkeypatch, block)
    size = 2.0**60 if dtype == np.float64 else 2.0**31
    for b in ([0.0, 100.0, 50.0, -30.0], [3.0, 1.0, 2.0, 2.5], [100.0, 0.0, -100.0, 99.0]):
        for y in range(4):
            e = np.exp(np.subtract(b, max(b)))
            value, grad = refloss.SoftmaxLoss().value_and_grad(
                np.full((1, 1), size, dtype),
                np.ones((4, 1), dtype),
                [y],
                np.array(b, dtype),
                engine="fused",
                dtype=dtype,
            )
            true = max(b) - b[y] + np.log1p(np.delete(e, np.argmax(b)).sum())
            tolerance = 64.0 * np.finfo(dtype).eps  # of exact gaps a few exponentials, their sum and its logarithm
            assert abs(value - true) <= tolerance * true, (b, y)
            expected = e / e.sum() - np.eye(4)[y]
            assert np.abs(grad.b - expected).max() <= tolerance, (b, y)


def test_a_target_ahead_by_what_its_logit_does_not_hold():
    """Found by hypothesis: z_y = 1e30 + 2.5e12, the others 1e30, the same float64: the loss is 0 and not NaN."""
    x, w = np.array([[1e30, 1e13]]), np.ones((5, 2)) * [1.0, 0.0]
    w[0, 1] = 0.25
    for engine in ("fused", "chain", "dd"):
        value, grad = refloss.SoftmaxLoss().value_and_grad(x, w, [0], np.zeros(5), engine=engine)
        assert value == 0.0, engine
        assert not any(part.any() for part in grad), engine
