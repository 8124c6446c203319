"""The user's function, by module or by file."""

import re
import sys
from pathlib import Path

import pytest

from refloss.cli.loading import load_function
from support.command_line import SMALL, error_of, invoke


def test_modules_are_found_in_the_current_directory(mine, monkeypatch):
    monkeypatch.chdir(Path(mine).parent)
    assert invoke("check", "mine:good", *SMALL).exit_code == 0
    assert sys.path[0] == str(Path(mine).parent)


def test_the_current_directory_comes_first(tmp_path, monkeypatch):
    for folder, returned in (("installed", "'installed'"), ("here", "'here'")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice.py").write_text(f"def where(): return {returned}")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    monkeypatch.chdir(tmp_path / "here")
    assert load_function("twice:where")() == "here"


def test_a_file_imports_those_beside_it(tmp_path):
    (tmp_path / "beside_mine.py").write_text("number = 7")
    (tmp_path / "my.file.py").write_text("import beside_mine\n\ndef seven(): return beside_mine.number")
    assert load_function(f"{tmp_path}/my.file.py:seven")() == 7


def test_a_file_hides_no_installed_module(tmp_path, monkeypatch):
    for folder in ("installed", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "installed" / "same_name.py").write_text("number = 7")
    (tmp_path / "here" / "same_name.py").write_text("import beside, same_name\n\ndef f(): return same_name.number")
    (tmp_path / "here" / "beside.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    assert load_function(f"{tmp_path}/here/same_name.py:f")() == 7
    assert sys.modules["same_name"].number == 7


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def", "SyntaxError: .*line 1"),
        ("nothing_such", "NameError: name 'nothing_such' is not defined"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ImportError('one line\\nand another')", "ImportError: one line and another"),
        ("import no_such_module_either", "ModuleNotFoundError: No module named 'no_such_module_either'"),
        ("class Own(BaseException): pass\nraise Own('[/b] mine')", re.escape("Own: [/b] mine")),
    ],
)
def test_what_cannot_be_imported_is_a_wrong_call(tmp_path, monkeypatch, as_file, code, message):
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    place = "broken.py" if as_file else "broken"
    assert re.fullmatch(
        f"Error: Invalid value for 'TARGET': {place}: {message}.*", error_of(invoke("check", f"{place}:f", *SMALL))
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{mine}:none", "has no none"),
        ("{mine}:nothing", "has no nothing"),
        ("{mine}:good.none.at.all", "has no good.none.at.all"),
        ("{mine}:number", "cannot be called"),
        ("good", "expected module:function"),
        ("no_such_module:good", "No module named"),
        ("/no/such/file.py:good", "No such file"),
    ],
)
def test_a_target_that_is_no_function_says_what_is_wrong(mine, target, message):
    assert message in error_of(invoke("check", target.format(mine=mine), "--loss", "CosFace()"))


def test_a_module_may_have_a_name_that_python_cannot_write(tmp_path, monkeypatch):
    (tmp_path / "01-mine.py").write_text("def seven(): return 7")
    monkeypatch.chdir(tmp_path)
    assert load_function("01-mine:seven")() == load_function("01-mine.py:seven")() == 7
