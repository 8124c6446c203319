"""``refloss known``: public implementations, each with the loss that it is."""

import pytest

from refloss.cli.known import where
from refloss.testing import known
from support.command_line import error_of, invoke, parsed, run


def test_every_implementation_is_listed():
    text = run("known", charset="ascii").replace("\n  ", " ")
    assert len(text.splitlines()) == len(known())
    for line, row in zip(text.splitlines(), known(), strict=True):
        assert line.startswith(f"{row.library}: {row.code} ")
        assert line.endswith(f"{row.framework}, {row.status}: {where(row)}")


def test_a_paragraph_says_all_of_a_row():
    assert run("known", "--loss", "ArcFace(boundary='keep')") == (
        "Catalyst: ArcFace(D, C)\n"
        "  = ArcFace(s=64.0, m=0.5, boundary='keep')\n"
        "  Returns logits. Cosines are held within 1 - 1e-6.\n"
        "  defaults: s=64.0, m=0.5, eps=1e-6\n"
        "  margin in radians\n"
        "  torch, run: catalyst 22.4, catalyst/contrib/layers/arcface.py\n"
    )
    different = run("known", "--loss", "Triplet", "--framework", "jax")
    loss = "Emulated(Triplet(reduction='none', m=0.2, squared=False), '1e-06 under the root of distances')"
    assert f"\n  = {loss}\n  1e-6 stands below the root of both distances.\n" in different
    assert "\n  nearest: CrossEntropy()\n  Probabilities are cut off" in run("known", "--framework", "numpy")


@pytest.mark.parametrize("loss", ["ArcFace", "ArcFace(s=30, boundary='hard')", "AMSoftmax", "AMSoftmax()"])
def test_options_reach_the_library(loss):
    listed = parsed(run("known", "--loss", loss, "--framework", "torch", "--json"))
    wanted = known(loss if "(" not in loss else eval(f"refloss.{loss}", {"refloss": __import__("refloss")}), "torch")
    assert [row["code"] for row in listed] == [row.code for row in wanted]
    assert wanted


def test_json_has_the_fields_and_what_follows_from_them():
    (row,) = (row for row in parsed(run("known", "--loss", "InfoNCE()", "--json")) if row["library"] == "OpenCLIP")
    assert row == {
        "library": "OpenCLIP",
        "code": "ClipLoss()(x, w, s)",
        "repository": "mlfoundations/open_clip",
        "path": "open_clip/loss.py",
        "revision": "3.3.0",
        "framework": "torch",
        "loss": "InfoNCE(ways=2)",
        "package": "open-clip-torch",
        "differs": "",
        "defects": [],
        "defaults": "local_loss=False, gather_with_grad=False",
        "units": "",
        "remarks": "On one device. Embeddings come at unit length.",
        "emulated": "InfoNCE(ways=2)",
        "status": "run",
        "equal": True,
        "url": "https://github.com/mlfoundations/open_clip",
    }


@pytest.mark.parametrize("wrong", [["--loss", "Softmax"], ["--loss", "ArcFace(s=0)"], ["--framework", "keras"]])
def test_a_wrong_call(wrong):
    assert wrong[0][2:] in error_of(invoke("known", *wrong)) or "s must" in error_of(invoke("known", *wrong))
