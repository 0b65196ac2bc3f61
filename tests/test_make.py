"""What `make` reruns after a change, tried on a project of a few empty files; nothing is run."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spectral.measurement import provenance

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

MEASURED = {"measure-small", "measure-large"}
JACOBIANS = {"jacobians-small", "gains"}
DRAWN = {"outcomes", "phase"}
EVERYTHING = MEASURED | JACOBIANS | DRAWN | {"proof"}
FILES = {
    "spectral/__init__.py": "from spectral.kernels import f",
    "spectral/kernels.py": "f = 1",
    "spectral/reading.py": "",
    "spectral/unused.py": "import spectral.kernels",
    "spectral/measurement/__init__.py": "",
    "spectral/measurement/run.py": "def late():\n    from spectral import reading",
    "spectral/measurement/jacobians.py": "",
    "spectral/figures/__init__.py": "",
    "spectral/figures/style.py": "",
    "spectral/figures/phase.py": "import spectral.figures.style",
    "spectral/figures/outcomes.py": "from spectral.figures import style",
    "data/corpus/1/1.flac": "",
    "data/ladder/small/SHA256SUMS": "",
    "data/ladder/large/SHA256SUMS": "",
    "data/ladder/unused/SHA256SUMS": "",
    "data/published.csv": "",
    "requirements.lock": "torch==1",
    "figures/README.md": "",
    "params/ladder.yml": """
measure: {corpus: ../data/corpus, ladder: ../data/ladder}
jacobians: {ladder: ../data/ladder}
outcomes: &shared {results: ../build/ladder/measure, models: [small, large], seed: 0}
phase: *shared
gains: {results: ../build/ladder/jacobians, models: [small]}
proof: {seed: 0}
""",
}
NOTEBOOKS = {
    "measure": ('model = "small"', "from spectral.measurement.run import late"),
    "jacobians": ('model = "small"', "import spectral.measurement.jacobians"),
    "outcomes": (
        'results = ""\nmodels = []\nseed = 1',
        "%matplotlib inline\nimport spectral.figures.outcomes",
    ),
    "phase": (
        'results = ""\nmodels = []\nseed = 1\ntable = "../data/published.csv"',
        "import spectral.figures.phase",
    ),
    "gains": ('results = ""\nmodels = []', ""),
    "proof": ("seed = 1", ""),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The real Makefile and its script on a small project in which everything is up to date."""
    for name in ("Makefile", "scripts/rules.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "notebooks").mkdir()
    for name, (parameters, code) in NOTEBOOKS.items():
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(_notebook(parameters, code))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copy(tmp_path / "requirements.lock", tmp_path / ".venv")
    executed = tmp_path / "build" / "ladder" / "notebooks"
    executed.mkdir(parents=True)
    assert _stale(tmp_path) == EVERYTHING
    for name in sorted(EVERYTHING, key=lambda name: "-" not in name):  # what is measured first
        product = tmp_path / "figures" / f"{name}.png"
        product.touch()
        (executed / f"{name}.ipynb").touch()
        (executed / f"{name}.written").write_text(f"figures/{product.name}\n")
    return tmp_path


def test_nothing_is_stale_and_make_says_so(project: Path) -> None:
    run = _make(project, "figures")
    assert run.stdout.strip() == (
        "figures/ is up to date with the code, params/ladder.yml and data/: nothing to do"
    )


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("spectral/kernels.py", EVERYTHING - {"proof"}),
        ("spectral/measurement/jacobians.py", JACOBIANS),
        ("notebooks/jacobians.ipynb", JACOBIANS),
        ("notebooks/gains.ipynb", {"gains"}),
        ("notebooks/proof.ipynb", {"proof"}),
        ("data/ladder/small/SHA256SUMS", {"measure-small"} | DRAWN | JACOBIANS),
        ("spectral/measurement/run.py", MEASURED | DRAWN),
        ("spectral/reading.py", MEASURED | DRAWN),
        ("spectral/figures/style.py", DRAWN),
        ("spectral/figures/phase.py", {"phase"}),
        ("spectral/unused.py", set()),
        ("notebooks/measure.ipynb", MEASURED | DRAWN),
        ("notebooks/outcomes.ipynb", {"outcomes"}),
        ("data/corpus/1/1.flac", MEASURED | DRAWN),
        ("data/ladder/large/SHA256SUMS", {"measure-large"} | DRAWN),
        ("data/ladder/unused/SHA256SUMS", set()),
        ("data/published.csv", {"phase"}),
        ("params/ladder.yml", set()),
        ("figures/README.md", set()),
    ],
)
def test_a_change_reruns_just_what_depends_on_it(
    changed: str, stale: set[str], project: Path
) -> None:
    _touch(project / changed)
    assert _stale(project) == stale


@pytest.mark.parametrize(
    ("old", "new", "stale"),
    [
        (
            "phase: *shared",
            "phase: {results: ../build/ladder/measure, models: [small, large], seed: 2}",
            {"phase"},
        ),
        ("seed: 0}\nphase", "seed: 3}\nphase", DRAWN),
        ("../data/corpus,", "../data/corpus, batch: 2,", MEASURED | DRAWN),
        ("measure:", "# a comment\nmeasure:", set()),
        ("[small, large]", "[small]", DRAWN),
    ],
)
def test_parameters_rerun_only_the_notebooks_whose_section_changed(
    old: str, new: str, stale: set[str], project: Path
) -> None:
    path = project / "params" / "ladder.yml"
    time.sleep(0.02)
    path.write_text(path.read_text().replace(old, new))
    assert _stale(project) == stale


