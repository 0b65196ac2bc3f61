"""What `make` runs again after a change, a failure and a kill, on a project of empty files."""

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import forks
import psutil
import pyarrow.parquet as pq
import pytest
from sections import Profile

from companion.measurement.keys import VERSIONS
from companion.measurement.settings import section_of

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

MEASURED = {"measure-small", "measure-large"}
JACOBIANS = {"jacobians-small", "gains"}
DRAWN = {"outcomes", "phase"}
FIGURES = {*DRAWN, "gains", "proof"}
REAL = (
    "Makefile", "workflow/Snakefile", "workflow/sections.py", "workflow/profiles/local/config.yaml",
    "scripts/agreement.py", "scripts/install.sh", "companion/measurement/keys.py",
    "companion/measurement/settings.py", "companion/speech/corpus.py", "companion/speech/text.py",
)  # fmt: skip
EVERYTHING = MEASURED | JACOBIANS | DRAWN | {"proof"}
FILES = {
    "scripts/warm.py": "def start(): pass",
    "spectral/kernels.py": "f = 1",
    "companion/__init__.py": "",
    "companion/measurement/__init__.py": "",
    "companion/measurement/merging.py": """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
kind, output, *shards = sys.argv[1:]
if not shards:
    Path(output).touch()
    sys.exit()
table = pa.concat_tables([pq.read_table(shard) for shard in shards])
if output.startswith("data"):
    table = table.append_column("packed", table["x"])
pq.write_table(table, output + ".part")
Path(output + ".part").rename(output)
""",
    "companion/speech/__init__.py": "",
    "companion/figures.py": "",
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
measure: MEASURE
jacobians: JACOBIANS
nulls: NULLS
outcomes: &shared {results: ../build/ladder/measure, models: [small, large], seed: 0}
phase: *shared
gains: {results: ../build/ladder/jacobians, models: [small]}
proof: {seed: 0}
""",
}
PLACES = {"corpus": "../data/corpus", "ladder": "../data/ladder"}
for kind in ("measure", "jacobians", "nulls"):
    values = {**dict.fromkeys(section_of(kind)[0], 0), **PLACES}
    values["utterances"] = 2 if kind == "nulls" else None
    FILES["params/ladder.yml"] = FILES["params/ladder.yml"].replace(
        kind.upper(), json.dumps(values)
    )
NOTEBOOKS = {
    "measure": 'kind = "measure"',
    "outcomes": 'results = ""\nmodels = []\nseed = 1',
    "phase": 'results = ""\nmodels = []\nseed = 1\ntable = "../data/published.csv"',
    "gains": "results = ''\nmodels = []\n"
    "other_results = None\nnull_results = None\nnull_models = []",
    "proof": "seed = 1\ndrawn = []",
}
EXECUTION = """
import json, os, signal, sys, time
from pathlib import Path
sys.path[:0] = ["workflow", "."]
import pyarrow as pa, pyarrow.parquet as pq
from sections import from_root, speech, weights
from companion.measurement.keys import key_of
notebook, target = map(Path, sys.argv[1:3])
values = json.loads(Path(sys.argv[sys.argv.index("--values") + 1]).read_text())
target.parent.mkdir(parents=True, exist_ok=True)
if "kind" in values:
    own = values["values"]
    read = weights(values["model"], from_root(own["ladder"]))
    heard = speech(from_root(own["corpus"]), None)
    key = key_of(values["kind"], {**own, "model": values["model"]}, read, heard)
    table = pa.table({"x": [values["shard"][0]]})
    table = table.replace_schema_metadata({"spectral": json.dumps({"key": key})})
    rows = "notebooks" / Path(values["output"])
    rows.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, rows)
    time.sleep(Path("slow").exists())
    if Path("fails").exists():
        sys.exit("error: rows that are no rows")
    target.touch()
else:
    if notebook.stem == "phase" and Path("phase-fails").exists():
        sys.exit("error: no phase")
    if notebook.stem == "phase" and Path("phase-killed").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    product = Path("figures") / f"{target.stem}.png"
    product.write_text(str(values))
    target.write_text(json.dumps({"metadata": {"papermill": {"parameters": values}}}))
    target.with_suffix(".written").write_text(f"{product}\\n")
