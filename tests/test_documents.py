"""What documents say to write and to run is done; their commands, links and tables are real.

What a command does in the end is tried elsewhere: figures, evidence and plan in test_workflow, the
environment in test_environment, notebooks by `make test` itself.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
import whisper
from agreement import disagreements
from checkpoints import dimensions, random_whisper
from sections import Profile

import spectral
from companion.speech.corpus import find_utterances, read_wave

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "data" / "README.md"])
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in DOCUMENTS}
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
    matches = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(**match.groupdict()) for match in matches]


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
    ended = _python("\n".join([*program, MEASURED]), copy)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"clipping 0\.\d\d of the peak", ended.stdout)
    assert "4 utterances measured" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "True clean clipping"
    for command in (["check"], ["format", "--check"]):
        options = ["--config", str(ROOT / "pyproject.toml"), "companion", "spectral"]
        checked = _run(sys.executable, "-m", "ruff", *command, *options, folder=copy)
        assert checked.returncode == 0, checked.stdout


PROFILES = {
    path.stem: block.text
    for page in ("extending", "method")
    for block in blocks(DOCS / f"{page}.md")
    if block.file and (path := Path(block.file)).match("params/*.yml") and block.kind == "yaml"
}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as links, with the profiles of the pages beside its own."""
    folder = tmp_path_factory.mktemp("profiled")
    for path in ROOT.iterdir():
        if path.name not in ("params", ".venv"):
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "params", folder / "params")
    for name, text in PROFILES.items():
        (folder / "params" / f"{name}.yml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "section", "models"),
    [("mine", "spectra", ["xs-0", "mine"]), ("rest", "spectra", ["tiny.en"]),
     ("again", "transcripts", ["xs-0"])],
)  # fmt: skip
def test_a_profile_of_a_page_asks_for_its_models(
    profiled: Path, monkeypatch: pytest.MonkeyPatch, name: str, section: str, models: list[str]
) -> None:
    monkeypatch.chdir(profiled)
    rows = Profile(name, models="", utterances="").rows(section)
    measured = [f"build/{name}/measure/{model}.parquet" for model in models]
    assert [path for path in rows if "/nulls/" not in path] == measured
    assert all(path.startswith(f"build/{name}/") for path in rows)


def commands(text: str) -> set[str]:
    """The commands of a document: in blocks for a shell, indented, and in a sentence."""
    matches = re.findall(
        r"^ *```sh\n(.*?)^ *```$|^    ((?:make|\S*python|conda|docker) [^\n]*)$"
        r"|`((?:make|\S*python -m) [^`]*)`",
        text,
        flags=re.MULTILINE | re.DOTALL,
    )
    lines = "\n".join("\n".join(groups) for groups in matches).splitlines()
    return {line.split("   #")[0].strip() for line in lines} - {""}


COMMENTS = (
    (ROOT / name).read_text().replace("#   ", "    ") for name in ("Dockerfile", "environment.yml")
)
COMMANDS = sorted(set().union(*map(commands, [*TEXTS.values(), *COMMENTS])))


