"""Defects of cross entropy in language models: each is refused and named, and its mended twin conforms."""

from __future__ import annotations

import pytest

from refloss.testing import check

pytest.importorskip("torch")

from support.wrong_codes import named_codes

pytestmark = pytest.mark.usefixtures("torch")
CODES = [(code, dtype) for code in named_codes() for dtype in code.dtypes]
IDS = [f"{code.framework}, {code.name} in {dtype}" for code, dtype in CODES]


@pytest.mark.parametrize(("code", "dtype"), CODES, ids=IDS)
def test_a_defect_is_refused_and_named(code, dtype):
    report = check(code.fn, code.loss, framework=code.framework, dtype=dtype, **code.settings)
    said = code.said.format(dtype=dtype)
    assert report.state == "does not conform", str(report)
    assert [sentence[: len(said)] for sentence in report.diagnoses] == [said], str(report)


@pytest.mark.untraced
@pytest.mark.parametrize(("code", "dtype"), CODES, ids=IDS)
def test_its_mended_twin_conforms(code, dtype):
    report = check(code.mended, code.loss, framework=code.framework, dtype=dtype, **code.settings)
    assert report.passed, str(report)
    assert report.diagnoses == (), str(report)
