"""What `make` reruns after a change, tried on a project of a few empty files; nothing is run."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import rules

from companion.measurement.keys import VERSIONS

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

MEASURED = {"measure-small", "measure-large"}
JACOBIANS = {"jacobians-small", "gains"}
DRAWN = {"outcomes", "phase"}
REAL = (
    "Makefile", "scripts/rules.py", "scripts/dependencies.py", "scripts/agreement.py",
    "companion/measurement/keys.py", "companion/speech/corpus.py",
)  # fmt: skip
EVERYTHING = MEASURED | JACOBIANS | DRAWN | {"proof"}
FILES = {
    "spectral/__init__.py": "from spectral.kernels import f",
    "spectral/kernels.py": "f = 1",
    "spectral/reading.py": "",
    "spectral/unused.py": "import spectral.kernels",
    "companion/measurement/__init__.py": "",
    "companion/measurement/run.py": "def late():\n    from spectral import reading",
    "companion/figures/__init__.py": "",
    "companion/figures/style.py": "",
    "companion/figures/phase.py": "from spectral import f\nimport companion.figures.style",
    "companion/figures/outcomes.py": "from companion.figures import style",
    "data/corpus/1/1.trans.txt": "1 ONE",
    "data/corpus/1/1.flac": "",
    "data/ladder/small/SHA256SUMS": "",
    "data/ladder/large/SHA256SUMS": "",
    "data/ladder/unused/SHA256SUMS": "",
    "data/published.csv": "",
    "requirements.lock": "torch==1",
    "requirements.rivals": "",
    "requirements.weights": "",
    "figures/README.md": "",
    "params/ladder.yml": """
measure: {corpus: ../data/corpus, ladder: ../data/ladder}
jacobians: {corpus: ../data/corpus, ladder: ../data/ladder}
nulls: {corpus: ../data/corpus, ladder: ../data/ladder, utterances: 2}
outcomes: &shared {results: ../build/ladder/measure, models: [small, large], seed: 0}
phase: *shared
gains: {results: ../build/ladder/jacobians, models: [small]}
proof: {seed: 0}
""",
}
NOTEBOOKS = {
    "measure": ('model = "small"', "from companion.measurement.run import late"),
    "jacobians": ('model = "small"\noutput = ""\nseed = 0', "import companion.measurement.run"),
    "nulls": ('model = "small"\noutput = ""', "import companion.measurement.run"),
    "outcomes": (
        'results = ""\nmodels = []\nseed = 1',
        "%matplotlib inline\nimport companion.figures.outcomes",
    ),
    "phase": (
        'results = ""\nmodels = []\nseed = 1\ntable = "../data/published.csv"',
        "import companion.figures.phase",
    ),
    "gains": ('results = ""\nmodels = []', ""),
    "proof": ("seed = 1", ""),
}
EXECUTION = """
import json, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq, yaml
from rules import defaults, key_of_rows
notebook, target = map(Path, sys.argv[1:3])
target.parent.mkdir(parents=True, exist_ok=True)
values = dict(a.split("=", 1) for a in sys.argv if "=" in a)
if "output" in values:
    section = yaml.safe_load(Path(sys.argv[4]).read_text())[notebook.stem]
    key = key_of_rows(notebook.stem, values["model"], {**defaults(notebook.stem), **section})
    table = pa.table({"x": [1]}).replace_schema_metadata({"spectral": json.dumps({"key": key})})
    rows = "notebooks" / Path(values["output"])
    rows.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, rows)
    if Path("fails").exists():
        sys.exit("error: rows that are no rows")
    target.touch()
else:
    product = Path("figures") / f"{target.stem}.png"
    product.touch()
    target.touch()
    target.with_suffix(".written").write_text(f"{product}\\n")
