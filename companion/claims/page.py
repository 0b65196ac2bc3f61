"""The page of claims as Markdown: groups of models side by side, and what was predicted of them."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from companion.claims.catalogue import Weighed
from companion.claims.predictions import COMMIT, OUTCOMES
from companion.claims.rules import NOT_MEASURED, VERDICTS, Part, Statement

TITLE = "The claims, as measured"
INTRODUCTION = (
    "A claim has parts that must all be true. A part is judged by the joint estimate over its "
    "models ([docs/verdicts.md](../docs/verdicts.md)): it holds if the joint 95 % interval lies "
    "wholly on the claim's side of the bound, fails if wholly on the other side, and is undecided "
    "otherwise. A claim holds if every part holds, and fails if one fails. Power is the chance "
    "that an interval as wide would hold what is claimed, of a number as large as published, or "
    "else as large as would matter. What is claimed of a size of OpenAI's models is weighed on "
    "models of that size, never on others in their place."
)
VOTES = (
    "Had the intervals of all models to agree, one by one, these verdicts would be others. Votes "
    "leave undecided what a joint estimate decides, and the more models there are, the more often."
)
PREDICTED = (
    "[docs/predictions.md](../docs/predictions.md) was committed ({commit}) before any row of "
    "OpenAI's models was measured, and is not edited since. Came true: the whole 95 % interval "
    "lies on the side that the line names; did not: it lies on the other side; open: neither. All "
    "else that this page says of OpenAI's models was found afterwards, and is exploratory."
)
WHISPER, LADDER = "Whisper", "ladder"
"""OpenAI's models, and the models trained here."""

Groups = Mapping[str, Sequence[Weighed]]


def markdown(groups: Groups, published: Mapping[int, str], judged: pd.DataFrame) -> str:
    """The page: a table of verdicts, the predictions of ``judge``, then claim by claim."""
    lines = [f"# {TITLE}", "", INTRODUCTION, ""]
    lines += [f"{name}, {counts(found)}.\n" for name, found in groups.items()]
    names = list(groups)
    lines += [f"| # | claim | published | {' | '.join(names)} |"]
    lines += [f"|--:|:--|:--|{':--|' * len(names)}"]
    for together in zip(*groups.values(), strict=True):
        claim = together[0].claim
        said = published.get(claim.number, "no number is known")
        verdicts = " | ".join(f"**{weighed.verdict}**" for weighed in together)
        lines += [f"| {claim.number} | {claim.text} | {said} | {verdicts} |"]
    lines += _votes(groups)
    lines += ["", "## What became of the predictions", "", PREDICTED.format(commit=COMMIT), ""]
    lines += [f"{outcomes(judged)}.", "", *_predictions(judged)]
    for together in zip(*groups.values(), strict=True):
        lines += _claim(dict(zip(names, together, strict=True)), judged)
    return "\n".join(lines) + "\n"


def counts(found: Sequence[Weighed]) -> str:
    """How many claims have each verdict."""
    number = Counter(weighed.verdict for weighed in found)
    return f"of {len(found)} claims: " + ", ".join(f"{name} {number[name]}" for name in VERDICTS)


def outcomes(judged: pd.DataFrame) -> str:
    """How many predictions came out how."""
    number = judged.outcome.value_counts()
    said = ", ".join(f"{number.get(name, 0)} {name}" for name in OUTCOMES)
    return f"Of {len(judged)} lines, a line once for each model: {said}"


def cells(statement: Statement) -> tuple[str, str, str, str]:
    """A statement to read: of what, the number with its interval, the claim, the decision."""
    found = statement.found
    return (
        statement.about,
        _number(found.estimate, found.low, found.high),
        f"{statement.side} {statement.bound:g}",
        statement.decision,
    )


def _number(estimate: float, low: float, high: float) -> str:
    interval = f"[{low:.3g}, {high:.3g}]" if low <= high else "[no interval]"
    return f"{estimate:.3g} {interval}"


def _predictions(judged: pd.DataFrame) -> list[str]:
    lines = ["| id | we expected | model | number [95 %] | outcome |", "|:--|:--|:--|:--|:--|"]
    for row in judged.itertuples():
        number = (
            row.lacks if row.lacks else _number(row.estimate, row.estimate_low, row.estimate_high)
        )
        said = f"{row.expected}: {row.side} {row.bound:g}"
        lines.append(f"| {row.id} | {said} | {row.model} | {number} | **{row.outcome}** |")
    return lines


def _votes(groups: Groups) -> list[str]:
    """Where counting votes would have said otherwise."""
    lines = ["", "## What counting votes would have said", "", VOTES, ""]
    lines += ["| # | models | by votes | verdict | because |", "|--:|:--|:--|:--|:--|"]
    return lines + [
        f"| {one.claim.number} | {name} | {one.by_votes} | **{one.verdict}** | {one.reason} |"
        for name, found in groups.items()
        for one in found
        if one.by_votes != one.verdict
    ]


def _claim(groups: Mapping[str, Weighed], judged: pd.DataFrame) -> list[str]:
    claim = next(iter(groups.values())).claim
    lines = ["", f"## {claim.number}. {claim.text}", "", f"From: {claim.source}."]
    own = judged[judged.claim == claim.number]
    said = "; ".join(f"{row.id}, {row.model}: {row.outcome}" for row in own.itertuples())
    lines += ["", f"Predicted of {WHISPER}: {said or 'nothing'}."]
    for name, weighed in groups.items():
        lines += ["", f"### {name}: {weighed.verdict}", "", f"{_sentence(weighed.reason)}."]
        for part in weighed.parts:
            lines += ["", f"*{_sentence(_heading(part))}*"]
            if part.statements:
                lines += ["", _together(part)]
                lines += ["", "| of | number [95 %] | claim | decision |", "|:--|:--|:--|:--|"]
                lines += [f"| {' | '.join(cells(s))} |" for s in part.statements]
    return lines


def _heading(part: Part) -> str:
    if part.verdict == NOT_MEASURED:
        return f"{part.says}: {NOT_MEASURED}: {part.lacks}"
    return f"{part.says}: {part.verdict} ({part.source}.csv)"


def _together(part: Part) -> str:
    """The joint estimate in words."""
    whole, found = part.joint, part.joint.found
    first = part.statements[0]
    said = f"{_number(found.estimate, found.low, found.high)}, claimed {first.side} {first.bound:g}"
    if whole.networks > 1:
        ends = whole.predicted
        said += f"; of {whole.networks} sizes or seeds, tau {whole.tau:.2g}"
        said += f", one more within [{ends.low:.3g}, {ends.high:.3g}]"
    said += f"; {part.on_side} of {len(part.statements)} on the claimed side"
    return f"**Together** {said}; power {part.power:.2f} at {part.expected:g}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
