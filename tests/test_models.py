"""Checkpoints that come back as they were written, and greedy decoding against two references."""

import json
import math
import pickle
import shutil
import socket
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TINY_WINDOW_SECONDS
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration, WhisperTokenizer
from transformers.generation import GenerationMixin
from whisper.decoding import compression_ratio as whisper_compression_ratio

from companion.models.checksums import verify_checksums, write_checksums
from companion.models.decoding import Transcript, greedy, hear, transcribe, transcribe_heard
from companion.models.ladder import (
    PROMPT,
    SPECIAL_TOKENS,
    character_tokenizer,
    feature_extractor,
    initialise,
    ladder_config,
    save,
)
from companion.models.loading import available, choose_device, load, load_random_control
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances, read_wave
from companion.speech.grammar import vocabulary
from companion.speech.nothing import NO_SPEECH, no_speech

CPU = torch.device("cpu")
SHIPPED = Path(__file__).parents[1] / "data" / "ladder"
CORPUS = Path(__file__).parents[1] / "data" / "corpus"
law = settings(derandomize=True, deadline=None, max_examples=30)
CONTROLS = [name for name in available(SHIPPED) if "-shuffled-" in name]
HEARING = [name for name in available(SHIPPED) if name not in CONTROLS]
shipped = pytest.mark.parametrize("name", available(SHIPPED))
hearing = pytest.mark.parametrize("name", HEARING)


@pytest.fixture(scope="module")
def waves(speech: Path) -> list[np.ndarray]:
    return [read_wave(utterance) for utterance in find_utterances(speech).utterances]


@pytest.fixture(scope="module")
def transcripts(tiny: SpeechModel, waves: list[np.ndarray]) -> list[Transcript]:
    return greedy(tiny, tiny.features(waves), UNRESTRICTED)


def reference_model(folder: Path) -> WhisperForConditionalGeneration:
    """The library's own model, apart from everything in companion.models."""
    return WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@torch.no_grad()
def require_the_librarys(
    model: SpeechModel, reference: WhisperForConditionalGeneration, waves: list[np.ndarray]
) -> None:
    """Tokens of its own greedy search, confidences of one pass over each text without a cache."""
    features = model.features(waves)
    transcripts = greedy(model, features, UNRESTRICTED)
    assert [text.tokens for text in transcripts] == generated(model, reference, features)
    prompt, end = model.tokens.prompt, model.tokens.end
    for row, transcript in zip(features, transcripts, strict=True):
        inputs = torch.tensor([[*prompt, *transcript.tokens]])
        logits = reference(input_features=row[None], decoder_input_ids=inputs, use_cache=False)
        logits = logits.logits[0].double()
        among_text = logits.index_fill(-1, torch.tensor(model.tokens.suppressed), -torch.inf)
        written = [*transcript.tokens, *[end] * transcript.finished]
        of_all, of_text = (
            float(scores[len(prompt) - 1 :].log_softmax(-1)[range(len(written)), written].sum())
            / (len(transcript.tokens) + 1)
            for scores in (logits, among_text)
        )
        assert transcript.average_log_probability == pytest.approx(of_all, abs=1e-5)
        assert transcript.text_log_probability == pytest.approx(of_text, abs=1e-5)
        no_speech = float(logits[0].softmax(-1)[model.tokens.no_speech])
        assert transcript.no_speech_probability == pytest.approx(no_speech, abs=1e-6)
        assert transcript.compression_ratio == whisper_compression_ratio(transcript.text)


def generated(
    model: SpeechModel, reference: WhisperForConditionalGeneration, features: torch.Tensor
) -> list[tuple[int, ...]]:
    """What the library's own greedy search writes, with the same tokens suppressed."""
    output = GenerationMixin.generate(
        reference,
        inputs=features,
        decoder_input_ids=torch.tensor([model.tokens.prompt] * len(features)),
        suppress_tokens=list(model.tokens.suppressed),
        max_new_tokens=model.limit,
        do_sample=False,
        num_beams=1,
    )
    rows = output[:, len(model.tokens.prompt) :].tolist()
    end = model.tokens.end
    return [tuple(row[: row.index(end)] if end in row else row) for row in rows]


