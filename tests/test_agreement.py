"""How far tables agree: what another machine may change, and what is found."""

import math
import shutil
import subprocess
from pathlib import Path

import agreement
import pytest
from agreement import compared, disagreements, summary

CSV = "model,n,fraction,note\nxs-0,128,135.3,\nxs-1,14,0,step\n"
TABLE = """\
| model   |   n | WER (%)              |
|:--------|----:|:---------------------|
| xs-1    | 128 | 135.3 [126.6, 144.9] |
| log     |  14 | -0.02 of 16          |
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("135.3", "135.1"),  # 0.15 %
        ("135.3", "136.5"),
        ("-0.02", "-0.03"),  # one of the last place
        ("14 ", "15 "),
        ("| xs-1    |", "| xs-1 |"),
        ("|:--------|", "|:-----|"),
    ],
)
def test_texts_agree_where_numbers_are_close_and_words_equal(old: str, new: str) -> None:
    assert disagreements(TABLE.replace(old, new), TABLE) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("135.3", "137.3", "137.3 for 135.3"),
        ("126.6", "123.6", "123.6 for 126.6"),
        ("-0.02", "-0.04", "-0.04 for -0.02"),
        ("-0.02", "0.02", "0.02 for -0.02"),
        ("14 ", "16 ", "16 for 14"),
        ("-0.02", "0", "0 for -0.02"),
        ("xs-1", "xs-0", "other words"),
        ("WER", "CER", "other words"),
        ("| log ", "| log\n| log ", "other words"),
    ],
)
def test_all_else_is_found(old: str, new: str, expected: str) -> None:
    assert disagreements(TABLE.replace(old, new), TABLE) == [expected]


def distances(drawn: str, before: str = CSV) -> dict[str, float]:
    return {pair.where: pair.distance for pair in compared(drawn, before, "x.csv")}


@pytest.mark.parametrize(
    ("old", "new", "where", "distance"),
    [
        ("135.3", "135.3", "fraction in x.csv, line 2", 0),
        ("135.3", "140", "fraction in x.csv, line 2", 4.7 / 140),
        (",14,", ",15,", "n in x.csv, line 3", 1 / 15),
        (",0,", ",1e-15,", "fraction in x.csv, line 3", 0),  # nothing beside its column
        (",0,", ",0.01,", "fraction in x.csv, line 3", 1),
        ("135.3", "", "fraction in x.csv, line 2", math.inf),  # missing now
        ("step", "smooth", "fraction in x.csv, line 3", 0),  # words are not compared
    ],
)
def test_every_number_of_a_table_is_compared(
    old: str, new: str, where: str, distance: float
) -> None:
    of_number = distances(CSV.replace(old, new))
    assert of_number.pop(where) == pytest.approx(distance)
    assert [*of_number.values()] == [0, 0, 0]


@pytest.mark.parametrize(
    "drawn", [CSV + "xs-2,1,1,\n", CSV.replace("fraction", "part"), "", "model\n"]
)
def test_another_shape_agrees_in_no_number(drawn: str) -> None:
    assert list(distances(drawn).values()) == [math.inf] * 4


def test_the_summary_says_how_many_agree_and_what_is_farthest() -> None:
    pairs = list(compared(CSV.replace("135.3", "140"), CSV, "x.csv"))
    assert summary(pairs, 1) == (
        "3 of the 4 numbers in 1 tables agree with the committed ones within 1%; largest "
        "difference: 0.034 of itself, fraction in x.csv, line 2"
    )
    assert summary(list(compared(CSV, CSV, "x.csv")), 1).endswith("largest difference: none")


@pytest.mark.parametrize("versioned", [True, False])
def test_what_came_is_known_with_and_without_git(
    versioned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures" / "whisper").mkdir(parents=True)
    for name in ("x.csv", "whisper/y.csv"):
        (tmp_path / "figures" / name).write_text(CSV)
    agreement.main()
    assert "nothing to compare with" in capsys.readouterr().out
    if versioned:
        author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        for command in (["init", "-q"], ["add", "figures"], [*author, "commit", "-qm", "all"]):
            subprocess.run(["git", *command], check=True)
        agreement.CAME.mkdir(parents=True)  # what lay there at some time was never committed
        (agreement.CAME / "new.csv").write_text(CSV.replace("135.3", "99"))
    else:
        shutil.copytree("figures", agreement.CAME)
    (tmp_path / "figures" / "x.csv").write_text(CSV.replace("135.3", "135.1"))
    (tmp_path / "figures" / "new.csv").write_text(CSV)
    agreement.main()
    assert capsys.readouterr().out == (
        "8 of the 8 numbers in 2 tables agree with the committed ones within 1%; largest "
        "difference: 0.0015 of itself, fraction in x.csv, line 2\n"
    )
