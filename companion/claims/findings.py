"""What the tables say in a few lines: ranges over models, and joint estimates."""

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

from companion.claims.changes import changed_row, rows_kept
from companion.claims.numbers import (
    MODEL_KEYS,
    POOLED,
    NotMeasured,
    Tables,
    by_model,
    with_bounds,
)
from companion.claims.rules import NOT_MEASURED, joint_over_sizes
from companion.measurement.pooling import ALL, UNSEEN
from companion.measurement.schemas import INITIALISED, SHUFFLED, SPECTRUM, UNPAIRED
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.results.effects import MATCHED, RAW, WITHOUT_LOOPS
from companion.results.evidence import EFFECT, MODEL, SURVIVES, verdicts
from companion.results.stresses import ALL_LAYERS, RANDOM, TRAINED
from companion.results.tails import EIGENVALUE, TAIL
from companion.results.transcripts import CONFIDENCES
from companion.results.warnings import BEFORE, MEAN

Line = tuple[str, str]
"""What was measured, and what came out."""

_MODES = 50
_NAMES = {
    "self_attention": "self-attention", "cross_attention": "cross-attention", "ffn": "FFN",
    "n_eff": "effective rank (%)", "alpha": "slope", "log10_kf": "padded Kf (decades)",
    "log10_kf_resolved": "resolved Kf (decades)", "log10_variance": "size",
    **CONFIDENCES, "transcript": "transcript", "smooth": "smooth", "step": "a step",
}  # fmt: skip
_CONTROLS = {
    INITIALISED: "random weights",
    SPECTRUM: "random vectors",
    UNPAIRED: "unpaired training",
}
_DIRECTIONS = {"singular": "the most sensitive", "random": "a random"}


def findings(groups: Mapping[str, Tables]) -> pd.DataFrame:
    """Column ``measured``, and one for each group of models with what was found of it.

    A line that rests on a table that no group has is left out.
    """
    found = {name: _lines(tables) for name, tables in groups.items()}
    longest = max(found, key=lambda name: len(found[name]))
    lines = list(found[longest]) + [
        line for own in found.values() for line in own if line not in found[longest]
    ]
    return pd.DataFrame(
        {"measured": lines}
        | {name: [own.get(line, NOT_MEASURED) for line in lines] for name, own in found.items()}
    )


def _lines(tables: Tables) -> dict[str, str]:
    found: list[Line] = []
    for lines in _LINES:
        try:
            found += lines(tables)
        except NotMeasured:
            continue
    return dict(found)


def _pooled(tables: Tables) -> Iterator[Line]:
    """The paper's convention, without loops and by the rule of the group's own."""
    names = {"n_eff": "effective rank (%)", "alpha": "slope", "log10_ratio": "log10 of the index"}
    keys = ["of", "model", "decoding", "sample", "loops", "component", "modes"]
    table = tables.read(POOLED, [*keys, *names])
    rule = OPENAI.name if OPENAI.name in set(table.decoding) else UNRESTRICTED.name
    sample = UNSEEN if UNSEEN in set(table["sample"]) else ALL
    chosen = (table.of == "measured") & (table.modes == _MODES) & (table.loops == "dropped")
    table = table[chosen & (table.decoding == rule) & (table["sample"] == sample)]
    for component, part in table.groupby("component"):
        for name, said in names.items():
            digits = 0 if name == "n_eff" else 2
            yield (
                f"{_NAMES[component]}: {said}, change in Hell, pooled, loops dropped",
                span(part[name], digits, sign=True),
            )


def _without_loops(tables: Tables) -> Iterator[Line]:
    keys = [*MODEL_KEYS, "component", "modes", "length", "outcome", "utterances"]
    table = tables.read("by_outcome", [*keys, "delta_n_eff"])
    kept = table[(table.outcome == WITHOUT_LOOPS) & (table.modes == _MODES)]
    rows = rows_kept(tables)
    for component, part in kept.groupby("component"):
        raw, cut = (
            span((changed_row(tables, model, component, "n_eff", way).delta_n_eff
                  for model in part.model.unique()), sign=True)
            for way in (RAW, rows)
        )  # fmt: skip
        yield (
            f"{_NAMES[component]}: {_NAMES['n_eff']}, change in Hell, without loops",
            f"{raw} raw, {cut} with {rows} of equal number",
        )


