"""Say how far the numbers drawn now agree with the committed ones: ``python scripts/agreement.py``.

Between machines a few transcripts differ and the last digits move. A number agrees with another
where they are within ``TOLERANCE`` of the larger, or as far apart as rounding may put them.
"""

import csv
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TOLERANCE, INFINITY = 0.01, float("inf")
CAME = Path("build/committed")  # figures/ as it came, for who has no git
LEFT_OUT = "verification.csv"  # says itself how far this machine's rows are from the committed ones
_SMALL = 1e-6  # of a column's largest number: six digits are written
_NUMBER = re.compile(r"(?<![\w.-])[-+]?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Pair:
    """A number, and how far the one drawn now is from it, as a fraction of the larger."""

    where: str
    distance: float


def main() -> None:
    """Compare every table of figures/ with the one that came with the project."""
    pairs: list[Pair] = []
    tables = 0
    for path in sorted(Path("figures").rglob("*.csv")):
        before = committed(path)
        if before is not None and path.name != LEFT_OUT:
            pairs += compared(path.read_text(encoding="utf-8"), before, path.name)
            tables += 1
    print(summary(pairs, tables))


def committed(path: Path) -> str | None:
    """A file as the last commit has it; where there is no git as it came; else None."""
    try:
        subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        came = CAME / path.relative_to("figures")
        return came.read_text(encoding="utf-8") if came.exists() else None
    shown = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True, text=True)
    return None if shown.returncode else shown.stdout


def summary(pairs: Sequence[Pair], tables: int) -> str:
    """One line: how many numbers agree, and which is farthest from the committed one."""
    if not pairs:
        return "no table of figures/ came with the project: there is nothing to compare with"
    agreeing = sum(pair.distance <= TOLERANCE for pair in pairs)
    worst = max(pairs, key=lambda pair: pair.distance)
    farthest = f"{worst.distance:.2g} of itself, {worst.where}" if worst.distance else "none"
    return (
        f"{agreeing} of the {len(pairs)} numbers in {tables} tables agree with the committed ones "
        f"within {TOLERANCE:.0%}; largest difference: {farthest}"
    )


def compared(drawn: str, before: str, name: str) -> Iterator[Pair]:
    """Every number of a CSV table, by line and column; infinitely far where there is none now."""
    now, then = (list(csv.reader(text.splitlines())) for text in (drawn, before))
    same = len(now) == len(then) and now[:1] == then[:1]
    for j, header in enumerate(then[0]):
        numbers = [_number(row[j]) for row in then[1:]]
        known = [abs(number) for number in numbers if number is not None]
        unit = _SMALL * max((size for size in known if size < INFINITY), default=0.0)
        for i, number in enumerate(numbers, start=1):
            if number is not None:
                other = _number(now[i][j]) if same else None
                away = INFINITY if other is None else distance(other, number, unit)
                yield Pair(f"{header} in {name}, line {i + 1}", away)


def distance(drawn: float, before: float, unit: float) -> float:
    """How far apart two numbers are, as a fraction of the larger; 0 within a ``unit`` of
    rounding."""
    apart = abs(drawn - before)
    if drawn == before or apart <= unit * (1 + 1e-9):
        return 0.0
    return apart / max(abs(drawn), abs(before))


def disagreements(drawn: str, before: str) -> list[str]:
    """What two texts disagree on: their words, or numbers beyond tolerance and last place."""
    first, second = (
        " ".join(re.sub("-{2,}", "--", _NUMBER.sub("#", text)).split()) for text in (drawn, before)
    )
    if first != second:
        return ["other words"]
    pairs = zip(_NUMBER.findall(drawn), _NUMBER.findall(before), strict=True)
    return [
        f"{new} for {old}"
        for new, old in pairs
        if distance(float(new), float(old), min(_unit(new), _unit(old))) > TOLERANCE
    ]


def _unit(number: str) -> float:
    """One of a number's last decimal place."""
    return 10.0 ** -len(number.partition(".")[2])


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


if __name__ == "__main__":
    main()