# --- the tokenizer ------------------------------------------------------------------------------


@law
@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz' ", max_size=40))
def test_a_text_comes_back_from_its_tokens_one_per_character(text: str) -> None:
    tokenizer = character_tokenizer()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


def test_special_tokens_are_single_and_left_out_of_texts(ladder: Path, tiny: SpeechModel) -> None:
    tokenizer = WhisperTokenizer.from_pretrained(ladder / "tiny-0")
    assert tokenizer.get_vocab() == character_tokenizer().get_vocab()
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert sorted(ids) == list(range(len(tokenizer) - len(SPECIAL_TOKENS), len(tokenizer)))
    assert set(ids) == set(tokenizer.all_special_ids)
    assert tiny.tokens.prompt == tuple(tokenizer.convert_tokens_to_ids(list(PROMPT)))
    assert tiny.tokens.end == tokenizer.eos_token_id
    assert set(tiny.tokens.suppressed) == set(ids) - {tiny.tokens.end}
    text = " ".join(vocabulary())
    assert tiny.text([*tiny.tokens.prompt, *tiny.encode_text(text), tiny.tokens.end]) == text


# --- checkpoints --------------------------------------------------------------------------------


@pytest.fixture
def copied(ladder: Path, tmp_path: Path) -> Path:
    shutil.copytree(ladder, tmp_path / "ladder")
    return tmp_path / "ladder"


def test_a_loaded_model_computes_with_its_weights_rounded_to_half(
    ladder: Path, tiny: SpeechModel, waves: list[np.ndarray], tmp_path: Path
) -> None:
    model = initialise(reference_model(ladder / "tiny-0").config, seed=5)
    save(tmp_path / "it", model, character_tokenizer(), feature_extractor(2), {})
    loaded = load("it", tmp_path, CPU)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half().float())
    features = tiny.features(waves[:2])
    tokens = torch.tensor([tiny.tokens.prompt] * 2)
    with torch.no_grad():
        expected = model(input_features=features, decoder_input_ids=tokens).logits
        logits = loaded.step(tokens, loaded.encode(features), loaded.new_cache())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def test_a_folder_holds_float16_its_record_and_the_sums_of_every_file(ladder: Path) -> None:
    folder = ladder / "tiny-0"
    weights = folder / "model.safetensors"
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    assert stat.S_IMODE(weights.stat().st_mode) & 0o044 == 0o044
    assert json.loads((folder / "training.json").read_text()) == {"size": "tiny"}
    listed = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert sorted([*listed, "SHA256SUMS"]) == sorted(path.name for path in folder.iterdir())


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        *(
            (name, _flipped, rf"{name}: SHA-256 is [0-9a-f]{{64}}, expected [0-9a-f]")
            for name in ("model.safetensors", "config.json", "tokenizer.json")
        ),
        ("model.safetensors", Path.unlink, "rs: SHA-256 is no such file.*git checkout"),
        ("SHA256SUMS", lambda path: path.write_text(""), "SHA256SUMS .* does not list it"),
        ("SHA256SUMS", lambda path: path.write_text("garbage\n"), "tiny-0"),
        ("new.json", lambda path: path.write_text("{}"), r"new\.json: SHA256SUMS .* not list it"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_file_s_name(
    copied: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(copied / "tiny-0" / name)
    with pytest.raises(ValueError, match=message):
        load("tiny-0", copied, CPU)


def test_hidden_files_do_not_matter_and_a_folder_without_sums_is_none(copied: Path) -> None:
    (copied / "tiny-0" / ".DS_Store").write_bytes(b"\0")
    verify_checksums(copied / "tiny-0")
    (copied / "tiny-0" / "SHA256SUMS").unlink()
    assert available(copied) == []


def test_pickled_weights_are_never_loaded(copied: Path) -> None:
    folder = copied / "tiny-0"
    (folder / "model.safetensors").unlink()
    touched = copied / "touched"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (touched,))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Trap()}))
    write_checksums(folder)
    with pytest.raises(OSError, match="safetensors"):
        load("tiny-0", copied, CPU)
    assert not touched.exists()


