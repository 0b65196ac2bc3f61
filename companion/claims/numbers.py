"""The numbers that claims and predictions are about, each from a table of another notebook.

OpenAI's models have fixed roles, so that no model stands in for another that was not measured.
Those of the ladder are a family of their own: the smallest size, the largest, and those between.

Pooled numbers follow the paper's convention, of all utterances but those that loop on either side.
Changes per utterance leave those out too: a loop adds many nearly equal rows to one side. At equal
length they are of random rows of the longer text; of its first rows, which are no random part of
it, where no other were measured, and of what is compared with controls that were cut so.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from companion.measurement.pooling import ALL, UNSEEN
from companion.measurement.schemas import SWAPPED
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.results.effects import FIRST_ROWS, MATCHED, RANDOM_ROWS, RAW, WITHOUT_LOOPS, size_of
from companion.results.evidence import MODEL
from companion.results.intervals import NOTHING, Interval, difference, exact, mean, scaled
from companion.results.stresses import TRAINED
from companion.results.tables import SPEAKERS, SUPPLEMENT, speakers_path, with_speakers
from companion.results.transcripts import WHOLE
from companion.results.warnings import MEAN

MODEL_KEYS = ["parameters", "model"]
POOLED, HALVES = "pooled", "halves"
"""The pooled table, and that of halves of clean speech beside it."""

EVERY, SMALLEST, INTERMEDIATE, LARGEST = "every", "smallest", "intermediate", "largest"
"""The models of a table that a claim is about."""

_LARGE = ("large", "large-v1", "large-v2", "large-v3", "large-v3-turbo", "turbo")
_OPENAI = {
    "tiny": SMALLEST,
    **dict.fromkeys(["base", "small", "medium"], INTERMEDIATE),
    **dict.fromkeys(_LARGE, LARGEST),
}
_LACKING = {
    SMALLEST: "tiny.en is not measured yet; `make evidence PROFILE=whisper` does it",
    INTERMEDIATE: "base is not measured yet; `make evidence PROFILE=whisper` does it",
    LARGEST: "these weights could not be had; "
    '`make evidence PROFILE=whisper MODELS="small large-v3-turbo"` measures them, on any GPU',
}


class NotMeasured(Exception):
    """What keeps a number from being known; the message says it."""


@dataclass(frozen=True)
class Tables:
    """The tables of one group of models: ``folder`` has all but the pooled one, a CSV file."""

    folder: Path
    pooled: Path

    def path(self, name: str) -> Path:
        """Where a table is: in ``folder``, or in the supplement where it has hundreds of rows."""
        if name == POOLED:
            return self.pooled
        folder = self.folder
        if name == HALVES:
            folder, name = self.pooled.parent, f"{self.pooled.stem}_halves"
        beside = folder / SUPPLEMENT / f"{name}.csv"
        return beside if beside.exists() else folder / f"{name}.csv"

    def read(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """A table; NotMeasured where there is none, ValueError where a column lacks."""
        path = self.path(name)
        if not path.exists():
            raise NotMeasured(f"there is no {path.name} yet")
        table = _read(path, path.stat().st_mtime_ns)
        lacking = [column for column in columns if column not in table]
        if lacking:
            raise ValueError(f"{path}: no column {lacking[0]!r}; draw the notebook that writes it")
        return table


@lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> pd.DataFrame:
    """A table, and what speakers contribute to its numbers where a file beside it says so."""
    table, beside = pd.read_csv(path), speakers_path(path)
    return with_speakers(table, beside) if beside.exists() else table


def is_openai(model: str) -> bool:
    """Whether a name is one of OpenAI's, with or without ``.en``; the ladder's end in a seed."""
    return model.removesuffix(".en") in _OPENAI


def sizes(table: pd.DataFrame) -> list[list[str]]:
    """The models of a table by size, from the smallest; seeds of one size are together."""
    models = table[MODEL_KEYS].drop_duplicates().sort_values(MODEL_KEYS)
    groups = models.groupby(models.model.map(size_of), sort=False).model
    return [list(group) for _, group in groups]


def models_of(table: pd.DataFrame, role: str) -> list[str]:
    """The models of a role, from the smallest; NotMeasured, saying why, where there is none."""
    groups = sizes(table)
    models = [model for group in groups for model in group]
    if role == EVERY:
        return models
    if any(map(is_openai, models)):
        chosen = [model for model in models if _OPENAI.get(model.removesuffix(".en")) == role]
        if not chosen:
            raise NotMeasured(_LACKING[role])
        return chosen
    if len(groups) < 2:
        raise NotMeasured("models of one size were measured")
    between = [model for group in groups[1:-1] for model in group]
    chosen = {SMALLEST: groups[0], INTERMEDIATE: between, LARGEST: groups[-1]}[role]
    if not chosen:
        raise NotMeasured(f"no model of {role} size was measured")
    return chosen


Read = Callable[[Tables, str], Interval]
Names = Callable[[Tables, str], Sequence[str]]


@dataclass(frozen=True)
class Number:
    """A number of every model, the table that it is from, and how it is read there.

    ``read`` raises NotMeasured where there is none, or gives NOTHING of a model that does not
    count; ``names`` are the models of a role, or what else there is a number of.
    """

    table: str
    read: Read
    names: Names

    def __call__(self, tables: Tables, model: str) -> Interval:
        """The number of one model; NotMeasured where it does not count."""
        number = self.read(tables, model)
        if number is NOTHING:
            raise NotMeasured(f"{self.table} has no such number of {model}")
        return number

    def by_model(self, tables: Tables, role: str = EVERY) -> Iterator[tuple[str, Interval]]:
        """The models of a role that count, from the smallest, with their numbers."""
        for name in self.names(tables, role):
            if (number := self.read(tables, name)) is not NOTHING:
                yield name, number

    def __sub__(self, other: "Number") -> "Number":
        return self.of(lambda tables, name: difference(self(tables, name), other(tables, name)))

    def then(self, change: Callable[[Interval], Interval]) -> "Number":
        """What something makes of it, where it counts."""

        def read(tables: Tables, name: str) -> Interval:
            number = self.read(tables, name)
            return number if number is NOTHING else change(number)

        return self.of(read)

    def if_known(self) -> "Number":
        """The same of the models that have it, where the others do not count."""

        def read(tables: Tables, name: str) -> Interval:
            try:
                number = self.read(tables, name)
            except NotMeasured:
                return NOTHING
            return NOTHING if math.isnan(number.estimate) else number

        return self.of(read)

    def of(self, read: Read) -> "Number":
        """Another number of the same models."""
        return Number(self.table, read, self.names)


def per_model(table: str, read: Read) -> Number:
    """A number of the models of a table."""
    return Number(table, read, lambda tables, role: models_of(tables.read(table, MODEL_KEYS), role))


def cell(table: str, column: str, **where: object) -> Number:
    """The number in the one row of a model that ``where`` chooses (``chosen``).

    Where there is no such row, or more than one, it is not measured.
    """

    def read(tables: Tables, model: str) -> Interval:
        rows = chosen(tables, table, with_bounds(column), model=model, **where)
        if len(rows) != 1:
            named = [str(value) for value in (model, *where.values()) if not callable(value)]
            raise NotMeasured(f"there are {len(rows)} rows of {', '.join(named)}")
        return of(rows.iloc[0], column)

    return per_model(table, read)


def average(table: str, column: str, **where: object) -> Number:
    """The mean over the rows of a model that have the number; of the models that have one."""

    def read(tables: Tables, model: str) -> Interval:
        rows = chosen(tables, table, with_bounds(column), model=model, **where)
        known = [of(row, column) for _, row in rows.dropna(subset=column).iterrows()]
        return mean(known) if known else NOTHING

    return per_model(table, read)


def chosen(tables: Tables, table: str, columns: Sequence[str], **where: object) -> pd.DataFrame:
    """The rows whose columns have the values in ``where``, or one of a list of them.

    A function there, as max, finds the value in its column of the whole table.
    """
    whole = rows = tables.read(table, [*where, *columns])
    for name, value in where.items():
        value = value(whole[name]) if callable(value) else value
        rows = rows[rows[name].isin(value) if isinstance(value, list) else rows[name] == value]
    return rows


def with_bounds(*names: str) -> list[str]:
    """The columns of numbers and of their intervals."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def of(row: "pd.Series[float]", name: str) -> Interval:
    """The interval in the columns name, name_low and name_high, or low and high, with the
    speakers' parts in it."""
    ends = with_bounds(name) if f"{name}_low" in row else (name, "low", "high")
    estimate, low, high = (float(row[end]) for end in ends)
    interval = row.get(f"{name}{SPEAKERS}")
    if not isinstance(interval, Interval):
        return Interval(estimate, low, high)
    return Interval(estimate, low, high, interval.deviations, interval.besides)


