"""Moonshine through the view of a speech model, against transformers' own forward pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from moonshine import END, START, VOCABULARY, write_moonshine
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import MoonshineForConditionalGeneration

from companion.measurement.jacobians import measure_jacobians
from companion.measurement.settings import JacobianSettings, SpectralSettings
from companion.measurement.spectra import measure_spectra
from companion.measurement.store import read
from companion.models.capture import COMPONENTS, HIDDEN_STATE, capture
from companion.models.decoding import greedy, transcribe
from companion.models.forcing import teacher_forced
from companion.models.loading import load, load_random_twin, weights_digest
from companion.models.rules import UNRESTRICTED
from companion.models.streams import residual_streams
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances, read_wave
from spectral import effective_rank, eigenvalues
from spectral.jacobians.propagators import autodiff_propagators

CPU = torch.device("cpu")
NOWHERE = Path("no ladder")
LAYERS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moonshine(tmp_path_factory.mktemp("checkpoints") / "moon", layers=LAYERS)


@pytest.fixture(scope="module")
def model(folder: Path) -> SpeechModel:
    return load(str(folder), NOWHERE, CPU)


@pytest.fixture(scope="module")
def reference(folder: Path) -> MoonshineForConditionalGeneration:
    """The library's own, with attention written out."""
    return MoonshineForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    """Of four lengths: tones, and noise."""
    time = np.arange(40_000) / 16_000
    tones = [
        0.3 * np.sin(2 * np.pi * pitch * time[:samples] * (1 + 0.1 * time[:samples]))
        for pitch, samples in ((220, 24_000), (1330, 16_001), (500, 40_000))
    ]
    noise = 0.1 * np.random.default_rng(0).standard_normal(30_000)
    return [wave.astype(np.float32) for wave in (*tones, noise)]


def test_the_folder_s_model_type_decides(model: SpeechModel) -> None:
    assert type(model).__name__ == "MoonshineModel"
    assert (model.width, model.heads, len(model.layers)) == (32, 4, LAYERS)
    assert model.limit == 39, "one of its 40 positions is the start's"
    assert model.tokens.prompt == (START,)
    assert model.tokens.end == END
    assert model.tokens.no_speech is None
    assert START in model.tokens.suppressed
    assert set(range(317, VOCABULARY)) <= set(model.tokens.suppressed), "spare, or without a name"
    assert END not in model.tokens.suppressed


def test_texts_become_tokens_and_back(model: SpeechModel) -> None:
    tokens = model.encode_text("the old sin")
    assert model.text(tokens) == "the old sin"
    assert model.text([START, *tokens, END]) == "the old sin"
    assert model.text([tokens[0]]) == "the"
    assert model.text(model.encode_text("caf\u00e9")) == "caf\u00e9", "by bytes"


@pytest.mark.parametrize("i", range(4))
def test_it_writes_what_the_library_generates(
    model: SpeechModel,
    reference: MoonshineForConditionalGeneration,
    waves: list[np.ndarray],
    i: int,
) -> None:
    theirs = reference.generate(
        torch.from_numpy(waves[i])[None],
        do_sample=False,
        max_new_tokens=model.limit,
        suppress_tokens=list(model.tokens.suppressed),
        pad_token_id=END,
    )[0].tolist()
    (ours,) = transcribe(model, [waves[i]], UNRESTRICTED)
    assert [START, *ours.tokens, *([END] if ours.finished else [])] == theirs


def test_the_texts_differ_and_some_end(model: SpeechModel, waves: list[np.ndarray]) -> None:
    texts = transcribe(model, waves, UNRESTRICTED)
    assert len({text.tokens for text in texts}) == len(waves)
    assert {text.finished for text in texts} == {True, False}


