"""What is known of public implementations: complete rows, in the versions that are installed and pinned."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest

import refloss
from refloss.losses import LOSSES
from refloss.testing import known
from refloss.testing.implementations import FRAMEWORKS
from support.real_code import DIFFERENT, LIBRARIES, ROWS

CONSTRAINTS = (Path(__file__).parents[1] / ".ci/constraints.txt").read_text()
RUN = [row for row in known() if row.status == "run"]


def label(row):
    return f"{row.library}-{row.code}-{row.framework}"


def test_what_is_asked_for_comes():
    arcface = known("ArcFace")
    assert arcface == known(refloss.ArcFace) == [row for row in known() if isinstance(row.loss, refloss.ArcFace)]
    assert known("AMSoftmax") == known("CosFace")
    exactly = known(refloss.ArcFace(s=64, m=0.5, gradient="detached"))
    assert {row.library for row in exactly} == {"InsightFace", "CVLface"}
    assert known(refloss.ArcFace(m=0.123)) == []
    assert known(refloss.ArcFace(), "paddle") == [row for row in known(refloss.ArcFace()) if row.framework == "paddle"]
    assert {row.framework for row in known(framework="jax")} == {"jax"}
    assert all(row.equal for row in known(refloss.Triplet(squared=False)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("Softmax",), ValueError, "loss must be one of CLIP, AMSoftmax, .*; got 'Softmax'"),
        ((3,), TypeError, "loss must be a loss, a class of losses, its name or None; got 3"),
        ((int,), TypeError, "loss must be a loss, .*; got <class 'int'>"),
        ((None, "keras"), ValueError, "framework must be one of torch, .*; got 'keras'"),
    ],
)
def test_what_is_not_there_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        known(*arguments)


def test_no_code_stands_there_twice():
    labels = [label(row) for row in known()]
    assert [each for each in labels if labels.count(each) > 1] == []
    assert known()[: len(RUN)] == RUN


def test_the_frameworks_are_those_that_the_documentation_names():
    assert re.findall(r'"(\w+)"', known.__doc__.partition("framework\n")[2].partition("Returns")[0]) == [
        *("torch", "jax", "numpy", "tensorflow", "paddle", "mxnet", "oneflow", "mindspore", "caffe")
    ]
    assert set(FRAMEWORKS) == {row.framework for row in known()}


@pytest.mark.parametrize("row", known(), ids=label)
def test_a_row_is_whole(row):
    assert type(row.loss) in LOSSES
    assert row.library
    assert row.code
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", row.repository)
    assert re.fullmatch(r"[\w./-]+\.(py|cpp|cu)", row.path)
    assert row.units in ("", "radians", "degrees")
    for sentences in (row.differs, row.remarks):
        assert not sentences or sentences.endswith(".")
    if row.status == "read":
        assert re.fullmatch(r"[0-9a-f]{40}", row.revision)
        assert row.url == f"https://github.com/{row.repository}/blob/{row.revision}/{row.path}"
    else:
        assert row.url == f"https://github.com/{row.repository}"


@pytest.mark.parametrize("row", RUN, ids=label)
def test_what_is_run_is_run_in_the_version_that_is_named(row):
    assert re.search(rf"^{re.escape(row.package)}=={re.escape(row.revision)}$", CONSTRAINTS, re.MULTILINE)
    assert row.framework == LIBRARIES[row.library].framework
    stated = {(each.library, each.code): each.loss for each in ROWS}
    if row.equal:
        assert stated[row.library, row.code] == row.loss
    else:
        assert (row.library, row.code) in DIFFERENT
        assert (row.library, row.code) not in stated


@pytest.mark.parametrize("row", RUN, ids=label)
def test_what_is_run_is_where_it_is_said_to_be(row):
    spec = importlib.util.find_spec(row.path.partition("/")[0])
    if spec is None:
        pytest.skip(f"{row.package} is not installed")
    (folder,) = spec.submodule_search_locations
    assert (Path(folder).parent / row.path).is_file()
    assert importlib.metadata.version(row.package).partition("+")[0] == row.revision


@pytest.mark.parametrize("row", known(), ids=label)
def test_what_equals_the_code_is_a_loss_or_one_with_defects(row):
    if row.defects:
        assert str(row.emulated) == f"Emulated({row.loss}, {', '.join(map(repr, row.defects))})"
        assert row.differs
    else:
        assert row.emulated == (None if row.differs else row.loss)


def test_nothing_else_is_said_to_be_different():
    assert set(DIFFERENT) == {(row.library, row.code) for row in RUN if not row.equal}


def test_the_page_counts_what_there_is():
    page = " ".join((Path(__file__).parents[1] / "docs/testing/known.md").read_text().split())
    rows = known("ArcFace")
    rules = Counter(row.loss.boundary for row in rows)
    others = len(rows) - rules["hard"] - rules["none"]
    detached = sum(row.loss.gradient == "detached" for row in rows)
    assert f"Of {len(rows)} rows of ArcFace, {rules['hard']} have the rule" in page
    assert f"{rules['none']} have none, and {others} have five others; in {detached} the gradient" in page
    assert len(rules) == 7
    changes = " ".join((Path(__file__).parents[1] / "CHANGELOG.md").read_text().split())
    assert f"The tests run {len(RUN)} of them." in changes
