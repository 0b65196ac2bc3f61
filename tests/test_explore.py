"""The explorer without a browser: controls change what is shown, errors say what to do."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import dimensions, random_whisper

from companion.explore import Explorer, uploaded
from companion.figures.explore import draw_eigenvalues
from companion.models.forcing import token_log_probabilities
from companion.models.inside import (
    PROFILED,
    Inside,
    Window,
    hear_window,
    inside,
    inside_window,
    is_monitored,
)
from companion.models.loading import load
from companion.models.openai_model import OpenAIModel
from companion.models.rules import OPENAI, RULES, UNRESTRICTED, Rule
from companion.models.view import SpeechModel
from companion.speech.corpus import UnusableUtterance, find_utterances, read_wave
from spectral import attach

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "data" / "corpus"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    return read_wave(find_utterances(CORPUS).utterances[0])


def test_probabilities_are_those_of_the_tokens_and_attention_is_the_library_s(
    wave: np.ndarray,
) -> None:
    model = load("xs-0", ROOT / "data" / "ladder", CPU)
    seen = inside(model, wave, UNRESTRICTED)
    assert "".join(seen.pieces) == seen.transcript.text
    expected = token_log_probabilities(model, [wave], [seen.transcript])[0].exp()
    np.testing.assert_allclose(seen.probabilities, expected, rtol=1e-4)
    model.module.set_attn_implementation("eager")
    tokens = torch.tensor([[*model.tokens.prompt, *seen.transcript.tokens[:-1]]])
    with torch.no_grad():
        output = model.module(
            input_features=model.features([wave]), decoder_input_ids=tokens, output_attentions=True
        )
    weights = torch.stack(output.cross_attentions)[:, 0].mean(1)
    first = len(model.tokens.prompt) - 1
    np.testing.assert_allclose(seen.listening, weights[:, first:], atol=1e-5)


def test_both_libraries_are_looked_into_and_rows_of_attention_sum_to_one(wave: np.ndarray) -> None:
    whisper = random_whisper(replace(dimensions(48, 3, 2, 51864, 80), n_text_ctx=40))
    seen = inside(OpenAIModel("random", whisper), np.tile(wave, 12), OPENAI)
    assert len(seen.wave) == 30 * 16_000, "one window"
    assert seen.listening.shape == (2, len(seen.pieces), 1500)
    np.testing.assert_allclose(seen.listening.sum(-1), 1, rtol=1e-5)
    assert {rows.shape for rows in seen.activations.values()} == {(2, len(seen.pieces), 48)}


def test_a_rule_under_which_nothing_is_recorded_is_refused(
    xs: SpeechModel, wave: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"timestamps.*choose openai or unrestricted"):
        inside(xs, wave, RULES["timestamps"])


def test_the_profile_is_that_of_exact_propagators_and_no_risk_is_told_without_thresholds(
    xs: SpeechModel, wave: np.ndarray
) -> None:
    with attach(xs.module) as trace:
        seen = inside(xs, wave, UNRESTRICTED)
    table = trace.jacobians(tokens=PROFILED, windows=[0]).to_frame()
    exact = table.assign(alignment=table.alignment.abs()).groupby("layer").mean(numeric_only=True)
    for name in ("gain", "alignment"):
        np.testing.assert_allclose(seen.profile[name], exact[name].iloc[:-1], rtol=1e-3)
    assert len(seen.profile["ratio"]) == len(xs.layers)
    assert seen.risk is None


def test_the_risk_of_every_token_is_that_of_the_monitor(wave: np.ndarray) -> None:
    size = replace(dimensions(384, 4, 6, 51864, 80), n_text_ctx=40)
    model = OpenAIModel("tiny.en", random_whisper(size))
    seen = inside(model, wave, OPENAI)
    assert seen.risk is not None
    count = len(seen.risk.tokens)
    assert seen.risk.tokens == seen.transcript.tokens[:count]
    assert len(seen.risk.risks) == count >= len(seen.pieces) - 1
    assert not is_monitored(model, UNRESTRICTED)


models = cache(load)


@pytest.fixture(scope="module")
def insides() -> dict[tuple[object, ...], Inside]:
    """What was seen of each sound by an explorer of any test."""
    return {}


@pytest.fixture
def explorer(
    monkeypatch: pytest.MonkeyPatch, insides: dict[tuple[object, ...], Inside]
) -> Explorer:
    """Of two models of the ladder, whatever is installed; it looks into no sound a second time."""

    def once(model: SpeechModel, window: Window, rule: Rule) -> Inside:
        key = (model.name, window.wave.tobytes(), rule)
        if key not in insides:
            insides[key] = inside_window(model, window, rule)
        return insides[key]

    monkeypatch.setattr("companion.explore.load", models)
    monkeypatch.setattr("companion.explore.inside_window", once)
    monkeypatch.setattr("companion.explore.is_here", lambda name, ladder: False)
    monkeypatch.setattr("companion.explore.available", lambda ladder: ["xs-0", "m-0"])
    return Explorer(ROOT / "data" / "ladder", [CORPUS, ROOT / "nowhere"], "cpu")


def _shown(explorer: Explorer) -> dict[str, object]:
    parts = {name: getattr(explorer, name) for name in ("text", "listening", "profile", "spectra")}
    return {name: part.value for name, part in (parts | explorer.sound).items()}


def _file(name: str, content: bytes) -> dict[str, object]:
    """As a browser sends it."""
    now = datetime.now(UTC)
    facts = {"type": "", "size": len(content), "last_modified": now}
    return {"name": name, "content": memoryview(content), **facts}


CHANGES: list[tuple[str, object, set[str]]] = [
    ("layer", 1, {"text", "profile", "spectra", "clean", "stressed"}),
    ("token", 5, {"text", "profile", "spectra", "clean", "stressed"}),
    ("severity", 0.3, {"clean"}),
    ("stress", "mix", {"clean"}),
    ("model", "m-0", {"clean", "stressed"}),
    ("start", 1.0, set()),
    ("stress", "silence", {"clean"}),
]
"""Controls in turn, what each is set to, and what stays as it was."""


def test_every_control_changes_what_it_should_and_nothing_else(explorer: Explorer) -> None:
    after = _shown(explorer)
    for control, value, same in CHANGES:
        before = after
        getattr(explorer, control).value = value
        after = _shown(explorer)
        assert {name for name in after if after[name] == before[name]} == same, control
        assert explorer.message.value == ""
        assert explorer.progress.description == "ready"
        assert explorer.severity.disabled == (value == "silence")


def test_another_utterance_has_another_reference_and_what_was_seen_is_not_decoded_again(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _shown(explorer)
    explorer.utterance.index = 9
    assert explorer.utterance.value.reference.lower() in explorer.text.value
    assert _shown(explorer).keys() == {k for k, v in _shown(explorer).items() if v != first[k]}
    monkeypatch.setattr("companion.explore.inside_window", None)
    explorer.utterance.index = 0
    assert _shown(explorer)["text"] == first["text"]


def test_another_rule_decodes_what_was_heard_and_gives_what_hearing_it_anew_does(
    explorer: Explorer, xs: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _shown(explorer)["text"]
    monkeypatch.setattr("companion.explore.hear_window", None)
    explorer.decoding.value = "unrestricted"
    for side, seen in explorer.sides.items():
        anew = inside(xs, seen.wave, UNRESTRICTED)
        assert seen.transcript == anew.transcript, side
        np.testing.assert_array_equal(seen.listening, anew.listening)
    assert explorer.message.value == ""
    explorer.decoding.value = "openai"
    assert _shown(explorer)["text"] == before


def test_both_sounds_are_there_before_the_model_hears_them(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, shown_while_hearing = explorer.sound["stressed"].value, []
    hear = hear_window

    def noted(model: SpeechModel, wave: np.ndarray) -> Window:
        shown_while_hearing.append(explorer.sound["stressed"].value)
        return hear(model, wave)

    monkeypatch.setattr("companion.explore.hear_window", noted)
    explorer.stress.value = "mix"
    assert shown_while_hearing == [explorer.sound["stressed"].value]
    assert shown_while_hearing != [before]


def test_severity_zero_is_clean_and_all_of_a_text_is_told_with_probabilities(
    explorer: Explorer,
) -> None:
    explorer.severity.value = 0
    clean, stressed = explorer.sides["clean"], explorer.sides["stressed"]
    assert clean.transcript == stressed.transcript
    plain = re.sub(r"<sub>[\d.]+</sub>|<[^>]+>", "", explorer.text.value).replace("&nbsp;", " ")
    assert f"clean: {clean.transcript.text}" in plain
    assert explorer.text.value.count("<sub>") == 2 * len(clean.pieces)


def test_a_recording_of_one_s_own_is_heard_at_any_rate_and_stressed(
    explorer: Explorer, tmp_path: Path, wave: np.ndarray
) -> None:
    path = tmp_path / "mine.wav"
    soundfile.write(path, np.stack([np.repeat(wave, 2)] * 2, 1), 32_000)
    before = _shown(explorer)
    explorer.upload.value = (_file("mine.wav", path.read_bytes()),)
    assert explorer.message.value == ""
    assert explorer.utterance.value.id == "mine.wav"
    after = _shown(explorer)
    assert all(after[name] != before[name] for name in after)
    assert "not known" in explorer.text.value
    assert "WER" not in explorer.text.value


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"no sound", r"^notes\.txt: cannot be decoded .*; fetch it again$"),
        ("../../empty.mp3", b"", r"^empty\.mp3: .*; fetch it again"),
        ("C:\\talk.flac", b"fLaC", r"^talk\.flac: .*; fetch it again"),
    ],
)
def test_a_bad_recording_is_named_with_the_remedy(name: str, content: bytes, message: str) -> None:
    with pytest.raises(UnusableUtterance, match=message):
        uploaded(name, content)


def test_what_cannot_be_shown_is_said_and_nothing_old_stays(explorer: Explorer) -> None:
    explorer.upload.value = (_file("notes.txt", b"no sound"),)
    assert "notes.txt: cannot be decoded" in explorer.message.value
    explorer.start.value = 100
    assert "ends before 100 s; choose less" in explorer.message.value
    assert not any(_shown(explorer).values())
    explorer.start.value = 0
    assert explorer.message.value == ""
    assert all(_shown(explorer).values())


def test_no_corpus_is_an_error_and_too_short_a_text_has_a_figure_that_says_so() -> None:
    with pytest.raises(FileNotFoundError, match="no such folders"):
        Explorer(ROOT / "data" / "ladder", [ROOT / "nowhere"], "cpu")
    figure = draw_eigenvalues({}, 1)
    assert all("1 rows have no spectrum" in ax.texts[0].get_text() for ax in figure.axes)
