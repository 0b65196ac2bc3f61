"""What the tables say in a few lines, as ranges over models, and in the README's table."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

import pandas as pd

from companion.claims import numbers
from companion.claims.numbers import MODES, STRESS, NotMeasured, Tables, average, changed, chosen
from companion.claims.rules import NOT_MEASURED, joint_over_sizes
from companion.measurement.schemas import INITIALISED, SHUFFLED, SPECTRUM, UNPAIRED
from companion.models.capture import COMPONENTS
from companion.results.effects import FIRST_ROWS, MATCHED, RANDOM_ROWS, RAW
from companion.results.evidence import EFFECT, MODEL, SURVIVES, verdicts
from companion.results.stresses import ALL_LAYERS, RANDOM, TRAINED
from companion.results.tails import EIGENVALUE, TAIL
from companion.results.transcripts import CONFIDENCES
from companion.results.warnings import BEFORE, MEAN

Lines = Iterator[tuple[str, str]]
"""What was measured, and what came out."""

_NAMES = {
    "self_attention": "self-attention", "cross_attention": "cross-attention", "ffn": "FFN",
    "n_eff": "effective rank (%)", "alpha": "slope", "log10_kf": "padded Kf (decades)",
    "log10_kf_resolved": "resolved Kf (decades)", "log10_variance": "size",
    **CONFIDENCES, "transcript": "transcript", "smooth": "smooth", "step": "a step",
}  # fmt: skip
CONTROLS = {
    INITIALISED: "random weights",
    SPECTRUM: "random vectors",
    UNPAIRED: "unpaired training",
}
_DIRECTIONS = {"singular": "the most sensitive", "random": "a random"}


def findings(groups: Mapping[str, Tables]) -> pd.DataFrame:
    """Column ``measured``, and one for each group of models with what was found of it.

    A line that rests on a table that no group has is left out.
    """
    lines_of: dict[str, dict[str, str]] = {name: {} for name in groups}
    for name, tables in groups.items():
        for lines in _LINES:
            with suppress(NotMeasured):
                lines_of[name] |= lines(tables)
    longest = max(lines_of.values(), key=len)
    every = dict.fromkeys([*longest, *(line for lines in lines_of.values() for line in lines)])
    columns = {
        name: [lines.get(line, NOT_MEASURED) for line in every] for name, lines in lines_of.items()
    }
    return pd.DataFrame({"measured": list(every)} | columns)


def _ranges(
    rows: pd.DataFrame, numbers: Mapping[str, str], digits: int = 0, sign: bool = False
) -> Lines:
    """The ranges of columns that have numbers, each with what it says."""
    for column, says in numbers.items():
        if rows[column].notna().any():
            yield says, span(rows[column], digits, sign)


def _pooled(tables: Tables) -> Lines:
    """The paper's convention, without loops and by the rule of the group's own."""
    where = {"of": "measured", "modes": MODES, "loops": "dropped", "decoding": numbers.main_rule}
    names = {"n_eff": _NAMES["n_eff"], "alpha": "slope", "log10_ratio": "log10 of the index"}
    columns = ["component", *names]
    rows = chosen(tables, numbers.POOLED, columns, **where, sample=numbers.main_sample)
    for component, part in rows.groupby("component"):
        for name, quantity in names.items():
            says = f"{_NAMES[component]}: {quantity}, change in Hell, pooled, loops dropped"
            yield from _ranges(part, {name: says}, 0 if name == "n_eff" else 2, sign=True)


def _without_loops(tables: Tables) -> Lines:
    kept = numbers.rows_kept(tables)
    for component in sorted(COMPONENTS):
        raw, cut = (
            span((change.estimate for _, change in number.by_model(tables)), sign=True)
            for number in (changed("n_eff", way, component) for way in (RAW, kept))
        )
        says = f"{_NAMES[component]}: {_NAMES['n_eff']}, change in Hell, without loops"
        yield says, f"{raw} raw, {cut} with {kept} of equal number"


def _transcripts(tables: Tables) -> Lines:
    rows = tables.read("wer", ["condition", "wer", "candidates", *CONFIDENCES])
    for condition, part in rows.groupby("condition"):
        counts = {"wer": f"word error, {condition} (%)"}
        counts["candidates"] = f"hallucination candidates, {condition} (% of transcripts)"
        names = {name: f"average {unit}, {condition}" for name, unit in CONFIDENCES.items()}
        yield from _ranges(part, counts)
        yield from _ranges(part, names, digits=2)


def _separations(tables: Tables) -> Lines:
    """Of right transcripts and inventions, the probability that the right one is the more
    confident."""
    says = "{}, right transcripts from inventions (AUC)"
    columns = {f"auc_{name}": says.format(unit) for name, unit in CONFIDENCES.items()}
    yield from _ranges(tables.read("confidence", list(columns)), columns, digits=2)


def _effects(tables: Tables) -> Lines:
    """Changes from clean speech to Hell, and in how many models they survive the controls."""
    columns = [*EFFECT, "source", "length", "change", "low", "high"]
    table = tables.read(numbers.EVIDENCE, columns)
    table = table[(table.modes == MODES) & table.observable.isin(list(_NAMES))]
    decided = verdicts(table)
    ways = {(MODEL, RAW): "raw", (SHUFFLED, MATCHED): "cut"}
    keys = pd.MultiIndex.from_frame(table[["source", "length"]])
    compared = table.assign(way=keys.map(ways.get)).dropna(subset=["way", "change"])
    for (component, observable), part in compared.groupby(["component", "observable"]):
        same = (decided.component == component) & (decided.observable == observable)
        judged = decided.verdict[same & decided.matched.notna()]
        digits = 0 if observable == "n_eff" else 2
        raw, cut = (span(part.change[part.way == way], digits, sign=True) for way in ways.values())
        survives = f"survives in {count(judged == SURVIVES)}"
        says = f"{_NAMES[component]}: {_NAMES[observable]}, change in Hell"
        yield says, f"{raw} raw, {cut} with random rows; {survives}"


def _controls(tables: Tables) -> Lines:
    """What networks that cannot listen show, beside the trained ones; means over networks."""
    where = {"modes": MODES, "length": MATCHED, "observable": "n_eff"}
    rows = chosen(tables, "controls", ["control", "component", "random", "trained"], **where)
    means = rows.groupby(["control", "component"])[["random", "trained"]].mean()
    for (control, component), mean in means.iterrows():
        about = f"{_NAMES[component]}: {_NAMES['n_eff']}, first rows, mean over networks"
        random, trained = (span([value], sign=True) for value in (mean.random, mean.trained))
        yield f"{about}: {CONTROLS[control]}", f"{random}, trained {trained}"


def _contrasts(tables: Tables) -> Lines:
    """Between sizes of equal width or depth, over speakers and seeds."""
    columns = ["differs", "contrast", "seeds", "change", "change_low", "change_high"]
    where = {"component": "cross_attention", "observable": "n_eff"}
    about = f"cross-attention: {_NAMES['n_eff']}, {{}}, first rows of equal number"
    for row in chosen(tables, "scale_contrasts", columns, **where).itertuples():
        number = f"{row.change:+.1f} [{row.change_low:.1f}, {row.change_high:.1f}]"
        yield about.format(row.contrast), f"{number} ({row.differs}, seeds {row.seeds})"


def _tails(tables: Tables) -> Lines:
    where = {"component": "self_attention", "measure": EIGENVALUE, "part": TAIL}
    rows = chosen(tables, "tail_eigenvalues", ["length", "ratio"], **where)
    raw, cut = (span(rows.ratio[rows.length == way], 2) for way in (RAW, MATCHED))
    says = "self-attention: eigenvalues 11 to 50, Hell over clean"
    yield says, f"{raw} raw, {cut} with first rows of equal number"


def _unstable(tables: Tables) -> Lines:
    where = {"layer": ALL_LAYERS, "network": TRAINED}
    raw, cut = (
        _together(tables, average("unstable_dimensions", name, **where), "+.1f")
        for name in ("difference", "adjusted")
    )
    says = "unstable dimensions, hallucinated minus other transcripts under one stress, all models"
    yield says, f"{raw}; at equal length {cut}"


def _beginnings(tables: Tables) -> Lines:
    """AUC of later hallucinations, and how much farther from one half than log-probability's."""
    where: dict[str, object] = {"prefix": MEAN, "when": BEFORE}
    means = chosen(tables, "early_warning", ["component", "observable", "auc"], **where)
    known = means.dropna(subset="auc").groupby(["component", "observable"]).groups
    says = "{}: {}, before the first wrong word: AUC of later hallucinations, all models"
    for component in ("cross_attention", "transcript"):
        for observable in (name for part, name in known if part == component and name in _NAMES):
            place = where | {"component": component, "observable": observable}
            auc = _together(tables, average("early_warning", "auc", **place), ".2f")
            gain = _together(tables, average("early_warning", "gain", **place), "+.2f")
            better = f"; beyond the log-probability {gain}" if component != "transcript" else ""
            about = says.format(_NAMES[component], _NAMES[observable].split(" (")[0])
            yield about, f"{auc}{better}"


