"""Models in memory, traced while their own libraries decode: the same texts, the same numbers."""

import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import as_transformers, dimensions, random_whisper
from in_memory import (
    PROMPT,
    Case,
    assert_close,
    forward,
    generating,
    openai_case,
    plain,
    require_clean,
    sounds,
    transformers_case,
)
from torch import Tensor, nn
from whisper import timing
from whisper.decoding import DecodingOptions, DecodingTask

import spectral
from companion.measurement.jacobians import Stack, jacobian_columns
from companion.measurement.tangents import as_norm
from companion.models.capture import COMPONENTS, capture
from companion.models.decoding import Heard, greedy, transcribe_heard
from companion.models.forcing import residual_streams
from companion.models.loading import is_here, load
from companion.models.random_layers import random_layer
from companion.models.rules import OPENAI, UNRESTRICTED
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances, read_wave
from spectral.tracing.trace import Trace
from spectral.whisper import as_layer

CPU = torch.device("cpu")
NOWHERE = Path("no ladder")
CORPUS = Path(__file__).parents[1] / "data" / "corpus"
STEPS = 8
PLAIN = plain(STEPS)


@pytest.fixture(scope="module")
def openai() -> Case:
    return openai_case(STEPS)


@pytest.fixture(scope="module")
def transformers(openai: Case) -> Case:
    return transformers_case(openai, STEPS)


@pytest.fixture(scope="module", params=["openai", "transformers"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def traced(case: Case) -> Trace:
    """Of free-running texts of three sounds."""
    with spectral.attach(case.model) as trace:
        case.decode(case.features)
    return trace


def close_rows(
    actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-5
) -> None:
    """Window by window."""
    for pair in zip(actual, expected, strict=True):
        assert_close(*pair, tolerance)


# --- what is written stays the same, and what is recorded is right --------------------------------


def test_texts_are_those_without_and_nothing_stays_hooked(case: Case) -> None:
    before = case.decode(case.features)
    with spectral.attach(case.model) as trace:
        assert case.decode(case.features) == before
    require_clean(case.model)
    assert [list(window.tokens) for window in trace.windows] == before
    assert [window.row for window in trace.windows] == [0, 1, 2]
    assert all(window.kept and window.attempt == 1 for window in trace.windows)
    assert len({tuple(text) for text in before}) > 1, "the model listens"


def test_confidences_of_openai_whisper_are_those_without(openai: Case) -> None:
    def confidences() -> list[tuple[object, ...]]:
        results = openai.model.decode(openai.features, PLAIN)
        return [(r.text, r.avg_logprob, r.no_speech_prob, r.compression_ratio) for r in results]

    before = confidences()
    with spectral.attach(openai.model):
        assert confidences() == before


def test_free_running_rows_are_those_of_the_same_tokens_given_at_once(
    case: Case, traced: Trace
) -> None:
    free, rows = traced, torch.tensor([[*PROMPT, *window.tokens] for window in traced.windows])
    with spectral.attach(case.model) as given:
        forward(case.model, case.features, rows)
    assert [w.tokens for w in given.windows] == [w.tokens for w in free.windows]
    for name in free.names:
        assert {rows.shape for rows in free[name]} == {(STEPS, 32)}
        close_rows(free[name], given[name])
        stepwise, at_once = (trace.activations(name, whole=True) for trace in (free, given))
        close_rows(stepwise, [b[: len(a)] for a, b in zip(stepwise, at_once, strict=True)])


def test_the_stream_after_a_layer_is_that_before_it_and_what_the_components_add(
    traced: Trace,
) -> None:
    for i in range(2):
        kinds = ("resid_pre", "self_attn.out", "cross_attn.out", "mlp.out")
        parts = torch.stack([traced[f"decoder.{i}.{kind}"][2] for kind in kinds])
        assert_close(parts.sum(0), traced[f"decoder.{i}.resid_post"][2])
    streams = traced["decoder.1.resid_pre"], traced["decoder.0.resid_post"]
    torch.testing.assert_close(*streams, rtol=0, atol=0)


def test_attention_is_the_eager_one_and_sums_to_one(transformers: Case) -> None:
    model = copy.deepcopy(transformers.model)
    model.set_attn_implementation("eager")
    with spectral.attach(model) as trace:
        texts = generating(model, transformers.features, STEPS).decode(transformers.features)
    rows = torch.tensor([[*PROMPT, *text[:-1]] for text in texts])
    with torch.no_grad():
        expected = model(
            input_features=transformers.features, decoder_input_ids=rows, output_attentions=True
        ).decoder_attentions
    for layer in range(2):
        for i in range(3):
            weights = trace.attention(layer, i, whole=True)
            torch.testing.assert_close(weights.float(), expected[layer][i], rtol=0, atol=1e-6)
            assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), 1e-12)
            text = trace.attention(layer, i)
            assert text.shape == (4, STEPS, STEPS)
            assert (text.sum(-1) < 1).all()


