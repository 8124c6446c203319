"""Headroom: which targets and logits a dtype has room for."""

from __future__ import annotations

import numpy as np
import pytest

from refloss.engines.fused.headroom import (
    TooLargeError,
    check_lse_gradient,
    check_options,
    check_scale,
    check_targets,
    is_single,
    max_logit,
)
from refloss.error_free import Scaled
from refloss.stages.softcap import UNCHANGED, Settings

FLOAT64, FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)


def test_room_is_that_of_the_dtype():
    assert not is_single(FLOAT64)
    assert is_single(FLOAT32)
    assert max_logit(FLOAT64) == np.finfo(np.float64).max / 65536
    assert max_logit(FLOAT32) == float(np.finfo(np.float32).max) / 65536


@pytest.mark.parametrize(("dtype", "power"), [(FLOAT64, 300), (FLOAT32, 64)])
def test_targets_between_both_ends_fit(dtype, power):
    check_targets(dtype)
    check_targets(dtype, np.zeros(2), np.empty(0))
    check_targets(dtype, np.array([0.0, -(2.0**power), 2.0**-power]))
    for beyond in (2.0 ** (power + 1), -(2.0 ** -(power + 1)), np.inf, np.nan):
        with pytest.raises(TooLargeError):
            check_targets(dtype, np.ones(1), np.array([0.0, beyond]))
    with pytest.raises(TooLargeError):
        check_targets(dtype, Scaled.of(np.ones(2)))


def test_scales_and_caps_between_both_ends_fit():
    for settings in (UNCHANGED, Settings(2.0**39, 2.0**-39), Settings(2.0**-39, 2.0**39), Settings(1.0, 30.0)):
        check_options(settings)
    for settings in (Settings(2.0**40), Settings(2.0**-40), Settings(1.0, 2.0**40), Settings(1.0, 1e-30)):
        with pytest.raises(TooLargeError):
            check_options(settings)


def test_scales_of_hard_classes_between_both_ends_fit():
    for scale in (2.0**-39, 64.0, 2.0**39):
        check_scale(scale)
    for scale in (2.0**-40, 2.0**40, 1e300):
        with pytest.raises(TooLargeError):
            check_scale(scale)


@pytest.mark.parametrize(("dtype", "power"), [(FLOAT64, 300), (FLOAT32, 64)])
def test_gradients_of_log_sum_exps_up_to_an_end_fit(dtype, power):
    """However small: what they are added to is larger. NaN is of a row that has no log-sum-exp."""
    check_lse_gradient(dtype)
    check_lse_gradient(dtype, np.array([0.0, 5e-324, np.nan, -(2.0**power)]), np.empty(0))
    for beyond in (2.0 ** (power + 1), -np.inf):
        with pytest.raises(TooLargeError):
            check_lse_gradient(dtype, np.ones(1), np.array([0.0, beyond]))
