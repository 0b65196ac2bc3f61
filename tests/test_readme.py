"""What the README shows is what was drawn, and every link of a document leads somewhere."""

import re
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


def test_the_readme_shows_the_summary() -> None:
    assert [name for name, _ in BLOCKS] == ["figures/summary.md"]


@pytest.mark.parametrize(("name", "shown"), BLOCKS)
def test_a_table_of_the_readme_is_the_one_that_was_written(name: str, shown: str) -> None:
    written = (ROOT / name).read_text(encoding="utf-8")
    assert disagreements(shown, written) == [], f"copy {name} into README.md"


@pytest.mark.parametrize(("document", "link"), LINKS)
def test_a_link_leads_somewhere(document: Path, link: str) -> None:
    assert (ROOT / document.parent / link).exists()