"""
"""Stands for the execution of a notebook: rows with their key, for once without a model."""

PACKING = """
import sys
import pyarrow.parquet as pq
table = pq.read_table(sys.argv[1])
pq.write_table(table.append_column("packed", table["x"]), sys.argv[1])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Makefile and its scripts on a small project, in which everything was made."""
    folder = tmp_path_factory.mktemp("made")
    for name in REAL:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    texts = {**FILES, "scripts/execute.py": EXECUTION, "scripts/pack.py": PACKING}
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "notebooks").mkdir()
    for name, (parameters, code) in NOTEBOOKS.items():
        (folder / "notebooks" / f"{name}.ipynb").write_text(_notebook(parameters, code))
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for name in ("requirements.lock", "requirements.weights"):
        shutil.copy(folder / name, folder / ".venv")
    assert _stale(folder) == EVERYTHING
    assert _make(folder, "figures").returncode == 0
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of that project."""
    return Path(shutil.copytree(made, tmp_path / "project"))


def test_openai_s_weights_are_installed_before_notebooks_run_unless_they_are_not_wanted(
    project: Path,
) -> None:
    (project / ".venv" / "requirements.weights").unlink()
    _touch(project / "notebooks" / "proof.ipynb")
    for arguments, installed in (((), True), (("WHISPER=no",), False)):
        said = _make(project, "figures", "--dry-run", *arguments).stdout
        assert ("--require-hashes" in said) == installed
        assert "notebooks/proof.ipynb" in said
    said = _make(project, "weights", "--dry-run").stdout
    assert "--force-reinstall --requirement requirements.weights" in said


def test_nothing_is_stale_and_make_says_so(project: Path) -> None:
    run = _make(project, "figures")
    assert run.stdout.splitlines() == [
        "figures/ is up to date with the code, params/ladder.yml and data/: nothing to do",
        "no table of figures/ came with the project: there is nothing to compare with",
    ]


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("spectral/kernels.py", {"phase"}),
        ("companion/measurement/run.py", set()),
        ("spectral/reading.py", set()),
        ("notebooks/jacobians.ipynb", set()),
        ("notebooks/gains.ipynb", {"gains"}),
        ("notebooks/proof.ipynb", {"proof"}),
        ("companion/figures/style.py", DRAWN),
        ("companion/figures/phase.py", {"phase"}),
        ("spectral/unused.py", set()),
        ("notebooks/outcomes.ipynb", {"outcomes"}),
        ("data/corpus/1/1.flac", set()),
        ("data/ladder/large/SHA256SUMS", set()),
        ("data/published.csv", {"phase"}),
        ("params/ladder.yml", set()),
        ("figures/README.md", set()),
    ],
)
def test_a_change_draws_again_just_what_depends_on_it(
    changed: str, stale: set[str], project: Path
) -> None:
    _touch(project / changed)
    assert _stale(project) == stale


@pytest.mark.parametrize(
    ("name", "old", "new", "stale"),
    [
        ("data/corpus/1/1.flac", "", "louder", EVERYTHING - {"proof"}),
        ("data/corpus/1/1.trans.txt", "ONE", "TWO", EVERYTHING - {"proof"}),
        ("data/ladder/large/SHA256SUMS", "", "0", {"measure-large"} | DRAWN),
        ("data/ladder/unused/SHA256SUMS", "", "0", set()),
        ("companion/measurement/keys.py", '"jacobians": 2', '"jacobians": 3', JACOBIANS),
        ("companion/measurement/keys.py", "chosen", "picked", set()),  # a local variable
        ("notebooks/jacobians.ipynb", "seed = 0", "seed = 1", JACOBIANS),
        ("notebooks/jacobians.ipynb", "import companion", "import companion.figures", set()),
        ("companion/measurement/run.py", "late", "later", set()),
    ],
)
def test_rows_are_measured_again_for_what_is_measured_and_not_for_code(
    name: str, old: str, new: str, stale: set[str], project: Path
) -> None:
    _replace(project / name, old, new)
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
        ("measure: {", "measure: {batch: 2, ", MEASURED | DRAWN),
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
    _touch(project / "companion" / "figures" / "style.py")
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
    (project / "data" / "corpus" / "1" / "1.flac").write_text("louder")
    assert _stale(project) == MEASURED | DRAWN | JACOBIANS


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
    assert _stale(project) == set()  # all were measured before, and still are
    assert "utterances" not in section.read_text()