def test_an_utterance_s_text_and_spectra_do_not_depend_on_its_batch(
    model: SpeechModel, waves: list[np.ndarray]
) -> None:
    with capture(model) as recording:
        together = transcribe(model, waves, UNRESTRICTED)
    rows, _ = recording.text_rows("cross_attention", together)
    for i, wave in enumerate(waves):
        with capture(model) as single:
            (alone,) = transcribe(model, [wave], UNRESTRICTED)
        assert alone.tokens == together[i].tokens
        assert alone.average_log_probability == pytest.approx(
            together[i].average_log_probability, abs=1e-5
        )
        own, _ = single.text_rows("cross_attention", [alone])
        torch.testing.assert_close(rows[i, :, : own.shape[2]], own[0], rtol=1e-4, atol=1e-5)


def test_confidences_are_those_of_the_library_s_logits(
    model: SpeechModel, reference: MoonshineForConditionalGeneration, waves: list[np.ndarray]
) -> None:
    (text,) = transcribe(model, waves[:1], UNRESTRICTED)
    with torch.no_grad():
        logits = reference(
            torch.from_numpy(waves[0])[None],
            decoder_input_ids=torch.tensor([[START, *text.tokens]]),
        ).logits[0]
    logits[:, list(model.tokens.suppressed)] = -torch.inf
    written = [*text.tokens, END] if text.finished else list(text.tokens)
    chosen = logits.double().log_softmax(-1)[range(len(written)), written]
    expected = float(chosen.sum()) / (len(text.tokens) + 1)
    assert text.text_log_probability == pytest.approx(expected, abs=1e-5)
    assert np.isnan(text.no_speech_probability)