"""
"""Stands for the execution of a notebook: rows with their key, for once without a model."""
IMPORTED = ("snakemake.cli", "pyarrow.parquet", "yaml", "av", "soundfile", "papermill.iorw")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a server of forks listens that has imported Snakemake, and nothing of a project."""
    folder = tmp_path_factory.mktemp("server")
    running = forks.serve(folder, *IMPORTED)
    yield folder
    running.kill()
    running.wait()


@pytest.fixture(scope="module")
def made(server: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Makefile and workflow on a small project, in which everything was made."""
    folder = tmp_path_factory.mktemp("made") / "project"
    for name in REAL:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name, text in {**FILES, "scripts/execute.py": EXECUTION}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "notebooks").mkdir()
    for name, parameters in NOTEBOOKS.items():
        (folder / "notebooks" / f"{name}.ipynb").write_text(_notebook(parameters))
    (folder / ".venv" / "bin").mkdir(parents=True)
    _install(folder, server)
    for name in ("requirements.lock", "requirements.weights"):
        shutil.copy(folder / name, folder / ".venv")
    assert _stale(folder) == EVERYTHING
    _made(folder, "figures")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of that project."""
    return Path(shutil.copytree(made, tmp_path / "project"))


def test_openai_s_weights_are_installed_first_unless_they_are_not_wanted(project: Path) -> None:
    (project / ".venv" / "requirements.weights").unlink()
    for arguments, installed in (((), True), (("WHISPER=no",), False)):
        printed = _make(project, "figures", "--dry-run", *arguments).stdout
        assert ("--require-hashes" in printed) == installed
    printed = _make(project, "weights", "--dry-run").stdout
    assert "--force-reinstall --requirement requirements.weights" in printed


def test_nothing_is_stale_and_make_says_so(project: Path) -> None:
    printed = _made(project, "figures")
    assert "Nothing to be done" in printed
    assert "no table of figures/ came with the project: there is nothing to compare with" in printed


@pytest.mark.parametrize(
    ("name", "old", "new", "stale"),
    [
        ("spectral/kernels.py", "f = 1", "f = 2", FIGURES),
        ("companion/figures.py", "", "colour = 0", FIGURES),
        ("notebooks/gains.ipynb", '"cells":', '"cells" :', {"gains"}),
        ("data/published.csv", "", "1,2", {"phase"}),
        ("data/corpus/1/1.flac", "", "louder", EVERYTHING - {"proof"}),
        ("data/corpus/1/1.trans.txt", "ONE", "TWO", EVERYTHING - {"proof"}),
        ("data/ladder/large/SHA256SUMS", "", "0", {"measure-large"} | DRAWN),
        ("params/ladder.yml", '"probes": 0', '"probes": 1', JACOBIANS),
        ("params/ladder.yml", "proof: {seed: 0}", "proof: {seed: 3}", {"proof"}),
        ("params/ladder.yml", "seed: 0}\nphase", "seed: 3}\nphase", DRAWN),
        ("params/ladder.yml", '"modes": 0', '"modes": 1', MEASURED | DRAWN),
        ("params/ladder.yml", "[small, large]", "[small]", DRAWN),
        ("companion/measurement/keys.py", '"jacobians": 2', '"jacobians": 3', JACOBIANS | FIGURES),
        ("companion/measurement/keys.py", "chosen", "picked", FIGURES),  # code: nothing is measured
    ],
)
def test_a_change_makes_again_just_what_depends_on_it(
    name: str, old: str, new: str, stale: set[str], project: Path
) -> None:
    _replace(project / name, old, new)
    assert _stale(project) == stale


def test_what_nothing_depends_on_and_what_was_only_touched_or_put_back_makes_nothing_again(
    project: Path,
) -> None:
    for name in ("spectral/kernels.py", "notebooks/phase.ipynb", "data/published.csv"):
        (project / name).touch()  # later than all that was made of it
    _replace(project / "notebooks" / "measure.ipynb", '"cells":', '"cells" :')
    _replace(project / "figures" / "README.md", "", "figures")
    _replace(project / "data" / "ladder" / "unused" / "SHA256SUMS", "", "0")
    _ask(project, 'measure: {"ladder"', '# a comment\nmeasure: {"seed": 0, "ladder"')
    assert _stale(project) == set()
    _ask(project, '"modes": 0', '"modes": 1')
    _made(project, "figures")
    _ask(project, '"modes": 1', '"modes": 0')
    assert _stale(project) == MEASURED | DRAWN
    _made(project, "figures")
    assert _stale(project) == set()


@pytest.mark.parametrize(("end", "lines"), [("fails", ["error: no phase"]), ("killed", [])])
def test_a_job_that_ends_badly_is_told_in_a_line_and_keeps_no_other_from_being_made(
    end: str, lines: list[str], project: Path
) -> None:
    _replace(project / "spectral" / "kernels.py", "f = 1", "f = 2")
    (project / f"phase-{end}").touch()
    run = _make(project, "figures")
    assert run.returncode == 2
    errors = [line for line in run.stderr.splitlines() if re.search("(?i)error|exception", line)]
    not_made = "error: build/ladder/notebooks/phase.ipynb was not made (see above)"
    assert [line for line in errors if line.startswith("error")] == [*lines, not_made]
    assert len(errors) == len(lines) + 4  # Snakemake's own last words, and make's
    assert "agree with the committed ones" not in run.stdout
    (project / f"phase-{end}").unlink()
    assert _stale(project) == {"phase"}


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("ladder/jacobians", "ladder/jacobian", "of gains is '../build/ladder/jacobian'; it"),
        ("[small, large]", "[small, huge]", "ladder: no model 'huge'; there are: large, small"),
        ("proof: {", "proof: {sed: 1, ", "proof.ipynb has no parameter 'sed'; it has: seed"),
        ("proof: {", "poof: {", "notebooks/poof.ipynb: no such notebook"),
        ("[small]", "small", "models of gains is 'small'; give a list, as []"),
        ("proof: {", "proof: {drawn: [measure], ", "drawn of proof names 'measure'"),
        ("proof: {", "proof: {drawn: [proof], ", "drawn of proof names 'proof'"),
        ("phase: *shared", "phase: [", "params/ladder.yml: not YAML"),
        ("proof: {seed: 0}", "proof: 3", "proof is 3; give its parameters"),
        ('"batch": 0, ', "", "jacobians lacks ['batch'] and has [], which are no parameters of it"),
        ('"probes"', '"proves"', "jacobians lacks ['probes'] and has ['proves']"),
        ("phase: *shared", "phase: {results: ../data/x/measure}", "elsewhere build/ladder/measure"),
        ("[small, large]", "[small, small]", "models is ['small', 'small']; name every model once"),
    ],
)
def test_what_cannot_be_asked_for_is_an_error_of_one_line(
    old: str, new: str, error: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the profile, which the workflow reads as is done here; the next test has it all."""
    _ask(project, old, new)
    monkeypatch.chdir(project)
    with pytest.raises((ValueError, OSError), match=re.escape(error)) as refused:
        _needs()
    assert "\n" not in str(refused.value)


def test_such_an_error_is_told_once_and_nothing_is_begun(project: Path) -> None:
    _ask(project, "[small]", "small")
    run = _make(project, "figures")
    assert run.returncode == 2
    error = "error: params/ladder.yml: models of gains is 'small'; give a list, as []"
    assert run.stderr.splitlines().count(error) == 1, run.stderr
    assert "drawing" not in run.stdout + run.stderr


def test_a_notebook_may_draw_from_two_measurements(project: Path) -> None:
    two = "ladder/jacobians, other_results: ../build/ladder/measure"
    _ask(project, "ladder/jacobians", two)
    assert _stale(project) == {"gains"}
    _replace(project / "data" / "corpus" / "1" / "1.flac", "", "louder")
    assert _stale(project) == MEASURED | DRAWN | JACOBIANS


def test_a_notebook_of_tables_runs_after_those_that_write_them(project: Path) -> None:
    _ask(project, "proof: {seed: 0}", "proof: {drawn: [phase, gains]}")
    assert _stale(project) == {"proof"}
    _made(project, "figures")
    _replace(project / "notebooks" / "gains.ipynb", '"cells":', '"cells" :')
    assert _stale(project) == {"gains", "proof"}
    printed = _made(project, "figures")
    assert printed.index("drawing gains") < printed.index("drawing proof")


def test_a_section_that_is_not_there_leaves_its_notebook_out(project: Path) -> None:
    path = project / "params" / "ladder.yml"
    path.write_text(re.sub("proof: .*", "", path.read_text()))
    shutil.rmtree(project / "build")
    assert _stale(project) == EVERYTHING - {"proof"}


def test_a_profile_like_another_measures_as_that_one_does_but_for_what_it_says(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    text = "like: ladder\nmeasure: {utterances: 3}\nproof: {seed: 1}"
    _ask(project, "proof: {seed: 0}", "")
    (project / "params" / "other.yml").write_text(text)
    other = Profile("other", models="", utterances="")
    assert other.drawn == ["proof"]
    assert other.values["measure"]["utterances"] == 3
    assert other.values["measure"]["corpus"] == "../data/corpus"
    assert other.values["nulls"]["utterances"] == 2
    (project / "params" / "third.yml").write_text("like: other\nnulls: {seed: 5}")
    third = Profile("third", models="", utterances="")
    assert third.values["measure"]["utterances"] == 3, "what it is like may be like another"
    assert third.values["nulls"] == other.values["nulls"] | {"seed": 5}


def test_n_measures_so_many_utterances_and_no_others(project: Path) -> None:
    assert _stale(project, "N=50") == MEASURED | JACOBIANS | DRAWN
    assert _stale(project) == set()  # all were measured before, and still are


@pytest.fixture(scope="module")
def made_with_rows(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project, one figure of which draws from rows that come with it."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("with-rows") / "project"))
    path = folder / "params" / "ladder.yml"
    drawing = "gains: {results: ../data/results/nulls, models: [small, large]}\n"
    path.write_text(re.sub("gains: .*\n", drawing, path.read_text()))
    _made(folder, "evidence")
    return folder


@pytest.fixture
def committed(made_with_rows: Path, tmp_path: Path) -> Path:
    """A copy of that project."""
    return Path(shutil.copytree(made_with_rows, tmp_path / "project"))


def test_evidence_is_measured_once_and_then_only_drawn_from(committed: Path) -> None:
    rows = sorted(path.name for path in (committed / "data" / "results" / "nulls").iterdir())
    assert rows == ["large.parquet", "small.parquet"]
    large = committed / "data" / "results" / "nulls" / "large.parquet"
    assert pq.read_table(large).column_names == ["x", "packed"]
    assert _stale(committed) == {"gains"}
    shutil.rmtree(committed / "build")  # as in a fresh clone
    shutil.rmtree(committed / ".snakemake")
    assert _stale(committed) == EVERYTHING - {"jacobians-small"}
    assert "measuring" not in _made(committed, "evidence")


def test_shards_are_put_together_in_order_and_never_with_others(committed: Path) -> None:
    """Nor are more shards than utterances an error."""
    rows = committed / "data" / "results" / "nulls" / "small.parquet"
    rows.unlink()
    (committed / "fails").touch()
    failed = _make(committed, "evidence", "SHARDS=2")
    assert failed.returncode == 2
    assert "shard 1 of 2" in failed.stdout + failed.stderr
    assert not rows.exists()
    (committed / "fails").unlink()
    _made(committed, "evidence", "SHARDS=3")
    assert pq.read_table(rows)["x"].to_pylist() == [0, 1, 2]
    assert _stale(committed) == {"gains"}


def test_a_plan_changes_nothing_and_says_what_would_be_done(committed: Path) -> None:
    _made(committed, "figures")
    (committed / "figures" / "phase.png").unlink()
    _replace(committed / "companion" / "measurement" / "keys.py", '"nulls": 1', '"nulls": 2')
    costs = committed / "data" / "benchmarks" / "kinds-cpu.csv"
    costs.parent.mkdir()
    costs.write_text("kind,model,seconds\nnulls,tiny,2.51\n")
    made = _times(committed)
    printed = _made(committed, "plan")
    assert {"nulls-small", "nulls-large", "gains", "phase"} <= _jobs(printed)
    assert "(nulls), shard 0 of 1 (an utterance took 2.5 s of tiny)" in printed
    assert _times(committed) == made


def test_n_replaces_no_rows_that_come_with_the_project(committed: Path) -> None:
    run = _make(committed, "evidence", "N=1", "MODELS=small")
    assert run.returncode == 2
    assert "small.parquet: N would put fewer utterances in its place" in run.stderr


def test_two_profiles_cannot_ask_for_different_rows_in_one_folder(project: Path) -> None:
    text = (project / "params" / "ladder.yml").read_text().replace('"epsilon": 0', '"epsilon": 1')
    (project / "params" / "other.yml").write_text(text)
    run = _make(project, "figures", "PROFILE=ladder other")
    assert run.returncode == 2
    assert "ladder and other ask for different rows" in run.stderr


def test_parameters_that_changed_are_seen_without_what_snakemake_remembers(project: Path) -> None:
    shutil.rmtree(project / ".snakemake")
    _ask(project, "proof: {seed: 0}", "proof: {seed: 3}")
    assert _stale(project) == {"proof"}


def test_a_figure_draws_other_models_where_its_parameter_names_them(committed: Path) -> None:
    path = committed / "params" / "ladder.yml"
    both = "null_results: ../data/results/nulls, models: [small, large], null_models: [large]"
    drawing = "gains: {results: ../build/ladder/jacobians, " + both + "}\n"
    path.write_text(re.sub("gains: .*\n", drawing, path.read_text()))
    (committed / "data" / "results" / "nulls" / "small.parquet").unlink()
    assert _stale(committed) == {"jacobians-large", "gains"}
    (committed / "data" / "results" / "nulls" / "large.parquet").unlink()
    assert "nulls/large.parquet: not measured yet; `make evidence`" in _error(committed)
    assert _jobs(_made(committed, "evidence")) == {"nulls-large"}


@pytest.mark.parametrize(
    ("name", "old", "new", "named"),
    [
        ("data/corpus/1/1.flac", "", "louder", "other speech"),
        ("data/ladder/small/SHA256SUMS", "", "0", "other weights"),
        ("params/ladder.yml", '"utterances": 2', '"utterances": 3', "utterances was 2 and is 3"),
        ("companion/measurement/keys.py", '"nulls": 1', '"nulls": 2', "version 1 of nulls"),
    ],
)
def test_rows_of_anything_else_are_an_error_until_they_are_measured_again(
    name: str, old: str, new: str, named: str, committed: Path
) -> None:
    _replace(committed / name, old, new)
    (error,) = (line for line in _error(committed).splitlines() if line.startswith("error"))
    assert named in error
    assert "`make evidence` measures such rows again" in error
    assert "nulls-small" in _jobs(_made(committed, "evidence"))
    assert "gains" in _stale(committed)


def test_rows_of_speech_that_is_not_here_are_drawn_from(committed: Path) -> None:
    shutil.rmtree(committed / "data" / "corpus")
    path = committed / "params" / "ladder.yml"
    path.write_text(
        re.sub("(?m)^(measure|jacobians|outcomes|phase|proof):.*\n", "", path.read_text())
    )
    assert _stale(committed) == {"gains"}


def test_other_parameters_of_fresh_rows_leave_those_of_data_as_they_are(committed: Path) -> None:
    assert "nulls-small" not in _stale(committed, "N=50")
    assert "utterances was 2 and is 50" in _error(committed, "N=50", "MODELS=small")


@pytest.mark.parametrize("content", ["better rows", ""])
def test_rows_that_are_none_are_an_error(content: str, committed: Path) -> None:
    (committed / "data" / "results" / "nulls" / "small.parquet").write_text(content)
    assert "small.parquet: does not say what was measured" in _error(committed)


def test_older_rows_are_kept_where_measuring_them_again_fails(committed: Path) -> None:
    rows = committed / "data" / "results" / "nulls" / "small.parquet"
    before = rows.read_bytes()
    _replace(committed / "companion" / "measurement" / "keys.py", '"nulls": 1', '"nulls": 2')
    (committed / "fails").touch()
    assert _make(committed, "evidence").returncode == 2
    assert rows.read_bytes() == before
    (committed / "fails").unlink()
    assert "nulls-small" in _jobs(_made(committed, "evidence"))


def test_added_and_removed_files_and_products_are_noticed(project: Path) -> None:
    (project / "figures" / "phase.png").unlink()
    assert "drawing phase" in _made(project, "figures")
    assert (project / "figures" / "phase.png").exists()
    (project / "data" / "corpus" / "1" / "2.trans.txt").write_text("2 TWO")
    assert _stale(project) == EVERYTHING - {"proof"}


def test_two_runs_in_one_folder_do_not_work_at_the_same_time(project: Path) -> None:
    (project / "slow").touch()
    _replace(project / "data" / "ladder" / "large" / "SHA256SUMS", "", "0")
    first = _start(project)
    while _is_free(project / "build" / "running"):
        assert first.poll() is None, "it holds no lock"
        time.sleep(0.1)
    second = _make(project, "figures")
    assert second.returncode == 2
    assert "error: another run is at work in this folder" in second.stderr
    assert first.wait() == 0
    assert _stale(project) == set()


def test_kills_lose_nothing_that_was_made(project: Path, server: Path) -> None:
    """Of jobs, of the engine alone, and of everything; then the same command makes the rest."""
    _install(project, server, forked=False)
    wanted = {path.name: path.read_text() for path in (project / "figures").glob("*.png")}
    shutil.rmtree(project / "build")
    for name in wanted:
        (project / "figures" / name).unlink()
    (project / "slow").touch()
    rng = random.Random(0)
    for word in ("scripts/execute.py", "--snakefile", "") * 2:
        run = _start(project)
        while not (jobs := _running(run, "scripts/execute.py")) and run.poll() is None:
            time.sleep(0.05)
        assert jobs, "it was killed at work"
        time.sleep(rng.uniform(0, 1.5))
        if word:
            for process in _running(run, word):
                process.kill()
        else:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        rows = list((project / "build" / "ladder").rglob("*.parquet"))
        assert all(pq.read_table(path).num_rows == 1 for path in rows)
    (project / "slow").unlink()
    _install(project, server)
    deadline = time.monotonic() + 60
    while (done := _make(project, "figures")).returncode:  # orphans may still be at work
        assert time.monotonic() < deadline, done.stderr
    assert _stale(project) == set()
    assert {path.name: path.read_text() for path in (project / "figures").glob("*.png")} == wanted


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["env", "VENV=new", "PYTHON=false"], "error: false is not Python 3.11 or newer"),
        (["env", "VENV=new", "PYTHON=no-python"], "PYTHON=python3.12"),
    ],
)
def test_errors_name_the_remedy(arguments: list[str], expected: str, project: Path) -> None:
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
        ("N=abc", "N is 'abc'; give a whole number above zero, such as N=8"),
        ("N=0", "N is '0'; give a whole number above zero, such as N=8"),
        ("N=-3", "N is '-3'; give a whole number above zero, such as N=8"),
        ("N=4 5", "N is '4 5'; give a whole number above zero, such as N=8"),
        ("SHARDS=0", "SHARDS is '0'; give a whole number above zero, such as SHARDS=8"),
        ("ON=nosuch", "ON is 'nosuch'; there are: local"),
    ],
)
def test_refusals_begin_nothing(command: str, argument: str, error: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in ("params/ladder.yml", "workflow/profiles/local/config.yaml"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    run = _make(tmp_path, command, argument)
    assert run.returncode == 2
    assert run.stdout == ""
    assert re.fullmatch(rf"Makefile:\d+: \*\*\* {re.escape(error)}\.  Stop\.\n", run.stderr)
    assert not (tmp_path / "build").exists()


def test_the_kind_that_matters_most_is_measured_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("weights", "speech"):
        monkeypatch.setattr(f"sections.{name}", lambda *_: None)
    asked = Profile("whisper", models="large-v3", utterances="")
    kinds = list(dict.fromkeys(asked.runs[path][0] for path in asked.stale()))
    assert kinds == [kind for kind in VERSIONS if kind in kinds]
    assert kinds.index("measure") == 0 < kinds.index("listening") < kinds.index("choices")


def test_help_lists_every_command() -> None:
    shown = _make(ROOT, "help").stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    for command in set(phony[1].split()):
        assert re.search(rf"^  {command} +\w", shown, re.MULTILINE), command
    assert _make(ROOT).stdout == shown


def _install(folder: Path, server: Path, forked: bool = True) -> None:
    """The commands of an environment, forks of a server; Snakemake perhaps as a usual process."""
    commands = folder / ".venv" / "bin"
    forks.python(commands / "python", server)
    if forked:
        forks.python(commands / "snakemake", server, "-m", "snakemake")
    else:  # whose jobs are forks still
        start = f"import runpy, sys; sys.executable = {str(commands / 'python')!r}; "
        start += "runpy.run_module('snakemake', run_name='__main__', alter_sys=True)"
        forks.python(commands / "snakemake", None, "-c", start)


def _notebook(parameters: str) -> str:
    cells = [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": parameters}]
    return json.dumps({"cells": cells})


def _replace(path: Path, old: str, new: str) -> None:
    """A later time than that of everything made, even where clocks are coarse."""
    text = path.read_text()
    assert old in text
    time.sleep(0.02)
    path.write_text(text.replace(old, new) if old else new)


def _ask(folder: Path, old: str, new: str) -> None:
    """Other parameters of the ladder."""
    _replace(folder / "params" / "ladder.yml", old, new)


def _needs() -> list[list[str]]:
    """What the notebooks of the ladder need and which rows are stale, as the workflow asks."""
    asked = Profile("ladder", models="", utterances="")
    needs = [[*asked.tables_of(name), *asked.rows(name), *asked.data(name)] for name in asked.drawn]
    return [*needs, [*asked.stale()]]


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Of one profile, the ladder."""
    profile = (
        () if any(argument.startswith("PROFILE") for argument in arguments) else ("PROFILE=ladder",)
    )
    return subprocess.run(
        ["make", *arguments, *profile],
        cwd=folder, env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def _start(folder: Path) -> subprocess.Popen[str]:
    """`make figures` in a process group of its own."""
    return subprocess.Popen(
        ["make", "figures", "PROFILE=ladder"],
        cwd=folder, env=_environment(), text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _running(run: subprocess.Popen[str], word: str) -> list[psutil.Process]:
    """Its processes with this word in their command line."""
    processes = []
    for process in psutil.Process(run.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            processes += [process] if word in process.cmdline() else []
    return processes


def _is_free(path: Path) -> bool:
    """Whether nobody holds the lock on a file."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _times(folder: Path) -> list[tuple[Path, int]]:
    """When the executed copies of notebooks were written."""
    return sorted((at, at.stat().st_mtime_ns) for at in (folder / "build").rglob("*.ipynb"))


def _made(folder: Path, *arguments: str) -> str:
    """What a command says that does not fail."""
    run = _make(folder, *arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def _jobs(printed: str) -> set[str]:
    """The notebooks that a run names: NAME, or KIND-MODEL of those that measure."""
    measured = re.findall(r"measuring (\S+) \((\S+)\), shard", printed)
    return {f"{kind}-{model}" for model, kind in measured} | set(
        re.findall(r"drawing (\S+) \(", printed)
    )


def _dry(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command of `make figures`, which only says what it would do."""
    given = {"N": "", "MODELS": ""} | dict(argument.split("=") for argument in arguments)
    return subprocess.run(
        [
            ".venv/bin/snakemake", "--snakefile", "workflow/Snakefile",
            "--workflow-profile", "workflow/profiles/local", "--cores", "2", "--dry-run",
            "--config", "profiles=ladder", f"models={given['MODELS']}", f"utterances={given['N']}",
            "--", "figures",
        ],
        cwd=folder, env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def _error(folder: Path, *arguments: str) -> str:
    """What `make figures` refuses to work with."""
    run = _dry(folder, *arguments)
    assert run.returncode != 0
    return run.stderr


def _stale(folder: Path, *arguments: str) -> set[str]:
    """The notebooks that `make figures` would run."""
    run = _dry(folder, *arguments)
    assert run.returncode == 0, run.stderr
    return _jobs(run.stdout + run.stderr)