def _curves(tables: Tables) -> Lines:
    table = tables.read("transitions", ["along", "verdict"])
    for along, part in table[table.verdict != "too few"].groupby("along"):
        counts = part.verdict.value_counts()
        kinds = ", ".join(f"{number} {_NAMES.get(name, name)}" for name, number in counts.items())
        yield f"curves over {along}", kinds


def _subtle(tables: Tables) -> Lines:
    where = {"condition": "clean", "level_db": min}
    columns = ["direction", "changed", "new_candidates"]
    for direction, part in chosen(tables, "subtle_stress", columns, **where).groupby("direction"):
        name = _DIRECTIONS[str(direction)]
        level = f"{part.level_db.min():g} dB below the log-mel (%)"
        texts = f"{span(part.changed)}; new candidates {span(part.new_candidates)}"
        yield f"clean texts changed by {name} direction, {level}", texts


def _gains(tables: Tables) -> Lines:
    names = {
        "gain_below_one": "every gain below 1 (% of tokens)",
        "rank_one_fraction": "sensitivity to the audio in its first direction (%)",
    }
    for network in (TRAINED, RANDOM):
        where = {"network": network, "condition": ["clean", STRESS]}
        fractions = 100 * chosen(tables, "hypotheses", [*names], **where)[[*names]]
        says = {name: f"{network} weights: {what}" for name, what in names.items()}
        yield from _ranges(fractions, says)


