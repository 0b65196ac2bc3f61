"""Predictions that were written down before anything was measured, and what became of them.

The page is read as it was committed: ids, numbers, models, sides and bounds stand there alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from companion.claims import numbers
from companion.claims.numbers import CROSS, STRESS, NotMeasured, Number, Read, Tables, average, cell
from companion.claims.rules import ABOVE, BELOW, OPEN, SUPPORTED, Statement
from companion.measurement.schemas import DISTANCE, SPECTRUM
from companion.models.capture import COMPONENTS
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.results.effects import FIRST_ROWS
from companion.results.intervals import NOTHING, Interval, complement, difference, mean, scaled
from companion.results.transcripts import PER_WORD_PIECE, TRANSCRIPT
from companion.results.warnings import ANY

COMMIT = "365e973"
"""The commit of the page, from before the first row was measured."""

TRUE, FALSE, UNMEASURED = "came true", "did not", "not measured"
OUTCOMES = (TRUE, FALSE, OPEN, UNMEASURED)
_COLUMNS = ("id", "claim", "what we expect", "number", "models", "side", "bound")
BOTH = "both"


@dataclass(frozen=True)
class Prediction:
    """One line of the page about one model."""

    id: str
    claim: int
    says: str
    number: str
    model: str
    side: str
    bound: float


def read_predictions(page: Path) -> list[Prediction]:
    """The lines of a page, one per model that they name; ValueError for a line that is none."""
    predictions = []
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0].startswith(":") or tuple(cells) == _COLUMNS:
            continue
        if len(cells) != len(_COLUMNS) or cells[5] not in (ABOVE, BELOW):
            raise ValueError(f"{page}: {line!r} is no prediction; write {' | '.join(_COLUMNS)}")
        name, claim, says, number, models, side, bound = cells
        predictions += [
            Prediction(name, int(claim), says, number, model.strip(), side, float(bound))
            for model in models.split(",")
        ]
    return predictions


def judge(
    predictions: Sequence[Prediction], tables: Tables, known: Mapping[str, Read]
) -> pd.DataFrame:
    """One row per prediction and model, with the number measured and what became of it.

    A number of a table or model that is not there is not measured; ``lacks`` says why.
    """
    rows = []
    for line in predictions:
        number, lacks, outcome = NOTHING, "", UNMEASURED
        try:
            number = known[line.number](tables, line.model)
            decision = Statement(line.model, number, line.side, line.bound).decision
            outcome = {SUPPORTED: TRUE, OPEN: OPEN}.get(decision, FALSE)
        except NotMeasured as reason:
            lacks = str(reason)
        rows.append(
            {
                "id": line.id, "claim": line.claim, "expected": line.says, "model": line.model,
                "side": line.side, "bound": line.bound, "estimate": number.estimate,
                "estimate_low": number.low, "estimate_high": number.high, "outcome": outcome,
                "lacks": lacks,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _both(tables: Tables, model: str) -> Interval:
    if model != BOTH:
        raise NotMeasured(f"it is of two models, not of {model}")
    return difference(*(numbers.pooled("n_eff")(tables, name) for name in ("base", "tiny.en")))


def _over_components(
    number: Callable[[str], Number], together: Callable[[list[Interval]], Interval]
) -> Read:
    return lambda tables, model: together([number(part)(tables, model) for part in COMPONENTS])


_ALPHA = numbers.beginnings(ANY, CROSS, "alpha")
_CONFIDENCE = numbers.beginnings(ANY, TRANSCRIPT, PER_WORD_PIECE).then(complement)
_WHOLE_TEXT = {"component": TRANSCRIPT, "observable": PER_WORD_PIECE}
_PERTURBED = {"condition": "clean", "direction": "singular", "level_db": 20.0}

NUMBERS: Mapping[str, Read] = {
    "pooled n_eff": numbers.pooled("n_eff"),
    "pooled alpha": numbers.pooled("alpha"),
    "pooled log10 difference": numbers.pooled("log10_difference"),
    "pooled log10 ratio": numbers.pooled("log10_ratio"),
    "pooled n_eff, matched": numbers.pooled("n_eff", loops="matched"),
    "pooled n_eff, unrestricted": numbers.pooled("n_eff", decoding=UNRESTRICTED.name),
    "pooled n_eff, kept": numbers.pooled("n_eff", loops="kept"),
    "pooled n_eff, ffn": numbers.pooled("n_eff", component="ffn"),
    "pooled n_eff, self-attention": numbers.pooled("n_eff", component="self_attention"),
    "pooled n_eff, K = 10": numbers.pooled("n_eff", modes=10),
    "pooled n_eff, base minus tiny.en": _both,
    "pooled slope, largest": _over_components(
        lambda part: numbers.pooled("alpha_stressed", component=part),
        lambda parts: max(parts, key=lambda number: number.estimate),
    ),
    "halves n_eff below 6": numbers.halves("n_eff", lambda size: size < 6),
    "halves log10 difference above 1.5": numbers.halves("difference", lambda size: size > 10**1.5),
    "matched n_eff": numbers.changed("n_eff", FIRST_ROWS),
    "matched n_eff, self-attention": numbers.changed("n_eff", FIRST_ROWS, "self_attention"),
    "matched n_eff, ffn": numbers.changed("n_eff", FIRST_ROWS, "ffn"),
    "matched log10 resolved index": numbers.changed("log10_kf_resolved", FIRST_ROWS),
    "matched n_eff, mean": _over_components(
        lambda part: numbers.changed("n_eff", FIRST_ROWS, part), mean
    ),
    "matched n_eff beyond controls": numbers.beside_control("remaining", SPECTRUM),
    "control over trained": numbers.beside_control("fraction", SPECTRUM),
    "alpha AUC": _ALPHA,
    "log-probability AUC minus alpha AUC": _CONFIDENCE - _ALPHA,
    "log-probability AUC": average(numbers.WITHIN, "auc", **_WHOLE_TEXT).then(complement),
    "unstable": numbers.unstable_rise().then(lambda number: scaled(number, 100)),
    "noise, 10 to 90 %": cell("noise_width", "width_db"),
    "product decays": numbers.hypothesis("product_decays"),
    "rank-one fraction": numbers.hypothesis("rank_one_fraction"),
    "distance change": numbers.distance(DISTANCE, "change"),
    "pairs alike, Hell": numbers.alike(STRESS),
    "texts changed": cell("subtle_stress", "changed", **_PERTURBED),
    "new candidates": cell("subtle_stress", "new_candidates", **_PERTURBED),
    "inventions": numbers.outcome("invention", "fraction"),
    "loops": numbers.outcome("loop", "fraction"),
    "inventions above -1": numbers.outcome("invention", "passing"),
    "words from non-speech": numbers.words_from_nonspeech(OPENAI.name),
    "words from non-speech, unrestricted": numbers.words_from_nonspeech(UNRESTRICTED.name),
}
"""By the names that docs/predictions.md gives them. Length-matched meant first rows when its lines
were written, and means it here."""