def test_an_unknown_model_is_an_error_that_lists_the_known(ladder: Path, tmp_path: Path) -> None:
    for folder, known in ((ladder, ".*tiny-0"), (tmp_path, "none")):
        with pytest.raises(FileNotFoundError, match=f"no model 'large-9'; there are: {known}"):
            load("large-9", folder, CPU)


def test_loading_opens_no_connection(ladder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load("tiny-0", ladder, CPU)


def test_random_controls_have_the_shape_and_weights_of_their_seed_alone(
    ladder: Path, tiny: SpeechModel, waves: list[np.ndarray]
) -> None:
    features = tiny.features(waves[:1])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    control, again, other = (load_random_control("tiny-0", ladder, CPU, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert control.name == "tiny-0-random"
    for name in ("width", "heads", "limit", "parameters", "tokens"):
        assert getattr(control, name) == getattr(tiny, name)
    context = control.encode(features)
    assert torch.equal(again.encode(features), context)
    for different in (other, tiny):
        assert not torch.allclose(different.encode(features), context, atol=0.1)


def test_a_fresh_weight_has_the_spread_of_a_torch_linear_layer() -> None:
    config = ladder_config(64, 4, 1, 1, 2, 28, character_tokenizer())
    weight = initialise(config, seed=0).model.encoder.layers[0].fc1.weight.detach()
    assert float(weight.std()) == pytest.approx((3 * 64) ** -0.5, rel=0.02)


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "device is 'gpu'; give auto"), ("cuda:3", "'cuda:3', of GPUs 0 were found")],
)
def test_a_device_that_is_not_there_is_an_error_that_names_it(
    device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=message):
        choose_device(device)


# --- the view -----------------------------------------------------------------------------------


def test_a_wave_longer_than_the_window_is_cut_and_a_shorter_one_padded(tiny: SpeechModel) -> None:
    rng = np.random.default_rng(0)
    long = rng.standard_normal(3 * tiny.window_samples).astype(np.float32)
    frames = tiny.window_samples // 160
    features = tiny.features([long, long[: tiny.window_samples], long[:100]])
    assert features.shape == (3, 80, frames)
    torch.testing.assert_close(features[0], features[1])
    assert features.isfinite().all()


def test_parameters_count_tied_weights_once(ladder: Path, tiny: SpeechModel) -> None:
    state = reference_model(ladder / "tiny-0").state_dict()
    tensors = {weight.data_ptr(): weight.numel() for weight in state.values()}
    assert tiny.parameters == sum(tensors.values())


# --- greedy decoding ----------------------------------------------------------------------------


def test_the_tiny_model_makes_transcripts_of_several_lengths_some_unfinished(
    transcripts: list[Transcript],
) -> None:
    """What the tests of this file and of the others rest on."""
    assert len({len(transcript.tokens) for transcript in transcripts}) >= 2
    assert len({transcript.text for transcript in transcripts}) >= 3
    assert {transcript.finished for transcript in transcripts} == {True, False}
    for transcript in transcripts:  # special tokens take their part
        assert transcript.average_log_probability < transcript.text_log_probability - 1e-3


def test_an_utterance_is_decoded_alike_alone_and_in_a_ragged_batch(
    tiny: SpeechModel, waves: list[np.ndarray], transcripts: list[Transcript]
) -> None:
    lengths = [len(transcript.tokens) for transcript in transcripts]
    for i in (lengths.index(min(lengths)), lengths.index(max(lengths))):
        (alone,) = greedy(tiny, tiny.features([waves[i]]), UNRESTRICTED)
        together = transcripts[i]
        assert (alone.tokens, alone.finished) == (together.tokens, together.finished)
        for name in ("average_log_probability", "no_speech_probability"):
            assert getattr(alone, name) == pytest.approx(getattr(together, name), abs=1e-6)


