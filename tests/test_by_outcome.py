"""Effects by outcome: each kind of transcript has the change that was planted in it."""

import numpy as np
import pandas as pd
import pytest
from planted import spectra_row

from companion.results.effects import ALL, LEAST, WITHOUT_LOOPS, effects_by_outcome

FALLS = {"loop": 0.5, "invention": 0.9, "correct": 1.0}


def _rows(counts: dict[str, int]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows, number = [], 0
    for outcome, count in counts.items():
        for i in range(count):
            number += 1
            clean = rng.uniform(5, 6)
            for condition in ("clean", "hell"):
                stressed = condition == "hell"
                shared = spectra_row(
                    utterance=f"u{number}", speaker=f"s{i % 8}", condition=condition,
                    outcome=outcome if stressed else "correct",
                    n_eff=clean * (FALLS[outcome] if stressed else 1.0),
                )  # fmt: skip
                partner = "clean" if stressed else "hell"
                rows += [shared | {"matched_with": ""}, shared | {"matched_with": partner}]
    return pd.DataFrame(rows)


def test_every_kind_has_its_own_change_and_loops_do_not_enter_the_rest() -> None:
    table = effects_by_outcome(_rows({"loop": 10, "invention": 12, "correct": 9}), "hell")
    raw = table[table.length == "raw"].set_index("outcome")
    for outcome, factor in FALLS.items():
        assert raw.delta_n_eff[outcome] == pytest.approx(100 * (factor - 1))
    assert raw.utterances[ALL] == 31
    assert raw.utterances[WITHOUT_LOOPS] == 21
    assert raw.delta_n_eff[ALL] < raw.delta_n_eff[WITHOUT_LOOPS] < 0


def test_a_kind_of_few_utterances_has_no_row() -> None:
    table = effects_by_outcome(_rows({"loop": LEAST - 1, "invention": LEAST}), "hell")
    assert set(table.outcome) == {ALL, WITHOUT_LOOPS, "invention"}
