"""The same weights through openai-whisper and transformers: one view, and the same numbers."""

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

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


@pytest.fixture(scope="module", params=[(MULTILINGUAL, 80), (ENGLISH, 80), (MULTILINGUAL + 1, 128)])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SpeechModel, SpeechModel]:
    """One model through both: multilingual, English, and with 128 mels and one more language."""
    vocabulary, mels = request.param
    folder = tmp_path_factory.mktemp("checkpoints")
    model = random_whisper(dimensions(32, 4, 2, vocabulary, mels))
    file = write_openai(folder / "random.pt", model)
    other = write_transformers(folder / "random", model)
    return load(str(file), NOWHERE, CPU), load(str(other), NOWHERE, CPU)


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    time = np.arange(24_000) / 16_000
    tones = [0.3 * np.sin(2 * np.pi * pitch * time * (1 + 0.1 * time)) for pitch in (220, 1330)]
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(time))
    return [wave.astype(np.float32) for wave in (*tones, noise)]


def test_both_views_say_the_same_of_the_model(pair: tuple[SpeechModel, SpeechModel]) -> None:
    ours, theirs = pair
    for name in ("width", "heads", "limit", "parameters", "window_samples", "dtype"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.tokens == theirs.tokens
    assert len(ours.layers) == len(theirs.layers) == 2
    assert ours.encode_text(TEXT) == theirs.encode_text(TEXT)
    tokens = ours.encode_text(TEXT)
    assert ours.text(tokens) == theirs.text(tokens) == TEXT
    assert not set(tokens) & set(ours.tokens.suppressed)


def test_both_log_mels_agree(
    pair: tuple[SpeechModel, SpeechModel], waves: list[np.ndarray]
) -> None:
    ours, theirs = (model.features(waves) for model in pair)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_audio_longer_than_the_window_is_cut_as_openai_whisper_cuts_it(
    pair: tuple[SpeechModel, SpeechModel],
    waves: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three windows; each holds the loudest tone, by which openai-whisper scales them all."""
    model = pair[0]
    low, high, noise = (np.resize(wave, 240_000) for wave in waves)
    wave = np.concatenate([high, low, noise, high, high, noise])
    suppressed = ",".join(map(str, model.tokens.suppressed))
    theirs = model.module.transcribe(  # type: ignore[operator]
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
    assert [segment["seek"] for segment in theirs["segments"]] == [0, 3000, 6000]
    monkeypatch.setattr(model, "limit", STEPS)
    (ours,) = transcribe(model, [wave], UNRESTRICTED)
    assert ours.tokens == sum((tuple(s["tokens"]) for s in theirs["segments"]), ())
    assert len(ours.breaks) == 2


def test_both_write_the_same_with_the_same_confidence(
    pair: tuple[SpeechModel, SpeechModel], waves: list[np.ndarray]
) -> None:
    features = pair[0].features(waves)
    ours, theirs = (greedy(model, features, UNRESTRICTED, STEPS) for model in pair)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.tokens == other.tokens
        assert mine.text == other.text
        assert mine.average_log_probability == pytest.approx(
            other.average_log_probability, abs=1e-4
        )
        assert mine.no_speech_probability == pytest.approx(other.no_speech_probability, rel=1e-3)
    assert len({one.tokens for one in ours}) > 1, "the model listens"


def test_both_captures_give_the_same_rows_and_spectra(
    pair: tuple[SpeechModel, SpeechModel], waves: list[np.ndarray]
) -> None:
    require_equal_captures(pair, pair[0].features(waves))


def require_equal_captures(
    pair: tuple[SpeechModel, SpeechModel], features: Tensor
) -> tuple[int, ...]:
    """Texts, rows, attention, and the spectra of all components and layers; the first's tokens."""
    recordings = []
    for model in pair:
        with capture(model) as recording:
            transcripts = greedy(model, features, UNRESTRICTED, STEPS)
        recordings.append((recording, transcripts))
    ours, theirs = ([said.tokens for said in each] for _, each in recordings)
    assert ours == theirs
    for kind in (*COMPONENTS, HIDDEN_STATE):
        (mine, mask), (other, _) = (one.text_rows(kind, said) for one, said in recordings)
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)
        ranks = [
            effective_rank(eigenvalues(rows, mask[:, None].expand(rows.shape[:-1])), 10)
            for rows in (mine, other)
        ]
        torch.testing.assert_close(*ranks, rtol=1e-4, atol=0)
    for layer in range(len(pair[0].layers)):
        graphs = [one.attention(said, layer) for one, said in recordings]
        torch.testing.assert_close(*graphs, rtol=1e-3, atol=1e-5)
    return ours[0]


def test_both_encoders_have_the_same_derivative_both_ways(
    pair: tuple[SpeechModel, SpeechModel], waves: list[np.ndarray]
) -> None:
    features = pair[0].features(waves[:1])
    ours, theirs = (encoder_operator(model, features) for model in pair)
    for size, name in zip(ours.shape, ("rmatmat", "matmat"), strict=True):
        columns = torch.randn(size, 2, generator=torch.Generator().manual_seed(0))
        mine, other = (getattr(one, name)(columns) for one in (ours, theirs))
        scale = 1e-4 * mine.abs().max().item()
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=scale)