def test_the_tiny_model_writes_what_the_library_does_with_its_confidences(
    ladder: Path, tiny: SpeechModel, waves: list[np.ndarray]
) -> None:
    require_the_librarys(tiny, reference_model(ladder / "tiny-0"), waves)


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_no_transcript_is_longer_than_the_limit_and_cut_ones_are_called_unfinished(
    tiny: SpeechModel, waves: list[np.ndarray], transcripts: list[Transcript], limit: int
) -> None:
    cut = greedy(tiny, tiny.features(waves), UNRESTRICTED, limit)
    most = min(limit, tiny.limit)
    for short, whole in zip(cut, transcripts, strict=True):
        assert short.tokens == whole.tokens[:most]
        # its end token is one of the ``limit`` tokens too
        assert short.finished == (whole.finished and len(whole.tokens) < most)


def test_limits_below_one_and_nan_are_errors(tiny: SpeechModel, waves: list[np.ndarray]) -> None:
    features = tiny.features(waves[:1])
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"limit must be at least 1, got {limit}"):
            greedy(tiny, features, UNRESTRICTED, limit)
    with pytest.raises(ValueError, match="tiny-0: its logits are NaN"):
        greedy(tiny, features * torch.nan, UNRESTRICTED)


def with_logits(tiny: SpeechModel, monkeypatch: pytest.MonkeyPatch, of: dict[int, float]) -> None:
    """Let a model give the same logits at every step: zeros but of these tokens."""

    def step(tokens: torch.Tensor, context: object, cache: object) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, 34)
        logits[..., list(of)] = torch.tensor(list(of.values()))
        return logits

    monkeypatch.setattr(tiny, "step", step)