@pytest.fixture(scope="module")
def made_with_rows(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project, one figure of which draws from rows that come with it."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("with-rows") / "project"))
    path = folder / "params" / "ladder.yml"
    drawing = "gains: {results: ../data/results/nulls, models: [small, large]}\n"
    path.write_text(re.sub("gains: .*\n", drawing, path.read_text()))
    _evidence(folder)
    return folder


@pytest.fixture
def committed(made_with_rows: Path, tmp_path: Path) -> Path:
    """A copy of that project."""
    return Path(shutil.copytree(made_with_rows, tmp_path / "project"))


def test_evidence_is_measured_once_and_then_only_drawn_from(committed: Path) -> None:
    rows = sorted(path.name for path in (committed / "data" / "results" / "nulls").iterdir())
    assert rows == ["large.parquet", "small.parquet"]
    found = committed / "data" / "results" / "nulls" / "large.parquet"
    assert pq.read_table(found).column_names == ["x", "packed"]
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


def test_what_is_pending_waits_for_its_rows(committed: Path) -> None:
    (committed / "data" / "results" / "nulls" / "large.parquet").unlink()
    path = committed / "params" / "ladder.yml"
    path.write_text(path.read_text() + "\npending: [gains]\n")
    assert "gains" not in _stale(committed)
    assert _evidence(committed).splitlines()[:-1] == ["measuring large (nulls)"]


@pytest.mark.parametrize(
    ("name", "old", "new", "named"),
    [
        ("data/corpus/1/1.flac", "", "louder", "other speech"),
        ("data/ladder/small/SHA256SUMS", "", "0", "other weights"),
        ("params/ladder.yml", "utterances: 2", "utterances: 3", "utterances was 2 and is 3"),
        ("companion/measurement/keys.py", '"nulls": 1', '"nulls": 2', "version 1 of nulls"),
    ],
)
def test_rows_of_anything_else_are_an_error_that_names_it(
    name: str, old: str, new: str, named: str, committed: Path
) -> None:
    _replace(committed / name, old, new)
    run = _make(committed, "figures")
    assert run.returncode == 2
    assert run.stdout == ""
    (error,) = (line for line in run.stderr.splitlines() if line.startswith("error"))
    assert named in error
    assert "`make evidence` measures such rows again" in error


@pytest.mark.parametrize("missing", ["data/corpus", "data/ladder/small"])
def test_rows_of_weights_and_speech_that_are_not_here_are_drawn_from(
    missing: str, committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(committed / missing)
    monkeypatch.chdir(committed)
    wanted = {"corpus": "../data/corpus", "ladder": "../data/ladder", "utterances": 2}
    rules.speech.cache_clear()
    monkeypatch.setattr(rules, "weights", lambda *_: None)
    key = rules.key_of_rows("nulls", "small", wanted)
    rows = Path("data/results/nulls/small.parquet")
    assert rules.staleness(rows, key) is None
    assert rules.staleness(rows, {**key, "speech": "other"}) == "other speech"


def test_other_parameters_of_fresh_rows_leave_those_of_data_as_they_are(committed: Path) -> None:
    assert "nulls-small" not in _stale(committed, "N=50")
    assert "utterances was 2 and is 50" in _error(committed, "N=50", "MODELS=small")


@pytest.mark.parametrize("content", ["better rows", ""])
def test_rows_that_are_none_are_an_error(content: str, committed: Path) -> None:
    (committed / "data" / "results" / "nulls" / "small.parquet").write_text(content)
    assert "small.parquet: does not say what was measured" in _error(committed)


def test_rows_whose_notebook_failed_are_not_kept(committed: Path) -> None:
    rows = committed / "data" / "results" / "nulls" / "small.parquet"
    rows.unlink()
    (committed / "fails").touch()
    assert _make(committed, "evidence").returncode == 2
    assert not rows.exists()
    (committed / "fails").unlink()
    assert "measuring small (nulls)" in _evidence(committed)
    assert rows.exists()


def test_rows_of_one_kind_lie_in_one_folder(committed: Path) -> None:
    path = committed / "params" / "ladder.yml"
    path.write_text(path.read_text().replace("proof: {", "proof: {results: ../data/x/nulls, "))
    assert "results of proof is '../data/x/nulls', elsewhere data/results/nulls" in (
        _error(committed)
    )


def test_added_and_removed_files_and_products_are_noticed(project: Path) -> None:
    (project / "figures" / "phase.png").unlink()
    assert _stale(project) == {"phase"}
    (project / "spectral" / "unused.py").unlink()
    (project / "build" / "ladder" / "jacobians" / "small.parquet").unlink()
    assert _stale(project) == JACOBIANS | {"phase"}
    (project / "data" / "corpus" / "1" / "2.trans.txt").write_text("2 TWO")
    assert _stale(project) == EVERYTHING - {"proof"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
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


@pytest.mark.parametrize("command", ["figures", "measure", "evidence", "plan"])
@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("PROFILE=nosuch", "params/nosuch.yml: no such profile; there are: ladder"),
        ("N=abc", "N is 'abc'; give a number of utterances, such as N=50"),
        ("N=0", "N is '0'; give a number of utterances, such as N=50"),
        ("N=-3", "N is '-3'; give a number of utterances, such as N=50"),
        ("N=4 5", "N is '4 5'; give a number of utterances, such as N=50"),
    ],
)
def test_nothing_is_begun_for_what_is_refused(
    command: str, argument: str, error: str, project: Path
) -> None:
    shutil.rmtree(project / "build")
    run = _make(project, command, argument)
    assert run.returncode == 2
    assert run.stdout == ""
    assert re.fullmatch(rf"Makefile:\d+: \*\*\* {re.escape(error)}\.  Stop\.\n", run.stderr)
    assert not (project / "build").exists()


def test_the_kind_that_matters_most_is_measured_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("weights", "speech"):
        monkeypatch.setattr(rules, name, lambda *_: None)
    sections = rules.read_sections(Path("params/whisper.yml"), evidence=True)
    rules.take_models(sections, ["large-v3"])  # of which no rows come along
    made = rules.rules(sections, tmp_path, evidence=True).splitlines()
    first = next(line for line in made if line.startswith("EVIDENCE"))
    kinds = list(dict.fromkeys(re.findall(r"notebooks/([a-z]+)-", first)))
    assert kinds == [kind for kind in VERSIONS if kind in kinds]
    assert kinds.index("measure") == 0 < kinds.index("listening") < kinds.index("choices")


def test_a_model_that_is_not_there_is_named(project: Path) -> None:
    _replace(project / "params" / "ladder.yml", "[small, large]", "[small, huge]")
    run = _make(project, "figures")
    assert run.returncode == 2
    assert run.stdout == ""
    assert "data/ladder: no model 'huge'; there are: large, small, unused" in run.stderr


def test_help_lists_every_command() -> None:
    shown = _make(ROOT, "help").stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    for command in set(phony[1].split()) - {"FORCE"}:
        assert re.search(rf"^  {command} +\w", shown, re.MULTILINE), command
    assert _make(ROOT).stdout == shown


def _notebook(parameters: str, code: str) -> str:
    cells = [
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": parameters},
        {"cell_type": "code", "metadata": {}, "source": code.splitlines(keepends=True)},
    ]
    return json.dumps({"cells": cells})


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _touch(path: Path) -> None:
    later = time.time() + 5
    os.utime(path, (later, later))


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Of one profile, which is the ladder where none is named; `make figures` would draw both."""
    if "figures" in arguments and not any(each.startswith("PROFILE") for each in arguments):
        arguments = (*arguments, "PROFILE=ladder")
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
