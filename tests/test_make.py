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
    "spectral/measurement/jacobians.py": "from spectral import f",
    "spectral/measurement/nulls.py": "import spectral.reading",
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
    "requirements.rivals": "",
    "figures/README.md": "",
    "params/ladder.yml": """
measure: {corpus: ../data/corpus, ladder: ../data/ladder}
jacobians: {ladder: ../data/ladder}
nulls: {corpus: ../data/corpus, ladder: ../data/ladder, utterances: 2}
outcomes: &shared {results: ../build/ladder/measure, models: [small, large], seed: 0}
phase: *shared
gains: {results: ../build/ladder/jacobians, models: [small]}
proof: {seed: 0}
""",
}
NOTEBOOKS = {
    "measure": ('model = "small"', "from spectral.measurement.run import late"),
    "jacobians": ('model = "small"', "import spectral.measurement.jacobians"),
    "nulls": ('model = "small"\noutput = ""', "import spectral.measurement.nulls"),
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
    """The real Makefile and its scripts on a small project in which everything is up to date."""
    for name in (
        "Makefile",
        *(f"scripts/{name}.py" for name in ("rules", "dependencies", "stamp")),
    ):
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


FAILING = """
import sys
from pathlib import Path
first = Path("failed-once")
if not first.exists():
    first.touch()
    sys.exit("error: the first one fails")
Path(sys.argv[2]).touch()
"""
"""Stands for the execution of notebooks of which the first fails."""


def test_a_notebook_that_fails_is_an_error_but_keeps_no_other_from_being_made(
    project: Path,
) -> None:
    (project / "scripts" / "execute.py").write_text(FAILING)
    _touch(project / "spectral" / "figures" / "style.py")
    run = _make(project, "figures", "JOBS=1")
    assert run.returncode == 2
    assert "error: the first one fails" in run.stderr
    assert "is complete" not in run.stdout
    assert {name for name in DRAWN if f"drawing {name}" in run.stdout} == DRAWN


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


def test_a_notebook_of_tables_runs_after_those_that_write_them(project: Path) -> None:
    path = project / "params" / "ladder.yml"
    path.write_text(path.read_text().replace("proof: {seed: 0}", "proof: {drawn: [phase, gains]}"))
    assert _stale(project) == {"proof"}
    (project / "build" / "ladder" / "notebooks" / "proof.ipynb").touch()
    assert _stale(project) == set()
    _touch(project / "notebooks" / "gains.ipynb")
    assert _stale(project) == {"gains", "proof"}
    run = _make(project, "-n", "figures")
    assert run.stdout.index("notebooks/gains.ipynb") < run.stdout.index("notebooks/proof.ipynb")


@pytest.mark.parametrize("drawn", ["[measure]", "[nothing]", "[proof]", "phase"])
def test_tables_are_of_notebooks_that_draw(drawn: str, project: Path) -> None:
    path = project / "params" / "ladder.yml"
    path.write_text(path.read_text().replace("proof: {seed: 0}", f"proof: {{drawn: {drawn}}}"))
    assert "drawn of proof" in _error(project)


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


EXECUTION = """
import sys
from pathlib import Path
target = Path(sys.argv[2])
target.touch()
(rows,) = (Path("notebooks") / a.removeprefix("output=") for a in sys.argv if "output=" in a)
rows.parent.mkdir(parents=True, exist_ok=True)
rows.write_text("rows")
change = Path("changed-meanwhile")
if change.exists():
    Path("spectral/reading.py").write_text(change.read_text())
"""
"""Stands for the execution of a measuring notebook: rows are written, for once without a model."""

PACKING = """
import sys
from pathlib import Path
Path(sys.argv[1]).write_text("packed " + Path(sys.argv[1]).read_text())
"""


@pytest.fixture
def committed(project: Path) -> Path:
    """The same project, one figure of which draws from rows that come with it."""
    path = project / "params" / "ladder.yml"
    drawing = "gains: {results: ../data/results/nulls, models: [small, large]}\n"
    path.write_text(re.sub("gains: .*\n", drawing, path.read_text()))
    (project / "scripts" / "execute.py").write_text(EXECUTION)
    (project / "scripts" / "pack.py").write_text(PACKING)
    _evidence(project)
    return project


def test_evidence_is_measured_once_and_then_only_drawn_from(committed: Path) -> None:
    rows = sorted(path.name for path in (committed / "data" / "results" / "nulls").iterdir())
    assert rows == ["large.json", "large.parquet", "small.json", "small.parquet"]
    found = committed / "data" / "results" / "nulls" / "large.parquet"
    assert found.read_text() == "packed rows"
    assert _stale(committed) == {"gains"}
    shutil.rmtree(committed / "build")  # as in a fresh clone
    assert _stale(committed) == EVERYTHING - {"jacobians-small"}
    assert "measuring" not in _evidence(committed)


def test_a_figure_draws_other_models_where_a_parameter_of_its_own_names_them(
    committed: Path,
) -> None:
    path = committed / "params" / "ladder.yml"
    both = "null_results: ../data/results/nulls, models: [small, large], null_models: [large]"
    drawing = "gains: {results: ../build/ladder/jacobians, " + both + "}\n"
    path.write_text(re.sub("gains: .*\n", drawing, path.read_text()))
    (committed / "data" / "results" / "nulls" / "small.parquet").unlink()
    assert _stale(committed) == {"jacobians-large", "gains"}
    (committed / "data" / "results" / "nulls" / "large.parquet").unlink()
    assert "nulls/large.parquet: not measured yet" in _error(committed)


def test_rows_that_nobody_measured_yet_are_an_error(committed: Path) -> None:
    (committed / "data" / "results" / "nulls" / "large.parquet").unlink()
    error = _error(committed)
    assert "data/results/nulls/large.parquet: not measured yet; `make evidence`" in error
    assert _evidence(committed).splitlines()[:-1] == ["measuring large (nulls)"]
    assert _stale(committed) == {"gains"}


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("spectral/reading.py", "x = 1", "spectral/reading.py"),
        ("spectral/measurement/nulls.py", "", "spectral/measurement/nulls.py"),
        ("data/corpus/1/1.flac", "louder", "data/corpus"),
        ("data/ladder/small/SHA256SUMS", "0", "data/ladder/small"),
        ("notebooks/nulls.ipynb", None, "notebooks/nulls.ipynb"),
        ("params/ladder.yml", None, "params: nulls"),
    ],
)
def test_rows_measured_with_anything_else_are_an_error_that_names_it(
    name: str, change: str | None, named: str, committed: Path
) -> None:
    path = committed / name
    if change is None:
        before = path.read_text()
        change = before.replace("utterances: 2", "utterances: 3")
        change = change.replace("import spectral.measurement.nulls", "import spectral.measurement")
        assert change != before
    path.write_text(change)
    (error,) = (line for line in _error(committed).splitlines() if line.startswith("error"))
    assert f"{named}" in error
    assert "changed; `make evidence` measures such rows again" in error


