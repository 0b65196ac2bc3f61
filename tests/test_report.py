"""The report as one file: figures in words too, every claim, equations, dark and light, offline.

Needs the extra ``docs``, which `make docs` installs; elsewhere these tests are skipped, and say so.
"""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from one_file import single_file

ROOT = Path(__file__).parents[1]
for needed in ("furo", "latex2mathml", "myst_nb"):
    pytest.importorskip(needed, reason="install the extra docs, or run make docs")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report alone, built as `make report` builds it with all other pages."""
    site = tmp_path_factory.mktemp("site")
    alone = ("include_patterns=docs/report.md", "root_doc=docs/report")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-c", "docs", "-d", str(site / "trees")]
    command += [word for value in alone for word in ("-D", value)]
    run = subprocess.run(
        [*command, ".", str(site)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return single_file(site, "docs/report.html").read_text(encoding="utf-8")


def test_it_is_one_file_that_asks_for_no_other(report: str) -> None:
    assert "<link" not in report
    assert not re.findall(r'src="(?!data:)[^"]*"', report)
    assert not re.findall(r"(?:@import|url\()\s*[\"']?(?!data:|#|[\"'])", report)


def test_every_main_figure_is_there_with_words_for_it(report: str) -> None:
    listed = re.findall(
        r"^\| \[\w+\]\(\.\./figures/([\w/]+\.png)\)",
        (ROOT / "docs" / "results.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\(\.\./figures/([\w/]+\.png)\)", page) == listed
    words = re.findall(r'<img alt="([^"]*)" src="data:image/png', report)
    assert len(words) == len(listed) == report.count("<em>Figure ")
    assert all(len(alt) > 40 for alt in words)


def test_every_claim_is_there_with_its_verdicts(report: str) -> None:
    claims = (ROOT / "figures" / "claims.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \| .*\*\*(.+?)\*\* \| \*\*(.+?)\*\* \|$", claims, re.M)
    assert len(rows) == 16
    for number, claim, whisper, ladder in rows:
        row = rf"<p>{number}</p></td>\s*<td[^>]*><p>{re.escape(claim)}</p></td>.*?</tr>"
        match = re.search(row, report, flags=re.DOTALL)
        assert match, claim
        assert re.findall(r"<strong>(.+?)</strong>", match[0]) == [whisper, ladder]


def test_equations_are_read_aloud_and_headings_skip_no_level(report: str) -> None:
    assert report.count("<math") > 15
    assert report.count('class="equation"') >= 4
    article = report[report.index("<article") : report.index("</article>")]
    assert "$" not in re.sub(r"<(script|code|pre).*?</\1>", "", article, flags=re.DOTALL)
    levels = [int(level) for level in re.findall(r"<h([1-6])", article)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_it_is_dark_where_that_is_preferred_and_says_its_language(report: str) -> None:
    assert "prefers-color-scheme: dark" in report or "prefers-color-scheme:dark" in report
    assert '<html class="no-js" lang="en"' in report
    assert 'name="viewport"' in report


def test_screen_readers_and_keys_reach_all_of_it(report: str) -> None:
    for tag in re.findall(r'<(?:pre|div class="[^"]*table-wrapper|div[^>]*equation)[^>]*>', report):
        assert 'tabindex="0"' in tag, "what scrolls is reached by keys"
    assert all("aria-level" in tag for tag in re.findall(r'<[^>]*role="heading"[^>]*>', report))
    asides = re.findall(r"<aside[^>]*>", report)
    labels = {label for tag in asides for label in re.findall(r'aria-label="([^"]+)"', tag)}
    assert len(labels) == len(asides) == 2
    assert re.findall(r'action="([^"]+)"', report) == ["search.html"]