def _forecasts(tables: Tables) -> Lines:
    table = tables.read("forecast", ["rival", "skill_low", "skill_high"])
    for rival, part in table.groupby("rival"):
        better, worse = count(part.skill_low > 0), count(part.skill_high < 0)
        says = f"forecasts of models left out from clean spectra, against the {rival}"
        yield says, f"better in {better}, worse in {worse}"


_LINES = (
    _transcripts, _separations, _pooled, _without_loops, _effects, _controls, _contrasts, _tails,
    _unstable, _beginnings, _curves, _subtle, _gains, _forecasts,
)  # fmt: skip


def _together(tables: Tables, number: numbers.Number, style: str) -> str:
    """The joint estimate over models, as on the page of claims."""
    numbers = dict(number.by_model(tables))
    if not numbers:
        return "n/a"
    interval = joint_over_sizes(numbers).interval
    return f"{interval.estimate:{style}} [{interval.low:{style}}, {interval.high:{style}}]"


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


def summary(groups: Mapping[str, Tables], whole: str, known: pd.DataFrame) -> pd.DataFrame:
    """The README's table: a row per quantity, as published, of every model, and ranges of a group.

    ``whole`` names the group whose models are one column; ``known`` the published rows.
    """
    (theirs,) = known[(known.component == "cross_attention") & (known.model == "tiny")].itertuples()
    rows = []
    for says, published, cells in _SUMMARY:
        row = {"Hell against clean speech": says, "published (Tiny)": published.format(theirs)}
        for group, tables in groups.items():
            texts: dict[str, str] = {}
            with suppress(NotMeasured):
                texts = cells(tables)
            row |= {group: _range(texts)} if group == whole else texts
        rows.append(row)
    models = [name for row in rows for name in row if name != whole]
    return pd.DataFrame(rows, columns=[*dict.fromkeys(models), whole]).fillna(NOT_MEASURED)


def _of_models(number: numbers.Number, style: str) -> Callable[[Tables], dict[str, str]]:
    """A number in words, by model."""

    def cells(tables: Tables) -> dict[str, str]:
        texts = {}
        for model, interval in number.if_known().by_model(tables):
            known = interval.low <= interval.high
            ends = f" [{style}, {style}]".format(interval.low, interval.high) if known else ""
            texts[model] = style.format(interval.estimate) + ends
        return texts

    return cells


def _wer(tables: Tables) -> dict[str, str]:
    rows = tables.read("wer", ["model", "condition", "wer"])
    wide = rows.pivot(index="model", columns="condition", values="wer")
    return {str(model): f"{row['clean']:.0f}, {row[STRESS]:.0f}" for model, row in wide.iterrows()}


def _outcomes(tables: Tables) -> dict[str, str]:
    rows = chosen(tables, "outcomes", ["model"], condition=STRESS).set_index("model")
    kinds = rows.reindex(columns=["invention", "loop"]).fillna(0.0)
    return {str(model): f"{row.invention:.0f}, {row.loop:.0f}" for model, row in kinds.iterrows()}


def _range(cells: Mapping[str, str]) -> str:
    """From the lowest to the highest of what the cells begin with."""
    first = (cell.split(" [")[0].split(", ") for cell in cells.values())
    columns = [sorted(set(column), key=float) for column in zip(*first, strict=True)]
    return ", ".join(c[0] if len(c) == 1 else f"{c[0]} to {c[-1]}" for c in columns) or NOT_MEASURED


_SUMMARY: tuple[tuple[str, str, Callable[[Tables], dict[str, str]]], ...] = (
    ("pooled: effective rank (%)", "{0.delta_n_eff:+.1f}",
     _of_models(numbers.pooled("n_eff"), "{:+.1f}")),
    ("pooled: spectral slope", "{0.delta_alpha:+.2f}",
     _of_models(numbers.pooled("alpha"), "{:+.2f}")),
    ("pooled: log10 of the difference of Kf", "{0.delta_log10_kf:.2f}",
     _of_models(numbers.pooled("log10_difference"), "{:.2f}")),
    ("pooled: difference of log10 Kf", "",
     _of_models(numbers.pooled("log10_ratio"), "{:+.2f}")),
    ("pooled, random networks with the same singular values: effective rank (%)", "",
     _of_models(numbers.pooled("n_eff", of="controls"), "{:+.1f}")),
    ("by utterance, as many random rows, no loops: effective rank (%)", "",
     _of_models(changed("n_eff", RANDOM_ROWS), "{:+.1f}")),
    ("by utterance, as many first rows, no loops: effective rank (%)", "",
     _of_models(changed("n_eff", FIRST_ROWS), "{:+.1f}")),
    ("WER on clean speech and in Hell (%)", "", _wer),
    ("inventions and loops in Hell (% of transcripts)", "", _outcomes),
)  # fmt: skip
