"""The same weights through openai-whisper and transformers: one view, and the same numbers."""

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import requests
import torch
import whisper
from checkpoints import (
    ENGLISH,
    MULTILINGUAL,
    dimensions,
    random_whisper,
    write_openai,
    write_transformers,
)
from huggingface_hub import constants
from in_memory import require_clean, sounds
from safetensors.torch import load_file, save_file
from torch import Tensor

from companion.measurement.hearing import encoder_operator
from companion.models.capture import COMPONENTS, HIDDEN_STATE, capture
from companion.models.decoding import greedy, transcribe
from companion.models.forcing import residual_streams
from companion.models.loading import load, load_random_control, weights_digest
from companion.models.rules import UNRESTRICTED
from companion.models.view import SpeechModel, last_logits
from spectral import effective_rank, eigenvalues, linearise
from spectral.whisper import as_layer

CPU = torch.device("cpu")
NOWHERE = Path("no ladder")
TEXT = "The old sailor found a small letter, didn't he?"
STEPS = 12
Pair = tuple[SpeechModel, SpeechModel]


@pytest.fixture(scope="module", params=[(MULTILINGUAL, 80), (ENGLISH, 80), (MULTILINGUAL + 1, 128)])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One model through both: multilingual, English, and with 128 mels and one more language."""
    vocabulary, mels = request.param
    folder = tmp_path_factory.mktemp("checkpoints")
    model = random_whisper(dimensions(32, 4, 2, vocabulary, mels))
    file = write_openai(folder / "random.pt", model)
    other = write_transformers(folder / "random", model)
    return load(str(file), NOWHERE, CPU), load(str(other), NOWHERE, CPU)


def test_both_views_say_the_same_of_the_model_of_texts_and_of_sounds(pair: Pair) -> None:
    openai, other = pair
    for name in ("width", "heads", "limit", "parameters", "window_samples", "dtype", "tokens"):
        assert getattr(openai, name) == getattr(other, name), name
    assert len(openai.layers) == len(other.layers) == 2
    for model in pair:
        tokens = model.encode_text(TEXT)
        assert tokens == openai.encode_text(f" {TEXT} ")
        assert model.text(tokens) == TEXT
        assert model.text(tokens[:1]) == "The", "a text's tokens are those that a model begins with"
        assert not set(tokens) & set(model.tokens.suppressed)
    mels = [model.features(sounds()) for model in pair]
    torch.testing.assert_close(*mels, rtol=0, atol=1e-4)


def test_audio_longer_than_the_window_is_cut_as_openai_whisper_cuts_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three windows; each holds the loudest tone, by which openai-whisper scales them all."""
    model = pair[0]
    low, high, noise = (np.resize(wave, 240_000) for wave in sounds())
    wave = np.concatenate([high, low, noise, high, high, noise])
    suppressed = ",".join(map(str, model.tokens.suppressed))
    reference = model.module.transcribe(  # type: ignore[operator]
        wave,
        temperature=0.0,
        without_timestamps=True,
        condition_on_previous_text=False,
        no_speech_threshold=None,
        logprob_threshold=None,
        compression_ratio_threshold=None,
        suppress_tokens=suppressed,
        suppress_blank=False,
        language="en",
        fp16=False,
        sample_len=STEPS,
    )
    assert [segment["seek"] for segment in reference["segments"]] == [0, 3000, 6000]
    monkeypatch.setattr(model, "limit", STEPS)
    (transcript,) = transcribe(model, [wave], UNRESTRICTED)
    assert transcript.tokens == sum((tuple(s["tokens"]) for s in reference["segments"]), ())
    assert len(transcript.breaks) == 2


def test_both_captures_give_the_same_rows_and_spectra_and_change_nothing(pair: Pair) -> None:
    features = pair[0].features(sounds())
    texts = require_equal_captures(pair, features)
    assert len(set(texts)) > 1, "the model listens"
    for model in pair:
        require_clean(model.module)
        alone = [transcript.tokens for transcript in greedy(model, features, UNRESTRICTED, STEPS)]
        assert alone == texts


