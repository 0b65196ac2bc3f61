"""What is recorded during decoding, against one forward pass of the library's own model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from in_memory import assert_close
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from companion.models.capture import COMPONENTS, HIDDEN_STATE, Recording, capture
from companion.models.decoding import Transcript, greedy, transcribe
from companion.models.loading import available, load
from companion.models.rules import UNRESTRICTED
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances, read_wave

CPU = torch.device("cpu")
SHIPPED = Path(__file__).parents[1] / "data" / "ladder"
CORPUS = Path(__file__).parents[1] / "data" / "corpus"


@dataclass(frozen=True)
class Case:
    """One decoded batch, what was recorded of it, and the library's own model."""

    model: SpeechModel
    features: Tensor
    transcripts: list[Transcript]
    recording: Recording
    reference: WhisperForConditionalGeneration


@pytest.fixture(
    scope="module", params=["tiny-0", *available(SHIPPED)[:2]], ids=lambda name: f"model={name}"
)
def case(request: pytest.FixtureRequest, ladder: Path, waves: list[np.ndarray]) -> Case:
    """The tiny model on fourteen utterances of ragged transcripts; shipped ones on three."""
    if request.param != "tiny-0":
        ladder = SHIPPED
        waves = [read_wave(utterance) for utterance in find_utterances(CORPUS).utterances[::50]]
    model = load(request.param, ladder, CPU)
    reference = WhisperForConditionalGeneration.from_pretrained(
        ladder / request.param, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    features = model.features(waves)
    with capture(model) as recording:
        transcripts = greedy(model, features, UNRESTRICTED)
    return Case(model, features, transcripts, recording, reference)


@torch.no_grad()
def expected(case: Case) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Per utterance: (layers, T, width) of each kind and attention, from one pass without cache.

    Taken at other modules than those that ``capture`` hooks, and cut to the positions that predict
    the text: from the prompt's last one on.
    """
    prompt, layers = case.model.tokens.prompt, case.reference.model.decoder.layers
    seen: dict[tuple[str, int], Tensor] = {}
    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, output, key=(kind, i): seen.__setitem__(key, output[0])
        )
        for i, layer in enumerate(layers)
        for kind, module in (
            ("self_attention", layer.self_attn.out_proj),
            ("cross_attention", layer.encoder_attn.out_proj),
            ("ffn", layer.fc2),
        )
    ]
    for i, transcript in enumerate(case.transcripts):
        inputs = torch.tensor([[*prompt, *transcript.tokens]])
        output = case.reference(
            input_features=case.features[i : i + 1],
            decoder_input_ids=inputs,
            use_cache=False,
            output_hidden_states=True,
            output_attentions=True,
        )
        text = slice(len(prompt) - 1, len(prompt) - 1 + len(transcript.tokens))
        of_kind = {
            kind: torch.stack([seen[kind, layer] for layer in range(len(layers))])[:, text]
            for kind in COMPONENTS
        }
        of_kind["embedding"] = output.decoder_hidden_states[0][:, text]
        of_kind["normed"] = output.decoder_hidden_states[-1][0, text]
        of_kind[HIDDEN_STATE] = torch.cat(output.decoder_hidden_states[1:-1])[:, text]
        of_kind["attention"] = torch.cat(output.decoder_attentions)[:, :, text, text]
        yield i, of_kind
    for handle in handles:
        handle.remove()


def test_recording_does_not_change_what_the_model_says_by_a_single_bit(case: Case) -> None:
    assert greedy(case.model, case.features, UNRESTRICTED) == case.transcripts
    if case.model.name == "tiny-0":
        lengths = {len(transcript.tokens) for transcript in case.transcripts}
        assert min(lengths) <= 1
        assert max(lengths) == case.model.limit


def test_components_and_hidden_states_are_those_of_one_forward_pass_without_cache(
    case: Case,
) -> None:
    lengths = [len(transcript.tokens) for transcript in case.transcripts]
    for kind in (*COMPONENTS, HIDDEN_STATE):
        rows, mask = case.recording.text_rows(kind, case.transcripts)
        assert rows.shape[:3] == (len(lengths), len(case.model.layers), max(lengths))
        assert rows.shape[3] == case.model.width
        assert rows.dtype == torch.float32
        assert torch.equal(mask, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
        for i, wanted in expected(case):
            # the library keeps the last hidden state only after its layer norm
            assert_close(rows[i, : len(wanted[kind]), mask[i]], wanted[kind])


@torch.no_grad()
def test_row_j_predicts_token_j_through_the_last_layer_norm(case: Case) -> None:
    rows, mask = case.recording.text_rows(HIDDEN_STATE, case.transcripts)
    normed = case.reference.model.decoder.layer_norm(rows[:, -1])
    logits = case.reference.proj_out(normed)
    logits[..., list(case.model.tokens.suppressed)] = -torch.inf
    for i, wanted in expected(case):
        assert_close(normed[i, mask[i]], wanted["normed"])
        assert logits[i, mask[i]].argmax(-1).tolist() == list(case.transcripts[i].tokens)


def attention(recording: Recording, transcripts: Sequence[Transcript]) -> torch.Tensor:
    """All layers' weights: (batch, layers, heads, T, T)."""
    layers = recording.rows(HIDDEN_STATE).shape[1]
    return torch.stack([recording.attention(transcripts, i) for i in range(layers)], 1)


def test_attention_is_the_eager_one_causal_and_without_what_goes_to_the_prompt(case: Case) -> None:
    weights = attention(case.recording, case.transcripts)
    assert weights.dtype == torch.float64
    assert (weights >= 0).all()
    assert (weights.triu(1) == 0).all()
    assert (weights.sum(-1) < 1).all()  # the prompt's earlier tokens get the rest
    for i, wanted in expected(case):
        count = len(case.transcripts[i].tokens)
        of_text = weights[i, :, :, :count, :count].float()
        torch.testing.assert_close(of_text, wanted["attention"], rtol=0, atol=1e-5)


def test_every_position_fed_is_recorded_prompt_and_all(case: Case) -> None:
    steps = max(len(text.tokens) + text.finished for text in case.transcripts)
    positions = case.recording.rows(HIDDEN_STATE).shape[2]
    assert positions == len(case.model.tokens.prompt) + steps - 1


# --- the tiny model only ------------------------------------------------------------------------


@pytest.mark.parametrize("second", [2, 3])
def test_a_second_batch_in_one_block_is_an_error_and_not_a_longer_recording(
    tiny: SpeechModel, features: Tensor, second: int
) -> None:
    with capture(tiny) as recording:
        transcripts = greedy(tiny, features[:2], UNRESTRICTED, limit=3)
        with pytest.raises(RuntimeError, match="one block per batch"):
            greedy(tiny, features[2 : 2 + second], UNRESTRICTED, limit=3)
    rows, _ = recording.text_rows("ffn", transcripts)
    assert rows.shape[:3] == (2, 2, max(len(t.tokens) for t in transcripts))


def test_asking_for_what_there_is_not_is_an_error(tiny: SpeechModel, features: Tensor) -> None:
    with capture(tiny) as recording:
        with pytest.raises(RuntimeError, match="no ffn was recorded; decode inside"):
            recording.rows("ffn")
        with pytest.raises(RuntimeError, match="no query was recorded; decode inside"):
            recording.attention([], 7)
        transcripts = greedy(tiny, features[:1], UNRESTRICTED, limit=2)
    with pytest.raises(ValueError, match="no kind 'nonsense'; there are self_attention"):
        recording.rows("nonsense")
    with pytest.raises(ValueError, match="no layer 7; there are 0 to 1"):
        recording.attention(transcripts, 7)


@torch.no_grad()
def test_a_second_batch_is_an_error_also_where_the_prompt_is_one_token(
    tiny: SpeechModel, features: Tensor
) -> None:
    context, prompt = tiny.encode(features[:1]), torch.tensor([tiny.tokens.prompt[:1]])
    with capture(tiny):
        cache = tiny.new_cache()
        for _ in range(2):
            tiny.step(prompt, context, cache)
        with pytest.raises(RuntimeError, match="one block per batch"):
            tiny.step(prompt, context, tiny.new_cache())


def test_transcripts_without_tokens_have_no_rows(tiny: SpeechModel, features: Tensor) -> None:
    with capture(tiny) as recording:
        transcripts = greedy(tiny, features[:2], UNRESTRICTED)
    empty = [replace(transcript, tokens=()) for transcript in transcripts]
    rows, mask = recording.text_rows("self_attention", empty)
    assert rows.shape == (2, 2, 0, tiny.width)
    assert mask.shape == (2, 0)
    assert attention(recording, empty).shape == (2, 2, tiny.heads, 0, 0)


# --- audio longer than the window ---------------------------------------------------------------


def test_rows_and_attention_of_several_windows_are_those_of_each_window(
    tiny: SpeechModel, waves: list[np.ndarray]
) -> None:
    size = tiny.window_samples
    short, *parts = waves[:5]
    pieces = [np.pad(part, (0, size - len(part))) for part in parts[:3]] + [parts[3]]
    with capture(tiny) as recording:
        single, long = transcribe(tiny, [short, np.concatenate(pieces)], UNRESTRICTED)
    windows = greedy(tiny, tiny.features(pieces), UNRESTRICTED)
    assert long.tokens == sum((window.tokens for window in windows), ())
    rows, mask = recording.text_rows(HIDDEN_STATE, [single, long])
    weights = recording.attention([single, long], 0)
    assert mask.sum(-1).tolist() == [len(single.tokens), len(long.tokens)]
    with capture(tiny) as alone:
        assert greedy(tiny, tiny.features([short]), UNRESTRICTED)[0].tokens == single.tokens
    count = len(single.tokens)
    assert_close(rows[0, :, :count], alone.text_rows(HIDDEN_STATE, [single])[0][0])
    assert_close(weights[0, :, :count, :count], alone.attention([single], 0)[0])
    between = torch.ones(len(long.tokens), len(long.tokens), dtype=torch.bool)
    for piece, window, start in zip(pieces, windows, (0, *long.breaks), strict=True):
        part = slice(start, start + len(window.tokens))
        with capture(tiny) as alone:
            greedy(tiny, tiny.features([piece]), UNRESTRICTED)
        assert_close(rows[1, :, part], alone.text_rows(HIDDEN_STATE, [window])[0][0])
        assert_close(weights[1, :, part, part], alone.attention([window], 0)[0])
        between[part, part] = False
    assert (weights[1][:, between] == 0).all()


# --- rows that have ended -----------------------------------------------------------------------


def test_rows_that_have_ended_are_fed_no_more_and_the_others_are_recorded_as_alone(
    tiny: SpeechModel, features: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, fed = tiny.step, []

    def counted(tokens: Tensor, context: Tensor, cache: object) -> Tensor:
        assert len(context) == len(tokens)
        fed.append(len(tokens))
        return step(tokens, context, cache)

    monkeypatch.setattr(tiny, "step", counted)
    with capture(tiny) as together:
        transcripts = greedy(tiny, features, UNRESTRICTED)
    lengths = [len(transcript.tokens) for transcript in transcripts]
    assert fed[0] == len(features)
    assert fed[1:] == [sum(n >= step for n in lengths) for step in range(1, len(fed))]
    assert fed[-1] < fed[1], "some end before others"
    rows, mask = together.text_rows(HIDDEN_STATE, transcripts, whole=True)
    layers = range(len(tiny.layers))
    for i, transcript in enumerate(transcripts):
        with capture(tiny) as alone:
            assert greedy(tiny, features[i : i + 1], UNRESTRICTED)[0].tokens == transcript.tokens
        expected, all_real = alone.text_rows(HIDDEN_STATE, [transcript], whole=True)
        assert all_real.all()
        assert_close(rows[i, :, mask[i]], expected[0])
        count = lengths[i]
        for layer in layers:
            weights = together.attention(transcripts, layer)[i, :, :count, :count]
            assert_close(weights, alone.attention([transcript], layer)[0])


def test_a_text_longer_than_what_was_recorded_is_of_another_batch(
    tiny: SpeechModel, features: Tensor
) -> None:
    with capture(tiny) as recording:
        transcripts = greedy(tiny, features[:2], UNRESTRICTED, limit=3)
    longer = [replace(transcripts[0], tokens=(5,) * 9), transcripts[1]]
    with pytest.raises(ValueError, match="a text of 9 tokens where 6 positions were recorded"):
        recording.text_rows("ffn", longer)
    with pytest.raises(ValueError, match="give the transcripts of this batch"):
        recording.text_rows("ffn", [*transcripts, transcripts[0]])