def test_last_logits_are_those_of_the_last_position_alone(
    pair: tuple[SpeechModel, SpeechModel], waves: list[np.ndarray]
) -> None:
    for model in pair:
        with torch.inference_mode():
            context = model.encode(model.features(waves[:1]))
            row = torch.tensor([[*model.tokens.prompt, 1, 2]])
            whole = model.step(row, context, model.new_cache())
            with last_logits(model):
                last = model.step(row, context, model.new_cache())
            again = model.step(row, context, model.new_cache())
        torch.testing.assert_close(last, whole[:, -1:])
        assert torch.equal(again, whole)


def test_both_have_the_same_propagators(
    pair: tuple[SpeechModel, SpeechModel], waves: list[np.ndarray]
) -> None:
    features = pair[0].features(waves[:1])
    require_equal_propagators(
        pair, features, greedy(pair[0], features, UNRESTRICTED, STEPS)[0].tokens
    )


def require_equal_propagators(
    pair: tuple[SpeechModel, SpeechModel], features: Tensor, tokens: Sequence[int]
) -> None:
    """To 1e-4 of the largest entry, in float64, at the streams of each network, in float32."""
    found = []
    for model in pair:
        streams = residual_streams(model, features, tokens)
        found.append(
            torch.stack(
                [
                    linearise(
                        as_layer(layer.layer, torch.float64),
                        hidden.double(),
                        streams.context.double(),
                    ).propagators()
                    for layer, hidden in zip(model.layers, streams.hidden, strict=True)
                ]
            )
        )
    largest = float(found[0].abs().max())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4 * largest)


def test_all_of_it_holds_at_tiny_s_true_size(waves: list[np.ndarray], tmp_path: Path) -> None:
    """Width 384, four layers on either side, every token and position of the real one."""
    model = random_whisper(dimensions(384, 6, 4, MULTILINGUAL, 80))
    file, folder = write_openai(tmp_path / "tiny.pt", model), tmp_path / "tiny"
    pair = tuple(load(str(p), NOWHERE, CPU) for p in (file, write_transformers(folder, model)))
    assert len(pair) == 2
    assert pair[0].parameters == 37_184_640 + 1500 * 384  # as published, and the frames' positions
    features = pair[0].features(waves[1:2])
    tokens = require_equal_captures(pair, features)
    assert len(set(tokens)) > 2, "it varies"
    require_equal_propagators(pair, features, tokens[:4])


@pytest.mark.parametrize("of", ["openai", "transformers"])
def test_a_distilled_model_of_many_layers_that_listen_and_two_that_write(
    of: str, waves: list[np.ndarray], tmp_path: Path
) -> None:
    small = random_whisper(dimensions(32, 4, 6, MULTILINGUAL + 1, 128, decoder_layers=2))
    write = {"openai": write_openai, "transformers": write_transformers}[of]
    path = write(tmp_path / ("distil.pt" if of == "openai" else "distil"), small)
    model = load(str(path), NOWHERE, CPU)
    assert len(model.layers) == 2
    with capture(model) as recording:
        said = greedy(model, model.features(waves), UNRESTRICTED, STEPS)
    assert recording.text_rows("ffn", said)[0].shape[1] == 2
    assert load_random_control(str(path), NOWHERE, CPU, 0).parameters == model.parameters


def test_several_tokens_are_refused_once_the_cache_is_filled(
    pair: tuple[SpeechModel, SpeechModel], waves: list[np.ndarray]
) -> None:
    model = pair[0]
    context, cache = model.encode(model.features(waves[:1])), model.new_cache()
    prompt = torch.tensor([model.tokens.prompt])
    model.step(prompt, context, cache)
    with pytest.raises(ValueError, match="tokens after the first step; give one at a time"):
        model.step(prompt, context, cache)


def test_a_text_s_tokens_are_those_that_a_model_begins_with(
    pair: tuple[SpeechModel, SpeechModel],
) -> None:
    for model in pair:
        first = model.encode_text("the old sailor")[0]
        assert model.text([first]) == "the"
        assert model.encode_text(" the old sailor ") == model.encode_text("the old sailor")


def test_no_hook_stays_behind_and_capture_changes_nothing(
    pair: tuple[SpeechModel, SpeechModel], waves: list[np.ndarray]
) -> None:
    for model in pair:
        features = model.features(waves)
        before = greedy(model, features, UNRESTRICTED, STEPS)
        with capture(model):
            assert greedy(model, features, UNRESTRICTED, STEPS) == before
        assert not any(module._forward_hooks for module in model.module.modules())


