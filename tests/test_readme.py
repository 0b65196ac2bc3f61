"""What the README shows is what was drawn, and every link of a document leads somewhere."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from agreement import disagreements

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- (figures/\S+\.md) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md"])
LINKS = [
    (document.relative_to(ROOT), link)
    for document in DOCUMENTS
    for link in sorted(set(re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))))
]
COMMANDS = [
    (document.relative_to(ROOT), line.split("   #")[0].strip())
    for document in DOCUMENTS
    for block in re.findall(
        r"(?:^ *```sh\n.*?^ *```$)|(?:^    (?:make|\S*python|conda) [^\n]*$)",
        document.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    for line in block.splitlines()
    if "```" not in line
]
ELSEWHERE = {
    "python3 -m venv try": "test_environment: what make does with a Python",
    "try/bin/python -m pip install .": "test_documents: the wheel",
    "try/bin/python -m pip install pandas soundfile transformers openai-whisper": "the lock",
    "python3 -m pip wheel --no-deps --wheel-dir build/dist .": "test_documents: the wheel",
    "python3 -m venv build/alone": "test_documents: the wheel",
    "build/alone/bin/python -m pip install build/dist/*.whl": "test_documents: the wheel",
}
"""Commands that install, and which test does what they do without a network."""


def test_the_documents_have_commands() -> None:
    assert len(COMMANDS) >= 10
    assert set(ELSEWHERE) <= {command for _, command in COMMANDS}


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_a_command_is_a_target_of_make_a_module_with_these_options_or_tried(
    document: Path, command: str
) -> None:
    program, *words = shlex.split(command)
    if command in ELSEWHERE:
        return
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for word in words:
            name, given, _ = word.partition("=")
            pattern = rf"\$\({name}\)" if given else rf"^{name}:.* ## "
            assert re.search(pattern, makefile, flags=re.MULTILINE), f"{document}: no {word}"
    elif words[:1] == ["-m"]:
        spec = find_spec(words[1])
        if spec and spec.submodule_search_locations:
            spec = find_spec(f"{words[1]}.__main__")
        assert spec is not None, f"{document}: no module {words[1]}"
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        missing = [word for word in words if word[:2] == "--" and f'"{word}"' not in source]
        assert not missing, f"{document}: {words[1]} has no {missing}"
    elif words[:1] == ["-c"]:
        exec(words[1], {})
    else:
        pytest.fail(f"{document}: nothing tries {command!r}; say in ELSEWHERE which test does")


def test_the_readme_shows_the_summary() -> None:
    assert [name for name, _ in BLOCKS] == ["figures/summary.md"]


@pytest.mark.parametrize(("name", "shown"), BLOCKS)
def test_a_table_of_the_readme_is_the_one_that_was_written(name: str, shown: str) -> None:
    written = (ROOT / name).read_text(encoding="utf-8")
    assert disagreements(shown, written) == [], f"copy {name} into README.md"


@pytest.mark.parametrize(("document", "link"), LINKS)
def test_a_link_leads_somewhere(document: Path, link: str) -> None:
    assert (ROOT / document.parent / link).exists()
