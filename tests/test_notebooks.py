"""Rules for every notebook, and proof that the comparison of their outputs compares."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from sections import Profile, is_committed

from companion.measurement.keys import VERSIONS

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = ("ladder", "whisper", "embedded", "smoke")
MARK = "# NBVAL_CHECK_OUTPUT"
MOST, CODE_LINES, CELL_LINES, BYTES = 16, 100, 45, 300_000
CHEAPEST = ROOT / "notebooks" / "theory.ipynb"

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _cells(path: Path, kind: str = "code") -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def _code(path: Path) -> str:
    return "\n".join("".join(cell["source"]) for cell in _cells(path))


def test_notebooks_are_few_enough_to_be_read() -> None:
    assert len(NOTEBOOKS) <= MOST


@every_notebook
def test_a_notebook_has_a_title_and_runs_on_any_python3(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert "".join(notebook["cells"][0]["source"]).startswith("# ")
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


@every_notebook
def test_a_notebook_is_thin(path: Path) -> None:
    cells = ["".join(cell["source"]).split("\n") for cell in _cells(path)]
    lines = [sum(line.strip()[:1] not in ("", "#") for line in cell) for cell in cells]
    assert sum(lines) <= CODE_LINES
    assert max(lines) <= CELL_LINES
    assert path.stat().st_size < BYTES
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tree = ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", _code(path)))
    assert not [node.name for node in ast.walk(tree) if isinstance(node, definitions)]


def test_every_profile_fits_the_notebooks_and_every_notebook_is_run_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    asked = [Profile(name, models="", utterances="") for name in PROFILES]
    names = {name for profile in asked for name in profile.values}
    assert set(VERSIONS) <= names
    by_hand = {"measure", "explore"}  # the one runs for every kind, the other for a reader
    assert names - set(VERSIONS) | by_hand == {at.stem for at in NOTEBOOKS}


@pytest.mark.parametrize("name", PROFILES)
def test_rows_that_come_with_the_project_are_what_their_profile_asks_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    stale = Profile(name, models="", utterances="").stale()
    assert not {path: why for path, why in stale.items() if is_committed(path)}


@every_notebook
def test_outputs_are_kept_just_where_they_are_compared(path: Path) -> None:
    checked = [cell for cell in _cells(path) if MARK in "".join(cell["source"])]
    assert checked, f"no cell is marked {MARK}"
    for cell in _cells(path):
        if cell in checked:
            assert cell["execution_count"] is not None, "without it nothing is compared"
            assert cell["outputs"], "run `make notebooks`"
            assert all(output.get("name") != "stderr" for output in cell["outputs"])
        else:
            assert not cell["outputs"]
            assert cell["execution_count"] is None


@every_notebook
def test_a_notebook_says_nothing_about_where_it_ran(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert not any("execution" in cell["metadata"] for cell in notebook["cells"])
    outputs = json.dumps([cell.get("outputs", []) for cell in notebook["cells"]])
    assert not re.search(r"(?<!\w)/(home|root|tmp|work|Users)/", outputs)


def test_a_wrong_stored_value_fails_the_comparison_and_right_ones_pass(tmp_path: Path) -> None:
    notebook = nbformat.read(CHEAPEST, as_version=4)
    outputs = [cell.outputs[0] for cell in notebook.cells if MARK in cell.source]
    wrong = outputs[0]
    wrong.text = re.sub(r"\d+", lambda number: str(int(number[0]) + 1), wrong.text, count=1)
    copy = tmp_path / "notebooks" / CHEAPEST.name
    copy.parent.mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    nbformat.write(notebook, copy)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "--rootdir", str(copy.parent), str(copy)],
        cwd=copy.parent, env={**os.environ, "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Cell outputs differ" in run.stdout, run.stdout
    assert re.search(r"\b1 failed, \d+ passed", run.stdout), run.stdout
    assert len(outputs) > 1, "all others pass"