def require_equal_captures(pair: Pair, features: Tensor) -> list[tuple[int, ...]]:
    """Texts and confidences, rows, attention, spectra of all components and layers; the tokens."""
    recordings, transcripts = [], []
    for model in pair:
        with capture(model) as recording:
            transcripts.append(greedy(model, features, UNRESTRICTED, STEPS))
        recordings.append(recording)
    for first, second in zip(*transcripts, strict=True):
        assert (first.tokens, first.text) == (second.tokens, second.text)
        confidence = pytest.approx(first.average_log_probability, abs=1e-4)
        assert second.average_log_probability == confidence
        assert second.no_speech_probability == pytest.approx(first.no_speech_probability, rel=1e-3)
    captured = [*zip(recordings, transcripts, strict=True)]
    for kind in (*COMPONENTS, HIDDEN_STATE):
        (rows, mask), (other, _) = (recording.text_rows(kind, t) for recording, t in captured)
        torch.testing.assert_close(rows, other, rtol=1e-3, atol=1e-4)
        real = mask[:, None].expand(rows.shape[:-1])
        ranks = [effective_rank(eigenvalues(values, real), 10) for values in (rows, other)]
        torch.testing.assert_close(*ranks, rtol=1e-4, atol=0)
    for layer in range(len(pair[0].layers)):
        graphs = [recording.attention(t, layer) for recording, t in captured]
        torch.testing.assert_close(*graphs, rtol=1e-3, atol=1e-5)
    return [transcript.tokens for transcript in transcripts[0]]


def test_both_encoders_have_the_same_derivative_both_ways(pair: Pair) -> None:
    features = pair[0].features(sounds()[:1])
    operators = [encoder_operator(model, features) for model in pair]
    for size, name in zip(operators[0].shape, ("rmatmat", "matmat"), strict=True):
        columns = torch.randn(size, 2, generator=torch.Generator().manual_seed(0))
        expected, actual = (getattr(operator, name)(columns) for operator in operators)
        scale = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=scale)


def test_last_logits_are_those_of_the_last_position_alone(pair: Pair) -> None:
    for model in pair:
        with torch.inference_mode():
            context = model.encode(model.features(sounds()[:1]))
            row = torch.tensor([[*model.tokens.prompt, 1, 2]])
            full = model.step(row, context, model.new_cache())
            with last_logits(model):
                last = model.step(row, context, model.new_cache())
            again = model.step(row, context, model.new_cache())
        torch.testing.assert_close(last, full[:, -1:])
        assert torch.equal(again, full)


def test_both_have_the_same_propagators(pair: Pair) -> None:
    features = pair[0].features(sounds()[:1])
    require_equal_propagators(
        pair, features, greedy(pair[0], features, UNRESTRICTED, STEPS)[0].tokens
    )


def require_equal_propagators(
    pair: Pair, features: Tensor, tokens: Sequence[int], at: slice = slice(None)
) -> None:
    """To 1e-4 of the largest entry, in float64, at the streams of each network, in float32."""
    propagators = []
    for model in pair:
        streams = residual_streams(model, features, tokens)
        layers = [as_layer(layer.layer, torch.float64) for layer in model.layers]
        hidden = [stream.double() for stream in streams.hidden]
        point = linearise(layers, hidden, streams.context.double(), tokens=at)
        propagators.append(point.propagators())
    largest = float(propagators[0].abs().max())
    torch.testing.assert_close(*propagators, rtol=0, atol=1e-4 * largest)


def test_all_of_it_holds_at_tiny_s_true_size(tmp_path: Path) -> None:
    """Width 384, four layers on either side, every token and position of the real one."""
    model = random_whisper(dimensions(384, 6, 4, MULTILINGUAL, 80))
    file, folder = write_openai(tmp_path / "tiny.pt", model), tmp_path / "tiny"
    pair = tuple(load(str(p), NOWHERE, CPU) for p in (file, write_transformers(folder, model)))
    assert len(pair) == 2
    assert pair[0].parameters == 37_184_640 + 1500 * 384  # as published, and the frames' positions
    features = pair[0].features(sounds()[1:2])
    (tokens,) = require_equal_captures(pair, features)
    assert len(set(tokens)) > 2, "it varies"
    require_equal_propagators(pair, features, tokens[:2], at=slice(-2, None))


