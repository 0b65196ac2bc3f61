"""The page of claims as Markdown: groups of models side by side, and what was predicted of them."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from companion.claims.catalogue import Weighed
from companion.claims.predictions import COMMIT, OUTCOMES
from companion.claims.rules import NOT_MEASURED, VERDICTS, Part
from companion.results.intervals import Interval

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
    lines += [f"{name}, {counts(claims)}.\n" for name, claims in groups.items()]
    names = list(groups)
    lines += [f"| # | claim | published | {' | '.join(names)} |"]
    lines += [f"|--:|:--|:--|{':--|' * len(names)}"]
    for together in zip(*groups.values(), strict=True):
        claim = together[0].claim
        number = published.get(claim.number, "no number is known")
        verdicts = " | ".join(f"**{weighed.verdict}**" for weighed in together)
        lines += [f"| {claim.number} | {claim.text} | {number} | {verdicts} |"]
    lines += _votes(groups)
    lines += ["", "## What became of the predictions", "", PREDICTED.format(commit=COMMIT), ""]
    lines += [f"{outcomes(judged)}.", "", *_predictions(judged)]
    for together in zip(*groups.values(), strict=True):
        lines += _claim(dict(zip(names, together, strict=True)), judged)
    return "\n".join(lines) + "\n"


def counts(claims: Sequence[Weighed]) -> str:
    """How many claims have each verdict."""
    verdicts = Counter(weighed.verdict for weighed in claims)
    return f"of {len(claims)} claims: " + ", ".join(f"{name} {verdicts[name]}" for name in VERDICTS)


def outcomes(judged: pd.DataFrame) -> str:
    """How many predictions came out how."""
    number = judged.outcome.value_counts()
    counted = ", ".join(f"{number.get(name, 0)} {name}" for name in OUTCOMES)
    return f"Of {len(judged)} lines, a line once for each model: {counted}"


def _number(estimate: float, low: float, high: float) -> str:
    interval = f"[{low:.3g}, {high:.3g}]" if low <= high else "[no interval]"
    return f"{estimate:.3g} {interval}"


def _of(interval: Interval) -> str:
    return _number(interval.estimate, interval.low, interval.high)


def _predictions(judged: pd.DataFrame) -> list[str]:
    lines = ["| id | we expected | model | number [95 %] | outcome |", "|:--|:--|:--|:--|:--|"]
    for row in judged.itertuples():
        number = row.lacks or _number(row.estimate, row.estimate_low, row.estimate_high)
        expected = f"{row.expected}: {row.side} {row.bound:g}"
        lines.append(f"| {row.id} | {expected} | {row.model} | {number} | **{row.outcome}** |")
    return lines


def _votes(groups: Groups) -> list[str]:
    """Where counting votes would have said otherwise."""
    lines = ["", "## What counting votes would have said", "", VOTES, ""]
    lines += ["| # | models | by votes | verdict | because |", "|--:|:--|:--|:--|:--|"]
    return lines + [
        f"| {of.claim.number} | {name} | {of.by_votes} | **{of.verdict}** | {of.reason} |"
        for name, claims in groups.items()
        for of in claims
        if of.by_votes != of.verdict
    ]


def _claim(groups: Mapping[str, Weighed], judged: pd.DataFrame) -> list[str]:
    claim = next(iter(groups.values())).claim
    lines = ["", f"## {claim.number}. {claim.text}", "", f"From: {claim.source}."]
    predicted = judged[judged.claim == claim.number]
    outcomes = "; ".join(f"{row.id}, {row.model}: {row.outcome}" for row in predicted.itertuples())
    lines += ["", f"Predicted of {WHISPER}: {outcomes or 'nothing'}."]
    for name, weighed in groups.items():
        lines += ["", f"### {name}: {weighed.verdict}", "", f"{_sentence(weighed.reason)}."]
        for part in weighed.parts:
            came = f"{part.verdict} ({part.source}.csv)"
            if part.verdict == NOT_MEASURED:
                came = f"{NOT_MEASURED}: {part.lacks}"
            lines += ["", f"*{_sentence(f'{part.says}: {came}')}*"]
            if part.statements:
                lines += ["", _together(part)]
                lines += ["", "| of | number [95 %] | claim | decision |", "|:--|:--|:--|:--|"]
                lines += [
                    f"| {made.about} | {_of(made.interval)} | {made.side} {made.bound:g} "
                    f"| {made.decision} |"
                    for made in part.statements
                ]
    return lines


def _together(part: Part) -> str:
    """The joint estimate in words."""
    whole, first = part.joint, part.statements[0]
    text = f"{_of(whole.interval)}, claimed {first.side} {first.bound:g}"
    if whole.networks > 1:
        ends = whole.predicted
        text += f"; of {whole.networks} sizes or seeds, tau {whole.tau:.2g}"
        text += f", one more within [{ends.low:.3g}, {ends.high:.3g}]"
    text += f"; {part.on_side} of {len(part.statements)} on the claimed side"
    return f"**Together** {text}; power {part.power:.2f} at {part.expected:g}."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def as_table(groups: Groups) -> pd.DataFrame:
    """One row per statement about a group of models: every number of the page, with all digits."""
    rows: list[dict[str, object]] = []
    for group, claims in groups.items():
        for weighed, part in [(claim, part) for claim in claims for part in claim.parts]:
            row: dict[str, object] = {
                "claim": weighed.claim.number, "group": group, "verdict": weighed.verdict,
                "part": part.says, "part_verdict": part.verdict, "table": part.source,
                "lacks": part.lacks,
            }  # fmt: skip
            if part.statements:
                joint = part.joint
                row |= {
                    "part_estimate": joint.interval.estimate, "part_low": joint.interval.low,
                    "part_high": joint.interval.high, "sizes": joint.networks, "tau": joint.tau,
                    "next_low": joint.predicted.low, "next_high": joint.predicted.high,
                    "expected": part.expected, "power": part.power, "by_votes": part.by_votes,
                }  # fmt: skip
            rows += [
                row | {
                    "about": made.about, "estimate": made.interval.estimate,
                    "low": made.interval.low, "high": made.interval.high, "side": made.side,
                    "bound": made.bound, "decision": made.decision,
                }
                for made in part.statements
            ] or [row]  # fmt: skip
    return pd.DataFrame(rows).sort_values("claim", kind="stable", ignore_index=True)


def published_numbers(known: pd.DataFrame) -> dict[int, str]:
    """The paper's numbers on a claim, where they are known, from the rows of its table."""

    def of_models(component: str, column: str = "delta_n_eff", style: str = "{:+.2f} %") -> str:
        rows = known[known.component == component]
        pairs = zip(rows.model, rows[column], strict=True)
        return ", ".join(f"{model} {style.format(value)}" for model, value in pairs)

    kirchhoff, rank = known.delta_log10_kf, "effective rank: "
    slope = of_models("self_attention", "delta_alpha", "{:+.3g}")
    return {
        1: rank + of_models("cross_attention"),
        2: f"{rank}{of_models('self_attention')}; slope: {slope}",
        3: rank + of_models("ffn"),
        4: f"log10 Kf: {kirchhoff.min():+.2f} to {kirchhoff.max():+.2f}",
        6: "large-v3-turbo: above 9; tail eigenvalues up to 1.05 of the clean ones",
    }
