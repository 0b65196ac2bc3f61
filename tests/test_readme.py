"""What the README shows is what the commands printed, on any machine."""

import re
from pathlib import Path

import pytest
from agreement import disagreements

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- (figures/\S+\.md) -->\n(.*?)<!-- end -->", README, flags=re.DOTALL)


def test_the_readme_shows_tables() -> None:
    assert {name for name, _ in BLOCKS} == {"figures/word_error.md", "figures/findings.md"}


@pytest.mark.parametrize(("name", "shown"), BLOCKS)
def test_a_table_of_the_readme_is_the_one_that_was_written(name: str, shown: str) -> None:
    written = (ROOT / name).read_text(encoding="utf-8")
    assert disagreements(shown, written) == [], f"copy {name} into README.md"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
