#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.10.14"]
# ///
"""What a change must pass, one session per step: `.ci/run` calls them all, `nox -s NAME` one of them.

What stands after ``--`` goes to the session's command (``nox -s tests -- tests/test_margin.py``), or is the folder that
it writes to or reads from.
"""

import os
import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False  # a sample is skipped where there is no such Python

ROOT = Path(__file__).resolve().parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
CONSTRAINTS, FLOORS = ROOT / ".ci" / "constraints.txt", ROOT / ".ci" / "floors.txt"
ALONE = ROOT / ".ci" / "alone.txt"
SAMPLES = {"3.11": FLOORS, "3.13": CONSTRAINTS}
"""Versions of Python that the classifiers name, and what is installed there."""

# README's commands too get what the tests were written against.
os.environ.setdefault("PIP_CONSTRAINT", str(CONSTRAINTS))


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group; pip itself installs groups from 25.1 on."""
    return list(nox.project.dependency_groups(PROJECT, name))


def matching(*patterns: str) -> list[str]:
    """Return the files that each pattern matches, such as ``tests/test_*.py``; each has to match at least one."""
    matches = [sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)) for pattern in patterns]
    assert all(matches), f"{patterns}: no file matches one of them"
    return [file for files in matches for file in files]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy."""
    session.install(*group("types"))
    session.run("mypy", "--strict", "refloss")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the suite with every framework, the long tests too, and ask for full coverage."""
    session.install(".[test,frameworks]")
    session.install("--no-deps", "-r", str(ALONE))
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    # Coverage cannot see inside compiled kernels, so their own tests run them as plain Python first. No threads, since
    # there is a worker for each core already.
    uncompiled = ("pytest", "-q", *matching("tests/test_kernels*.py"), "--cov", "--cov-fail-under=0", "--cov-report=")
    session.run(*uncompiled, env={"NUMBA_DISABLE_JIT": "1"})
    everything = ("pytest", "-m", "long or not long", "-n", "2", "--dist", "worksteal", "--cov", "--cov-append")
    session.run(*everything, env={"OMP_NUM_THREADS": "1"})


@nox.session(python=list(SAMPLES), default=False)
def sample(session: nox.Session) -> None:
    """Run quick tests of every floor of the house: the lowest versions allowed, and another Python."""
    session.install(".[test]", env={"PIP_CONSTRAINT": str(SAMPLES[str(session.python)])})
    names = ("package", "inputs", "kernels*", "linear", "softmax", "naive")
    files = matching("tests/cli", *(f"tests/test_{name}.py" for name in names))
    session.run("pytest", *(session.posargs or files), env={"OMP_NUM_THREADS": "1"})


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build the sdist, and from it the wheel: the sdist must therefore be complete."""
    session.install(*group("build"))
    session.run("python", "-m", "build", "--outdir", *(session.posargs or ("dist",)))


@nox.session(default=False)
@nox.parametrize("pattern", [nox.param("*.whl", id="wheel"), nox.param("*.tar.gz", id="sdist")])
def install(session: nox.Session, pattern: str) -> None:
    """Install what `build` wrote, and import it where nothing else could be imported."""
    (distribution,) = Path(*(session.posargs or ("dist",))).resolve().glob(pattern)
    session.install(str(distribution))
    session.chdir(session.create_tmp())
    session.run("python", "-c", "import refloss; print('refloss', refloss.__version__, 'from', refloss.__file__)")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the site."""
    session.install(".[docs]")
    session.run("npm", "ci", "--prefix", "docs", external=True)
    command = ("mkdocs", "build", "--strict", "--site-dir", *(session.posargs or ("site",)))
    session.run(*command, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(default=False)
def site(session: nox.Session) -> None:
    """Test the site, which the tests build, in a Chromium that is there already."""
    session.install(".[docs,test]", *group("site"))
    session.run("npm", "ci", "--prefix", "docs", external=True)
    files = ("tests/test_site.py", "tests/test_figures.py")
    session.run("pytest", "-q", "-n", "2", *(session.posargs or files), env={"REFLOSS_SITE": "1"})


@nox.session(default=False)
@nox.parametrize("number", [nox.param(1, id="demo"), nox.param(2, id="tests")])
def readme(session: nox.Session, number: int) -> None:
    """Run one of README's first two commands, exactly as it is printed."""
    fences = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for fence in fences for line in fence.splitlines() if line.strip()]
    session.run("bash", "-c", lines[number - 1], external=True)


if __name__ == "__main__":
    nox.main()
