"""Every example is short, answers its question, and runs as a program of its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {
    "choose_under_a_limit": "none: ",
    "demo_table": "test.csv",
    "fit_a_csv": "digits are right",
    "more_rows": "100 times the rows",
    "own_family": "'huber'",
    "own_objective": "EUR",
    "serve_one_row": "one row takes",
}
"""A part of what each prints."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_one_question_in_under_80_lines(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 80
    assert "?" in (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    argument = str(tmp_path) if path.stem == "demo_table" else "8s"
    command = [sys.executable, "-W", "error::DeprecationWarning", str(path), argument]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[path.stem] in done.stdout


def environment() -> dict[str, str]:
    """This process's, with the checkout on the path: the package may not be installed."""
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
