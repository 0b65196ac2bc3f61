"""Every number in the prose of a page is defined, or is in the table that numbers.yml names for it.

A ``#`` in a sentence of numbers.yml is a number of the page, in digits or a word. The lines below
say where these are, in order: ``table | rows | column | column``. Rows are a query of pandas, all
where it is empty; columns are read row by row, and may be expressions, such as ``-change`` or
``auc.min()``. The first number in the text of a cell of column ``F`` is ``F_0``.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[1]
LISTED = yaml.safe_load(Path(__file__).with_name("numbers.yml").read_text(encoding="utf-8"))
NUMBER = r"[-+]?\d+(?:\.\d+)?"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORDS = {word: number for number, word in enumerate(NAMES)} | {"eleven": 11, "twelve": 12}
WORDS |= {"sixteen": 16, "twenty": 20}


def prose(page: str) -> str:
    """A page as one line, without code, equations, addresses, and tables that were copied in."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = r"^ *```.*?^ *```$|<!-- (\S+) -->.*?<!-- end -->|^\n(?:    [^\n]*\n)+"
    text = re.sub(blocks, "\n", text, flags=re.M | re.S)
    beside = r"\]\([^)\s]*\)|\[(?=[^\[\]]*\]\()|\$\$?[^$]*\$\$?|^ *\d+\. "
    return " ".join(re.sub(beside, "", text, flags=re.M).split())


def sentences(page: str) -> dict[str, list[str]]:
    """The sentences of a page with their sources; rows of a table share both, up to their names."""
    expanded = {}
    for template, sources in LISTED["pages"][page].items():
        rows = sources["each"] if isinstance(sources, dict) else {"{}": "{}"}
        for begin, name in rows.items():
            lines = sources["are"] if isinstance(sources, dict) else sources
            expanded[template.replace("{}", begin)] = [line.replace("{}", name) for line in lines]
    return expanded


@cache
def table(name: str) -> pd.DataFrame:
    """A table of figures/ or data/, or the part of one that numbers.yml gives this name."""
    if name == "claims":
        return _claims()
    if name in LISTED["tables"]:
        whole, _, query = LISTED["tables"][name].partition(" | ")
        return table(whole).query(query) if query else table(whole)
    path = next(p for p in (ROOT / f"figures/{name}.csv", ROOT / f"data/{name}.csv") if p.exists())
    rows = pd.read_csv(path).rename(columns=lambda column: re.sub(r"\W+", "_", column).strip("_"))
    for column in rows.select_dtypes(exclude="number"):
        numbers = rows[column].fillna("").astype(str).str.findall(rf"(?<![\w.]){NUMBER}(?!\w)")
        for i in range(numbers.str.len().max()):
            rows[f"{column}_{i}"] = numbers.str[i].astype(float)
    return rows


def _claims() -> pd.DataFrame:
    """Every estimate of figures/claims.md: of a model, or of all ``Together``."""
    group, part, rows = "", "", []
    interval = rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]"
    for line in (ROOT / "figures/claims.md").read_text(encoding="utf-8").splitlines():
        if title := re.match(r"### (.*)|\*(.*)\*$", line):
            group, part = (title[1], "") if title[1] else (group, title[2])
        elif cell := re.match(rf"(?:\| |\*\*)([\w.-]+)(?: \||\*\*) {interval}", line):
            rows.append((group, part, cell[1], *map(float, cell.groups()[1:])))
    return pd.DataFrame(rows, columns=["group", "part", "model", "estimate", "low", "high"])


def given(source: str) -> list[float]:
    """The numbers that a line of numbers.yml names."""
    name, query, *columns = (part.strip() for part in source.split("|"))
    rows = table(name).query(query) if query else table(name)
    assert len(rows), f"{source}: there is no such row"
    values = [eval(column, {}, rows) for column in columns]
    if all(isinstance(value, pd.Series) for value in values):
        return [float(number) for number in np.column_stack(values).ravel()]
    return [float(number) for value in values for number in np.ravel(value)]


def pattern(template: str) -> re.Pattern[str]:
    """A sentence, a group for every number."""
    number = rf"(?<![\w.])({NUMBER}|{'|'.join(WORDS)})(?!\w|\.\d)"
    return re.compile(number.join(map(re.escape, template.split("#"))))


def differences(text: str, template: str, sources: list[str]) -> list[str]:
    """What is wrong with a sentence; a number is right that is rounded from its table's."""
    matches = [*pattern(template).finditer(text)]
    if len(matches) != 1:
        return [f"it is {len(matches)} times in the page, not once"]
    shown, numbers = matches[0].groups(), [number for line in sources for number in given(line)]
    if len(shown) != len(numbers):
        return [f"it has {len(shown)} numbers, the tables {len(numbers)}: {numbers}"]
    return [
        f"it says {written}, the table {number:.5g}"
        for written, number in zip(shown, numbers, strict=True)
        if not abs(float(WORDS.get(written, written)) - number) <= _half_a_place(written)
    ]


def _half_a_place(written: str) -> float:
    return 0.5 * 10.0 ** -len(written.partition(".")[2]) + 1e-9


def sourceless(text: str, templates: list[str]) -> list[str]:
    """Numbers that neither a sentence nor a definition covers, each with the words before it."""
    for known in [*map(pattern, templates), *map(_defined, LISTED["defined"])]:
        text = known.sub("…", text)
    text = re.sub(r"`[^`]*`", "…", text)
    return [text[max(0, n.start() - 60) : n.end()] for n in re.finditer(r"(?<!\w)[\d.]*\d", text)]


def _defined(known: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.])(?:{known})(?!\w)")


@pytest.mark.parametrize(
    ("page", "template", "sources"),
    [(page, *item) for page in LISTED["pages"] for item in sentences(page).items()],
)
def test_a_sentence_says_what_its_tables_say(page: str, template: str, sources: list[str]) -> None:
    assert differences(prose(page), template, sources) == []


@pytest.mark.parametrize("page", LISTED["pages"])
def test_every_number_of_a_page_is_defined_or_has_its_table(page: str) -> None:
    assert sourceless(prose(page), [*sentences(page)]) == []


def test_every_document_is_looked_at_and_every_definition_is_used() -> None:
    documents = {str(path.relative_to(ROOT)) for path in ROOT.glob("*.md")} | {"data/README.md"}
    documents |= {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")}
    assert documents == {*LISTED["pages"], *LISTED["elsewhere"]}
    whole = " ".join(map(prose, LISTED["pages"]))
    assert [known for known in LISTED["defined"] if not _defined(known).search(whole)] == []


def test_a_number_without_a_table_is_found_and_a_wrong_one() -> None:
    template = "ranks fall by # %"
    sources = ["whisper/outcomes | condition == 'hell' and model == 'base' | loop"]
    for right in ("37", "36.7", "36.73"):
        assert differences(f"ranks fall by {right} %", template, sources) == []
    for wrong in ("36", "-37", "36.8", "thirty"):
        assert differences(f"ranks fall by {wrong} %", template, sources)
    text = "ranks fall by 37 %, by `K50` and log10 of v3, in Hell by 12.5"
    assert [missing.split()[-1] for missing in sourceless(text, [template])] == ["12.5"]