def test_results_that_nothing_measures_are_refused(project: Path) -> None:
    path = project / "params" / "ladder.yml"
    path.write_text(path.read_text().replace("ladder/jacobians", "ladder/jacobian"))
    run = _make(project, "figures")
    assert run.returncode == 2
    assert "results of gains is '../build/ladder/jacobian'; it must end in" in run.stderr


def test_a_notebook_may_draw_from_two_measurements(project: Path) -> None:
    path = project / "params" / "ladder.yml"
    two = "ladder/jacobians, other_results: ../build/ladder/measure"
    path.write_text(path.read_text().replace("ladder/jacobians", two))
    assert _stale(project) == {"gains"}
    _touch(project / "data" / "corpus" / "1" / "1.flac")
    assert _stale(project) == MEASURED | DRAWN | {"gains"}


def test_a_section_that_is_null_leaves_its_notebook_out(project: Path) -> None:
    path = project / "params" / "ladder.yml"
    path.write_text(re.sub("proof: .*", "proof: null", path.read_text()))
    (project / "build" / "ladder" / "notebooks" / "proof.ipynb").unlink()
    assert _stale(project) == set()
    path.write_text(re.sub("jacobians: .*", "jacobians: null", path.read_text()))
    assert "gains draws from jacobians, which this profile leaves out" in _error(project)


def test_n_measures_so_many_utterances_and_no_others(project: Path) -> None:
    measured = MEASURED | JACOBIANS
    assert measured <= _stale(project, "N=50")
    section = project / "build" / "ladder" / "params" / "measure.yml"
    assert "utterances: 50" in section.read_text()
    assert measured <= _stale(project)
    assert "utterances" not in section.read_text()
    assert "N is 'many'; give a number" in _error(project, "N=many")


def test_added_and_removed_files_and_products_are_noticed(project: Path) -> None:
    (project / "figures" / "phase.png").unlink()
    assert _stale(project) == {"phase"}
    (project / "data" / "corpus" / "1" / "2.flac").touch()
    _touch(project / "data" / "corpus" / "1" / "2.flac")
    assert _stale(project) == MEASURED | DRAWN
    (project / "spectral" / "unused.py").unlink()
    (project / "data" / "corpus" / "1" / "2.flac").unlink()
    assert _stale(project) == {"phase"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["figures", "PROFILE=whispr"], "params/whispr.yml: no such profile; there are: ladder"),
        (["env", "VENV=new", "PYTHON=false"], "error: false is not Python 3.11 or newer"),
        (["env", "VENV=new", "PYTHON=no-python"], "PYTHON=python3.12"),
    ],
)
def test_errors_are_one_line_with_the_remedy(
    arguments: list[str], expected: str, project: Path
) -> None:
    run = _make(project, *arguments)
    assert run.returncode == 2
    ours = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(ours) == 1
    assert expected in ours[0]


def test_a_model_that_is_not_there_is_named(project: Path) -> None:
    shutil.rmtree(project / "data" / "ladder" / "large")
    run = _make(project, "figures")
    assert run.returncode == 2
    assert "data/ladder: no model 'large'; there are: small, unused" in run.stderr


def test_help_lists_every_command() -> None:
    shown = _make(ROOT, "help").stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    for command in set(phony[1].split()) - {"FORCE"}:
        assert re.search(rf"^  {command} +\w", shown, re.MULTILINE), command
    assert _make(ROOT).stdout == shown


def test_measured_rows_are_keyed_by_all_the_code_that_measuring_imports() -> None:
    script = """
import sys
sys.path.insert(0, "scripts")
import rules
for kind in rules.MEASURING:
    notebook = rules.Path("notebooks") / f"{kind}.ipynb"
    print(*rules.modules(rules.imports(rules.notebook_code(notebook))))
"""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    package = ROOT / "spectral"
    keyed = {path.relative_to(ROOT) for name in provenance._CODE for path in package.glob(name)}
    assert set(map(Path, run.stdout.split())) - {Path("spectral/__init__.py")} <= keyed


def _notebook(parameters: str, code: str) -> str:
    cells = [
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": parameters},
        {"cell_type": "code", "metadata": {}, "source": code.splitlines(keepends=True)},
    ]
    return json.dumps({"cells": cells})


def _touch(path: Path) -> None:
    later = time.time() + 5
    os.utime(path, (later, later))


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=inherited, capture_output=True, text=True, check=False
    )


def _error(folder: Path, *arguments: str) -> str:
    """What `make figures` refuses to work with."""
    run = _make(folder, "-n", "figures", *arguments)
    assert run.returncode != 0
    return run.stderr


def _stale(folder: Path, *arguments: str) -> set[str]:
    """The notebooks that `make figures` would run."""
    run = _make(folder, "-n", "figures", *arguments)
    assert run.returncode == 0, run.stderr
    return set(
        re.findall(r"spectral\.execution \S+ build/ladder/notebooks/(\S+)\.ipynb", run.stdout)
    )