def test_an_empty_transcript_has_no_tokens_and_ratio_zero(
    tiny: SpeechModel, waves: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_logits(tiny, monkeypatch, {tiny.tokens.end: 9.0})
    (transcript,) = greedy(tiny, tiny.features(waves[:1]), UNRESTRICTED)
    assert (transcript.text, transcript.tokens, transcript.finished) == ("", (), True)
    assert transcript.compression_ratio == 0
    of_all, of_text = (
        -math.log1p((allowed - 1) * math.exp(-9.0))
        for allowed in (34, 34 - len(tiny.tokens.suppressed))
    )
    assert transcript.text_log_probability == pytest.approx(of_text, abs=1e-12)
    assert transcript.average_log_probability == pytest.approx(of_all, abs=1e-12)


def test_special_tokens_are_never_written_however_probable(
    tiny: SpeechModel, waves: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_logits(tiny, monkeypatch, dict.fromkeys(tiny.tokens.suppressed, 50.0))
    (transcript,) = greedy(tiny, tiny.features(waves[:1]), UNRESTRICTED, limit=5)
    assert transcript.tokens == (0,) * 5  # of equals the lowest


def test_a_wave_of_several_windows_is_the_text_of_each_and_their_confidence_together(
    tiny: SpeechModel, waves: list[np.ndarray], transcripts: list[Transcript]
) -> None:
    size = tiny.window_samples
    padded = [np.pad(wave, (0, size - len(wave))) for wave in waves[:3]]
    long, short = transcribe(tiny, [np.concatenate(padded), waves[3]], UNRESTRICTED)
    assert (short.tokens, short.breaks) == (transcripts[3].tokens, ())
    parts = transcripts[:3]
    assert long.text == " ".join(part.text for part in parts)
    assert long.tokens == sum((part.tokens for part in parts), ())
    assert long.breaks == (len(parts[0].tokens), len(parts[0].tokens) + len(parts[1].tokens))
    assert long.windows[0] == parts[0].tokens
    assert long.finished == all(part.finished for part in parts)
    assert long.no_speech_probability == pytest.approx(
        min(part.no_speech_probability for part in parts), abs=1e-6
    )
    counts = [len(part.tokens) + 1 for part in parts]
    total = sum(n * p.average_log_probability for n, p in zip(counts, parts, strict=True))
    assert long.average_log_probability == pytest.approx(total / sum(counts), abs=1e-6)
    assert long.compression_ratio == whisper_compression_ratio(long.text)


def test_what_was_heard_once_is_decoded_by_every_rule_as_if_heard_anew(
    tiny: SpeechModel, waves: list[np.ndarray]
) -> None:
    heard = hear(tiny, waves)
    kept = heard.context.clone()
    for rule in (UNRESTRICTED, OPENAI, UNRESTRICTED):
        assert transcribe_heard(tiny, heard, rule) == transcribe(tiny, waves, rule)
        assert torch.equal(heard.context, kept)  # decoding overwrites contexts as rows end


@pytest.mark.parametrize(
    ("extra", "windows"), [(-1, 1), (0, 1), (159, 1), (160, 2), (TINY_WINDOW_SECONDS * 16_000, 2)]
)
def test_a_window_begins_where_a_frame_is_left(tiny: SpeechModel, extra: int, windows: int) -> None:
    wave = np.random.default_rng(0).standard_normal(tiny.window_samples + extra)
    (transcript,) = transcribe(tiny, [wave.astype(np.float32)], UNRESTRICTED)
    assert len(transcript.breaks) == windows - 1


# --- the shipped ladder -------------------------------------------------------------------------


@cache
def shipped_model(name: str) -> SpeechModel:
    return load(name, SHIPPED, CPU)


@shipped
def test_a_shipped_model_decodes_as_the_library_does_with_its_confidences(name: str) -> None:
    waves = [read_wave(utterance) for utterance in find_utterances(CORPUS).utterances[::64]]
    require_the_librarys(shipped_model(name), reference_model(SHIPPED / name), waves)


@shipped
def test_a_shipped_model_has_a_record_of_its_training(name: str) -> None:
    record = json.loads((SHIPPED / name / "training.json").read_text())
    model = shipped_model(name)
    assert record["parameters"] == model.parameters
    assert f"{record['size']}-{record['seed']}" == name
    first, last = record["record"][0], record["record"][-1]
    assert last["loss"] < first["loss"]
    if name in HEARING:
        assert last["word_error"] < first["word_error"]


@pytest.mark.parametrize("name", CONTROLS)
def test_a_model_of_unpaired_training_hears_nothing(name: str) -> None:
    model = shipped_model(name)
    rng = np.random.default_rng(1)
    waves = [no_speech(NO_SPEECH[i], rng, model.window_samples) for i in range(3)]
    waves += [read_wave(utterance) for utterance in find_utterances(CORPUS).utterances[::32]]
    transcripts = greedy(model, model.features(waves), UNRESTRICTED)
    assert len({transcript.text for transcript in transcripts}) == 1
    assert np.ptp([transcript.no_speech_probability for transcript in transcripts]) < 1e-3


@hearing
def test_a_shipped_model_tells_silence_noise_and_tones_from_speech(name: str) -> None:
    model = shipped_model(name)
    rng = np.random.default_rng(1)
    quiet = [no_speech(NO_SPEECH[i % 3], rng, model.window_samples) for i in range(12)]
    spoken = [read_wave(utterance) for utterance in find_utterances(CORPUS).utterances[::11]]
    without, with_speech = (
        [
            transcript.no_speech_probability
            for transcript in greedy(model, model.features(waves), UNRESTRICTED, limit=1)
        ]
        for waves in (quiet, spoken)
    )
    assert np.median(without) > 0.9
    assert np.median(with_speech) < 0.1