@pytest.mark.parametrize("of", ["openai", "transformers"])
def test_a_distilled_model_of_many_layers_that_listen_and_two_that_write(
    of: str, tmp_path: Path
) -> None:
    small = random_whisper(dimensions(32, 4, 6, MULTILINGUAL + 1, 128, decoder_layers=2))
    write = {"openai": write_openai, "transformers": write_transformers}[of]
    path = write(tmp_path / ("distil.pt" if of == "openai" else "distil"), small)
    model = load(str(path), NOWHERE, CPU)
    assert len(model.layers) == 2
    with capture(model) as recording:
        transcripts = greedy(model, model.features(sounds()), UNRESTRICTED, STEPS)
    assert recording.text_rows("ffn", transcripts)[0].shape[1] == 2
    assert load_random_control(str(path), NOWHERE, CPU, 0).parameters == model.parameters


def test_several_tokens_are_refused_once_the_cache_is_filled(pair: Pair) -> None:
    model = pair[0]
    context, cache = model.encode(model.features(sounds()[:1])), model.new_cache()
    prompt = torch.tensor([model.tokens.prompt])
    model.step(prompt, context, cache)
    with pytest.raises(ValueError, match="tokens after the first step; give one at a time"):
        model.step(prompt, context, cache)


def test_a_random_control_has_the_shape_but_not_the_weights_drawn_alike_for_both(
    pair: Pair,
) -> None:
    spread = []
    for model in pair:
        initialised, again = (
            load_random_control(model.name, NOWHERE, CPU, seed=1) for _ in range(2)
        )
        assert initialised.parameters == model.parameters
        assert initialised.tokens == model.tokens
        assert initialised.name == f"{model.name}-random"
        first, second, trained = (
            torch.cat([p.flatten() for p in network.module.parameters()])
            for network in (initialised, again, model)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, trained)
        assert first.isfinite().all()
        layer = as_layer(initialised.layers[0].layer)
        embedding = max(initialised.module.parameters(), key=torch.numel)
        weights = (layer.self_attention.query_weight, layer.ffn.in_weight, layer.ffn.out_weight)
        spread.append([float(weight.std()) for weight in (*weights, embedding)])
        assert not layer.ffn.in_bias.any()
    assert spread[0] == pytest.approx(spread[1], rel=0.05)


# --- what goes wrong -----------------------------------------------------------------------------


