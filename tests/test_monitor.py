"""The monitor changes nothing, leaves nothing, and weighs what the captured rows say."""

import copy
import gc
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import MULTILINGUAL, dimensions, random_whisper
from in_memory import (
    LAYERS,
    PROMPT,
    WIDTH,
    Case,
    generating,
    openai_case,
    plain,
    require_clean,
    sounds,
    transformers_case,
)
from torch import Tensor

import spectral
from companion.measurement.contest import sliding_observables
from spectral.monitor import FEATURES, FIRST, MEANS, RANK, SIZE, Monitor, Reading, Score, Segment
from spectral.whisper import COMPONENTS

STEPS, WINDOW = 12, 4
END = 50257
FORBIDDEN = (5, 7, 11)
PLAIN = plain(STEPS)


@pytest.fixture(scope="module")
def openai() -> Case:
    return openai_case(STEPS)


@pytest.fixture(scope="module")
def transformers(openai: Case, tmp_path_factory: pytest.TempPathFactory) -> Case:
    model = transformers_case(openai, STEPS).model
    model.generation_config.suppress_tokens = [*FORBIDDEN]
    return generating(model, openai.features, STEPS, FORBIDDEN)


@pytest.fixture(scope="module", params=["openai", "transformers"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def thresholds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one model of this size, and weights of every feature."""
    rng = np.random.default_rng(0)
    entry = {
        "layers": LAYERS, "width": WIDTH, "vocabulary": MULTILINGUAL, "window": WINDOW,
        "bias": -0.3, "threshold": 0.5, "doubt": 0.4,
        "weights": dict(zip(FEATURES, rng.normal(size=len(FEATURES)).tolist(), strict=True)),
        "means": dict(zip(FEATURES, rng.normal(size=len(FEATURES)).tolist(), strict=True)),
    }  # fmt: skip
    path = tmp_path_factory.mktemp("monitor") / "thresholds.json"
    path.write_text(json.dumps({"models": {"small": entry}}))
    return path


def test_texts_are_those_without_and_nothing_stays_hooked(case: Case, thresholds: Path) -> None:
    before = case.decode(case.features)
    with Monitor(case.model, thresholds=thresholds) as monitor:
        assert case.decode(case.features) == before
        assert case.decode(case.features[:1]) == before[:1]
    require_clean(case.model)
    fed = [text[: STEPS - 1] if len(text) == STEPS else text for text in before]
    assert [list(s.tokens) for s in monitor.segments] == [*fed, fed[0]]
    assert [(s.run, s.row) for s in monitor.segments] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len({s.risk for s in monitor.segments[:3]}) == 3


def test_confidences_of_openai_whisper_are_those_without(openai: Case, thresholds: Path) -> None:
    before = openai.model.decode(openai.features, PLAIN)
    with Monitor(openai.model, thresholds=thresholds):
        after = openai.model.decode(openai.features, PLAIN)
    for name in ("avg_logprob", "no_speech_prob", "text", "compression_ratio"):
        assert [getattr(r, name) for r in before] == [getattr(r, name) for r in after]


def test_risks_are_those_of_the_captured_rows(case: Case, thresholds: Path) -> None:
    """Computed again from whole texts: rows, their windows' Gram matrices, and all logits."""
    readings: list[Reading] = []
    with (
        spectral.attach(case.model) as trace,
        Monitor(case.model, thresholds=thresholds, watch=readings.append) as monitor,
    ):
        case.decode(case.features)
    score = monitor.score
    for row, segment in enumerate(monitor.segments):
        count = len(segment.tokens)
        assert count > WINDOW
        rows = {
            part: torch.stack([trace[f"decoder.{i}.{name}.out"][row] for i in range(LAYERS)])
            for part, name in zip(COMPONENTS, ("self_attn", "cross_attn", "mlp"), strict=True)
        }
        states = trace.activations(f"decoder.{LAYERS - 1}.resid_post", whole=True)[row]
        scores = logits(case.model, states).double().log_softmax(-1)
        start = len(PROMPT) - 1
        log_p, chosen = scores[start : start + count], torch.tensor(segment.tokens)
        columns = {
            "entropy": -(log_p.exp() * log_p).sum(-1),
            "free_log_probability": log_p.gather(1, chosen[:, None])[:, 0],
            "forbidden_mean": log_p[:, monitor.forbidden].exp().sum(-1),
        }
        first = {
            "forbidden_first": log_p[0, monitor.forbidden_first].exp().sum().item(),
            "no_speech_probability": scores[0, monitor.no_speech].exp().item(),
        }
        slid = {}
        for part in COMPONENTS:
            sliding = sliding_observables(rows[part][:, :count], WINDOW)
            slid |= {f"{part}_{SIZE}": sliding["log10_size"], f"{part}_{RANK}": sliding["n_eff"]}

        def risk(values: dict[str, float]) -> float:
            for name in ("forbidden_first", "no_speech_probability", "forbidden_mean"):
                values[name] = math.log10(max(values[name], 1e-8))
            total = score.bias + sum(
                score.weights[n] * (values[n] - score.means[n]) for n in FEATURES
            )
            return 1 / (1 + math.exp(-total))

        everything = columns | slid
        means = {name: column[:count].mean().item() for name, column in everything.items()}
        assert segment.risk == pytest.approx(risk(first | means), abs=2e-4)
        for t in range(count):
            recent = {
                n: e[max(t - WINDOW + 1, 0) : t + 1].mean().item() for n, e in columns.items()
            }
            now = {name: column[t].item() for name, column in slid.items()}
            assert segment.risks[t] == pytest.approx(risk(first | recent | now), abs=2e-4)
        of_row = [reading for reading in readings if reading.row == row]
        assert [reading.risk for reading in of_row] == list(segment.risks)
        assert [reading.token for reading in of_row] == list(segment.tokens)
        assert of_row[-1].segment_risk == pytest.approx(segment.risk)
        assert segment.alarm == (segment.risk >= score.threshold)


def logits(model: Any, states: Tensor) -> Tensor:
    if hasattr(model, "proj_out"):
        return model.proj_out(model.model.decoder.layer_norm(states))
    return model.decoder.ln(states) @ model.decoder.token_embedding.weight.T


def test_contributions_add_up_to_the_log_odds(case: Case, thresholds: Path) -> None:
    with Monitor(case.model, thresholds=thresholds) as monitor:
        case.decode(case.features)
    for segment in monitor.segments:
        assert segment.contributions.keys() == {"confidence", *COMPONENTS}
        odds = math.log(segment.risk / (1 - segment.risk)) - monitor.score.bias
        assert sum(segment.contributions.values()) == pytest.approx(odds, abs=1e-6)
        assert segment.component == max(segment.contributions, key=segment.contributions.get)


@pytest.mark.parametrize("after", [END, 7])
def test_a_text_that_ended_is_read_no_further_whatever_its_row_is_fed(
    openai: Case, thresholds: Path, after: int
) -> None:
    """Beside a longer one: the end again, or a token of text that pads the batch."""
    model, readings = openai.model, list[Reading]()
    rows = ((400, 500, END, after, after), (400, 500, 600, 700, 800))
    with Monitor(model, thresholds=thresholds, watch=readings.append) as monitor, torch.no_grad():
        context = model.encoder(openai.features[:2])
        cache, hooks = model.install_kv_cache_hooks()
        for tokens in (torch.tensor([PROMPT] * 2), *torch.tensor(rows).T[..., None]):
            model.decoder(tokens, context, kv_cache=cache)
        for hook in hooks:
            hook.remove()
    assert [segment.tokens for segment in monitor.segments] == [(400, 500), rows[1]]
    short, long = ([r for r in readings if r.row == row] for row in (0, 1))
    assert (len(short), len(long)) == (2, 5)
    assert monitor.segments[0].risks == tuple(reading.risk for reading in short)
    assert monitor.segments[0].risk == pytest.approx(short[-1].segment_risk)


def test_what_is_held_does_not_grow_with_the_text(openai: Case, thresholds: Path) -> None:
    """The library's own cache apart, which a run remembers while it lasts."""
    held: list[int] = []

    def weigh(*_: object) -> None:
        for run in monitor.runs:
            assert not run.calls
            state: Any = run.state
            kept = [*vars(state).values(), *(text.rows for text in state.texts)]
            kept += [part for step in state.steps for part in (*step[1].values(), *step[::2])]
            held.append(sum(tensor.numel() for tensor in kept if torch.is_tensor(tensor)))

    for watch in (weigh, None):
        held.clear()
        with Monitor(openai.model, thresholds=thresholds, watch=watch) as monitor:
            counting = openai.model.decoder.register_forward_hook(weigh)
            openai.model.decode(openai.features, plain(64))
            counting.remove()
            assert not monitor.runs, "the cache is let go with the call"
        assert len(held) >= 62
        assert max(held[40:]) == max(held[:40])


def test_unwatched_texts_have_the_risks_of_watched_ones(openai: Case, thresholds: Path) -> None:
    """Whose tokens are judged together, many at a time."""
    segments = []
    for watch in (None, lambda reading: None):
        with Monitor(openai.model, thresholds=thresholds, watch=watch) as monitor:
            openai.model.decode(openai.features, plain(40))
            openai.model.decode(openai.features[1:], plain(40))
        segments.append(monitor.segments)
    assert max(len(segment.tokens) for segment in segments[0]) > 32
    for together, watched in zip(*segments, strict=True):
        assert together.tokens == watched.tokens
        assert together.risks == pytest.approx(watched.risks, abs=1e-6)
        assert together.risk == pytest.approx(watched.risk, abs=1e-6)


def test_nothing_stays_of_many_blocks_and_after_exceptions(case: Case, thresholds: Path) -> None:
    def wrong(reading: Reading) -> None:
        raise KeyError("stop")

    with (
        pytest.raises(KeyError, match="stop"),
        Monitor(case.model, thresholds=thresholds, watch=wrong),
    ):
        case.decode(case.features)
    require_clean(case.model)
    gc.collect()
    before = sum(issubclass(type(item), Tensor) for item in gc.get_objects())
    for _ in range(4):
        with Monitor(case.model, thresholds=thresholds):
            case.decode(case.features[:1])
    gc.collect()
    assert sum(issubclass(type(item), Tensor) for item in gc.get_objects()) <= before + 2
    require_clean(case.model)


def test_nan_is_an_error_and_no_silence(openai: Case, thresholds: Path) -> None:
    model = copy.deepcopy(openai.model)
    with torch.no_grad():
        model.decoder.blocks[0].mlp[2].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"), Monitor(model, thresholds=thresholds):
        model.decode(openai.features, PLAIN)
    require_clean(model)


def test_what_a_trace_refuses_a_monitor_refuses(openai: Case, thresholds: Path) -> None:
    """It is the same recorder: one refusal by each of its doors; all are tried in test_attach."""
    with pytest.raises(ValueError, match="2 beams"), Monitor(openai.model, thresholds=thresholds):
        openai.model.decode(openai.features, plain(STEPS, beam_size=2))
    require_clean(openai.model)
    compiled = copy.deepcopy(openai.model)
    compiled.decoder.blocks[0].forward = lambda rows, *_, **__: rows
    with (
        pytest.raises(RuntimeError, match=r"decoder\.0 did not call every hook"),
        Monitor(compiled, thresholds=thresholds),
    ):
        compiled.decode(openai.features[:1], PLAIN)
    compiled.decoder.blocks[0] = torch.compile(compiled.decoder.blocks[0])
    with pytest.raises(ValueError, match="compiled"):
        Monitor(compiled, thresholds=thresholds)


def test_decoding_without_a_cache_is_refused_and_not_left_unjudged(
    transformers: Case, thresholds: Path
) -> None:
    with (
        pytest.raises(ValueError, match="use_cache=False"),
        Monitor(transformers.model, thresholds=thresholds),
    ):
        transformers.model.generate(transformers.features[:1], max_new_tokens=4, use_cache=False)
    require_clean(transformers.model)


def test_a_model_without_thresholds_is_refused(thresholds: Path, tmp_path: Path) -> None:
    other = random_whisper(dimensions(64, 4, 2, MULTILINGUAL, 80))
    with pytest.raises(ValueError, match="no thresholds of a model of"):
        Monitor(other, thresholds=thresholds)
    with pytest.raises(ValueError, match="no thresholds of 'nosuch'"):
        Monitor(other, name="nosuch", thresholds=thresholds)
    with pytest.raises(ValueError, match="give both of the same features"):
        Score({"volume": 1.0}, {"volume": 0.0}, 0.0, 8, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"doubt is 0\.6, above the threshold, 0\.5"):
        Score({"entropy": 1.0}, {"entropy": 0.0}, 0.0, 8, 0.5, 0.6)
    former = json.loads(thresholds.read_text())
    del former["models"]["small"]["doubt"]
    (tmp_path / "former.json").write_text(json.dumps(former))
    with pytest.raises(ValueError, match="a model lacks doubt: fit it again"):
        Monitor(other, name="small", thresholds=tmp_path / "former.json")


def test_every_attempt_of_transcribe_is_told_apart(openai: Case, thresholds: Path) -> None:
    """Random weights are improbable: all temperatures are tried."""
    wave = np.concatenate(sounds())
    plain = openai.model.transcribe(
        wave, language="en", fp16=False, temperature=(0.0, 0.0001), sample_len=8
    )
    with Monitor(openai.model, thresholds=thresholds) as monitor:
        watched = openai.model.transcribe(
            wave, language="en", fp16=False, temperature=(0.0, 0.0001), sample_len=8
        )
    assert watched["text"] == plain["text"]
    attempts = [segment.attempt for segment in monitor.segments]
    assert attempts[:2] == [1, 2]
    assert all(isinstance(segment, Segment) for segment in monitor.segments)


@pytest.mark.parametrize("names", [FEATURES[:2], FEATURES[2:5], FEATURES[7:9], FEATURES[-1:]])
def test_a_score_of_some_features_is_that_of_all_with_other_weights_zero(
    case: Case, names: tuple[str, ...], thresholds: Path, tmp_path: Path
) -> None:
    """And hears no component that it does not weigh."""
    segments = []
    for kept in (names, FEATURES):
        score = json.loads(thresholds.read_text())
        entry = score["models"]["small"]
        entry["weights"] = {n: w if n in names else 0.0 for n, w in entry["weights"].items()}
        for part in ("weights", "means"):
            entry[part] = {name: entry[part][name] for name in kept}
        path = tmp_path / "some.json"
        path.write_text(json.dumps(score))
        with Monitor(case.model, thresholds=path) as monitor:
            hooks = sum(len(module._forward_hooks) for module in case.model.modules())
            parts = {part for part in COMPONENTS for name in kept if name.startswith(part)}
            assert hooks == 1 + LAYERS * len(parts)
            case.decode(case.features)
        segments.append(monitor.segments)
    for few, full in zip(*segments, strict=True):
        assert few.tokens == full.tokens
        assert few.risks == pytest.approx(full.risks, abs=1e-9)
        assert few.risk == pytest.approx(full.risk, abs=1e-9)


def test_features_are_columns_of_the_contest() -> None:
    from companion.measurement.schemas import CONTEST

    assert set(FEATURES) <= set(CONTEST.names)
    assert set(FIRST) | set(MEANS) < set(FEATURES)
