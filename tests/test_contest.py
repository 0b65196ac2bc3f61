"""The contest: kinds of transcripts, what is measured of them, fits elsewhere, and lost NaN."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score

from companion.contest.contest import (
    average_precision,
    contest,
    false_alarms,
    fitted_elsewhere,
    folds_of,
    guard,
    outcomes,
    sets,
    texts,
    with_speech_activity,
)
from companion.contest.contestants import Contestant, Logistic, best_threshold, contestants
from companion.measurement.contest import (
    contest_rows,
    repetition_entropy,
    sliding_observables,
    sound_levels,
    token_confidences,
)
from companion.measurement.schemas import CONTEST, WHOLE
from companion.measurement.settings import ContestSettings
from companion.measurement.spectra import decode
from companion.measurement.store import read
from companion.models.capture import HIDDEN_STATE, capture
from companion.models.decoding import transcribe
from companion.models.rules import UNRESTRICTED
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances, read_wave
from companion.stress.conditions import condition
from companion.stress.mixture import Mixture, Speakers
from companion.stress.outcomes import Kind, by_segment, count_words, kind_of
from spectral import effective_rank

DATA = Path(__file__).parents[1] / "data"
FITTED = ("clean", "noise")
LONG = "THE WEATHER IF WE MAY USE THAT TERM WILL CHANGE BEFORE LONG"


@pytest.mark.parametrize(
    ("references", "transcript", "kind"),
    [
        ([LONG], "The weather, if we may use that term, will change before long.", Kind.CORRECT),
        ([LONG], "The feather if you may use the term will chain the four long.", Kind.CORRECT),
        ([LONG], "The whether if he made youth that germ we'll chains be for lung", Kind.MISHEARD),
        ([LONG], "if we may use that but not much else", Kind.MISHEARD),  # three words on end
        ([LONG], "I'm going to put the oil in the pan.", Kind.INVENTION),
        ([LONG], "I'm sorry. I'm sorry. I'm sorry. I'm sorry. I'm sorry.", Kind.LOOP),
        ([LONG, "HE SLEPT WELL LAST NIGHT"], "He slept well last night.", Kind.INTERFERER),
        ([LONG], "[Music]", Kind.ANNOTATION),
        ([LONG], "...", Kind.EMPTY),
        ([""], "you", Kind.INVENTION),
        ([""], ".", Kind.EMPTY),
        ([""], "(laughs)", Kind.ANNOTATION),
        (["VERY " * 8], "very very very very very very very very", Kind.CORRECT),
        (["WE LIGHTED A FIRE " * 8], "We light at far. " * 8, Kind.MISHEARD),  # honest repetition
        (["THE OLD CAT SLEPT " * 8], "The old cat slept. " * 3, Kind.MISHEARD),  # of which some
        (["WE LIGHTED A FIRE " * 8], "We lighted a fire. " * 20, Kind.LOOP),
    ],
)
def test_kinds_are_told_apart(references: Sequence[str], transcript: str, kind: Kind) -> None:
    assert kind_of(references, transcript) is kind


@pytest.mark.parametrize(
    ("segments", "parts"),
    [
        ("The cat sat on|the mat and|went home.", "the cat sat on|the mat and|went home"),
        ("The cat sat on|you you you|home.", "the cat sat on|the mat and went|home"),
        ("The cat sat||went home", "the cat sat on the mat and||went home"),
        ("[noise]|The cat sat on", "|the cat sat on the mat and went home"),
        ("|", "the cat sat on the mat and went home|"),
    ],
)
def test_a_reference_is_parted_as_its_segments_write_it(segments: str, parts: str) -> None:
    reference = "The cat sat on the mat, and went home."
    assert by_segment(reference, segments.split("|")) == parts.split("|")


@pytest.mark.parametrize(
    ("references", "transcript", "counts"),
    [
        (["THE OLD CAT SLEPT"], "the old cat slept", (4, 4, 0, 0)),
        (["THE OLD CAT SLEPT"], "the old dog slept", (4, 4, 1, 1)),
        (["THE OLD CAT SLEPT"], "cat slept", (4, 2, 0, 2)),
        (["THE OLD CAT SLEPT"], "", (4, 0, 0, 4)),
        (["THE OLD CAT SLEPT"], "the old cat slept well [Music]", (4, 5, 1, 0)),
        ([""], "you know", (0, 2, 2, 0)),
        (["THE OLD CAT SLEPT", "BIRDS SING"], "birds sing", (4, 2, 0, 4)),  # said, by another
    ],
)
def test_words_are_counted(
    references: Sequence[str], transcript: str, counts: tuple[int, int, int, int]
) -> None:
    assert tuple(count_words(references, transcript).values()) == counts


# --- what is measured -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings() -> ContestSettings:
    return ContestSettings(
        model="xs-0", ladder=DATA / "ladder", corpus=DATA / "corpus", output=Path("x.parquet"),
        conditions=("clean", "noise"), decoding="unrestricted", seed=3, batch=2, device="cpu",
        utterances=2, prefixes=(8,), window=4, room_tone=6.0, repeats=2, epsilon=1e-6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def batch() -> dict[str, Sequence[Mixture]]:
    utterances = find_utterances(DATA / "corpus").utterances
    mixtures = [Mixture.of(item, read_wave(item)) for item in utterances[:2]]
    noisy = [condition("noise").apply(item, Speakers(utterances), 3) for item in mixtures]
    return {"clean": mixtures, "noise": noisy}


def test_sizes_and_ranks_slide_over_the_last_rows() -> None:
    rows = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    sliding = sliding_observables(rows, 3)
    for t in range(7):
        last = rows[:, max(t - 2, 0) : t + 1].double()
        modes = torch.linalg.svdvals(last).square()
        size = last.square().sum(-1).mean(-1).log10().mean()
        assert sliding["log10_size"][t].item() == pytest.approx(size.item())
        expected = effective_rank(modes).mean().item()
        assert sliding["n_eff"][t].item() == pytest.approx(expected, abs=1e-6)
    assert sliding["n_eff"][0].item() == pytest.approx(1)


def test_confidences_are_those_of_decoding(
    xs: SpeechModel, batch: dict[str, Sequence[Mixture]]
) -> None:
    waves = [mixture.wave for mixture in batch["noise"]]
    with capture(xs) as recording, torch.inference_mode():
        transcripts = transcribe(xs, waves, UNRESTRICTED)
        states = recording.text_rows(HIDDEN_STATE, transcripts)[0][:, -1]
    for i, text in enumerate(transcripts):
        count = len(text.tokens)
        with torch.inference_mode():
            confidences = token_confidences(xs, states[i, :count], text, UNRESTRICTED)
        total = text.text_log_probability * (count + 1)
        of_end = total - confidences["log_probability"].sum().item()
        assert -5 < of_end < 1e-4
        forbidden = confidences["forbidden_mean"][0].item()
        assert forbidden == pytest.approx(text.forbidden_mass, abs=1e-6)
        assert (confidences["free_log_probability"] <= confidences["log_probability"] + 1e-9).all()
        assert confidences["entropy"].min() >= 0


def test_rows_are_of_every_condition_and_beginning(
    xs: SpeechModel, batch: dict[str, Sequence[Mixture]], settings: ContestSettings
) -> None:
    rows = pd.DataFrame(contest_rows(xs, batch, settings))
    assert set(rows.condition) >= {"clean", "noise", "room-tone"}
    assert set(rows.prefix) == {WHOLE, 8}
    toned = rows[rows.condition == "room-tone"]
    assert (toned.seconds.round(2) == 6).all()
    alone = decode(xs, batch["noise"][:1], UNRESTRICTED)
    row = rows[(rows.condition == "noise") & (rows.prefix == WHOLE)].iloc[0]
    assert row.transcript == alone.transcripts[0].text
    count = len(alone.transcripts[0].tokens)
    weights = alone.recording.attention(alone.transcripts, 0)[0, :, :count, :count]
    after = torch.arange(count, 0, -1)
    laplacian = torch.diag_embed(weights.sum(1) / after) - weights
    modes = torch.linalg.eigvals(laplacian).real.sort(descending=True).values[:, :5]
    assert modes.shape[1] == 5
    np.testing.assert_allclose(row.laplacian[:5], modes.mean(0), atol=1e-6)


def test_repeated_speech_has_a_repeated_reference(
    xs: SpeechModel, batch: dict[str, Sequence[Mixture]], settings: ContestSettings
) -> None:
    short = [
        Mixture.of(replace(mixture.target, reference="A B"), mixture.wave[:32_000])
        for mixture in batch["clean"]
    ]
    rows = pd.DataFrame(contest_rows(xs, {"clean": short}, settings))
    again = rows[(rows.condition == "repeated") & (rows.prefix == WHOLE)]
    assert list(again.reference) == ["A B A B"] * 2
    assert list(again.seconds) == [4.0, 4.0]


def test_levels_and_repetitions() -> None:
    steady = np.full(16_000, 0.1, np.float32)
    assert sound_levels(steady)["level_db"] == pytest.approx(-20, abs=1e-4)
    assert sound_levels(steady)["level_range_db"] == pytest.approx(0, abs=1e-4)
    halves = np.concatenate([steady, 0.01 * steady])
    assert sound_levels(halves)["level_range_db"] == pytest.approx(40, abs=1e-3)
    assert repetition_entropy([7] * 50) == 0
    assert repetition_entropy([1] * 100 + [*range(32)]) == pytest.approx(np.log(32))


# --- fits and scores ------------------------------------------------------------------------------


def test_a_fit_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(80, 3)) * [1, 10, 0.1] + [0, 5, 1]
    target = values[:, 0] + 0.1 * values[:, 1] + rng.normal(size=80) > 0.5
    scaled = (values - values.mean(0)) / values.std(0)
    rival = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(scaled, target)
    fit = Logistic.fit(values, target)
    np.testing.assert_allclose(fit.log_odds(values), rival.decision_function(scaled), atol=1e-5)
    with pytest.raises(ValueError, match="0 of 80 texts"):
        Logistic.fit(values, np.zeros(80, bool))


def test_the_best_threshold_is_that_of_all() -> None:
    rng = np.random.default_rng(1)
    values, target = rng.integers(0, 12, 60).astype(float), rng.random(60) < 0.4
    scores = [f1_score(target, values >= threshold) for threshold in np.unique(values)]
    assert f1_score(target, values >= best_threshold(values, target)) == max(scores)


def test_average_precision_is_the_area_of_steps() -> None:
    values, target = np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, True])
    assert average_precision(values, target) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    rng = np.random.default_rng(2)
    for _ in range(20):
        values, target = rng.integers(0, 12, 40).astype(float), rng.random(40) < 0.4
        expected = average_precision_score(target, values)
        values[values == 11] = np.inf  # which scikit-learn refuses
        assert average_precision(values, target) == pytest.approx(expected, rel=1e-12)


def planted(shift: float = 3.0, speakers: int = 24, seed: int = 0) -> pd.DataFrame:
    """Rows in which cross-attention's size is smaller by ``shift`` where a text is invented."""
    rng = np.random.default_rng(seed)
    kept = read([DATA / "smoke" / "contest" / "xs-0.parquet"], CONTEST)
    like = kept[kept.prefix == WHOLE].iloc[0]
    rows = []
    for i in range(speakers):
        for name in (*FITTED, "stretch", "hell", "room-tone", "repeated"):
            clean = name not in ("noise", "stretch", "hell")
            for k in range(2):
                invented = bool(not clean and rng.random() < 0.5)
                row = like.to_dict() | {
                    "utterance": f"{i}-{k}", "speaker": f"s{i:02}", "condition": name,
                    "kind": "invention" if invented else "correct",
                    "cross_attention_log10_variance": rng.normal(-shift * invented),
                    "average_log_probability": rng.normal(-0.5),
                    "entropy": rng.uniform(0, 5), "tokens": int(rng.integers(4, 40)),
                    "compression_ratio": rng.uniform(1, 2),
                }  # fmt: skip
                rows.append(row)
    return pd.DataFrame(rows)


