"""Losses by the names that a user writes: text that names none is refused, and never run."""

import pytest

import refloss
from refloss.cli.loss_names import parse_loss, public_losses
from support.command_line import error_of, invoke


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("CosFace(m=9)", "m must be"),
        ("CosFace(0.35)", "expected settings by name"),
        ("CosFace(**{'m': 1})", "expected settings by name"),
        ("CosFace(m=", "expected a loss such as"),
        ("CosFace\0", "expected a loss such as"),
        ("CosFace(n=1)", "unexpected keyword argument 'n'"),
        ("NoLoss()", "expected one of"),
        ("__import__('os').system('true')", "expected one of"),
        ("CosFace(m=__import__('os'))", "m: expected a literal such as 0.5 or 'sum', got \"__import__('os')\""),
        ("CosFace(m=1+1)", "got '1 + 1': malformed node or string on line 1"),
        ("CosFace(m={[]})", "m: expected a literal such as 0.5 or 'sum', got '{[]}': unhashable type"),
        (f"CosFace(m={'-' * 5000}1)", f"expected a loss such as 'ArcFace(m=0.5)', got 'CosFace(m={'-' * 180}"),
        (f"CosFace(s={'9' * 5000})", "expected a loss such as 'ArcFace(m=0.5)', got 'CosFace(s=9"),
    ],
)
def test_what_is_no_loss_says_what_is_wrong(mine, loss, message):
    assert message in error_of(invoke("check", f"{mine}:good", "--loss", loss))


@pytest.mark.parametrize("text", ["CosFace", "CosFace()", "AMSoftmax(s=64.0)"])
def test_a_loss_is_written_as_in_python(text):
    assert parse_loss(text) == refloss.CosFace()


def test_other_names_of_a_loss():
    assert {loss.__name__: names for loss, names in public_losses().items() if names} == {
        "ASoftmax": ["SphereFace"],
        "CosFace": ["AMSoftmax"],
        "InfoNCE": ["CLIP"],
    }
