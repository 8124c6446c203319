"""The application: version, help, and what is said where the extra is missing."""

import subprocess
import sys

import pytest

import refloss
from refloss import cli
from support.command_line import run


def test_version():
    assert run("--version") == f"{refloss.__version__}\n"


def test_help_names_the_commands():
    output = run("--help")
    assert "demo" in output
    assert "losses" in output


def test_main_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["refloss", "--version"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"{refloss.__version__}\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_main_without_the_extra_says_in_one_line_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == "refloss: the command line needs typer and rich: pip install 'refloss[cli]'"


def test_process_without_the_extra_exits_with_1_and_one_line():
    code = "import sys; sys.modules['typer'] = None; from refloss.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["refloss: the command line needs typer and rich: pip install 'refloss[cli]'"]


def test_importing_refloss_and_the_cli_module_loads_neither_typer_nor_rich():
    code = "import sys, refloss.cli; print(sorted({'typer', 'rich', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