@pytest.mark.parametrize(
    "code",
    [
        "# a comment\n",
        '''"""A docstring."""''',
    ],
)
def test_comments_and_docstrings_do_not_make_rows_stale(code: str, committed: Path) -> None:
    (committed / "spectral" / "reading.py").write_text(code)
    assert _stale(committed) >= {"gains"}


def test_other_kernels_and_other_parameters_leave_rows_as_they_are(committed: Path) -> None:
    (committed / "spectral" / "kernels.py").write_text("f = 2")  # nulls do not import it
    assert _stale(committed) >= {"gains"}
    assert "nulls-small" not in _stale(committed, "N=50")


def test_rows_that_were_replaced_are_an_error(committed: Path) -> None:
    (committed / "data" / "results" / "nulls" / "small.parquet").write_text("better rows")
    assert "small.parquet: other rows than those of small.json" in _error(committed)


def test_rows_whose_code_changed_while_they_were_measured_are_not_kept(committed: Path) -> None:
    rows = committed / "data" / "results" / "nulls" / "small.parquet"
    rows.unlink()
    (committed / "changed-meanwhile").write_text("x = 1")
    run = _make(committed, "evidence")
    assert run.returncode == 2
    assert "spectral/reading.py changed while it was measured; run the same command" in run.stderr
    assert not rows.exists()


def test_rows_of_one_kind_lie_in_one_folder(committed: Path) -> None:
    path = committed / "params" / "ladder.yml"
    path.write_text(path.read_text().replace("proof: {", "proof: {results: ../data/x/nulls, "))
    assert "results of proof is '../data/x/nulls', elsewhere data/results/nulls" in (
        _error(committed)
    )


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


def _evidence(folder: Path) -> str:
    """What `make evidence` says while it measures."""
    run = _make(folder, "evidence")
    assert run.returncode == 0, run.stderr
    return run.stdout


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
        re.findall(r"scripts/execute.py \S+ build/ladder/notebooks/(\S+)\.ipynb", run.stdout)
    )
