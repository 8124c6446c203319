"""The options that several commands share: wrong ones are named."""

import pytest

from support.command_line import error_of, invoke


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("framework", "tensorflow"),
        ("dtype", "int8"),
        ("device", "no_such_device"),
        ("group", "no_such_group"),
        ("group", ""),
        ("standard", "no_such_standard"),
        ("accumulate", "int8"),
        ("matmul", "int8"),
        ("seed", "-1"),
        ("shape", "1"),
    ],
)
def test_a_wrong_option_is_named(mine, option, value):
    assert option in error_of(invoke("check", f"{mine}:good", "--loss", "CosFace()", f"--{option}", value))


@pytest.mark.parametrize("shape", ["4", "4,5,0", "a,b,c", "4,5,²"])
def test_a_shape_has_three_sizes(shape):
    assert "expected N,C,D" in error_of(invoke("cases", "--loss", "CosFace()", "--shape", shape))
