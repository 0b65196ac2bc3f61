"""What the tables say in a few lines: ranges over models, and how many intervals exclude chance."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from spectral.claims.numbers import MODEL_KEYS, MissingTable, read_table
from spectral.results.effects import MATCHED, RAW
from spectral.results.evidence import EFFECT, MODEL, verdicts
from spectral.results.tails import EIGENVALUE, TAIL
from spectral.results.unstable import ALL_LAYERS, RANDOM, TRAINED
from spectral.results.verdict import SURVIVES
from spectral.results.warnings import BEFORE, CHANCE, MEAN
from spectral.results.within import DIFFERS

Line = tuple[str, str]
"""What was measured, and what came out."""

_MODES = 50
_NAMES = {
    "self_attention": "self-attention", "cross_attention": "cross-attention", "ffn": "FFN",
    "n_eff": "effective rank (%)", "alpha": "slope", "log10_kf": "padded Kf (decades)",
    "log10_kf_resolved": "resolved Kf (decades)", "log10_variance": "size",
    "log_probability": "log-probability", "answer": "answer", "smooth": "smooth", "step": "a step",
}  # fmt: skip
_DIRECTIONS = {"singular": "the most sensitive", "random": "a random"}


def findings(tables: Path) -> pd.DataFrame:
    """Columns ``measured`` and ``found``; what rests on a table that is not there is left out."""
    found: list[Line] = []
    for lines in _LINES:
        try:
            found += lines(tables)
        except MissingTable:
            continue
    return pd.DataFrame(found, columns=["measured", "found"])


def _answers(tables: Path) -> Iterator[Line]:
    columns = ["condition", "word_error", "candidates", "log_probability"]
    table = read_table(tables, "word_error", [*MODEL_KEYS, *columns])
    for condition, part in table.groupby("condition"):
        yield f"word error, {condition} (%)", span(part.word_error)
        yield f"hallucination candidates, {condition} (% of answers)", span(part.candidates)
        yield f"average log-probability, {condition}", span(part.log_probability, 2)


def _effects(tables: Path) -> Iterator[Line]:
    """Changes from clean speech to Hell, and in how many models they survive the controls."""
    columns = [*EFFECT, "source", "length", "change", "low", "high"]
    table = read_table(tables, "evidence_k50", columns)
    table = table[(table.modes == _MODES) & table.observable.isin(list(_NAMES))]
    decided = verdicts(table)
    own = table[table.source == MODEL].dropna(subset="change")
    for (component, observable), part in own.groupby(["component", "observable"]):
        same = (decided.component == component) & (decided.observable == observable)
        judged = decided.verdict[same & decided.matched.notna()]
        digits = 0 if observable == "n_eff" else 2
        raw, cut = (
            span(part.change[part.length == way], digits, sign=True) for way in (RAW, MATCHED)
        )
        yield (
            f"{_NAMES[component]}: {_NAMES[observable]}, change in Hell",
            f"{raw} raw, {cut} at equal length; survives in {count(judged == SURVIVES)}",
        )


def _contrasts(tables: Path) -> Iterator[Line]:
    """Between sizes of equal width or depth; the interval is of these networks."""
    columns = ["differs", "contrast", "seeds", "component", "observable"]
    table = read_table(tables, "scale_contrasts", [*columns, "change", "change_low", "change_high"])
    chosen = (table.component == "cross_attention") & (table.observable == "n_eff")
    for row in table[chosen].itertuples():
        yield (
            f"cross-attention: {_NAMES['n_eff']}, {row.contrast}, at equal length",
            f"{row.change:+.1f} [{row.change_low:.1f}, {row.change_high:.1f}] "
            f"({row.differs}, seeds {row.seeds})",
        )


def _tails(tables: Path) -> Iterator[Line]:
    columns = [*MODEL_KEYS, "component", "length", "measure", "part", "ratio"]
    table = read_table(tables, "tail_eigenvalues", columns)
    table = table[(table.measure == EIGENVALUE) & (table.part == TAIL)]
    own = table[table.component == "self_attention"].set_index("length").ratio
    yield (
        "self-attention: eigenvalues 11 to 50, Hell over clean",
        f"{span(own[RAW], 2)} raw, {span(own[MATCHED], 2)} at equal length",
    )


def _unstable(tables: Path) -> Iterator[Line]:
    columns = [*MODEL_KEYS, "network", "layer", "difference", "verdict"]
    table = read_table(tables, "unstable_dimensions", columns)
    table = table[(table.layer == ALL_LAYERS) & (table.network == TRAINED)]
    own = table.dropna(subset="difference")
    differs, more = own.verdict == DIFFERS, own.difference > 0
    yield (
        "unstable dimensions, hallucinated minus other answers under one stress",
        f"{span(own.difference, 1, sign=True)}; at equal length too, surely more in "
        f"{count(differs & more)}, surely fewer in {count(differs & ~more)}",
    )


def _beginnings(tables: Path) -> Iterator[Line]:
    columns = ["model", "condition", "when", "component", "observable", "prefix"]
    table = read_table(
        tables, "early_warning", [*columns, "auc", "auc_low", "auc_high", "gain_low"]
    )
    means = table[(table.prefix == MEAN) & (table.when == BEFORE)].dropna(subset="auc")
    for component in ("cross_attention", "answer"):
        own = means[(means.component == component) & means.observable.isin(list(_NAMES))]
        for observable, part in own.groupby("observable"):
            differs = (part.auc_low > CHANCE) | (part.auc_high < CHANCE)
            name = f"{_NAMES[component]}: {_NAMES[observable].split(' (')[0]}"
            better = f", better than the log-probability in {count(part.gain_low > 0)}"
            yield (
                f"{name}, before the first wrong word: tells later hallucinations apart",
                f"in {count(differs)} models and conditions"
                + (better if component != "answer" else ""),
            )


def _courses(tables: Path) -> Iterator[Line]:
    table = read_table(tables, "transitions", ["along", "verdict"])
    long = table[table.verdict != "too few"]
    for along, part in long.groupby("along"):
        counts = part.verdict.value_counts()
        kinds = ", ".join(f"{number} {_NAMES.get(name, name)}" for name, number in counts.items())
        yield f"courses over {along}", kinds


def _subtle(tables: Path) -> Iterator[Line]:
    columns = [*MODEL_KEYS, "condition", "direction", "level_db", "changed", "new_candidates"]
    table = read_table(tables, "subtle_stress", columns)
    clean = table[table.condition == "clean"]
    loudest = clean[clean.level_db == clean.level_db.min()]
    level = loudest.level_db.min()
    for direction, part in loudest.groupby("direction"):
        yield (
            f"clean texts changed by {_DIRECTIONS[str(direction)]} direction, {level:g} dB below "
            "the log-mel (%)",
            f"{span(part.changed)}; new candidates {span(part.new_candidates)}",
        )


def _gains(tables: Path) -> Iterator[Line]:
    columns = [*MODEL_KEYS, "network", "condition", "gain_below_one", "rank_one_share"]
    table = read_table(tables, "hypotheses", columns)
    table = table[table.condition.isin(["clean", "hell"])]
    for network in (TRAINED, RANDOM):
        own = table[table.network == network]
        yield (
            f"{network} weights: every gain below 1 (% of tokens)",
            span(100 * own.gain_below_one),
        )
        yield (
            f"{network} weights: sensitivity to the audio in its first direction (%)",
            span(100 * own.rank_one_share),
        )


def _forecasts(tables: Path) -> Iterator[Line]:
    columns = ["target", "predictor", "rival", "skill_low", "skill_high"]
    table = read_table(tables, "forecast", columns)
    for rival, part in table.groupby("rival"):
        yield (
            f"forecasts of models left out from clean spectra, against the {rival}",
            f"better in {count(part.skill_low > 0)}, worse in {count(part.skill_high < 0)}",
        )


_LINES = (
    _answers, _effects, _contrasts, _tails, _unstable, _beginnings, _courses, _subtle, _gains,
    _forecasts,
)  # fmt: skip


def span(values: Iterable[float], digits: int = 0, sign: bool = False) -> str:
    """The smallest to the largest of some numbers, or the one that both round to."""
    style = f"{'+' if sign else ''}.{digits}f"
    known = pd.Series(list(values)).dropna()
    if known.empty:
        return "n/a"
    low, high = (f"{round(value, digits) + 0.0:{style}}" for value in (known.min(), known.max()))
    return low if low == high else f"{low} to {high}"


def count(true: "pd.Series[bool]") -> str:
    """How many of how many."""
    return f"{int(true.sum())} of {len(true)}"