def test_static_caches_and_none_give_the_rows_of_the_dynamic_one(transformers: Case) -> None:
    model, features = transformers.model, transformers.features[:2]
    prompt = torch.tensor([PROMPT] * 2)
    traces = []
    for options in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        with spectral.attach(model) as trace:
            model.generate(features, decoder_input_ids=prompt, max_new_tokens=4, **options)
        traces.append(trace)
    for other in traces[1:]:
        assert [w.tokens for w in other.windows] == [w.tokens for w in traces[0].windows]
        for name in traces[0].names:
            close_rows(other[name], traces[0][name])


# --- lengths, batches and windows -----------------------------------------------------------------


def traced_texts(model: SpeechModel, *batches: Tensor, module: Any = None) -> Trace:
    """What transformers writes of these features with a model's prompt and suppressed tokens."""
    settings = {"suppress_tokens": [*model.tokens.suppressed], "max_new_tokens": model.limit}
    module = module or model.module
    with spectral.attach(module) as trace:
        for batch in batches:
            prompt = torch.tensor([model.tokens.prompt] * len(batch))
            module.generate(batch, decoder_input_ids=prompt, **settings)
    return trace


def test_rows_of_texts_of_unequal_length_are_the_project_s_own(
    tiny: SpeechModel, features: Tensor
) -> None:
    with capture(tiny) as recording:
        transcripts = greedy(tiny, features, UNRESTRICTED)
    generated = traced_texts(tiny, features)
    with spectral.attach(tiny) as stepped:
        assert greedy(tiny, features, UNRESTRICTED) == transcripts
    texts = [transcript.tokens for transcript in transcripts]
    assert [window.tokens for window in generated.windows] == texts
    assert len({len(text) for text in texts}) > 2
    for component in COMPONENTS:
        rows, mask = recording.text_rows(component, transcripts)
        expected = spectral.eigenvalues(rows, mask[:, None].expand(rows.shape[:-1]))
        for trace in (generated, stepped):
            for i, spectrum in enumerate(trace.eigenvalues(component)):
                if trace.windows[i].tokens == texts[i]:  # own: not where the limit cut a text off
                    assert_close(spectrum, expected[i, :, : spectrum.shape[-1]])
                    assert not expected[i, :, spectrum.shape[-1] :].any()
    cut = [w.tokens for w in stepped.windows if w.tokens not in texts]
    assert all(len(text) == tiny.limit - 1 for text in cut)


def test_a_clip_alone_in_five_and_beside_longer_ones(tiny: SpeechModel, features: Tensor) -> None:
    alone = traced_texts(tiny, features[:1])
    (window,) = alone.windows
    rank = alone.spectra(k=10).to_frame()["n_eff"]
    for batch in (features[[0] * 5], features):
        trace = traced_texts(tiny, batch)
        assert trace.windows[0].tokens == window.tokens
        actual = trace.spectra(k=10).to_frame()["n_eff"][: len(rank)]
        np.testing.assert_allclose(actual, rank, rtol=1e-5)


def test_a_clip_a_longer_one_and_the_first_again_are_bit_equal(
    tiny: SpeechModel, features: Tensor
) -> None:
    trace = traced_texts(tiny, *(features[i : i + 1] for i in (0, 1, 0)))
    assert [window.run for window in trace.windows] == [0, 1, 2]
    for name in trace.names:
        first, _, again = trace[name]
        assert torch.equal(first, again)