def test_the_documents_have_commands() -> None:
    assert len(COMMANDS) >= 45
    assert commands("say `make lab`:\n\n```sh\nmake env\n```\n\n    make docs   # pages\n") == {
        "make lab", "make env", "make docs",
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_starts(command: str, profiled: Path) -> None:
    for words in simple_commands(command.replace('"$CONDA_PREFIX"', sys.prefix)):
        starts(words, profiled)


WRONG = (
    "make figure",
    "make figures PROFILE=none",
    "nothing --here",
    "python -m companion.trainings",
    "python -m companion.training --model xs",
    "python scripts/no.py",
)


@pytest.mark.parametrize("command", WRONG)
def test_a_command_that_does_not_start_is_found(command: str, profiled: Path) -> None:
    with pytest.raises(AssertionError):
        starts(command.split(), profiled)


def simple_commands(line: str) -> list[list[str]]:
    """The words of every simple command of a line for a shell, less what it sets or redirects."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    simple: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "||", "|", "&", ";", "{", "}", ">&"):
            simple.append([])
        elif simple[-1] or "=" not in word:
            simple[-1].append(word)
    return [command for command in simple if command and not re.match(r"exit|wait|\d", command[0])]


def starts(words: list[str], folder: Path) -> None:
    """Fail unless program, module, options and files are there; of make, of all it would run."""
    if words[0] == "docker" and "make" in words:
        words = words[words.index("make") :]
    if words[0] == "make":
        unset = [word for name in os.environ if name.startswith("MAKE") for word in ("-u", name)]
        run = _run("env", *unset, "make", "-sn", f"VENV={sys.prefix}", *words[1:], folder=folder)
        assert run.returncode == 0, run.stderr
        for line in run.stdout.replace("\\\n", " ").splitlines():
            for simple in simple_commands(line):
                starts(simple, folder)
        return
    elsewhere = ("docker", "conda", "python", "try/", "build/")  # of the reader, or not yet made
    assert words[0].startswith(elsewhere) or shutil.which(words[0]), f"no program {words[0]}"
    for word in words[1:] if words[0] != "cp" else words[1:-1]:
        if word.endswith((".py", ".sh", ".yml", ".lock", ".weights", ".ipynb", "Snakefile")):
            assert (folder / word).exists(), f"no file {word}"
    if words[1:2] == ["-m"]:
        options = {word.split("=")[0] for word in words[3:] if word.startswith("--")}
        missing = options - known_options(*words[2 : 4 if words[2] == "pip" else 3])
        assert not missing, f"{words[2]} has no {missing}"
    elif words[1:2] == ["-c"]:
        exec(words[2], {})


@cache
def known_options(module: str, command: str = "") -> set[str]:
    """The options that a module names when it is asked for help; of pip, its command."""
    spec = find_spec(module)
    if spec and spec.submodule_search_locations:
        spec = find_spec(f"{module}.__main__")
    assert spec, f"no module {module}"
    assert spec.origin
    if not module.startswith("companion"):
        words = [sys.executable, "-m", module, *filter(None, [command]), "--help"]
        shown = _run(*words, folder=Path("/"))
        assert shown.returncode == 0, shown.stderr
        help_text = shown.stdout
    elif re.search(r"argparse|\boptions\(", Path(spec.origin).read_text()):
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as output:
            patch.setattr(sys, "argv", [module, "--help"])
            with pytest.raises(SystemExit):
                runpy.run_module(module, run_name="__main__")
        help_text = output.getvalue()
    else:
        help_text = ""
    return set(re.findall(r"--[\w-]+", help_text))


@pytest.mark.parametrize(
    ("document", "link"),
    [
        (document, link)
        for document, text in TEXTS.items()
        for link in sorted(set(re.findall(r"\]\(([^)#:]+)\)", text)))
    ],
)
def test_a_link_leads_somewhere(document: str, link: str) -> None:
    assert (ROOT / Path(document).parent / link).exists()


def test_a_table_of_the_readme_is_the_one_that_was_written() -> None:
    pattern = r"<!-- (figures/\S+\.md) -->\n(.*?)<!-- end -->"
    ((name, shown),) = re.findall(pattern, TEXTS["README.md"], flags=re.DOTALL)
    assert name == "figures/summary.md"
    written = (ROOT / name).read_text(encoding="utf-8")
    assert disagreements(shown, written) == [], f"copy {name} into README.md"


OWN_PYTHON = [page for page in TEXTS if page != "docs/extending.md" and "```python" in TEXTS[page]]


@pytest.mark.parametrize("page", OWN_PYTHON)
def test_the_python_of_a_page_runs(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Block after block; a small Whisper and an utterance stand in for the reader's own."""
    utterance = find_utterances(ROOT / "data" / "corpus").utterances[0]
    sizes = [dimensions(64, 2, 3, 51865, 80)]
    if page in ("README.md", "docs/guard.md", "docs/monitor.md"):
        sizes.append(dimensions(512, 8, 6, 51865, 80))  # the first model, which needs thresholds
    models = [random_whisper(replace(size, n_text_ctx=40, n_audio_layer=1)) for size in sizes]
    monkeypatch.setattr(whisper, "load_model", lambda name: {"base": models.pop()}[name])
    for module in (whisper, whisper.audio):
        monkeypatch.setattr(module, "load_audio", lambda file: read_wave(utterance))
    monkeypatch.chdir(ROOT)
    program = [block.text for block in blocks(ROOT / page) if block.kind == "python"]
    exec(compile("\n".join(program), page, "exec"), {})
    if page == "docs/tutorial.md":
        assert utterance.reference.lower() in capsys.readouterr().out


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
    _python(build, tmp_path / "source")
    (wheel,) = tmp_path.glob("*.whl")
    alone = tmp_path / "alone"
    shutil.unpack_archive(wheel, alone, format="zip")
    packages = {path.name for path in alone.iterdir() if path.suffix != ".dist-info"}
    assert packages == {"spectral", "companion"}
    for package in packages:
        tracked, installed = (
            {path.relative_to(root / package) for path in (root / package).rglob("*.py")}
            for root in (ROOT, alone)
        )
        assert tracked == installed, "a folder without __init__.py is left out of the wheel"
    program = [block.text for block in blocks(DOCS / "kernels.md") if block.kind == "python"]
    ended = _python("\n".join([*program, "print(spectral.__file__)"]), alone)
    assert ended.stdout.strip() == str(alone / "spectral" / "__init__.py"), ended.stderr


def test_a_hunk_that_fits_nowhere_or_twice_is_an_error() -> None:
    assert patched("a\nb\n", " a\n+c\n") == "a\nc\nb\n"
    for text in ("b\n", "a\na\n"):
        with pytest.raises(AssertionError, match="fits not once"):
            patched(text, " a\n+c\n")


def _run(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def _python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return _run(sys.executable, "-c", program, folder=folder, **environment)
