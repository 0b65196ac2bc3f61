"""The verdict rules of claims, and claims planted true, false and uncertain in tables."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import number

from companion.claims.catalogue import CLAIMS, weigh
from companion.claims.findings import count, findings, span
from companion.claims.numbers import (
    INTERMEDIATE,
    LARGEST,
    SMALLEST,
    NotMeasured,
    Tables,
    models_of,
    sizes,
)
from companion.claims.page import LADDER, WHISPER, as_table, markdown, published_numbers
from companion.claims.predictions import COMMIT, NUMBERS, judge, read_predictions
from companion.claims.rules import (
    ABOVE,
    BELOW,
    FAILS,
    HOLDS,
    NOT_MEASURED,
    OPEN,
    UNDECIDED,
    Part,
    Statement,
    claim_verdict,
)
from companion.results.effects import published
from companion.results.intervals import Interval

ROOT = Path(__file__).parents[1]
COMPONENTS = ("self_attention", "cross_attention", "ffn")
MODELS = {"xs-0": 1, "xs-1": 1, "s-0": 2, "s-1": 2, "l-0": 3, "l-1": 3}
ROWS = [{"parameters": size, "model": model} for model, size in MODELS.items()]
WHISPER_MODELS = {"tiny.en": 1, "base": 2}
SIDES = {"true": (1.0, 0.1), "false": (-1.0, 0.1), "wide": (0.0, 1.0)}
OUTCOMES = {"true": HOLDS, "false": FAILS, "wide": UNDECIDED}


def _tables(folder: Path) -> Tables:
    return Tables(folder, folder / "pooled.csv")


def _parts(folder: Path, claim: int) -> Sequence[Part]:
    return CLAIMS[claim - 1].weigh(_tables(folder)).parts


def _write(folder: Path, **tables: object) -> None:
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def verdict_of(parts: Sequence[Part]) -> str:
    return claim_verdict([part.verdict for part in parts])


def _part(*decided: str) -> Part:
    intervals = {"supported": (1.0, 2.0), "opposed": (-2.0, -1.0), "open": (-1.0, 1.0)}
    statements = [
        Statement(f"m{i}", Interval(float(np.mean(intervals[d])), *intervals[d]), ABOVE, 0)
        for i, d in enumerate(decided)
    ]
    return Part("it does", "table", statements, 1.0, "" if decided else "more")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([("supported", "supported"), ("supported",)], HOLDS),
        ([("supported",), ("opposed", "opposed")], FAILS),
        ([("supported", "opposed"), ("supported",)], UNDECIDED),
        ([("opposed", "open")], UNDECIDED),
        ([("supported",), ()], UNDECIDED),
        ([("opposed",), ()], FAILS),
        ([(), ()], NOT_MEASURED),
    ],
)
def test_the_verdict_is_that_of_its_parts(parts: list[tuple[str, ...]], expected: str) -> None:
    assert verdict_of([_part(*part) for part in parts]) == expected


@given(st.floats(-5, 5), st.floats(0, 3), st.floats(-5, 5), st.sampled_from([ABOVE, BELOW]))
def test_a_bound_inside_the_interval_never_decides(
    middle: float, reach: float, bound: float, side: str
) -> None:
    estimate = Interval(middle, middle - reach, middle + reach)
    inside = estimate.low <= bound <= estimate.high
    decided = Statement("m", estimate, side, bound).decision
    assert (decided == OPEN) == inside
    mirrored = Statement(
        "m", Interval(-middle, -estimate.high, -estimate.low), side, -bound
    ).decision
    assert inside or decided != mirrored


def test_a_number_without_an_interval_is_open() -> None:
    assert Statement("m", Interval(3.0, math.nan, math.nan), ABOVE, 0).decision == OPEN


def _changes(folder: Path, planted: str, models: Mapping[str, int] = MODELS) -> None:
    """Ranks fall, most in the smallest; wherever else the claims look, what they say, or not.

    Beside every row there is one that says the contrary, of loops, other modes, or another sample.
    """
    sign = -1 if planted == "false" else 1
    reach = 300 if planted == "wide" else 0.05
    effects = {"n_eff": -20.0, "alpha": 1.0, "log10_kf": 3.5, "log10_kf_resolved": 0.5}
    indices = {"log10_difference": 3.5, "log10_ratio": 3.5, "alpha_stressed": 12.0}
    pooled, outcomes, controls, evidence = [], [], [], []
    for model, size in models.items():
        near = (1 + 0.3 / size) * (1 + 0.001 * (int(model[-1]) if model[-1].isdigit() else 0))
        for component in COMPONENTS:
            row = {"parameters": size, "model": model, "component": component}
            changes = {
                name: sign * near * effect for name, effect in {**effects, **indices}.items()
            }
            for loops, times in (("dropped", 1), ("kept", -1)):
                pooled.append(
                    row | {"of": "measured", "decoding": "unrestricted", "sample": "all",
                           "loops": loops, "modes": 50}
                )  # fmt: skip
                for name, value in changes.items():
                    pooled[-1] |= number(name, times * value, reach)
            for length in ("raw", "length-matched"):
                for outcome, times in (("without loops", 1), ("all", -1)):
                    outcomes.append(row | {"length": length, "outcome": outcome, "modes": 50})
                    for name in effects:
                        outcomes[-1] |= number(f"delta_{name}", times * changes[name], reach)
            for name in effects:
                shared = row | {"observable": name, "length": "length-matched"}
                for modes, times in ((50, 1), (10, -1)):
                    controls += [
                        shared | {"control": control, "modes": modes}
                        | number("remaining", times * changes[name], reach)
                        | number("fraction", 0.0, reach)
                        for control in ("initialised", "spectrum")
                    ]  # fmt: skip
                    evidence += [
                        shared | {"source": source, "modes": modes, "change": value,
                                  "low": value - reach, "high": value + reach}
                        for source, value in (("model", times * changes[name]), ("swapped", 0.0))
                    ]  # fmt: skip
    tables = {"pooled": pooled, "by_outcome": outcomes, "controls": controls}
    _write(folder, **tables, evidence_k50=evidence)


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
@pytest.mark.parametrize("claim", [1, 2, 3, 4, 5])
def test_planted_changes_are_found(claim: int, planted: str, tmp_path: Path) -> None:
    _changes(tmp_path, planted)
    assert verdict_of(_parts(tmp_path, claim)) == OUTCOMES[planted]


def _equal(folder: Path, value: float, models: Mapping[str, int]) -> None:
    """Random rows change by ``value`` in every component, first rows of them the other way."""
    names = ("n_eff", "alpha", "log10_kf", "log10_kf_resolved")
    rows = [
        {"parameters": size, "model": model, "component": component, "modes": 50, "rows": kept}
        | {key: end for name in names
           for key, end in number(f"delta_{name}", times * value, 0.05).items()}
        for model, size in models.items() for component in COMPONENTS
        for kept, times in (("random rows", 1), ("first rows", -1))
    ]  # fmt: skip
    _write(folder, equal_length=rows)


@pytest.mark.parametrize(("value", "expected"), [(-5.0, HOLDS), (0.0, UNDECIDED), (5.0, FAILS)])
def test_equal_length_is_by_random_rows_where_every_model_has_them(
    value: float, expected: str, tmp_path: Path
) -> None:
    """First rows fall, in all tables; only what random rows do decides."""
    _changes(tmp_path, "true")
    _equal(tmp_path, value, MODELS)
    parts = _parts(tmp_path, 5)
    cut = [part for part in parts if part.source == "equal_length"]
    assert [part.verdict for part in cut] == [expected] * len(COMPONENTS)
    assert all(part.says.endswith("random rows of equal number") for part in cut)
    assert verdict_of(parts) == expected


def test_where_a_model_lacks_random_rows_first_rows_decide_and_are_named(tmp_path: Path) -> None:
    _changes(tmp_path, "true")
    _equal(tmp_path, 5.0, {model: size for model, size in MODELS.items() if model != "l-1"})
    parts = _parts(tmp_path, 5)
    assert verdict_of(parts) == HOLDS
    cut = [part for part in parts if not part.says.endswith("raw")]
    assert {part.source for part in cut} == {"by_outcome"}
    assert all(part.says.endswith("first rows of equal number") for part in cut)
    beside = [part for part in _parts(tmp_path, 2) if "more than" in part.says]
    assert all("first rows" in part.says for part in beside), "controls were cut to first rows"


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
def test_planted_layers_are_found(planted: str, tmp_path: Path) -> None:
    fraction, reach = {"true": (0.9, 0.05), "false": (0.1, 0.05), "wide": (0.5, 0.5)}[planted]
    names = (
        "gain_below_one", "product_decays", "relative_injection_decays",
        "normed_injection_decays", "product_rank_one", "rank_one_fraction",
    )  # fmt: skip
    rows = []
    for model, network, condition in product(ROWS, ("trained", "random"), ("clean", "hell")):
        of_network = fraction if network == "trained" else 0.5
        row = model | {"network": network, "condition": condition}
        for name in names:
            row |= number(name, of_network, reach)
        row |= {"layer": 1} | number("singular_value_ratio", 1 - fraction, reach)
        rows.append(row | number("unstable", of_network if condition == "hell" else 0.5, reach))
    sign, spread = SIDES[planted]
    within = [
        row | {"condition": condition, "network": network, "layer": layer}
        | number("difference", rise, spread) | number("adjusted", rise, spread)
        for row in ROWS
        for condition, effect in (("hell", math.nan), ("noise", 5 * sign))
        for network in ("trained", "random", "trained minus random")
        for layer in ("1", "mean")
        for rise in [effect * (network != "random" and layer == "mean")]
    ]  # fmt: skip
    _write(tmp_path, hypotheses=rows, propagators=rows, unstable_dimensions=within)
    assert verdict_of(_parts(tmp_path, 10)) == OUTCOMES[planted]
    assert verdict_of(_parts(tmp_path, 11)) == OUTCOMES[planted]
    parts = _parts(tmp_path, 8)
    assert [part.verdict for part in parts] == [OUTCOMES[planted]] * 5
    assert len(parts[-1].statements) == len(MODELS), "where some transcripts are hallucinated"


def test_unstable_dimensions_need_a_stress_that_divides_transcripts(tmp_path: Path) -> None:
    row = {"parameters": 1, "model": "xs-0", "layer": 1} | number("unstable", 0.5, 0.1)
    rows = [row | {"network": network, "condition": condition}
            for network in ("trained", "random") for condition in ("clean", "hell")]  # fmt: skip
    nothing = number("difference", math.nan, 0) | number("adjusted", math.nan, 0)
    within = [row | nothing | {"network": network, "condition": "hell", "layer": "mean"}
              for network in ("trained", "random", "trained minus random")]  # fmt: skip
    _write(tmp_path, propagators=rows, unstable_dimensions=within)
    parts = _parts(tmp_path, 8)[2:]
    assert [part.verdict for part in parts] == [NOT_MEASURED] * 3
    assert all(part.lacks for part in parts)


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        ({"gibberish": 100.0}, {"invention": 100.0}, HOLDS),
        ({"invention": 100.0}, {"invention": 100.0}, FAILS),
        ({"gibberish": 50.0, "invention": 50.0}, {"invention": 100.0}, UNDECIDED),
    ],
)
def test_planted_transcripts_are_found(
    small: dict[str, float], large: dict[str, float], expected: str, tmp_path: Path
) -> None:
    transcripts = {1: small, 2: {"loop": 100.0}, 3: large}
    rows = [
        row | {"condition": "hell", "outcome": kind, "n": round(0.64 * percent)}
        | number("fraction", percent, 10.0)
        for row in ROWS for kind in ("loop", "gibberish", "invention", "fragment")
        for percent in [transcripts[row["parameters"]].get(kind, 0.0)]
    ]  # fmt: skip
    _write(tmp_path, outcome_confidence=rows)
    assert verdict_of(_parts(tmp_path, 15)) == expected


@pytest.mark.parametrize(
    ("auc", "passing", "reach", "expected"),
    [(0.52, 90.0, 0.01, HOLDS), (0.9, 90.0, 0.01, FAILS), (0.52, 10.0, 0.01, FAILS),
     (0.52, 90.0, 0.2, UNDECIDED)],
)  # fmt: skip
def test_planted_confidence_is_found(
    auc: float, passing: float, reach: float, expected: str, tmp_path: Path
) -> None:
    _plant_confidence(tmp_path, auc, passing, reach, "log_probability_per_word_piece")
    assert verdict_of(_parts(tmp_path, 16)) == expected


def test_whispers_threshold_is_not_put_to_models_that_write_characters(tmp_path: Path) -> None:
    """Where an average per character would pass it, and the AUC holds, it is not measured."""
    _plant_confidence(tmp_path, 0.52, math.nan, 0.01, "log_probability_per_character")
    threshold, *others = _parts(tmp_path, 16)
    assert threshold.verdict == NOT_MEASURED
    assert "write characters" in threshold.lacks
    assert [part.verdict for part in others] == [HOLDS, HOLDS]


def _plant_confidence(folder: Path, auc: float, passing: float, reach: float, unit: str) -> None:
    units = ("log_probability_per_word_piece", "log_probability_per_character")
    apart = [
        row | {name: value for per in units for name, value in number(
            f"auc_{per}", auc if per == unit else math.nan, reach).items()}
        for row in ROWS
    ]  # fmt: skip
    kept = [
        row | {"condition": condition, "outcome": kind}
        | number("passing", passing if (condition, kind) == ("hell", "invention") else 50, 1.0)
        for row in ROWS for condition in ("clean", "hell") for kind in ("invention", "loop")
    ]  # fmt: skip
    within = [
        row | {"component": "transcript", "condition": "noise", "observable": name}
        | number("auc", 1 - auc if name == unit else 0.5, reach)
        for row in ROWS for name in (unit, "tokens")
    ]  # fmt: skip
    _write(folder, confidence=apart, outcome_confidence=kept, within_conditions_k50=within)


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
def test_planted_slopes_and_tails_are_found(planted: str, tmp_path: Path) -> None:
    alpha, ratio, reach = {"true": (12, 1.1, 0.05), "false": (2, 0.9, 0.05), "wide": (9, 1, 1)}[
        planted
    ]
    slopes = [
        row | {"component": component, "modes": 50, "length": "raw", "side": "stressed"}
        | number("alpha", alpha if row["parameters"] == 3 else 5.0, reach)
        for row in ROWS for component in COMPONENTS
    ]  # fmt: skip
    tails = [
        row | {"component": component, "length": length, "measure": measure, "part": part}
        | number("ratio", ratio if (component, part) == ("self_attention", "tail") else 1.0, reach)
        for row, component, length, measure, part in product(
            ROWS, COMPONENTS, ("raw", "length-matched"),
            ("eigenvalue", "fraction of the sum"), ("head", "tail"),
        )
    ]  # fmt: skip
    _write(tmp_path, phase_diagram=slopes, tail_eigenvalues=tails)
    parts = _parts(tmp_path, 6)
    assert [part.verdict for part in parts] == [NOT_MEASURED] * 3 + [OUTCOMES[planted]] * 6
    assert "there is no pooled.csv" in parts[0].lacks
    assert {s.about for part in parts[3:] for s in part.statements} == {"l-0", "l-1"}


def test_forecasts_need_an_advantage_of_every_predictor_over_every_rival(tmp_path: Path) -> None:
    skills = [("mean", "alpha", 0.5), ("mean", "n_eff / width", -0.5), ("size", "alpha", -0.5)]
    rows = [
        {"target": "wer", "predictor": predictor, "rival": rival} | number("skill", skill, 0.1)
        for rival, predictor, skill in skills
    ]
    _write(tmp_path, forecast=rows)
    verdicts = [part.verdict for part in _parts(tmp_path, 14)]
    assert verdicts == [FAILS, HOLDS, NOT_MEASURED, NOT_MEASURED, FAILS, NOT_MEASURED]


def test_without_forecasts_nothing_was_measured(tmp_path: Path) -> None:
    columns = ["target", "predictor", "rival", "skill", "skill_low", "skill_high", "n"]
    _write(tmp_path, forecast=pd.DataFrame(columns=columns))
    assert verdict_of(_parts(tmp_path, 14)) == NOT_MEASURED


@pytest.mark.parametrize(
    ("verdicts", "reach", "expected"),
    [
        (["step"] * 9 + ["smooth"], 1.0, HOLDS),
        (["smooth"] * 9 + ["step"], 1.0, FAILS),
        (["step"] * 10, 20.0, UNDECIDED),
    ],
)
def test_transitions_decide_only_where_their_margin_does(
    verdicts: list[str], reach: float, expected: str, tmp_path: Path
) -> None:
    rows = [
        {"parameters": 1, "model": "xs-0", "component": "ffn", "modes": 50, "length": "raw",
         "along": along, "verdict": verdict}
        | number("margin", 10.0 if verdict == "step" else -10.0, reach)
        for along in ("severity", "depth") for verdict in verdicts
    ]  # fmt: skip
    _write(tmp_path, transitions=rows)
    assert verdict_of(_parts(tmp_path, 9)) == expected


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
def test_planted_attraction_is_found(planted: str, tmp_path: Path) -> None:
    sign, reach = SIDES[planted]
    states = [
        row | {"network": network, "quantity": quantity}
        | number("ratio_stressed", 1 - 0.5 * sign, reach)
        | number("change", -20 * sign if network == "trained" else 0.0, 10 * reach)
        for row in ROWS for network in ("trained", "random")
        for quantity in ("distance", "centred_distance")
    ]  # fmt: skip
    texts = [
        row | {"side": side, "words": 0} | number("alike", 50 + 20 * sign * (side == "hell"), reach)
        for row in ROWS for side in ("said", "clean", "hell")
    ]  # fmt: skip
    _write(tmp_path, attraction_distances=states, attraction_texts=texts)
    assert verdict_of(_parts(tmp_path, 12)) == OUTCOMES[planted]


def test_only_the_least_change_of_clean_speech_counts_as_subtle(tmp_path: Path) -> None:
    rows = [
        {"parameters": 1, "model": "xs-0", "condition": condition, "direction": "random",
         "level_db": level} | number("new_candidates", value, 1.0)
        | number("changed", 50.0, 1.0)
        for condition, level, value in [
            ("clean", 20.0, 9.0), ("clean", 40.0, 0.5), ("hell", 40.0, 9.0)
        ]
    ]  # fmt: skip
    _write(tmp_path, subtle_stress=rows)
    unknown, part = _parts(tmp_path, 13)
    assert unknown.verdict == NOT_MEASURED
    assert [statement.interval.estimate for statement in part.statements] == [0.5]
    assert part.verdict == UNDECIDED


def test_the_contest_counts_where_there_is_one(tmp_path: Path) -> None:
    assert len(_parts(tmp_path, 13)) == 2
    row = {"parameters": 1, "model": "base", "set": "unseen stresses", "prefix": 0}
    scores = [
        row | {"confident": confident, "contestant": score} | number("auroc", value, 0.05)
        for score, value, confident in [
            ("ffn: alpha", 0.2, False), ("ffn: alpha", 0.9, True), ("log-probability", 0.9, False)
        ]
    ]  # fmt: skip
    honest = [
        {"parameters": 1, "model": "base", "condition": name} | number("invented", value, 1.0)
        for name, value in [("everyday changes", 1.5), ("repeated", 40.0)]
    ]
    _write(tmp_path, contest=scores, contest_honest=honest)
    assert [_parts(tmp_path, claim)[-1].verdict for claim in (7, 13, 16)] == [FAILS] * 3


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
def test_planted_warnings_are_found(planted: str, tmp_path: Path) -> None:
    sign, reach = SIDES[planted]
    rows = [
        {"parameters": 1, "model": "xs-0", "component": component, "modes": 50, "condition": "mix",
         "observable": "alpha", "verdict": "differs"}
        | number("auc", 0.5 + 0.3 * sign, 0.2 * reach) | number("adjusted", sign, reach)
        for component in COMPONENTS
    ]  # fmt: skip
    early = [
        {"parameters": 1, "model": "xs-0", "component": component, "condition": "mix",
         "observable": observable, "when": when, "prefix": prefix}
        | number("auc", 0.5 + 0.3 * sign * is_it, 0.2 * reach)
        for component in COMPONENTS
        for observable, when, prefix, is_it in [
            ("alpha", "before", 0, 1), ("alpha", "before", 8, -1), ("alpha", "any", 0, -1),
            ("n_eff", "before", 0, -1),
        ]
    ]  # fmt: skip
    _write(tmp_path, within_conditions_k50=rows, early_warning=early)
    assert [part.verdict for part in _parts(tmp_path, 7)] == [OUTCOMES[planted]] * 9
    _write(tmp_path, early_warning=pd.DataFrame(early).assign(auc=np.nan))
    assert _parts(tmp_path, 7)[-1].verdict == NOT_MEASURED


def test_claims_without_a_table_are_not_measured(tmp_path: Path) -> None:
    weighed_claims = weigh(_tables(tmp_path))
    assert [weighed.claim.number for weighed in weighed_claims] == list(range(1, 17))
    assert {weighed.verdict for weighed in weighed_claims} == {NOT_MEASURED}
    assert all("there is no" in part.lacks for weighed in weighed_claims for part in weighed.parts)


def test_a_table_without_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "by_outcome.csv").write_text("model,parameters\ns-0,1\n")
    with pytest.raises(ValueError, match=r"by_outcome.csv: no column 'component'"):
        _parts(tmp_path, 5)


# --- which models a claim is about --------------------------------------------------------------


def _models(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"parameters": range(len(names)), "model": names})


def test_openais_models_are_sizes_of_their_own_and_seeds_of_the_ladder_are_not() -> None:
    assert sizes(_models("tiny.en", "base", "large-v3")) == [["tiny.en"], ["base"], ["large-v3"]]
    assert sizes(_models("xs-0", "xs-1", "l-0")) == [["xs-0", "xs-1"], ["l-0"]]


def test_no_model_of_openais_stands_in_for_a_larger_one() -> None:
    table = _models("tiny.en", "base", "small")
    assert models_of(table, SMALLEST) == ["tiny.en"]
    assert models_of(table, INTERMEDIATE) == ["base", "small"]
    with pytest.raises(NotMeasured, match='could not be had.*MODELS="small large-v3-turbo"'):
        models_of(table, LARGEST)
    assert models_of(_models("base", "large-v3-turbo"), LARGEST) == ["large-v3-turbo"]
    with pytest.raises(NotMeasured, match="tiny.en is not measured yet"):
        models_of(_models("base", "turbo"), SMALLEST)


def test_the_ladders_turbo_is_no_turbo_of_openais() -> None:
    table = _models("xs-0", "turbo-0", "l-0")
    assert models_of(table, INTERMEDIATE) == ["turbo-0"]
    assert models_of(table, LARGEST) == ["l-0"]
    with pytest.raises(NotMeasured, match="no model of intermediate size"):
        models_of(_models("xs-0", "l-0"), INTERMEDIATE)


def test_a_claim_about_models_that_could_not_be_had_has_no_verdict(tmp_path: Path) -> None:
    _changes(tmp_path, "true", WHISPER_MODELS)
    tables = _tables(tmp_path)
    first, second, third, *_ = weigh(tables)
    assert second.verdict == NOT_MEASURED
    assert all("could not be had" in part.lacks for part in second.parts)
    assert first.verdict == UNDECIDED
    assert [part.verdict for part in first.parts] == [HOLDS] * 6 + [NOT_MEASURED]
    assert third.verdict == HOLDS
    assert {s.about for part in third.parts for s in part.statements} == {"base"}


def test_single_networks_of_openais_are_compared_by_their_own_intervals(tmp_path: Path) -> None:
    _changes(tmp_path, "true", {**WHISPER_MODELS, "large-v3-turbo": 3})
    (contrast,) = _parts(tmp_path, 1)[-1].statements
    assert contrast.about == "tiny.en minus large-v3-turbo"
    assert contrast.decision == "supported"
    assert contrast.interval.high - contrast.interval.low == pytest.approx(0.1 * math.sqrt(2))


# --- the page -----------------------------------------------------------------------------------


def test_the_page_says_what_the_rows_say(tmp_path: Path) -> None:
    whisper, ladder = tmp_path / "whisper", tmp_path / "ladder"
    for folder, models in ((whisper, WHISPER_MODELS), (ladder, MODELS)):
        folder.mkdir()
        _changes(folder, "true", models)
    groups = {WHISPER: weigh(_tables(whisper)), LADDER: weigh(_tables(ladder))}
    judged = judge(read_predictions(ROOT / "docs" / "predictions.md"), _tables(whisper), NUMBERS)
    known = published_numbers(published(ROOT / "data" / "published" / "k50.csv"))
    text, table = markdown(groups, known, judged), as_table(groups)
    for of_whisper, of_ladder in zip(*groups.values(), strict=True):
        claim = of_whisper.claim
        verdicts = f"**{of_whisper.verdict}** | **{of_ladder.verdict}** |"
        published_number = known.get(claim.number, "no number is known")
        assert f"| {claim.number} | {claim.text} | {published_number} | {verdicts}" in text
        section = text.split(f"\n## {claim.number}. ")[1].split("\n## ")[0]
        assert section.index(f"### {WHISPER}: {of_whisper.verdict}") < section.index(
            f"### {LADDER}: {of_ladder.verdict}"
        )
        verdicts_of = table[table.claim == claim.number].groupby("group").verdict.unique()
        assert (list(verdicts_of[WHISPER]), list(verdicts_of[LADDER])) == (
            [of_whisper.verdict],
            [of_ladder.verdict],
        )
    assert np.isfinite(table.dropna(subset="about").estimate).all()
    assert f"({COMMIT})" in text
    assert "exploratory" in text
    for row in judged.itertuples():
        assert f"| {row.id} | {row.expected}: {row.side} {row.bound:g} | {row.model} |" in text
    assert "-13.40 %" in known[1]


# --- the findings in short ----------------------------------------------------------------------


def test_findings_are_ranges_and_counts_of_what_the_tables_hold(tmp_path: Path) -> None:
    groups = {WHISPER: _tables(tmp_path / "nowhere"), LADDER: _tables(tmp_path)}
    assert findings(groups).empty, "no table, no finding"
    keys = {"parameters": 1, "model": "xs-0"}
    rows = [
        {**keys, "condition": "clean", "wer": error, "candidates": 0.0,
         "log_probability_per_character": -0.004, "log_probability_per_word_piece": math.nan}
        for error in (7.06, 1.96)
    ]  # fmt: skip
    skills = [(0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)]
    forecasts = [
        {"target": "t", "predictor": "p", "rival": "mean", "skill_low": low, "skill_high": high}
        for low, high in skills
    ]
    _write(tmp_path, wer=rows, forecast=forecasts)
    table = findings(groups).set_index("measured")
    assert set(table[WHISPER]) == {NOT_MEASURED}
    assert table[LADDER].to_dict() == {
        "word error, clean (%)": "2 to 7",
        "hallucination candidates, clean (% of transcripts)": "0",
        "average log-probability per character, clean": "0.00",
        "forecasts of models left out from clean spectra, against the mean": (
            "better in 1 of 3, worse in 1 of 3"
        ),
    }


def test_findings_of_one_model_are_single_numbers(tmp_path: Path) -> None:
    rows = [
        {"parameters": 1, "model": "tiny.en", "component": "self_attention", "length": length,
         "measure": "eigenvalue", "part": "tail", "ratio": ratio}
        for length, ratio in (("raw", 1.25), ("length-matched", 0.75))
    ]  # fmt: skip
    _write(tmp_path, tail_eigenvalues=rows)
    (line,) = findings({WHISPER: _tables(tmp_path)})[WHISPER]
    assert line == "1.25 raw, 0.75 with first rows of equal number"


def test_a_range_is_signed_where_asked_and_leaves_out_what_is_missing() -> None:
    assert span([-1.26, math.nan, 2.0], 1, sign=True) == "-1.3 to +2.0"
    assert span([0.2, 0.4]) == "0"
    assert span([math.nan]) == "n/a"
    assert count(pd.Series([True, False, True])) == "2 of 3"