class Forward:
    """Components and hidden states of one text, worked out from the library's hidden states."""

    def __init__(
        self, reference: MoonshineForConditionalGeneration, wave: np.ndarray, tokens: list[int]
    ) -> None:
        decoder = reference.model.decoder
        ids = torch.tensor([[START, *tokens]])
        with torch.no_grad():
            found = reference(
                torch.from_numpy(wave)[None],
                decoder_input_ids=ids,
                output_hidden_states=True,
                output_attentions=True,
            )
            self.attentions = found.decoder_attentions
            self.context = found.encoder_last_hidden_state
            self.before = found.decoder_hidden_states[:LAYERS]
            self.causal = torch.full((1, 1, ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
            self.rotary = decoder.rotary_emb(self.context, torch.arange(ids.shape[1])[None])
            self.components: dict[str, list[Tensor]] = {name: [] for name in COMPONENTS}
            self.after = [
                self._layer(*pair) for pair in zip(decoder.layers, self.before, strict=True)
            ]
            torch.testing.assert_close(self.after[0], self.before[1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                reference.proj_out(decoder.norm(self.after[-1])), found.logits, rtol=1e-4, atol=1e-4
            )

    def _layer(self, layer: torch.nn.Module, hidden: Tensor) -> Tensor:
        own = layer.self_attn(layer.input_layernorm(hidden), self.rotary, self.causal)[0]
        hidden = hidden + own
        normal = layer.post_attention_layernorm(hidden)
        cross = layer.encoder_attn(normal, key_value_states=self.context)[0]
        hidden = hidden + cross
        up = functional.linear(
            layer.final_layernorm(hidden), layer.mlp.fc1.weight, layer.mlp.fc1.bias
        )
        values, gate = up.tensor_split(2, dim=-1)
        ffn = functional.linear(
            functional.silu(gate) * values, layer.mlp.fc2.weight, layer.mlp.fc2.bias
        )
        for name, output in zip(COMPONENTS, (own, cross, ffn), strict=True):
            self.components[name].append(output)
        return hidden + ffn


def test_rows_and_spectra_are_those_of_a_plain_forward_pass(
    model: SpeechModel, reference: MoonshineForConditionalGeneration, waves: list[np.ndarray]
) -> None:
    with capture(model) as recording:
        texts = transcribe(model, waves, UNRESTRICTED)
    for i, (wave, text) in enumerate(zip(waves, texts, strict=True)):
        plain = Forward(reference, wave, list(text.tokens))
        count = len(text.tokens)
        for kind in (*COMPONENTS, HIDDEN_STATE):
            layers = plain.after if kind == HIDDEN_STATE else plain.components[kind]
            expected = torch.stack([rows[0, :count] for rows in layers])
            rows, _ = recording.text_rows(kind, texts)
            torch.testing.assert_close(rows[i, :, :count], expected, rtol=1e-3, atol=1e-4)
            centred = expected.double() - expected.double().mean(1, keepdim=True)
            squares = np.linalg.svd(centred.numpy(), compute_uv=False) ** 2 / (count - 1)
            share = squares[:, :10] / squares[:, :10].sum(-1, keepdims=True)
            ranks = np.exp(-(share * np.log(share)).sum(-1))
            found = effective_rank(eigenvalues(rows[i, :, :count]), 10)
            np.testing.assert_allclose(found, ranks, rtol=1e-4)


def test_attention_graphs_know_the_rotary_positions(
    model: SpeechModel, reference: MoonshineForConditionalGeneration, waves: list[np.ndarray]
) -> None:
    with capture(model) as recording:
        texts = transcribe(model, waves[:1], UNRESTRICTED)
    plain = Forward(reference, waves[0], list(texts[0].tokens))
    count = len(texts[0].tokens)
    for layer in range(LAYERS):
        ours = recording.attention(texts, layer)[0]
        theirs = plain.attentions[layer][0, :, :count, :count].double()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_propagators_of_the_general_path_are_the_blocks_of_the_whole_jacobian(
    model: SpeechModel, folder: Path, waves: list[np.ndarray]
) -> None:
    """The whole by brute force, in float64; the written-out attention would round to float32."""
    exact = MoonshineForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="sdpa"
    ).eval()
    tokens = greedy(model, model.features(waves[:1]), UNRESTRICTED, limit=5)[0].tokens
    streams = residual_streams(model, model.features(waves[:1]), tokens)
    context = streams.context.double()
    count = len(tokens) + 1
    causal = torch.full((1, 1, count, count), -torch.inf, dtype=torch.float64).triu(1)
    rotary = exact.model.decoder.rotary_emb(context, torch.arange(count)[None])
    for i, layer in enumerate(exact.model.decoder.layers):
        hidden = streams.hidden[i][0].double()

        def whole(rows: Tensor, layer: torch.nn.Module = layer) -> Tensor:
            output: Tensor = layer(rows[None], causal, context, position_embeddings=rotary)
            return output[0]

        with sdpa_kernel(SDPBackend.MATH):
            jacobian = torch.func.jacrev(whole)(hidden)
        ours = autodiff_propagators(model.layer_function(i, context), hidden)
        for t in range(count):
            torch.testing.assert_close(ours[t], jacobian[t, :, t], rtol=1e-8, atol=1e-10)
        earlier = jacobian[1, :, 0]
        assert float(earlier.detach().norm()) > 1e-3, "a token does depend on those before it"
        assert not jacobian[0, :, 1].any(), "and on none after it"


def test_a_whisper_s_layer_function_is_its_closed_form(tiny: SpeechModel, speech: Path) -> None:
    """The general path of a model that has both: equal to the layer that decodes."""
    features = tiny.features([read_wave(find_utterances(speech).utterances[0])])
    streams = residual_streams(tiny, features, [1, 2, 3])
    for layer in range(len(tiny.layers) - 1):
        output = tiny.layer_function(layer, streams.context)(streams.hidden[layer][0])
        torch.testing.assert_close(output, streams.hidden[layer + 1][0], rtol=1e-4, atol=1e-5)


def test_a_random_twin_has_the_shape_but_not_the_weights(model: SpeechModel) -> None:
    twin, again = (load_random_twin(model.name, NOWHERE, CPU, seed=1) for _ in range(2))
    assert twin.name == f"{model.name}-random"
    assert (twin.parameters, twin.tokens, twin.limit) == (
        model.parameters,
        model.tokens,
        model.limit,
    )
    weights = [one.layers[0].query.weight for one in (twin, again, model)]  # type: ignore[union-attr]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert float(weights[0].detach().std()) == pytest.approx((3 * model.width) ** -0.5, rel=0.05)


def test_a_text_is_scored_as_it_was_written(model: SpeechModel, waves: list[np.ndarray]) -> None:
    scores = teacher_forced(model, model.features(waves), ["the old sin", "sin", "a", "the the"])
    assert all(np.isfinite(score.loss) and score.loss > 0 for score in scores)


def test_audio_is_cut_into_windows_and_padded_to_one_position(
    model: SpeechModel, monkeypatch: pytest.MonkeyPatch, waves: list[np.ndarray]
) -> None:
    monkeypatch.setattr(model, "window_samples", 16_000)
    (text,) = transcribe(model, [np.concatenate([waves[0], waves[2]])], UNRESTRICTED)
    assert len(text.breaks) == 3, "64,000 samples are four windows"
    (short,) = transcribe(model, [waves[0][:300]], UNRESTRICTED)
    assert len(short.tokens) <= model.limit


def test_weights_that_give_nan_are_named(folder: Path, waves: list[np.ndarray]) -> None:
    broken = load(str(folder), NOWHERE, CPU)
    with torch.no_grad():
        broken.module.model.encoder.conv1.weight[0] = torch.nan  # type: ignore[union-attr,index]
    with pytest.raises(ValueError, match="its encoder gives NaN"):
        transcribe(broken, waves[:1], UNRESTRICTED)


# --- the measurements ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(
    folder: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory
) -> SpectralSettings:
    return SpectralSettings(
        model="moon",
        ladder=folder.parent,
        corpus=speech,
        output=tmp_path_factory.mktemp("measured") / "moon.parquet",
        conditions=("clean", "hell"),
        decoding="unrestricted",
        seed=0,
        batch=3,
        device="cpu",
        utterances=4,
        modes=(4, 10),
        epsilon=1e-6,
    )


def test_it_is_measured_from_end_to_end(settings: SpectralSettings, model: SpeechModel) -> None:
    summary = measure_spectra(settings)
    rows = read([summary.output])
    assert summary.measured == 4
    assert set(rows.component) == set(COMPONENTS)
    assert rows.no_speech_probability.isna().all()
    assert rows.n_eff[rows.resolved > 0].notna().all()
    one = rows[(rows.condition == "clean") & (rows.matched_with == "")].iloc[0]
    wave = read_wave(
        next(u for u in find_utterances(settings.corpus).utterances if u.id == one.utterance)
    )
    assert transcribe(model, [wave], UNRESTRICTED)[0].text == one.transcript


def test_jacobians_say_in_one_line_why_there_are_none(settings: SpectralSettings) -> None:
    shared = {
        name: getattr(settings, name) for name in ("ladder", "corpus", "conditions", "decoding")
    }
    wanted = JacobianSettings(
        model="moon", output=settings.output.with_name("jacobians.parquet"), seed=0, batch=1,
        device="cpu", utterances=1, tokens=1, probes=1, **shared,
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"moon: .*MoonshineDecoderLayer; .*autodiff_propagators"):
        measure_jacobians(wanted)


# --- what goes wrong -----------------------------------------------------------------------------


def test_rows_are_keyed_by_the_weights(folder: Path, tmp_path: Path) -> None:
    other = write_moonshine(tmp_path / "other", layers=1)
    assert weights_digest(str(folder), NOWHERE) != weights_digest(str(other), NOWHERE)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_moonshine(tmp_path / "odd", layers=1)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"eos_token_id": 2', '"eos_token_id": null'))
    with pytest.raises(ValueError, match=r"eos_token_id None\); give the folder its own config"):
        load(str(folder), NOWHERE, CPU)


def test_another_kind_of_model_is_named(tmp_path: Path) -> None:
    folder = write_moonshine(tmp_path / "odd", layers=1)
    (folder / "config.json").write_text('{"model_type": "speech_to_text"}')
    with pytest.raises(ValueError, match=r"'speech_to_text' .*; known are whisper, moonshine"):
        load(str(folder), NOWHERE, CPU)
