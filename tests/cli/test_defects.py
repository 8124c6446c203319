"""``refloss defects``: the table, or the rows of a loss."""

from __future__ import annotations

import refloss
from refloss.testing.defects import TABLE, defects
from support.command_line import error_of, invoke, parsed, run


def test_defects_are_listed_with_their_sentences():
    listed = run("defects", charset="ascii").splitlines()
    assert len(listed) == len(TABLE)
    assert listed[0] == "reduction=mean: mean instead of {loss.reduction}"


def test_defects_of_a_loss_print_json():
    printed = parsed(run("defects", "--loss", "Triplet", "--json"))
    rows = defects(refloss.Triplet())
    assert printed == [{"name": row.name, "kind": row.kind, "sentence": row.sentence} for row in rows]


def test_a_loss_that_is_none_is_refused():
    error_of(invoke("defects", "--loss", "ArcFaze"))