CROSS, MODES, STRESS = "cross_attention", 50, "hell"
WITHIN, EVIDENCE = f"within_conditions_k{MODES}", f"evidence_k{MODES}"
OUTCOMES, EQUAL, CONTROLS = "by_outcome", "equal_length", "controls"


def main_rule(decoding: "pd.Series[str]") -> str:
    """openai-whisper's rule; of models that were not measured by it, that of all tokens."""
    return OPENAI.name if (decoding == OPENAI.name).any() else UNRESTRICTED.name


def main_sample(sample: "pd.Series[str]") -> str:
    """The unseen utterances; of models on which nothing was searched, all."""
    return UNSEEN if (sample == UNSEEN).any() else ALL


def pooled(name: str, **where: object) -> Number:
    """A number of the pooled table: as ``where`` says, else measured, cross-attention, K = 50.

    Loops are dropped, the rule is ``main_rule``, and of what was measured the sample is
    ``main_sample``.
    """
    places: dict[str, object] = {
        "of": "measured", "loops": "dropped", "component": CROSS, "modes": MODES,
        "decoding": main_rule,
    }  # fmt: skip
    if where.get("of", "measured") == "measured":
        places["sample"] = main_sample
    return cell(POOLED, name, **places | where)


def rows_kept(tables: Tables) -> str:
    """Which rows equal length keeps: random ones where every model has them, else the first."""
    try:
        known = set(chosen(tables, EQUAL, ["model"], rows=RANDOM_ROWS).model)
        models = set(tables.read(OUTCOMES, ["model"]).model)
    except NotMeasured:
        return FIRST_ROWS
    return RANDOM_ROWS if models <= known else FIRST_ROWS