def contestant_of(rows: pd.DataFrame, name: str) -> Contestant:
    return next(contestant for contestant in contestants(rows) if contestant.name == name)


def fit_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are fitted on: those of two conditions."""
    return rows[rows.condition.isin(FITTED)]


def test_a_planted_warning_is_found_as_large_as_it_is() -> None:
    rows = planted(2.0)
    table = contest(rows, fit_of(rows))
    unseen = table[(table.set == "unseen stresses") & ~table.confident].set_index("contestant")
    row, expected = unseen.loc["cross-attention: size"], stats.norm.cdf(2 / np.sqrt(2))
    assert row.auroc == pytest.approx(expected, abs=0.08)
    assert row.auroc_low <= expected <= row.auroc_high
    assert row.gain_low > 0.2
    assert row.undefined == 0
    assert row.f > 0.7
    chance = unseen.loc["log-probability"]
    assert chance.auroc_low <= 0.5 <= chance.auroc_high
    silent = table[table.set == "everything unseen"]
    assert (silent.invented + silent.others).max() == 24 * 2 * 5


def test_a_fit_sees_neither_the_speakers_nor_the_stresses_it_is_scored_on() -> None:
    rows = texts(planted())
    contestant = contestant_of(rows, "cross-attention: size")
    before = fitted_elsewhere(contestant, rows, fit_of(rows))
    fold = folds_of(rows.speaker)
    scored = (fold == 3) & (rows.condition == "stretch").to_numpy()
    other = rows.copy()
    unseen = (fold == 3) | ~rows.condition.isin(FITTED).to_numpy()
    other.loc[unseen & ~scored, "cross_attention_log10_variance"] += 100
    other.loc[unseen, "target"] = ~other.target[unseen]
    after = fitted_elsewhere(contestant, other, fit_of(other))
    for name in ("ranks", "thresholds", "risks"):
        np.testing.assert_array_equal(getattr(before, name)[scored], getattr(after, name)[scored])
    assert len(np.unique(fold)) == 8
    assert all(len({*fold[rows.speaker == name]}) == 1 for name in rows.speaker.unique())


def test_a_fit_on_other_speakers_is_one_for_all() -> None:
    rows, other = texts(planted()), texts(planted(seed=1))
    fit = fit_of(other.assign(speaker="other " + other.speaker))
    contestant = contestant_of(rows, "cross-attention: size")
    fits = fitted_elsewhere(contestant, rows, fit)
    assert len(np.unique(fits.thresholds)) == 1
    model = Logistic.fit(contestant.values(fit), fit.target.to_numpy())
    np.testing.assert_allclose(fits.risks, expit(model.log_odds(contestant.values(rows))))


def test_nan_loses_and_is_counted_and_rows_from_before_a_score_are_left_out_of_it() -> None:
    rows = planted(speakers=12)
    fit = fit_of(rows)
    stretched = rows.index[rows.condition == "stretch"]
    rows = rows.astype({"lookback": object})
    rows.loc[stretched, "lookback"] = None
    rows.loc[stretched, "cross_attention_log10_variance"] = np.nan
    table = contest(rows, fit).set_index(["set", "contestant", "confident"])
    row = table.loc[("stretch", "cross-attention: size", False)]
    assert (row.undefined, row.auroc, row.recall, row.false_alarms) == (24, 0, 0, 1)
    heads = table.loc[("unseen stresses", "heads: lookback", False)]
    others = table.loc[("unseen stresses", "log-probability", False)]
    assert heads.invented + heads.others == 24 == (others.invented + others.others) / 2
    assert heads.undefined == 0


def test_a_known_direction_is_not_fitted() -> None:
    rows = planted()
    seen = rows.condition.isin(FITTED)
    sign = np.where(rows.kind == "invention", 1.0, -1.0)
    rows["average_log_probability"] = -1 + np.where(seen, sign, -sign) * 0.5
    table = texts(rows)
    contestant = contestant_of(rows, "log-probability")
    fits = fitted_elsewhere(contestant, table, fit_of(table))
    np.testing.assert_array_equal(fits.ranks, -table.average_log_probability)
    free = fitted_elsewhere(replace(contestant, direction=0), table, fit_of(table))
    np.testing.assert_array_equal(free.ranks, table.average_log_probability)


def test_sets_are_of_unseen_stresses() -> None:
    rows = texts(planted())
    members = sets(rows, FITTED)
    assert set(rows.condition[members["unseen stresses"]]) == {"stretch", "hell"}
    assert set(rows.condition[members["seen stresses"]]) == {*FITTED}
    assert "noise" not in set(rows.condition[members["everything unseen"]])


def test_alarms_on_honest_texts_and_outcomes_are_counted() -> None:
    rows = planted()
    table = false_alarms(rows, fit_of(rows)).set_index(["contestant", "condition"])
    assert table.loc[("cross-attention: size", "repeated"), "texts"] == 48
    assert table.alarms.between(0, 100).all()
    kinds = outcomes(rows).set_index("condition")
    assert kinds.loc["clean", "correct"] == 100
    assert (kinds[["correct", "invention"]].sum(axis=1).round(9) == 100).all()


def test_a_guard_deletes_what_was_said_and_leaves_what_it_does_not_doubt() -> None:
    rows = planted().assign(
        reference_words=10, transcript_words=12, invented=4, deleted=2, seconds=6.0
    )
    rows = rows.assign(wer=0.4, no_speech_probability=0.0, average_log_probability=-0.2)
    loud = rows.condition == "hell"
    rows.loc[loud, ["no_speech_probability", "average_log_probability"]] = [0.9, -2.0]
    table = guard(rows, fit_of(rows)).set_index(["rule", "condition"])
    for rule in ("none", "transcribe's silence"):
        kept = table.loc[(rule, "stretch")]
        assert (kept.worded, kept.invented_per_minute, kept.deleted_per_minute) == (100, 40, 20)
        assert kept.wer == pytest.approx(40)
    gone = table.loc[("transcribe's silence", "hell")]
    assert (gone.worded, gone.invented_per_minute, gone.deleted_per_minute) == (0, 0, 100)
    assert gone.wer == 100
    assert set(table.loc["spectral.Monitor"].index) == set(rows.condition)


def test_every_sound_has_been_heard_by_the_detector_or_it_is_an_error() -> None:
    rows = planted()
    detected = rows[["utterance", "condition"]].drop_duplicates().assign(speech_fraction=0.5)
    assert len(with_speech_activity(rows, detected)) == len(rows)
    with pytest.raises(ValueError, match="has not heard 1 sounds"):
        with_speech_activity(rows, detected.iloc[1:])