def test_a_random_control_has_the_shape_but_not_the_weights(
    pair: tuple[SpeechModel, SpeechModel],
) -> None:
    for model in pair:
        initialised, again = (
            load_random_control(model.name, NOWHERE, CPU, seed=1) for _ in range(2)
        )
        assert initialised.parameters == model.parameters
        assert initialised.tokens == model.tokens
        assert initialised.name == f"{model.name}-random"
        first, second, trained = (
            torch.cat([p.flatten() for p in one.module.parameters()])
            for one in (initialised, again, model)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, trained)
        assert first.isfinite().all()


def test_controls_are_drawn_alike_for_both_libraries(pair: tuple[SpeechModel, SpeechModel]) -> None:
    spread = []
    for model in pair:
        initialised = load_random_control(model.name, NOWHERE, CPU, seed=1)
        layer = as_layer(initialised.layers[0].layer)
        embedding = next(
            module
            for module in initialised.module.modules()
            if isinstance(module, torch.nn.Embedding) and module.num_embeddings >= ENGLISH
        )
        weights = (
            layer.self_attention.query_weight,
            layer.ffn.in_weight,
            layer.ffn.out_weight,
            embedding.weight,
        )
        spread.append([float(weight.std()) for weight in weights])
        assert not layer.ffn.in_bias.any()
    assert spread[0] == pytest.approx(spread[1], rel=0.05)


# --- what goes wrong -----------------------------------------------------------------------------


def small(seed: int = 0) -> whisper.Whisper:
    return random_whisper(dimensions(32, 4, 1, MULTILINGUAL, 80), seed)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_a_checkpoint_that_would_execute_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"dims": {}, "model_state_dict": Malicious()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad\.pt: no openai-whisper checkpoint .*runs code"):
        load(str(tmp_path / "bad.pt"), NOWHERE, CPU)
    assert not (tmp_path / "executed").exists()


def test_neither_form_of_a_pickle_runs_under_a_checkpoint_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match=r"bare\.pt: no openai-whisper checkpoint"):
        load("bare.pt", NOWHERE, CPU)
    torch.save(Malicious(), tmp_path / "tiny.pt")
    with pytest.raises(ValueError, match=r"tiny\.pt: SHA-256 .*expected"):
        load("tiny", tmp_path, CPU)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_in_a_folder_of_transformers_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_transformers(tmp_path / "folder", small())
    torch.save({"model.encoder.conv1.weight": Malicious()}, folder / "pytorch_model.bin")
    assert load("folder", NOWHERE, CPU).width == 32
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"folder: cannot be loaded .*model\.safetensors"):
        load("folder", NOWHERE, CPU)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.pt: no openai-whisper checkpoint"):
        load(str(tmp_path / "broken.pt"), NOWHERE, CPU)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    model = small()
    state = model.state_dict() | {"decoder.ln.weight": torch.ones(7)}
    torch.save({"dims": vars(model.dims), "model_state_dict": state}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt: no openai-whisper checkpoint"):
        load(str(tmp_path / "odd.pt"), NOWHERE, CPU)


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_a_repository_put_where_the_message_says_is_found(tmp_path: Path) -> None:
    write_transformers(tmp_path / "openai" / "whisper-tiny", small())
    assert load("openai/whisper-tiny", tmp_path, CPU).width == 32


def test_a_repository_fetched_before_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--openai--whisper-tiny"
    folder = cache / "snapshots" / revision
    write_transformers(folder, small())
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("requests.head", None)
    assert load("openai/whisper-tiny", NOWHERE, CPU).width == 32
    assert weights_digest("openai/whisper-tiny", NOWHERE) == f"openai/whisper-tiny@{revision}"


def test_checkpoints_in_the_folder_of_models_are_known_by_their_names(tmp_path: Path) -> None:
    write_openai(tmp_path / "ours.pt", small())
    write_transformers(tmp_path / "theirs", small())
    ours, theirs = load("ours", tmp_path, CPU), load("theirs", tmp_path, CPU)
    assert (ours.name, theirs.name) == ("ours", "theirs")
    assert ours.parameters == theirs.parameters
    assert weights_digest("ours", tmp_path) != weights_digest("theirs", tmp_path)
    assert load_random_control("ours", tmp_path, CPU, 0).parameters == ours.parameters


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
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = write_transformers(tmp_path / "folder", small())
    spoil(folder / "model.safetensors")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(str(folder), NOWHERE, CPU)


def test_a_folder_comes_before_openai_s_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_transformers(tmp_path / "tiny", small())
    monkeypatch.chdir(tmp_path)
    assert load("tiny", NOWHERE, CPU).width == 32


def test_a_missing_file_and_an_unknown_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such file"):
        load(str(tmp_path / "gone.pt"), NOWHERE, CPU)
    with pytest.raises(FileNotFoundError, match="no model 'whispr'; .* large-v3"):
        load("whispr", NOWHERE, CPU)


def test_rows_are_keyed_by_the_weights(tmp_path: Path) -> None:
    keys = set()
    for seed in (0, 1):
        file = write_openai(tmp_path / "one.pt", small(seed))
        keys.add(weights_digest(str(file), NOWHERE))
    assert len(keys) == 2
