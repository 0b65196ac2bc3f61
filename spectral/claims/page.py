"""The page of claims as Markdown and as HTML, both from the same rows."""

import html
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from spectral.claims.catalogue import Weighed, as_table
from spectral.claims.rules import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    UNDECIDED,
    VERDICTS,
    Part,
    Statement,
)

TITLE = "The claims, as measured on these models"
INTRODUCTION = (
    "A claim has parts that must all be true, and a part says something of every model that it is "
    "about. A part holds if all the 95 % intervals lie wholly on the claim's side of the bound, "
    "fails if all lie wholly on the other side, and is undecided otherwise. A claim holds if every "
    "part holds, and fails if one fails. Differences between sizes need two networks of each."
)
_COLOURS = {HOLDS: "#00664b", FAILS: "#a33c00", UNDECIDED: "#555555", NOT_MEASURED: "#004f80"}
_STYLE = """
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
body { font: 16px/1.5 sans-serif; color: #222 }
table { border-collapse: collapse; font-size: 0.85rem }
caption { text-align: left; padding: 0.4rem 0 }
th, td { padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid #ddd; text-align: left }
.verdict { color: white; padding: 0.1rem 0.5rem; border-radius: 0.2rem; white-space: nowrap }
"""


def save_page(found: Sequence[Weighed], folder: Path) -> None:
    """Write claims.csv, claims.md and claims.html, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "csv": as_table(found).to_csv(index=False, lineterminator="\n"),
        "md": markdown(found),
        "html": html_page(found),
    }
    for kind, text in texts.items():
        part = folder / f"claims.{kind}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, folder / f"claims.{kind}")


def markdown(found: Sequence[Weighed]) -> str:
    """The page as Markdown."""
    lines = [f"# {TITLE}", "", INTRODUCTION, "", f"{counts(found)}.", ""]
    lines += ["| # | claim | verdict |", "|--:|:--|:--|"]
    lines += [f"| {w.claim.number} | {w.claim.text} | **{w.verdict}** |" for w in found]
    for weighed in found:
        claim = weighed.claim
        lines += ["", f"## {claim.number}. {claim.text}", ""]
        lines += [f"From: {claim.source}. **{weighed.verdict.capitalize()}** ({weighed.reason})."]
        for part in weighed.parts:
            lines += ["", f"*{_heading(part)}*"]
            if part.statements:
                lines += ["", "| of | number [95 %] | claim | decision |", "|:--|:--|:--|:--|"]
                lines += [f"| {' | '.join(cells(s))} |" for s in part.statements]
    return "\n".join(lines) + "\n"


def html_page(found: Sequence[Weighed]) -> str:
    """The page as one HTML file that needs nothing else."""
    rows = "".join(
        f'<tr><td>{w.claim.number}</td><td><a href="#claim-{w.claim.number}">'
        f"{html.escape(w.claim.text)}</a></td><td>{_badge(w.verdict)}</td></tr>\n"
        for w in found
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">\n<title>{TITLE}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{TITLE}</h1>\n"
        f"<p>{INTRODUCTION}</p>\n<p>{counts(found)}.</p>\n"
        "<table><tr><th>#</th><th>claim</th><th>verdict</th></tr>\n"
        f"{rows}</table>\n{''.join(map(_section, found))}</body>\n</html>\n"
    )


def counts(found: Sequence[Weighed]) -> str:
    """How many claims have each verdict."""
    number = Counter(weighed.verdict for weighed in found)
    return f"Of {len(found)} claims: " + ", ".join(f"{name} {number[name]}" for name in VERDICTS)


def cells(statement: Statement) -> tuple[str, str, str, str]:
    """A statement to read: of what, the number with its interval, the claim, the decision."""
    found = statement.found
    known = found.low <= found.high
    interval = f"[{found.low:.3g}, {found.high:.3g}]" if known else "[no interval]"
    return (
        statement.about,
        f"{found.estimate:.3g} {interval}",
        f"{statement.side} {statement.bound:g}",
        statement.decision,
    )


def _heading(part: Part) -> str:
    rest = f"needs {part.needs}" if part.needs else f"{part.source}.csv"
    return f"{part.says[0].upper()}{part.says[1:]}: {part.verdict} ({rest})"


def _section(weighed: Weighed) -> str:
    claim = weighed.claim
    tables = []
    for part in weighed.parts:
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells(s))}</tr>\n"
            for s in part.statements
        )
        head = "<tr><th>of</th><th>number [95 %]</th><th>claim</th><th>decision</th></tr>\n"
        caption = html.escape(_heading(part))
        tables.append(
            f"<table><caption>{caption}</caption>\n{head}{rows}</table>\n"
            if rows
            else f"<p>{caption}</p>\n"
        )
    return (
        f'<h2 id="claim-{claim.number}">{claim.number}. {html.escape(claim.text)}</h2>\n'
        f"<p>{_badge(weighed.verdict)} From: {claim.source}.</p>\n"
        f"<details><summary>{html.escape(weighed.reason)}</summary>\n{''.join(tables)}</details>\n"
    )


def _badge(verdict: str) -> str:
    return f'<span class="verdict" style="background: {_COLOURS[verdict]}">{verdict}</span>'
