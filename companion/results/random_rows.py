"""Changes at equal length by random rows and by first rows, of the same utterances.

Both sides of a pair are cut to as many rows as the shorter has. A text's first rows are not a
random part of it: where rows differ by their place in the text, cutting the longer side to its
first ones makes a change of its own. A random subset of rows does not.
"""

import pandas as pd

from companion.measurement.schemas import SHUFFLED
from companion.results.by_outcome import outcomes_of
from companion.results.effects import OBSERVABLES, effects

RANDOM_ROWS, FIRST_ROWS = "random rows", "first rows"

_NUMBERS = ("n_eff", "alpha", "log10_kf", "log10_kf_resolved")


def row_choices(
    rows: pd.DataFrame, null_rows: pd.DataFrame, condition: str, modes: int
) -> pd.DataFrame:
    """``effects`` at equal length by ``rows`` kept: random ones, of `nulls`, and first ones.

    One row per model, component and way, of the utterances that `nulls` has and that loop on
    neither side, as ``rows`` of `measure` say; ``utterances`` counts them.
    """
    random = null_rows[(null_rows.null == SHUFFLED) & (null_rows.modes == modes)]
    first = rows[(rows.modes == modes) & rows.model.isin(random.model.unique())]
    answers = outcomes_of(first, condition)
    keys = ["model", "utterance"]
    kept = answers[~answers.loops].merge(random[keys].drop_duplicates())[keys]
    known = [OBSERVABLES[name] for name in _NUMBERS]
    columns = [*kept.columns, "parameters", "speaker", "component", "modes", "layer", "condition",
               "matched_with", "tokens", *known]  # fmt: skip
    found = []
    for way, table in ((RANDOM_ROWS, random), (FIRST_ROWS, first)):
        cut = table.loc[table.matched_with != "", columns].merge(kept)
        counts = kept.groupby("model").size()
        changes = effects(cut, condition).assign(rows=way)
        found.append(changes.assign(utterances=changes.model.map(counts)))
    table = pd.concat(found, ignore_index=True)
    numbers = [
        f"delta_{name}{end}" for name in _NUMBERS for end in ("", "_low", "_high", "_speakers")
    ]
    head = ["parameters", "model", "component", "modes", "rows", "utterances"]
    return table[[*head, *numbers]].sort_values([*head[:4], "rows"], ignore_index=True)