def _answers(tables: Tables) -> Iterator[Line]:
    columns = ["condition", "wer", "candidates", *CONFIDENCES]
    table = tables.read("wer", [*MODEL_KEYS, *columns])
    for condition, part in table.groupby("condition"):
        yield f"word error, {condition} (%)", span(part.wer)
        yield f"hallucination candidates, {condition} (% of transcripts)", span(part.candidates)
        for name, said in CONFIDENCES.items():
            if part[name].notna().any():
                yield f"average {said}, {condition}", span(part[name], 2)


def _separations(tables: Tables) -> Iterator[Line]:
    """Of right transcripts and inventions, the probability that the right one is the more
    confident."""
    columns = {f"auc_{name}": said for name, said in CONFIDENCES.items()}
    table = tables.read("confidence", [*MODEL_KEYS, *columns])
    for name, said in columns.items():
        if table[name].notna().any():
            yield f"{said}, right transcripts from inventions (AUC)", span(table[name], 2)


def _effects(tables: Tables) -> Iterator[Line]:
    """Changes from clean speech to Hell, and in how many models they survive the controls."""
    columns = [*EFFECT, "source", "length", "change", "low", "high"]
    table = tables.read("evidence_k50", columns)
    table = table[(table.modes == _MODES) & table.observable.isin(list(_NAMES))]
    decided = verdicts(table)
    ways = {(MODEL, RAW): "raw", (SHUFFLED, MATCHED): "cut"}
    keys = pd.MultiIndex.from_frame(table[["source", "length"]])
    own = table.assign(way=keys.map(ways.get)).dropna(subset=["way", "change"])
    for (component, observable), part in own.groupby(["component", "observable"]):
        same = (decided.component == component) & (decided.observable == observable)
        judged = decided.verdict[same & decided.matched.notna()]
        digits = 0 if observable == "n_eff" else 2
        raw, cut = (span(part.change[part.way == way], digits, sign=True) for way in ways.values())
        yield (
            f"{_NAMES[component]}: {_NAMES[observable]}, change in Hell",
            f"{raw} raw, {cut} with random rows; survives in {count(judged == SURVIVES)}",
        )


def _controls(tables: Tables) -> Iterator[Line]:
    """What networks that cannot listen show, beside the trained ones; means over networks."""
    columns = ["control", "component", "modes", "length", "observable", "random", "trained"]
    table = tables.read("controls", columns)
    chosen = (table.modes == _MODES) & (table.length == MATCHED) & (table.observable == "n_eff")
    for (control, component), part in table[chosen].groupby(["control", "component"]):
        yield (
            f"{_NAMES[component]}: {_NAMES['n_eff']}, first rows, mean over "
            f"networks: {_CONTROLS[control]}",
            f"{span([part.random.mean()], sign=True)}, "
            f"trained {span([part.trained.mean()], sign=True)}",
        )


def _contrasts(tables: Tables) -> Iterator[Line]:
    """Between sizes of equal width or depth, over speakers and seeds."""
    columns = ["differs", "contrast", "seeds", "component", "observable"]
    table = tables.read("scale_contrasts", [*columns, "change", "change_low", "change_high"])
    chosen = (table.component == "cross_attention") & (table.observable == "n_eff")
    for row in table[chosen].itertuples():
        yield (
            f"cross-attention: {_NAMES['n_eff']}, {row.contrast}, first rows of equal number",
            f"{row.change:+.1f} [{row.change_low:.1f}, {row.change_high:.1f}] "
            f"({row.differs}, seeds {row.seeds})",
        )


def _tails(tables: Tables) -> Iterator[Line]:
    columns = [*MODEL_KEYS, "component", "length", "measure", "part", "ratio"]
    table = tables.read("tail_eigenvalues", columns)
    table = table[(table.measure == EIGENVALUE) & (table.part == TAIL)]
    own = table[table.component == "self_attention"]
    raw, cut = (span(own.ratio[own.length == way], 2) for way in (RAW, MATCHED))
    yield (
        "self-attention: eigenvalues 11 to 50, Hell over clean",
        f"{raw} raw, {cut} with first rows of equal number",
    )


