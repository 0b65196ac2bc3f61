"""The numbers that claims and predictions are about, each from a table of another notebook.

Pooled numbers follow the paper's convention, of all utterances but those that loop on either side.
Changes per utterance leave those out too: a loop adds many nearly equal rows to one side. At equal
length they are of random rows of the longer text; of its first rows, which are no random part of
it, where no other were measured, and of what is compared with controls that were cut so.
"""

from collections.abc import Callable

import pandas as pd

from companion.claims import numbers
from companion.claims.numbers import NotMeasured, Number, Tables
from companion.measurement.pooling import ALL, UNSEEN
from companion.measurement.schemas import SWAPPED
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.results.effects import FIRST_ROWS, MATCHED, RANDOM_ROWS, RAW, WITHOUT_LOOPS
from companion.results.evidence import MODEL
from companion.results.intervals import Interval, difference, exact, mean, scaled
from companion.results.stresses import TRAINED
from companion.results.transcripts import WHOLE
from companion.results.warnings import MEAN

CROSS, MODES, STRESS = "cross_attention", 50, "hell"
WITHIN, EVIDENCE = f"within_conditions_k{MODES}", f"evidence_k{MODES}"
OUTCOMES, EQUAL, CONTROLS = "by_outcome", "equal_length", "controls"


def own_rule(decoding: "pd.Series[str]") -> str:
    """openai-whisper's rule; of models that were not measured by it, that of all tokens."""
    return OPENAI.name if (decoding == OPENAI.name).any() else UNRESTRICTED.name


def own_sample(sample: "pd.Series[str]") -> str:
    """The unseen utterances; of models on which nothing was searched, all."""
    return UNSEEN if (sample == UNSEEN).any() else ALL


def pooled(name: str, **where: object) -> Number:
    """A number of the pooled table: as ``where`` says, else measured, cross-attention, K = 50.

    Loops are dropped, the rule is ``own_rule``, and of what was measured the sample is
    ``own_sample``.
    """
    places: dict[str, object] = {
        "of": "measured", "loops": "dropped", "component": CROSS, "modes": MODES,
        "decoding": own_rule,
    }  # fmt: skip
    if where.get("of", "measured") == "measured":
        places["sample"] = own_sample
    return numbers.cell(numbers.POOLED, name, **places | where)


def rows_kept(tables: Tables) -> str:
    """Which rows equal length keeps: random ones where every model has them, else the first."""
    try:
        known = set(numbers.chosen(tables, EQUAL, ["model"], rows=RANDOM_ROWS).model)
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
        return numbers.cell(EQUAL, f"delta_{observable}", **where, rows=way)
    length = RAW if way == RAW else MATCHED
    where |= {"outcome": WITHOUT_LOOPS, "length": length}
    return numbers.cell(OUTCOMES, f"delta_{observable}", **where)


def beside_control(
    column: str, control: str, observable: str = "n_eff", component: str = CROSS
) -> Number:
    """What is left of a change, length-matched, beside random networks, K = 50."""
    where = {"component": component, "observable": observable, "control": control}
    return numbers.cell(CONTROLS, column, **where, length=MATCHED, modes=MODES)


def beyond_speech(observable: str, component: str) -> Number:
    """A change, length-matched, less that of other speech; of all transcripts, loops and all."""

    def read(tables: Tables, model: str) -> Interval:
        rows = numbers.chosen(
            tables, EVIDENCE, ["change", "low", "high"], model=model, component=component,
            observable=observable, modes=MODES, length=MATCHED, source=[MODEL, SWAPPED],
        ).set_index("source")  # fmt: skip
        if sorted(rows.index) != sorted([MODEL, SWAPPED]):
            raise NotMeasured(f"there are {len(rows)} rows of {model}, {component}, {observable}")
        return difference(*(numbers.of(rows.loc[source], "change") for source in (MODEL, SWAPPED)))

    return numbers.per_model(EVIDENCE, read)


def hypothesis(name: str, network: str = TRAINED) -> Number:
    """A fraction of tokens in Hell of which a hypothesis, or a conclusion of the theorem, holds."""
    return numbers.cell("hypotheses", name, network=network, condition=STRESS)


def unstable_rise(network: str = TRAINED) -> Number:
    """Unstable dimensions in Hell minus those on clean speech, of all: ``mean`` over layers."""

    def read(tables: Tables, model: str) -> Interval:
        where = {"model": model, "network": network, "condition": [STRESS, "clean"]}
        rows = numbers.chosen(
            tables, "propagators", ["layer", *numbers.with_bounds("unstable")], **where
        )
        layers = [layer.set_index("condition") for _, layer in rows.groupby("layer")]
        if not layers or any(sorted(layer.index) != ["clean", STRESS] for layer in layers):
            raise NotMeasured(f"there are no layers of {model} on both sides")
        pairs = (
            [numbers.of(layer.loc[side], "unstable") for side in (STRESS, "clean")]
            for layer in layers
        )
        return mean([difference(*pair) for pair in pairs])

    return numbers.per_model("propagators", read)


def distance(quantity: str, column: str, network: str = TRAINED) -> Number:
    """How far apart the states of two utterances are in Hell."""
    return numbers.cell("attraction_distances", column, quantity=quantity, network=network)


def alike(side: str) -> Number:
    """The fraction of pairs of utterances with one and the same text, in %."""
    return numbers.cell("attraction_texts", "alike", side=side, words=WHOLE)


def beginnings(when: str, component: str, observable: str) -> Number:
    """AUC of candidates under one stress from as many first tokens: mean over stresses."""
    where = {"component": component, "observable": observable}
    return numbers.average("early_warning", "auc", when=when, prefix=MEAN, **where)


def outcome(kind: str, column: str) -> Number:
    """The fraction of transcripts in Hell of one kind, or how many of these pass, in %."""
    return numbers.cell("outcome_confidence", column, condition=STRESS, outcome=kind)


def halves(column: str, holds: Callable[["pd.Series[float]"], "pd.Series[bool]"]) -> Number:
    """The fraction of random halves of clean speech whose change is such, exact interval.

    Of the pooled spectra of cross-attention, K = 50.
    """

    def read(tables: Tables, model: str) -> Interval:
        where = {"component": CROSS, "modes": MODES, "decoding": OPENAI.name}
        rows = numbers.chosen(tables, numbers.HALVES, [column], model=model, **where)
        if rows.empty:
            raise NotMeasured(f"there are no halves of {model}")
        return scaled(exact(int(holds(rows[column].abs()).sum()), len(rows)), 0.01)

    return numbers.per_model(numbers.HALVES, read)


def words_from_nonspeech(decoding: str) -> Number:
    """The fraction of clips without speech of which words come out, in %, exact interval."""

    def read(tables: Tables, model: str) -> Interval:
        where = {"model": model, "decoding": decoding}
        rows = numbers.chosen(tables, "words_from_nonspeech", ["clips", "with_words"], **where)
        if len(rows) != 1:
            raise NotMeasured(f"there are {len(rows)} rows of {model}, {decoding}")
        return exact(int(rows.with_words.item()), int(rows.clips.item()))

    return numbers.per_model("words_from_nonspeech", read)
