"""The pages of docs/ can be followed to the letter: what they say to write and to run is done."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import whisper
from checkpoints import dimensions, random_whisper
from sections import Profile

import spectral
from companion.speech.corpus import find_utterances, read_wave

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COPIED = ("companion", "spectral", "params")
_BLOCK = re.compile(
    r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)


MEASURED = """
kind = KINDS["measure"]
settings = kind.settings(
    model="xs-0", ladder="data/ladder", corpus="data/corpus", output="build/rows.parquet",
    conditions=("clean", "clipping"), decoding="unrestricted", seed=0, batch=2, device="cpu",
    utterances=2, modes=(10,), epsilon=1e-6,
)
kind.measure(settings)
rows = read([Path("build/rows.parquet")], kind.schema)
print(rows.participation.between(1, 10).all(), *rows.condition.unique())
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the file that the line before it names, if one does."""

    kind: str
    file: str | None
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(each["kind"], each["file"], each["text"]) for each in found]


def patched(text: str, diff: str) -> str:
    """A file with the hunks of a page's diff applied, each of which must fit in just one place."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before, after = (
            "\n" + "".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +")
        )
        places = re.findall(f"(?={re.escape(before)})", "\n" + text)
        assert len(places) == 1, f"this fits not once:\n{hunk}"
        text = ("\n" + text).replace(before, after)[1:]
    return text


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project whose files may be changed; its data are links, models may be added."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data" / "ladder").mkdir(parents=True)
    for path in (*(ROOT / "data").glob("[!l]*"), *(ROOT / "data" / "ladder").iterdir()):
        (tmp_path / path.relative_to(ROOT)).symlink_to(path)
    return tmp_path


def test_your_own_model_stress_observable_and_kind_are_added_by_the_page_alone(copy: Path) -> None:
    program, written = [], 0
    for block in blocks(DOCS / "extending.md"):
        if block.file is None:
            program += [block.text] if block.kind == "python" else []
            continue
        path = copy / block.file
        if block.kind == "diff":
            path.write_text(patched(path.read_text(), block.text))
        else:
            assert not path.exists(), f"{block.file} is there already"
            path.write_text(block.text)
        written += 1
    assert written >= 9
    assert len(program) >= 4
    ended = _run("\n".join([*program, MEASURED]), copy)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"clipping 0\.\d\d of the peak", ended.stdout)
    assert "4 utterances measured" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "True clean clipping"
    style = [sys.executable, "-m", "ruff", "--config", str(ROOT / "pyproject.toml")]
    for command in ("check", "format"):
        options = ["--check"] if command == "format" else []
        checked = subprocess.run(
            [*style[:3], command, *style[3:], *options, "companion", "spectral"],
            cwd=copy, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout


def test_the_page_s_profile_asks_for_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(tmp_path)
    mine = next(block for block in blocks(DOCS / "extending.md") if block.kind == "yaml")
    Path("params/mine.yml").write_text(mine.text)
    profile = Profile("mine", models="", utterances="")
    rows = [f"build/mine/measure/{name}.parquet" for name in ("xs-0", "mine")]
    assert profile.rows("spectra") == rows


@pytest.mark.parametrize(
    "page", ["README.md", "docs/attach.md", "docs/kernels.md", "docs/tutorial.md"]
)
def test_the_python_of_a_page_runs(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Block after block; a small Whisper and an utterance stand in for the reader's own."""
    utterance = find_utterances(ROOT / "data" / "corpus").utterances[0]
    monkeypatch.setattr(whisper, "load_model", _small_whisper)
    monkeypatch.setattr(whisper.audio, "load_audio", lambda file: read_wave(utterance))
    monkeypatch.chdir(ROOT)
    program = [block.text for block in blocks(ROOT / page) if block.kind == "python"]
    assert program
    exec(compile("\n".join(program), page, "exec"), {})
    if page == "docs/tutorial.md":
        assert utterance.reference.lower() in capsys.readouterr().out


def _small_whisper(name: str) -> whisper.Whisper:
    assert name in whisper.available_models()
    return random_whisper(replace(dimensions(64, 2, 3, 51865, 80), n_text_ctx=40))


def test_the_front_page_leads_to_every_page() -> None:
    listed = re.findall(r"^[\w./]+$", (DOCS / "index.md").read_text(), flags=re.MULTILINE)
    for name in listed:
        assert (DOCS / f"{name}.md").exists() or (DOCS / f"{name}.rst").exists(), name
    pages = {page.stem for page in DOCS.iterdir() if page.suffix in (".md", ".rst")} - {"index"}
    assert pages <= set(listed)


def test_the_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert cited
    assert project["version"] == spectral.__version__ == cited[1]


def test_a_wheel_holds_the_packages_and_runs_where_the_project_is_not(tmp_path: Path) -> None:
    for name in ("spectral", "companion"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    build = "import setuptools.build_meta as build; print(build.build_wheel('..'))"
    _run(build, tmp_path / "source")
    (wheel,) = tmp_path.glob("*.whl")
    alone = tmp_path / "alone"
    shutil.unpack_archive(wheel, alone, format="zip")
    packages = {path.name for path in alone.iterdir() if path.suffix != ".dist-info"}
    assert packages == {"spectral", "companion"}
    for package in packages:
        ours, theirs = (
            {path.relative_to(root / package) for path in (root / package).rglob("*.py")}
            for root in (ROOT, alone)
        )
        assert ours == theirs, "a folder without __init__.py is left out of the wheel"
    program = [block.text for block in blocks(DOCS / "kernels.md") if block.kind == "python"]
    ended = _run("\n".join([*program, "print(spectral.__file__)"]), alone)
    assert ended.stdout.strip() == str(alone / "spectral" / "__init__.py"), ended.stderr


def test_a_hunk_that_fits_nowhere_or_twice_is_an_error() -> None:
    assert patched("a\nb\n", " a\n+c\n") == "a\nc\nb\n"
    for text in ("b\n", "a\na\n"):
        with pytest.raises(AssertionError, match="fits not once"):
            patched(text, " a\n+c\n")


def _run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