def changed(observable: str, way: str, component: str = CROSS) -> Number:
    """A change per utterance, K = 50, of the transcripts without loops.

    ``way`` is raw, or which rows equal length keeps. Random rows have a table of their own, of
    fewer utterances.
    """
    where: dict[str, object] = {"component": component, "modes": MODES}
    if way == RANDOM_ROWS:
        return cell(EQUAL, f"delta_{observable}", **where, rows=way)
    length = RAW if way == RAW else MATCHED
    where |= {"outcome": WITHOUT_LOOPS, "length": length}
    return cell(OUTCOMES, f"delta_{observable}", **where)


def beside_control(
    column: str, control: str, observable: str = "n_eff", component: str = CROSS
) -> Number:
    """What is left of a change, length-matched, beside random networks, K = 50."""
    where = {"component": component, "observable": observable, "control": control}
    return cell(CONTROLS, column, **where, length=MATCHED, modes=MODES)


def beyond_speech(observable: str, component: str) -> Number:
    """A change, length-matched, less that of other speech; of all transcripts, loops and all."""

    def read(tables: Tables, model: str) -> Interval:
        rows = chosen(
            tables, EVIDENCE, ["change", "low", "high"], model=model, component=component,
            observable=observable, modes=MODES, length=MATCHED, source=[MODEL, SWAPPED],
        ).set_index("source")  # fmt: skip
        if sorted(rows.index) != sorted([MODEL, SWAPPED]):
            raise NotMeasured(f"there are {len(rows)} rows of {model}, {component}, {observable}")
        return difference(*(of(rows.loc[source], "change") for source in (MODEL, SWAPPED)))

    return per_model(EVIDENCE, read)


def hypothesis(name: str, network: str = TRAINED) -> Number:
    """A fraction of tokens in Hell of which a hypothesis, or a conclusion of the theorem, holds."""
    return cell("hypotheses", name, network=network, condition=STRESS)


def unstable_rise(network: str = TRAINED) -> Number:
    """Unstable dimensions in Hell minus those on clean speech, of all: ``mean`` over layers."""
    stressed, clean = (
        average("propagators", "unstable", network=network, condition=condition)
        for condition in (STRESS, "clean")
    )
    return stressed - clean


def distance(quantity: str, column: str, network: str = TRAINED) -> Number:
    """How far apart the states of two utterances are in Hell."""
    return cell("attraction_distances", column, quantity=quantity, network=network)


def alike(side: str) -> Number:
    """The fraction of pairs of utterances with one and the same text, in %."""
    return cell("attraction_texts", "alike", side=side, words=WHOLE)


def beginnings(when: str, component: str, observable: str) -> Number:
    """AUC of candidates under one stress from as many first tokens: mean over stresses."""
    where = {"component": component, "observable": observable}
    return average("early_warning", "auc", when=when, prefix=MEAN, **where)


def outcome(kind: str, column: str) -> Number:
    """The fraction of transcripts in Hell of one kind, or how many of these pass, in %."""
    return cell("outcome_confidence", column, condition=STRESS, outcome=kind)


def halves(column: str, holds: Callable[["pd.Series[float]"], "pd.Series[bool]"]) -> Number:
    """The fraction of random halves of clean speech whose change is such, exact interval.

    Of the pooled spectra of cross-attention, K = 50.
    """

    def read(tables: Tables, model: str) -> Interval:
        where = {"component": CROSS, "modes": MODES, "decoding": OPENAI.name}
        rows = chosen(tables, HALVES, [column], model=model, **where)
        if rows.empty:
            raise NotMeasured(f"there are no halves of {model}")
        return scaled(exact(int(holds(rows[column].abs()).sum()), len(rows)), 0.01)

    return per_model(HALVES, read)


def words_from_nonspeech(decoding: str) -> Number:
    """The fraction of clips without speech of which words come out, in %, exact interval."""

    def read(tables: Tables, model: str) -> Interval:
        where = {"model": model, "decoding": decoding}
        rows = chosen(tables, "words_from_nonspeech", ["clips", "with_words"], **where)
        if len(rows) != 1:
            raise NotMeasured(f"there are {len(rows)} rows of {model}, {decoding}")
        return exact(int(rows.with_words.item()), int(rows.clips.item()))

    return per_model("words_from_nonspeech", read)
