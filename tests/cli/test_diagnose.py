"""``refloss diagnose``: exit status, text, JSON, figure and options."""

import pytest

import refloss
from refloss import testing
from support.command_line import error_of, invoke, parsed


@pytest.fixture
def settings(monkeypatch):
    """The arguments with which the command line calls `testing.diagnose`."""
    arguments = {}

    def record(fn, **settings):
        arguments.update(settings, fn=fn)
        return KNOWN

    monkeypatch.setattr(testing, "diagnose", record)
    return arguments


def good(x, w, y):
    value, grad = refloss.CosFace().value_and_grad(x, w, y)
    return value, grad.x, grad.w


KNOWN = testing.diagnose(good, dtype="float64")


def test_the_exit_status_says_whether_the_loss_is_known(mine):
    known, unknown = (invoke("diagnose", f"{mine}:{name}", columns=200) for name in ("good", "bad"))
    assert (known.exit_code, unknown.exit_code) == (0, 1)
    assert known.stdout.startswith(f"numpy, float32: {refloss.CosFace()}\n")
    assert unknown.stdout.startswith("numpy, float32: unknown\n")
    assert "printed in a call" in known.stderr


def test_json_is_what_the_diagnosis_has(mine, settings):
    result = invoke("diagnose", f"{mine}:good", "--json")
    assert parsed(result.stdout) == parsed(KNOWN.json())


def test_options_are_those_of_the_function(mine, settings):
    invoke("diagnose", f"{mine}:good", "--framework", "torch", "--dtype", "float64", "--standard", "stable")
    assert {name: settings[name] for name in ("framework", "dtype", "standard", "logits", "centers")} == {
        "framework": "torch",
        "dtype": "float64",
        "standard": "stable",
        "logits": None,
        "centers": None,
    }
    invoke("diagnose", f"{mine}:good", "--logits", "--centers", 3, "--seed", 2, "--accumulate", "float64")
    assert (settings["logits"], settings["centers"], settings["seed"]) == (True, 3, 2)


def test_a_figure_is_written(mine, settings, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "curves.svg"
    assert invoke("diagnose", f"{mine}:good", "--figure", path).exit_code == 0
    assert path.read_text().startswith("<?xml")


def test_a_figure_is_saved_under_its_name(mine, settings, monkeypatch):
    saved = []

    class Figure:
        def savefig(self, path):
            saved.append(path.name)

    monkeypatch.setattr(testing.Diagnosis, "figure", lambda diagnosis: Figure())
    assert invoke("diagnose", f"{mine}:good", "--figure", "curves.png").exit_code == 0
    assert saved == ["curves.png"]


def test_wrong_calls_are_refused_in_one_line(mine):
    assert "framework" in error_of(invoke("diagnose", f"{mine}:good", "--framework", "caffe", columns=300))
    of_logits = invoke("diagnose", f"{mine}:good", "--logits", "--centers", 3, columns=300)
    assert "centers: expected None" in error_of(of_logits)
    assert "TARGET" in error_of(invoke("diagnose", f"{mine}:missing", columns=300))
