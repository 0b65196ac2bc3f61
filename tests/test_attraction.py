"""Tables of attraction: planted convergence, ranks, linear probes and distinct texts are found."""

import numpy as np
import pandas as pd
import pytest

from companion.results.dynamics import convergence, distances, linear_probes, ranks
from companion.results.intervals import exact
from companion.results.transcripts import distinct_texts, first_words

_SHARED = {"parameters": 1, "model": "m", "network": "trained"}


def _distance_rows(factor: float) -> pd.DataFrame:
    """Sixteen pairs of eight speakers whose stressed last layer is ``factor`` times as far apart.

    The encoder is deeper than the decoder.
    """
    rng = np.random.default_rng(0)
    rows = []
    for i in range(16):
        far, pair = rng.uniform(1, 1.4), {"utterance": f"u{i}", "partner": f"u{(i + 1) % 16}"}
        common = _SHARED | pair | {"quantity": "distance", "speaker": f"v{i % 8}", "step": 0}
        for condition, last in (("clean", 0.8 * far), ("hell", 0.8 * far * factor)):
            rows += [
                common | {"condition": condition, "stage": stage, "layer": layer, "value": value}
                for stage, layer, value in (
                    ("input", 0, far), ("encoder", 3, 2 * far), ("decoder", 1, far),
                    ("decoder", 2, last),
                )
            ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_planted_convergence_is_found_and_none_where_there_is_none(factor: float) -> None:
    (row,) = convergence(_distance_rows(factor), "hell").to_dict("records")
    assert row["ratio_clean"] == pytest.approx(0.8)
    assert row["ratio_stressed"] == pytest.approx(0.8 * factor)
    assert row["change"] == pytest.approx(100 * (factor - 1))
    assert row["change_low"] == pytest.approx(row["change_high"]), "a factor common to all pairs"
    table = distances(_distance_rows(factor))
    assert (table.distance_low < table.distance).all()
    assert (table.distance < table.distance_high).all()


def _rank_rows(stressed: dict[str, float], clean: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **_SHARED, "quantity": "effective_rank", "condition": condition, "speaker": speaker,
            "stage": "decoder", "layer": 1, "step": 0, "count": 4, "value": 8.0, "without": value,
        }
        for condition, side in (("clean", clean), ("hell", stressed))
        for speaker, value in side.items()
    )  # fmt: skip


def test_ranks_have_jackknife_intervals_paired_by_speaker() -> None:
    same = {"a": 7.0, "b": 8.1, "c": 9.0}
    (row,) = ranks(_rank_rows(same, same), "hell").to_dict("records")
    assert row["change"] == row["change_low"] == row["change_high"] == 0
    half = row["rank_clean_high"] - 8
    assert half == pytest.approx(4.302653 * (2 * np.var([7, 8.1, 9])) ** 0.5)  # t of 2


def test_what_audio_adds_is_own_less_swapped_weighted_by_tokens() -> None:
    rows = pd.DataFrame(
        {
            **_SHARED, "quantity": "linear_probe", "condition": "clean", "utterance": f"u{i}",
            "speaker": f"v{i}", "count": count, "audio": audio, "stage": stage,
            "layer": int(stage != "chance"), "value": value,
        }
        for i, count in enumerate((10, 30))
        for stage, audio, value in (
            ("decoder", "own", (0.5, 0.9)[i]), ("decoder", "swapped", 0.4), ("chance", "own", 0.2)
        )
    )  # fmt: skip
    (row,) = linear_probes(rows).to_dict("records")
    assert row["own"] == pytest.approx(80)
    assert row["swapped"] == pytest.approx(40)
    assert row["added"] == pytest.approx(40)
    assert row["chance"] == pytest.approx(20)


def _texts(written: list[str]) -> pd.DataFrame:
    references = ["the old dog ran", "the old cat sat", "a red bird sang", "my uncle slept"]
    return pd.DataFrame(
        {
            "parameters": 1, "model": "m", "condition": condition, "utterance": f"u{i}",
            "speaker": f"v{i}", "reference": references[i], "transcript": texts[i],
        }
        for condition, texts in (("clean", references), ("hell", written))
        for i in range(4)
    )  # fmt: skip


def test_distinct_texts_are_counted_by_side_and_prefix() -> None:
    table = distinct_texts(_texts(["ann hid a ring"] * 3 + ["ann hid"]), "hell")
    counts = table.set_index(["side", "words"])
    assert counts.distinct["said", 1] == 75
    assert counts.distinct["clean", 0] == 100
    assert counts.distinct["hell", 1] == 25
    assert counts.entropy["hell", 1] == 0
    assert counts.alike["hell", 1] == 100
    assert counts.distinct["hell", 0] == 50
    assert counts.alike["hell", 0] == pytest.approx(50), "three of six pairs"
    assert counts.alike["clean", 0] == 0
    assert counts.alike_high["clean", 0] == exact(0, 2).high, "two pairs without a common end"
    assert counts.entropy["clean", 0] == pytest.approx(2)


def test_prefixes() -> None:
    assert first_words("The old dog!", 2) == "the old"
    assert first_words("The old dog!", 0) == "the old dog"