def _unstable(tables: Tables) -> Iterator[Line]:
    columns = [*MODEL_KEYS, "network", "layer", *with_bounds("difference", "adjusted")]
    table = tables.read("unstable_dimensions", columns)
    own = table[(table.layer == ALL_LAYERS) & (table.network == TRAINED)]
    raw, cut = (_together(own, name, "+.1f") for name in ("difference", "adjusted"))
    yield (
        "unstable dimensions, hallucinated minus other transcripts under one stress, all models",
        f"{raw}; at equal length {cut}",
    )


def _beginnings(tables: Tables) -> Iterator[Line]:
    """AUC of later hallucinations, and how much farther from one half than log-probability's."""
    columns = [*MODEL_KEYS, "condition", "when", "component", "observable", "prefix"]
    table = tables.read("early_warning", [*columns, *with_bounds("auc", "gain")])
    means = table[(table.prefix == MEAN) & (table.when == BEFORE)].dropna(subset="auc")
    for component in ("cross_attention", "transcript"):
        own = means[(means.component == component) & means.observable.isin(list(_NAMES))]
        for observable, part in own.groupby("observable"):
            name = f"{_NAMES[component]}: {_NAMES[observable].split(' (')[0]}"
            better = f"; beyond the log-probability {_together(part, 'gain', '+.2f')}"
            yield (
                f"{name}, before the first wrong word: AUC of later hallucinations, all models",
                _together(part, "auc", ".2f") + (better if component != "transcript" else ""),
            )


def _curves(tables: Tables) -> Iterator[Line]:
    table = tables.read("transitions", ["along", "verdict"])
    long = table[table.verdict != "too few"]
    for along, part in long.groupby("along"):
        counts = part.verdict.value_counts()
        kinds = ", ".join(f"{number} {_NAMES.get(name, name)}" for name, number in counts.items())
        yield f"curves over {along}", kinds


def _subtle(tables: Tables) -> Iterator[Line]:
    columns = [*MODEL_KEYS, "condition", "direction", "level_db", "changed", "new_candidates"]
    table = tables.read("subtle_stress", columns)
    clean = table[table.condition == "clean"]
    loudest = clean[clean.level_db == clean.level_db.min()]
    level = loudest.level_db.min()
    for direction, part in loudest.groupby("direction"):
        yield (
            f"clean texts changed by {_DIRECTIONS[str(direction)]} direction, {level:g} dB below "
            "the log-mel (%)",
            f"{span(part.changed)}; new candidates {span(part.new_candidates)}",
        )


def _gains(tables: Tables) -> Iterator[Line]:
    columns = [*MODEL_KEYS, "network", "condition", "gain_below_one", "rank_one_fraction"]
    table = tables.read("hypotheses", columns)
    table = table[table.condition.isin(["clean", "hell"])]
    for network in (TRAINED, RANDOM):
        own = table[table.network == network]
        yield (
            f"{network} weights: every gain below 1 (% of tokens)",
            span(100 * own.gain_below_one),
        )
        yield (
            f"{network} weights: sensitivity to the audio in its first direction (%)",
            span(100 * own.rank_one_fraction),
        )


def _forecasts(tables: Tables) -> Iterator[Line]:
    columns = ["target", "predictor", "rival", "skill_low", "skill_high"]
    table = tables.read("forecast", columns)
    for rival, part in table.groupby("rival"):
        yield (
            f"forecasts of models left out from clean spectra, against the {rival}",
            f"better in {count(part.skill_low > 0)}, worse in {count(part.skill_high < 0)}",
        )


_LINES = (
    _answers, _separations, _pooled, _without_loops, _effects, _controls, _contrasts, _tails,
    _unstable, _beginnings, _curves, _subtle, _gains, _forecasts,
)  # fmt: skip


def _together(rows: pd.DataFrame, name: str, style: str) -> str:
    """The joint estimate over models, as on the page of claims."""
    numbers = dict(by_model(rows, name))
    if not numbers:
        return "n/a"
    found = joint_over_sizes(numbers).found
    return f"{found.estimate:{style}} [{found.low:{style}}, {found.high:{style}}]"


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
