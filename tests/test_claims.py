"""The verdict rules of claims, and claims planted true, false and uncertain in tables."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral.claims import answers, changes, layers, scale, sweeps
from spectral.claims.catalogue import CLAIMS, as_table, weigh
from spectral.claims.findings import count, findings, span
from spectral.claims.numbers import between_sizes, difference, share
from spectral.claims.page import html_page, markdown, save_page
from spectral.claims.rules import (
    ABOVE,
    BELOW,
    FAILS,
    HOLDS,
    NOT_MEASURED,
    OPEN,
    UNDECIDED,
    VERDICTS,
    Part,
    Statement,
    claim_verdict,
)
from spectral.results.bootstrap import Interval

COMPONENTS = ("self_attention", "cross_attention", "ffn")
MODELS = {"xs-0": 1, "xs-1": 1, "s-0": 2, "s-1": 2, "l-0": 3, "l-1": 3}
NULLS = ("twin", "swapped")
SIDES = {"true": (1.0, 0.1), "false": (-1.0, 0.1), "wide": (0.0, 1.0)}
OUTCOMES = {"true": HOLDS, "false": FAILS, "wide": UNDECIDED}


def _number(name: str, value: float, reach: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}


def _part(*decided: str) -> Part:
    intervals = {"supported": (1.0, 2.0), "opposed": (-2.0, -1.0), "open": (-1.0, 1.0)}
    statements = [Statement("m", Interval(0.0, *intervals[d]), ABOVE, 0) for d in decided]
    return Part("it does", "table", statements, "" if decided else "more")


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
    assert claim_verdict([_part(*part) for part in parts]) == expected


@given(st.floats(-5, 5), st.floats(0, 3), st.floats(-5, 5), st.sampled_from([ABOVE, BELOW]))
def test_a_bound_inside_the_interval_never_decides(
    middle: float, reach: float, bound: float, side: str
) -> None:
    found = Interval(middle, middle - reach, middle + reach)
    inside = found.low <= bound <= found.high
    decided = Statement("m", found, side, bound).decision
    assert (decided == OPEN) == inside
    mirrored = Statement("m", Interval(-middle, -found.high, -found.low), side, -bound).decision
    assert inside or decided != mirrored


def test_a_number_without_an_interval_is_open() -> None:
    assert Statement("m", Interval(3.0, math.nan, math.nan), ABOVE, 0).decision == OPEN


def test_differences_have_the_interval_of_independent_normals() -> None:
    found = difference(Interval(5, 2, 8), Interval(1, -3, 5))
    assert (found.estimate, found.low, found.high) == (4, -1, 9)  # 3, 4 -> 5


def test_sizes_of_one_network_have_no_interval_and_more_have_welchs() -> None:
    assert math.isnan(between_sizes([1.0], [2.0, 3.0]).low)
    found = between_sizes([1.0, 3.0], [5.0, 7.0])  # variance 1 each, so 2; 2 degrees of freedom
    assert found.estimate == -4
    assert found.high - found.estimate == pytest.approx(4.302653 * math.sqrt(2), rel=1e-6)


def test_shares_have_the_exact_interval() -> None:
    assert share(0, 10).high == pytest.approx(100 * (1 - 0.025 ** (1 / 10)))  # closed form
    assert share(10, 10).low == pytest.approx(100 * 0.025 ** (1 / 10))
    assert (share(0, 10).low, share(10, 10).high) == (0, 100)


def _evidence(folder: Path, planted: str) -> None:
    """Cross-attention falls, most in xs; wherever else the claims look, what they say, or not."""
    sign = -1 if planted == "false" else 1
    reach = 300 if planted == "wide" else 0.05
    effects = {"n_eff": -20.0, "alpha": 1.0, "log10_kf": 3.5, "log10_kf_resolved": 0.5}
    rows = []
    for model, size in MODELS.items():
        for component in COMPONENTS:
            for source, length in [("model", "raw"), ("model", "length-matched")] + [
                (null, "length-matched") for null in NULLS
            ]:
                for name, effect in effects.items():
                    change = sign * effect * (0.1 if source in NULLS else 1 + 0.3 / size)
                    change *= 1 + 0.001 * int(model[-1])
                    rows.append(
                        {
                            "parameters": size, "model": model, "component": component, "modes": 50,
                            "source": source, "length": length, "observable": name,
                            "change": change, "low": change - reach, "high": change + reach,
                        }
                    )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "evidence_k50.csv", index=False)


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
@pytest.mark.parametrize(
    "weighed",
    [
        changes.signal_loss,
        changes.compression,
        changes.collapse,
        changes.resistance,
        changes.either_regime,
    ],
)
def test_planted_changes_are_found(weighed, planted: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _evidence(tmp_path, planted)
    assert claim_verdict(weighed(tmp_path)) == OUTCOMES[planted]


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
def test_planted_layers_are_found(planted: str, tmp_path: Path) -> None:
    share_, reach = {"true": (0.9, 0.05), "false": (0.1, 0.05), "wide": (0.5, 0.5)}[planted]
    names = (*layers._SHARES,)
    rows = [
        {"parameters": size, "model": model, "network": network, "condition": condition, "layer": 1}
        | {
            key: value
            for name in names
            for key, value in _number(name, share_ if network == "trained" else 0.5, reach).items()
        }
        | _number("gap", 1 - share_, reach)
        | _number(
            "unstable", share_ if network == "trained" and condition == "hell" else 0.5, reach
        )
        for model, size in MODELS.items()
        for network in ("trained", "random")
        for condition in ("clean", "hell")
    ]
    sign, spread = SIDES[planted]
    within = [
        {"parameters": size, "model": model, "condition": condition, "network": network,
         "layer": layer}
        | _number("difference", number, spread) | _number("adjusted", number, spread)
        for model, size in MODELS.items()
        for condition, effect in (("hell", math.nan), ("noise", 5 * sign))
        for network in ("trained", "random", "trained minus random")
        for layer in ("1", "mean")
        for number in [effect * (network != "random" and layer == "mean")]
    ]  # fmt: skip
    for name, table in (
        ("hypotheses", rows), ("propagators", rows), ("unstable_dimensions", within)
    ):  # fmt: skip
        pd.DataFrame(table).to_csv(tmp_path / f"{name}.csv", index=False)
    assert claim_verdict(layers.decay(tmp_path)) == OUTCOMES[planted]
    assert claim_verdict(layers.rank_one(tmp_path)) == OUTCOMES[planted]
    parts = layers.unstable(tmp_path)
    assert [part.verdict for part in parts] == [OUTCOMES[planted]] * 5
    assert len(parts[-1].statements) == len(MODELS), "where some answers are hallucinated"


def test_unstable_dimensions_need_a_stress_that_divides_answers(tmp_path: Path) -> None:
    row = {"parameters": 1, "model": "xs-0", "layer": 1} | _number("unstable", 0.5, 0.1)
    pd.DataFrame(
        [row | {"network": network, "condition": condition}
         for network in ("trained", "random") for condition in ("clean", "hell")]
    ).to_csv(tmp_path / "propagators.csv", index=False)  # fmt: skip
    nothing = _number("difference", math.nan, 0) | _number("adjusted", math.nan, 0)
    pd.DataFrame(
        [row | nothing | {"network": network, "condition": "hell", "layer": "mean"}
         for network in ("trained", "random", "trained minus random")]
    ).to_csv(tmp_path / "unstable_dimensions.csv", index=False)  # fmt: skip
    parts = layers.unstable(tmp_path)[2:]
    assert [part.verdict for part in parts] == [NOT_MEASURED] * 3
    assert all(part.needs for part in parts)


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        ({"gibberish": 100.0}, {"invention": 100.0}, HOLDS),
        ({"invention": 100.0}, {"invention": 100.0}, FAILS),
        ({"gibberish": 50.0, "invention": 50.0}, {"invention": 100.0}, UNDECIDED),
    ],
)
def test_planted_answers_are_found(
    small: dict[str, float], large: dict[str, float], expected: str, tmp_path: Path
) -> None:
    said = {1: small, 2: {"loop": 100.0}, 3: large}
    rows = [
        {"parameters": size, "model": model, "condition": "hell", "n": 64} | said[size]
        for model, size in MODELS.items()
    ]
    pd.DataFrame(rows).drop(columns="n").to_csv(tmp_path / "outcomes.csv", index=False)
    pd.DataFrame(rows).to_csv(tmp_path / "word_error.csv", index=False)
    assert claim_verdict(answers.fluency(tmp_path)) == expected


@pytest.mark.parametrize(
    ("hell", "reach", "expected"),
    [(-0.05, 0.01, HOLDS), (-0.4, 0.01, FAILS), (-0.1, 0.2, UNDECIDED)],
)
def test_planted_confidence_is_found(
    hell: float, reach: float, expected: str, tmp_path: Path
) -> None:
    rows = [
        {"parameters": size, "model": model, "condition": condition}
        | _number("log_probability", value, reach)
        for model, size in MODELS.items()
        for condition, value in (("clean", -0.1), ("hell", hell))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "word_error.csv", index=False)
    assert claim_verdict(answers.confidence(tmp_path)) == expected


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
def test_planted_slopes_and_tails_are_found(planted: str, tmp_path: Path) -> None:
    alpha, ratio, reach = {"true": (12, 1.1, 0.05), "false": (2, 0.9, 0.05), "wide": (9, 1, 1)}[
        planted
    ]
    of_model = [{"parameters": size, "model": model} for model, size in MODELS.items()]
    slopes = [
        model | {"component": "ffn", "modes": 50, "length": "raw", "side": "stressed"}
        | _number("alpha", alpha if model["parameters"] == 3 else 5.0, reach)
        for model in of_model
    ]  # fmt: skip
    tails = [
        model
        | {"component": component, "length": length, "measure": measure, "part": part}
        | _number("ratio", claimed if part == "tail" else 1.0, reach)
        for model in of_model
        for component in COMPONENTS
        for length in ("raw", "length-matched")
        for measure in ("eigenvalue", "share of the sum")
        for part in ("head", "tail")
        for claimed in [ratio if component == "self_attention" else 1.0]
    ]
    pd.DataFrame(slopes).to_csv(tmp_path / "phase_diagram.csv", index=False)
    pd.DataFrame(tails).to_csv(tmp_path / "tail_eigenvalues.csv", index=False)
    parts = changes.hardening(tmp_path)
    assert [part.verdict for part in parts] == [OUTCOMES[planted]] * 4
    assert {s.about for part in parts[1:] for s in part.statements} == {"l-0", "l-1"}


def test_forecasts_need_an_advantage_over_every_rival(tmp_path: Path) -> None:
    rows = [
        {"target": "word_error", "predictor": "alpha", "rival": rival}
        | _number("skill", skill, 0.1)
        for rival, skill in (("mean", 0.5), ("size", -0.5))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "forecast.csv", index=False)
    assert claim_verdict(scale.forecast(tmp_path)) == FAILS


def test_one_predictor_that_forecasts_does_not_hide_one_that_does_not(tmp_path: Path) -> None:
    rows = [
        {"target": "word_error", "predictor": predictor, "rival": rival}
        | _number("skill", skill, 0.1)
        for rival in ("mean", "size") for predictor, skill in (("alpha", 0.5), ("n_eff", -0.5))
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "forecast.csv", index=False)
    parts = scale.forecast(tmp_path)
    assert [len(part.statements) for part in parts] == [2, 2]
    assert claim_verdict(parts) == UNDECIDED


def test_without_forecasts_nothing_was_measured(tmp_path: Path) -> None:
    columns = ["target", "predictor", "rival", "skill", "skill_low", "skill_high", "n"]
    pd.DataFrame(columns=columns).to_csv(tmp_path / "forecast.csv", index=False)
    assert claim_verdict(scale.forecast(tmp_path)) == NOT_MEASURED


@pytest.mark.parametrize(
    ("verdicts", "support", "expected"),
    [
        (["step"] * 9 + ["smooth"], 1.0, HOLDS),
        (["smooth"] * 9 + ["step"], 1.0, FAILS),
        (["step"] * 10, 0.6, UNDECIDED),
    ],
)
def test_courses_decide_only_where_resampled_voices_agree(
    verdicts: list[str], support: float, expected: str, tmp_path: Path
) -> None:
    rows = [
        {"parameters": 1, "model": "xs-0", "component": "ffn", "modes": 50, "length": "raw",
         "along": along, "verdict": verdict, "support": support}
        for along in ("severity", "depth") for verdict in verdicts
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "transitions.csv", index=False)
    assert claim_verdict(sweeps.transition(tmp_path)) == expected


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
def test_planted_attraction_is_found(planted: str, tmp_path: Path) -> None:
    sign, reach = SIDES[planted]
    states = [
        {"parameters": size, "model": model, "network": network, "quantity": "distance"}
        | _number("ratio_stressed", 1 - 0.5 * sign, reach)
        | _number("change", -20 * sign if network == "trained" else 0.0, 10 * reach)
        for model, size in MODELS.items()
        for network in ("trained", "random")
    ]
    texts = [
        {"parameters": size, "model": model, "side": side, "words": 0}
        | _number("alike", 50 + 20 * sign * (side == "hell"), reach)
        for model, size in MODELS.items()
        for side in ("said", "clean", "hell")
    ]
    pd.DataFrame(states).to_csv(tmp_path / "attraction_distances.csv", index=False)
    pd.DataFrame(texts).to_csv(tmp_path / "attraction_texts.csv", index=False)
    assert claim_verdict(sweeps.attraction(tmp_path)) == OUTCOMES[planted]


def test_only_the_least_change_of_clean_speech_counts_as_subtle(tmp_path: Path) -> None:
    rows = [
        {"parameters": 1, "model": "xs-0", "condition": condition, "direction": "random",
         "level_db": level} | _number("new_candidates", value, 1.0)
        for condition, level, value in [
            ("clean", 20.0, 9.0), ("clean", 40.0, 0.5), ("hell", 40.0, 9.0)
        ]
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "subtle_stress.csv", index=False)
    (part,) = sweeps.subtle(tmp_path)
    assert [statement.found.estimate for statement in part.statements] == [0.5]
    assert part.verdict == UNDECIDED


@pytest.mark.parametrize("planted", ["true", "false", "wide"])
def test_planted_warnings_are_found(planted: str, tmp_path: Path) -> None:
    sign, reach = SIDES[planted]
    rows = [
        {"parameters": 1, "model": "xs-0", "component": "ffn", "modes": 50, "condition": "mix",
         "observable": "alpha", "verdict": "differs"}
        | _number("auc", 0.5 + 0.3 * sign, 0.2 * reach) | _number("adjusted", sign, reach)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "within_conditions_k50.csv", index=False)
    early = [
        {"parameters": 1, "model": "xs-0", "component": "ffn", "condition": "mix",
         "observable": observable, "when": when, "prefix": prefix}
        | _number("auc", 0.5 + 0.3 * sign * is_it, 0.2 * reach)
        for observable, when, prefix, is_it in [
            ("alpha", "before", 0, 1), ("alpha", "before", 8, -1), ("alpha", "any", 0, -1),
            ("n_eff", "before", 0, -1),
        ]
    ]  # fmt: skip
    pd.DataFrame(early).to_csv(tmp_path / "early_warning.csv", index=False)
    parts = sweeps.early_warning(tmp_path)
    assert [part.verdict for part in parts] == [OUTCOMES[planted]] * 3
    pd.DataFrame(early).assign(auc=np.nan).to_csv(tmp_path / "early_warning.csv", index=False)
    assert sweeps.early_warning(tmp_path)[-1].verdict == NOT_MEASURED


def test_claims_without_a_table_are_not_measured(tmp_path: Path) -> None:
    found = weigh(tmp_path)
    assert [weighed.claim.number for weighed in found] == list(range(1, 17))
    assert {weighed.verdict for weighed in found} == {NOT_MEASURED}
    assert all("needs" in weighed.reason for weighed in found)
    with pytest.raises(ValueError, match="make figures"):
        weigh(tmp_path / "nowhere")


def test_a_table_without_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "evidence_k50.csv").write_text("model,parameters\nxs-0,1\n")
    with pytest.raises(ValueError, match=r"evidence_k50.csv: no column 'component'"):
        changes.collapse(tmp_path)


def test_the_pages_say_what_the_rows_say(tmp_path: Path) -> None:
    _evidence(tmp_path, "true")
    found = weigh(tmp_path)
    table = as_table(found)
    text, page = markdown(found), html_page(found)
    for weighed in found:
        assert f"| {weighed.claim.number} | {weighed.claim.text} | **{weighed.verdict}** |" in text
        section = page.split(f'<h2 id="claim-{weighed.claim.number}">')[1].split("<h2")[0]
        assert f">{weighed.verdict}</span>" in section
        assert set(table[table.claim == weighed.claim.number].verdict) == {weighed.verdict}
    assert np.isfinite(table.dropna(subset="about").estimate).all()
    assert "<script" not in page
    assert "http" not in page
    save_page(found, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(before) == {"claims.csv", "claims.md", "claims.html"}
    save_page(weigh(tmp_path), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_every_verdict_has_a_word_and_claims_are_numbered_in_order() -> None:
    assert [claim.number for claim in CLAIMS] == list(range(1, 17))
    assert set(VERDICTS) == {HOLDS, FAILS, UNDECIDED, NOT_MEASURED}


# --- the findings in short ----------------------------------------------------------------------


def test_findings_are_ranges_and_counts_of_what_the_tables_hold(tmp_path: Path) -> None:
    assert findings(tmp_path).empty, "no table, no finding"
    keys = {"parameters": 1, "model": "xs-0"}
    rows = [
        {**keys, "condition": "clean", "word_error": error, "candidates": 0.0,
         "log_probability": -0.004}
        for error in (7.06, 1.96)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "word_error.csv", index=False)
    skills = [(0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)]
    forecasts = [
        {"target": "t", "predictor": "p", "rival": "mean", "skill_low": low, "skill_high": high}
        for low, high in skills
    ]
    pd.DataFrame(forecasts).to_csv(tmp_path / "forecast.csv", index=False)
    found = findings(tmp_path).set_index("measured").found.to_dict()
    assert found == {
        "word error, clean (%)": "2 to 7",
        "hallucination candidates, clean (% of answers)": "0",
        "average log-probability, clean": "0.00",
        "forecasts of models left out from clean spectra, against the mean": (
            "better in 1 of 3, worse in 1 of 3"
        ),
    }


def test_a_range_is_signed_where_asked_and_leaves_out_what_is_missing() -> None:
    assert span([-1.26, math.nan, 2.0], 1, sign=True) == "-1.3 to +2.0"
    assert span([0.2, 0.4]) == "0"
    assert span([math.nan]) == "n/a"
    assert count(pd.Series([True, False, True])) == "2 of 3"