def test_two_batches_whose_prompt_is_one_token_are_separate_windows(openai: Case) -> None:
    model, kept = openai.model, []
    context = model.encoder(openai.features[:1])
    with torch.no_grad(), spectral.attach(model) as trace:
        for _ in range(2):
            cache, hooks = model.install_kv_cache_hooks()
            for token in (50258, 400, 500):
                kept.append(model.decoder(torch.tensor([[token]]), context, kv_cache=cache))
            for hook in hooks:
                hook.remove()
    assert [(w.run, w.tokens) for w in trace.windows] == [(0, (400, 500)), (1, (400, 500))]
    assert torch.equal(*trace["decoder.1.mlp.out"])


def test_transcribe_has_rows_for_every_window_and_attempt(openai: Case) -> None:
    wave = np.resize(np.concatenate(sounds()), 45 * 16_000)
    options = {"temperature": (0.0, 0.6), "logprob_threshold": 0.0, "no_speech_threshold": None}
    rest = {"sample_len": 5, "fp16": False, "verbose": None, "without_timestamps": True}
    torch.manual_seed(0)
    before = openai.model.transcribe(wave, **options, **rest)
    torch.manual_seed(0)
    with spectral.attach(openai.model) as trace:
        after = openai.model.transcribe(wave, **options, **rest)
    assert before == after
    windows = trace.windows
    assert len(windows) >= 4
    assert len(windows) % 2 == 0
    assert [w.attempt for w in windows] == [1, 2] * (len(windows) // 2)
    assert [w.kept for w in windows] == [False, True] * (len(windows) // 2)
    assert [w.temperature for w in windows[:2]] == [0.0, 0.6]
    written = [token for segment in after["segments"] for token in segment["tokens"]]
    text = [token for token in written if token < 50257]
    kept = [token for window in windows if window.kept for token in window.tokens]
    assert text == kept


def test_of_several_samples_the_one_that_is_taken_is_known(openai: Case) -> None:
    torch.manual_seed(0)
    options = replace(PLAIN, temperature=0.8, best_of=4)
    with spectral.attach(openai.model) as trace:
        (result,) = openai.model.decode(openai.features[:1], options)
    assert len(trace.windows) == 4
    (kept,) = [window for window in trace.windows if window.kept]
    assert list(kept.tokens) == [token for token in result.tokens if token < 50257]
    assert len(trace.jacobians(1, [kept.row]).rows) == 2


def test_samples_of_one_sound_are_windows_and_no_attempts(openai: Case) -> None:
    """Where a caller, and not a ladder of temperatures, asks again: none of them is dropped."""
    mel, options = openai.features[0], replace(PLAIN, temperature=0.8)
    with spectral.attach(openai.model) as trace:
        results = [openai.model.decode(mel, options) for _ in range(3)]
    assert [(w.attempt, w.kept) for w in trace.windows] == [(1, True)] * 3
    assert [list(w.tokens) for w in trace.windows] == [
        [token for token in result.tokens if token < 50257] for result in results
    ]


def test_passes_that_align_words_with_time_are_no_windows(
    openai: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dtw_cpu", "backtrace"):  # compiling takes longer than they do
        monkeypatch.setattr(timing, name, getattr(timing, name).py_func)
    options = {"temperature": 0.0, "sample_len": 6, "fp16": False, "language": "en"}
    options["without_timestamps"] = True
    wave = np.resize(np.concatenate(sounds()), 45 * 16_000)
    before = openai.model.transcribe(wave, word_timestamps=True, **options)
    with spectral.attach(openai.model) as trace:
        after = openai.model.transcribe(wave, word_timestamps=True, **options)
    assert [s["words"] for s in after["segments"]] == [s["words"] for s in before["segments"]]
    assert any(segment["words"] for segment in after["segments"])
    assert len(trace.windows) > 1
    assert all(window.kept for window in trace.windows)
    require_clean(openai.model)


def test_long_form_generation_has_rows_for_every_window(transformers: Case) -> None:
    model = copy.deepcopy(transformers.model)
    config = model.generation_config
    config.no_timestamps_token_id, config.is_multilingual = 50363, True
    config.lang_to_id = {"<|en|>": 50259, "<|de|>": 50261}
    config.task_to_id = {"transcribe": 50359, "translate": 50358}
    features = torch.cat([transformers.features[0], transformers.features[2]], -1)[None]
    options = {
        "return_timestamps": True, "max_new_tokens": 6, "condition_on_prev_tokens": True,
        "temperature": (0.0, 0.5), "logprob_threshold": -0.01, "compression_ratio_threshold": 2.4,
        "no_speech_threshold": 0.6,
    }  # fmt: skip
    mask = torch.ones(1, features.shape[-1], dtype=torch.long)
    torch.manual_seed(0)
    before = model.generate(features, attention_mask=mask, **options)
    torch.manual_seed(0)
    with spectral.attach(model) as trace:
        after = model.generate(features, attention_mask=mask, **options)
    assert torch.equal(before, after)
    assert len(trace.windows) >= 3
    assert {window.kept for window in trace.windows} == {None}, "it does not say"
    assert len(trace.attention(0, len(trace.windows) - 1)) == 4


def test_asking_for_the_language_is_no_window(openai: Case) -> None:
    with spectral.attach(openai.model) as trace:
        openai.model.detect_language(openai.features)
        openai.model.decode(openai.features[:1], DecodingOptions(fp16=False, sample_len=3))
    assert len(trace.windows) == 1


# --- refusals -------------------------------------------------------------------------------------


def refused(
    model: nn.Module, message: str, error: type[Exception] = ValueError, **options: Any
) -> None:
    with pytest.raises(error, match=message), spectral.attach(model, **options):
        pass


def compiled_in_place(layers: nn.ModuleList) -> None:
    layers[1].compile(backend="eager")


def compiled_as_another(layers: nn.ModuleList) -> None:
    layers[1] = torch.compile(layers[1], backend="eager")  # type: ignore[assignment]


def layers_of(model: nn.Module) -> nn.ModuleList:
    decoder = getattr(model, "decoder", None) or model.model.decoder
    return getattr(decoder, "blocks", None) or decoder.layers


@pytest.mark.parametrize("compiled", [compiled_in_place, compiled_as_another])
def test_a_layer_that_is_compiled_is_named(
    case: Case, compiled: Callable[[nn.ModuleList], None]
) -> None:
    model = copy.deepcopy(case.model)
    compiled(layers_of(model))
    refused(model, r"decoder.(layers|blocks).1 is compiled")


def test_a_layer_compiled_inside_the_block_is_equal_or_refused(case: Case) -> None:
    tokens = torch.tensor([[*PROMPT, 400, 500, 600]] * 3)
    traces = []
    for compiled in (False, True):
        other = copy.deepcopy(case.model)
        with torch.no_grad(), spectral.attach(other) as trace:
            if compiled:
                compiled_in_place(layers_of(other))
            forward(other, case.features, tokens)
        traces.append(trace)
    eager, of_compiled = traces
    for name in eager.names:
        close_rows(of_compiled[name], eager[name])


def test_a_layer_that_never_fires_is_named_and_nothing_is_kept(transformers: Case) -> None:
    model = copy.deepcopy(transformers.model)
    model.model.decoder.layers[1].forward = lambda hidden, *_, **__: hidden
    tokens = torch.tensor([[*PROMPT, 400]])
    with (
        pytest.raises(RuntimeError, match="decoder.1 did not call every hook once"),
        spectral.attach(model) as trace,
    ):
        model(input_features=transformers.features[:1], decoder_input_ids=tokens)
    require_clean(model)
    with pytest.raises(RuntimeError, match="nothing was decoded"):
        _ = trace.windows


def test_beams_are_refused_before_and_while_they_search(openai: Case, transformers: Case) -> None:
    beams = DecodingOptions(language="en", beam_size=3, fp16=False, sample_len=STEPS)
    with pytest.raises(ValueError, match="3 beams"), spectral.attach(openai.model) as trace:
        openai.model.decode(openai.features, beams)
    with pytest.raises(RuntimeError, match="rearranged"), spectral.attach(openai.model) as trace:
        DecodingTask(openai.model, beams).run(openai.features[:1])
    with pytest.raises(RuntimeError, match="nothing was decoded"):
        trace.spectra()
    with pytest.raises(ValueError, match="3 beams"), spectral.attach(transformers.model):
        transformers.model.generate(transformers.features, num_beams=3)
    with pytest.raises(RuntimeError, match="rearranged"), spectral.attach(transformers.model):
        type(transformers.model).generate(
            transformers.model,
            transformers.features,
            decoder_input_ids=torch.tensor([PROMPT] * 3),
            num_beams=3,
            max_new_tokens=STEPS,
        )
    require_clean(openai.model)
    require_clean(transformers.model)


@pytest.mark.parametrize("name", ["assistant_model", "prompt_lookup_num_tokens"])
def test_speculative_decoding_is_refused(transformers: Case, name: str) -> None:
    """The first call may already hold tokens that nobody has written: they would be the prompt."""
    assistant = {"assistant_model": copy.deepcopy(transformers.model)}
    options = assistant if name == "assistant_model" else {name: 2}
    with pytest.raises(ValueError, match=name), spectral.attach(transformers.model):
        transformers.model.generate(transformers.features[:1], max_new_tokens=STEPS, **options)
    require_clean(transformers.model)


def test_decoding_that_began_before_the_block_is_refused(openai: Case) -> None:
    model = openai.model
    with torch.no_grad():
        context = model.encoder(openai.features[:1])
        cache, hooks = model.install_kv_cache_hooks()
        model.decoder(torch.tensor([PROMPT]), context, kv_cache=cache)
        with (
            pytest.raises(RuntimeError, match="after 4 positions that were fed outside"),
            spectral.attach(model),
        ):
            model.decoder(torch.tensor([[400]]), context, kv_cache=cache)
    for hook in hooks:
        hook.remove()


def test_what_is_no_whisper_or_has_an_unknown_vocabulary_is_refused(openai: Case) -> None:
    refused(nn.Linear(2, 2), "openai-whisper or transformers, got Linear", TypeError)
    padded = random_whisper(dimensions(32, 4, 2, 51904, 80))
    refused(padded, "51904 tokens says nothing of its start and end")
    with spectral.attach(padded, start=50257, end=50256) as trace:
        padded(openai.features[:1], torch.tensor([[50257, 50362, 7, 8, 50256]]))
    assert trace.windows[0].tokens == (7, 8)


def test_asking_for_what_is_not_there_says_what_is(case: Case) -> None:
    with spectral.attach(case.model) as trace:
        for ask in (trace.spectra, trace.graphs, trace.jacobians):
            with pytest.raises(RuntimeError, match="nothing was decoded"):
                ask()
        with pytest.raises(RuntimeError, match="nothing was decoded"):
            trace.attention(7, 0)
        case.decode(case.features[:1])
    for name in ("decoder.7.mlp.out", "nonsense", "decoder.0.nonsense", "decoder.-1.mlp.out"):
        with pytest.raises(KeyError, match="there are decoder.0 to decoder.1, each with"):
            _ = trace[name]
    with pytest.raises(KeyError, match="decoder.7.self_attn.q"):
        trace.attention(7, 0)
    with pytest.raises(KeyError, match="no component 'mlp'"):
        trace.eigenvalues("mlp")
    for rows in (0, -3):
        with pytest.raises(ValueError, match="rows must be at least 1"):
            trace.spectra(rows=rows)
    for window in (-1, 1):
        with pytest.raises(ValueError, match=rf"no windows \[{window}\]; there are 0 to 0"):
            trace.jacobians(1, [0, window])


# --- memory and hooks -----------------------------------------------------------------------------


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def test_fifty_blocks_leave_neither_tensors_nor_hooks(tiny: SpeechModel) -> None:
    model, decoder = tiny.module, tiny.module.model.decoder  # type: ignore[union-attr]
    context, prompt = torch.zeros(1, 100, 32), torch.tensor([[*tiny.tokens.prompt, 5, 6]])
    counts = []
    for i in range(50):
        with torch.no_grad(), spectral.attach(model) as trace:
            decoder(input_ids=prompt, encoder_hidden_states=context, use_cache=False)
        assert trace.windows[0].tokens == (5, 6)
        del trace
        if i in (9, 49):
            counts.append(tensors())
    assert counts[0] == counts[1]
    require_clean(model)


def test_hooks_are_gone_after_an_exception_and_what_was_whole_is_kept(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two texts, the second of which is cut off half way."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def decoded() -> None:
        case.decode(case.features[:1])
        monkeypatch.setattr(layers_of(case.model)[1], "forward", interrupted)
        case.decode(case.features[:1])

    with pytest.raises(KeyboardInterrupt), spectral.attach(case.model) as trace:
        decoded()
    monkeypatch.undo()
    require_clean(case.model)
    assert len(trace.windows) == 1


def test_blocks_can_be_nested(case: Case) -> None:
    with spectral.attach(case.model) as outer, spectral.attach(case.model, keep="gram") as inner:
        case.decode(case.features)
    require_clean(case.model)
    assert outer.windows == inner.windows


def test_gram_matrices_give_the_same_spectra_also_of_the_first_rows(
    tiny: SpeechModel, features: Tensor
) -> None:
    with spectral.attach(tiny.module, keep="gram") as gram:
        rows = traced_texts(tiny, features[:3], features[3:6], features[6:9])
    for first in (None, 5):
        for component in COMPONENTS:
            spectra = [trace.eigenvalues(component, first) for trace in (gram, rows)]
            close_rows(*spectra, tolerance=1e-10)
    for ask in (lambda: gram["decoder.0.mlp.out"], lambda: gram.attention(0, 0), gram.jacobians):
        with pytest.raises(ValueError, match="keep='rows'"):
            ask()
    refused(tiny.module, "keep must be", keep="all")


def test_spectra_of_the_first_rows_are_those_of_these_rows_alone(
    tiny: SpeechModel, features: Tensor
) -> None:
    trace = traced_texts(tiny, features[:3])
    table = trace.spectra(10, rows=5).to_frame()
    assert table["T"].tolist() == [min(len(w.tokens), 5) for w in trace.windows for _ in range(6)]
    for component, name in (("ffn", "mlp.out"), ("cross_attention", "cross_attn.out")):
        for i, spectrum in enumerate(trace.eigenvalues(component, 5)):
            rows = torch.stack([trace[f"decoder.{layer}.{name}"][i][:5] for layer in range(2)])
            torch.testing.assert_close(spectrum, spectral.eigenvalues(rows), rtol=0, atol=0)


# --- tables ---------------------------------------------------------------------------------------


def test_frames_have_a_row_per_window_layer_and_component_or_head(traced: Trace) -> None:
    frame = traced.spectra(k=5).to_frame()
    assert len(frame) == 3 * 2 * 3
    assert {"window", "layer", "component", "T", "resolved", "n_eff", "alpha", "Kf"} <= {*frame}
    assert (frame["T"] == STEPS).all()
    graphs = traced.graphs().to_frame()
    assert len(graphs) == 3 * 2 * (4 + 2)
    assert sorted(graphs["head"].dropna().unique()) == [0, 1, 2, 3]


def test_jacobians_are_those_of_the_measurement(tiny: SpeechModel, features: Tensor) -> None:
    trace = traced_texts(tiny, features[:2])
    frame = trace.jacobians(tokens=3).to_frame()
    for number, window in enumerate(trace.windows):
        of_window = frame[frame["window"] == number]
        if not window.tokens:
            assert of_window.empty
            continue
        streams = residual_streams(tiny, features[number : number + 1], window.tokens)
        length = len(window.tokens)
        step = -(-length // 3)
        first = streams.text.start
        chosen = slice(first + (length - 1) % step // 2, streams.text.stop, step)
        layers = [as_layer(layer.layer, torch.float64) for layer in tiny.layers]
        stack = Stack(layers, as_norm(tiny.final_norm, torch.float64))
        expected = jacobian_columns(stack, streams, chosen, 2, 0)
        assert of_window["token"].unique().tolist() == [p - first for p in range(99)[chosen]]
        for column, measured in {
            "sigma_1": "sigma_1", "ratio": "singular_value_ratio", "gain": "gain",
            "injection": "injection",
        }.items():  # fmt: skip
            values = of_window.pivot(index="layer", columns="token", values=column).to_numpy()
            np.testing.assert_allclose(values, expected[measured].numpy(), rtol=1e-4)
        values = of_window.pivot(index="layer", columns="token", values="unstable").to_numpy()
        np.testing.assert_allclose(values / tiny.width, expected["unstable"].numpy(), atol=0.05)


# --- OpenAI's weights -----------------------------------------------------------------------------


def real(name: str) -> tuple[SpeechModel, Tensor]:
    """One of OpenAI's models, and features of two utterances."""
    if not is_here(name, NOWHERE):
        pytest.skip(f"{name} is not installed")
    model = load(name, NOWHERE, CPU)
    waves = [read_wave(u) for u in find_utterances(CORPUS).utterances[:40:25]]
    return model, model.features(waves)


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_real_weights_write_the_same_and_have_the_measurement_s_spectra(name: str) -> None:
    loaded, features = real(name)
    options = DecodingOptions(language="en", without_timestamps=True, fp16=False)
    model: Any = loaded.module
    with torch.inference_mode(), capture(loaded) as recording:
        context = loaded.encode(features)  # once: the encoder takes most of the time
        transcripts = transcribe_heard(loaded, Heard(context, (1, 1)), OPENAI)
    before = model.decode(context, options)
    with spectral.attach(model) as trace:
        after = model.decode(context, options)
    assert [(r.tokens, r.avg_logprob) for r in before] == [(r.tokens, r.avg_logprob) for r in after]
    require_measured(trace, recording, transcripts)
    for layer in range(len(loaded.layers)):
        weights = recording.attention(transcripts, layer)
        for i, window in enumerate(trace.windows):
            count = len(window.tokens)
            assert_close(trace.attention(layer, i), weights[i, :, :count, :count])


def require_measured(trace: Trace, recording: object, transcripts: list) -> None:
    assert [w.tokens for w in trace.windows] == [t.tokens for t in transcripts]
    for component in COMPONENTS:
        rows, mask = recording.text_rows(component, transcripts)  # type: ignore[attr-defined]
        expected = spectral.eigenvalues(rows, mask[:, None].expand(rows.shape[:-1]))
        for spectrum, wanted in zip(trace.eigenvalues(component), expected, strict=True):
            ranks = [spectral.effective_rank(values, 10) for values in (spectrum, wanted)]
            torch.testing.assert_close(*ranks, rtol=1e-5, atol=0)
            assert_close(spectrum / wanted.max(), wanted[:, : spectrum.shape[-1]] / wanted.max())


def test_real_weights_in_transformers_have_the_same_spectra() -> None:
    loaded, features = real("tiny.en")
    model = as_transformers(loaded.module)  # type: ignore[arg-type]
    with capture(loaded) as recording:
        transcripts = greedy(loaded, features, UNRESTRICTED)
    require_measured(traced_texts(loaded, features, module=model), recording, transcripts)


# --- linearise ------------------------------------------------------------------------------------


def test_a_stack_has_the_jacobians_of_its_layers() -> None:
    layers = [random_layer(16, 2, seed=i, dtype=torch.float64) for i in range(3)]
    hidden = torch.randn(3, 2, 5, 16, generator=torch.Generator().manual_seed(0)).double()
    context = torch.randn(9, 16, generator=torch.Generator().manual_seed(1)).double()
    mask = torch.tensor([True, True, False, True, True])
    stack = spectral.linearise(layers, hidden, context, mask)
    per_item = mask.expand(2, 5)
    alone = [
        spectral.linearise(*pair, context, per_item) for pair in zip(layers, hidden, strict=True)
    ]
    matrices = stack.propagators()
    torch.testing.assert_close(matrices, torch.stack([point.propagators() for point in alone]))
    for name in COMPONENTS:
        factors = torch.stack([getattr(point.sublayers(), name) for point in alone])
        torch.testing.assert_close(getattr(stack.sublayers(), name), factors)
    vectors = torch.randn(3, 2, 5, 16, 2, dtype=torch.float64)
    torch.testing.assert_close(stack.operator().matmat(vectors), matrices @ vectors)
    torch.testing.assert_close(stack.operator().rmatmat(vectors), matrices.mT @ vectors)
    torch.testing.assert_close(stack.injection(1).gram(), alone[1].injection().gram())
    torch.testing.assert_close(
        spectral.linearise(layers, hidden, context, per_item).sensitivity().gram(),
        stack.sensitivity().gram(),
    )


def test_a_linearisation_s_columns_are_of_every_layer_item_and_token() -> None:
    layers = [random_layer(8, 2, seed=i) for i in range(2)]
    point = spectral.linearise(layers, torch.randn(2, 3, 5, 8), torch.randn(9, 8))
    columns, frame = point.columns(), point.to_frame()
    place = frame[(frame["layer"] == 1) & (frame["item_0"] == 2) & (frame["token"] == 4)]
    assert len(frame) == 30
    assert place["sigma_1"].item() == columns["sigma_1"][1, 2, 4].item()
    assert {values.shape for values in columns.values()} == {(2, 3, 5)}
    assert columns["gain"].isnan().sum() == 15, "the last layer has none above it"
    assert (columns["injection"] > 0).all()
    encoder = random_layer(8, 2, cross_attention=False, causal=False)
    lone = spectral.linearise(encoder, torch.randn(5, 8))
    assert lone.columns()["injection"].isnan().all()