def small(seed: int = 0) -> whisper.Whisper:
    return random_whisper(dimensions(32, 4, 1, MULTILINGUAL, 80), seed)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers, to be copied."""
    return write_transformers(tmp_path_factory.mktemp("written") / "folder", small())


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_a_file_that_is_no_checkpoint_is_named_and_no_form_of_a_pickle_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dims, state = vars(small().dims), small().state_dict()
    saved = {
        "odd": {"dims": dims, "model_state_dict": state | {"decoder.ln.weight": torch.ones(7)}},
        "state": {"dims": {}, "model_state_dict": Malicious()},
        "tiny": Malicious(),
    }
    raw = {"empty": b"", "text": b"no", "zip": b"PK\x03\x04", "bare": pickle.dumps(Malicious())}
    for name in saved:
        torch.save(saved[name], f"{name}.pt")
    for name in raw:
        Path(f"{name}.pt").write_bytes(raw[name])
    for name in (*saved, *raw):
        message = "SHA-256 .*expected" if name == "tiny" else "no openai-whisper checkpoint"
        message += " .*runs code" if name == "state" else ""
        with pytest.raises(ValueError, match=rf"{name}\.pt: {message}"):
            load(name, tmp_path, CPU)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_in_a_folder_of_transformers_is_not_read(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copytree(written, tmp_path / "folder")
    torch.save({"model.encoder.conv1.weight": Malicious()}, folder / "pytorch_model.bin")
    assert load("folder", NOWHERE, CPU).width == 32
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"folder: cannot be loaded .*model\.safetensors"):
        load("folder", NOWHERE, CPU)
    assert not (tmp_path / "executed").exists()


def test_without_a_network_the_error_says_what_is_missing_where_and_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(url: str, **_: object) -> None:
        raise requests.ConnectionError("no route")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("requests.get", unreachable)
    with pytest.raises(FileNotFoundError) as error:
        load("tiny", NOWHERE, CPU)
    url = whisper._MODELS["tiny"]
    for part in (
        "azureedge.net cannot be reached; check the network",
        url,
        str(tmp_path),
        url.split("/")[-2],
    ):
        assert part in str(error.value)


def test_a_repository_that_cannot_be_reached_says_what_to_put_where_and_does_not_try_on(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def unreachable(url: str, **_: object) -> None:
        asked.append(url)
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("requests.head", unreachable)
    with pytest.raises(FileNotFoundError) as error:
        load("openai/whisper-tiny", tmp_path, CPU)
    for part in (
        "https://huggingface.co cannot be reached",
        "model.safetensors, config.json, tokenizer.json",
        "of https://huggingface.co/openai/whisper-tiny",
        f"into {tmp_path}/openai/whisper-tiny",
        "states its SHA-256",
    ):
        assert part in str(error.value)
    assert len(asked) == 1
    copytree(written, tmp_path / "openai" / "whisper-tiny")
    assert load("openai/whisper-tiny", tmp_path, CPU).width == 32


def test_a_repository_fetched_before_needs_no_network(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--openai--whisper-tiny"
    folder = cache / "snapshots" / revision
    copytree(written, folder)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("requests.head", None)
    assert load("openai/whisper-tiny", NOWHERE, CPU).width == 32
    assert weights_digest("openai/whisper-tiny", NOWHERE) == f"openai/whisper-tiny@{revision}"


def test_checkpoints_in_the_folder_of_models_are_known_by_their_names(
    written: Path, tmp_path: Path
) -> None:
    write_openai(tmp_path / "ours.pt", small())
    copytree(written, tmp_path / "theirs")
    write_openai(tmp_path / "other.pt", small(seed=1))
    names = ("ours", "theirs", "other")
    models = [load(name, tmp_path, CPU) for name in names]
    assert tuple(model.name for model in models) == names
    models.append(load_random_control("ours", tmp_path, CPU, 0))
    assert len({model.parameters for model in models}) == 1
    assert len({weights_digest(name, tmp_path) for name in names}) == 3, "which rows are keyed by"


def test_an_official_name_with_other_weights_is_refused_and_the_file_left_alone(
    tmp_path: Path,
) -> None:
    file = write_openai(tmp_path / "tiny.pt", small())
    before = file.read_bytes()
    expected = whisper._MODELS["tiny"].split("/")[-2]
    with pytest.raises(ValueError, match=rf"tiny\.pt: SHA-256 .*expected {expected}; remove"):
        load("tiny", tmp_path, CPU)
    assert file.read_bytes() == before


def without(file: Path, lost: str) -> None:
    """Weights of which one is missing."""
    state = load_file(file)
    del state[lost]
    save_file(state, file, metadata={"format": "pt"})


FC1 = "model.decoder.layers.0.fc1.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, r"cannot be loaded .*model\.safetensors"),
        (lambda weights: (weights.parent / "tokenizer.json").unlink(), r"tokenizer\.json"),
        (lambda weights: without(weights, FC1), f"do not fit its configuration .*{FC1}"),
        (lambda weights: weights.write_bytes(b"cut"), "folder: no speech model of transformers"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_and_nothing_made_up(
    spoil: Callable[[Path], object], message: str, written: Path, tmp_path: Path
) -> None:
    folder = copytree(written, tmp_path / "folder")
    spoil(folder / "model.safetensors")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(str(folder), NOWHERE, CPU)


def test_a_folder_comes_before_openai_s_name(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(written, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert load("tiny", NOWHERE, CPU).width == 32


def test_a_missing_file_and_an_unknown_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such file"):
        load(str(tmp_path / "gone.pt"), NOWHERE, CPU)
    with pytest.raises(FileNotFoundError, match="no model 'whispr'; .* large-v3"):
        load("whispr", NOWHERE, CPU)
