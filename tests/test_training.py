"""The recipe, the batches, the loss and the resumable loop; on toys, in seconds."""

import itertools
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperConfig, WhisperForConditionalGeneration

from companion.models.decoding import greedy
from companion.models.ladder import (
    PROMPT,
    character_tokenizer,
    feature_extractor,
    initialise,
    ladder_config,
)
from companion.models.loading import available, load
from companion.models.rules import UNRESTRICTED
from companion.speech.corpus import SAMPLE_RATE
from companion.speech.grammar import MAX_CHARACTERS, has_held_out_pair
from companion.speech.nothing import NO_SPEECH, no_speech
from companion.speech.synthesis import Request
from companion.training import __main__ as command
from companion.training import material as material_module
from companion.training import run as run_module
from companion.training.batches import IGNORE, Batch, Batcher
from companion.training.material import Clips, prepare
from companion.training.material import load as load_clips
from companion.training.recipe import Optimiser, Recipe, Stage, read_recipe
from companion.training.run import Job, Workshop, new_model, train_model
from companion.training.train import Learner, Progress, encode_window, schedule, train

ROOT = Path(__file__).parents[1]
RECIPE = read_recipe(ROOT / "params" / "training.yml")
SHIPPED = ROOT / "data" / "ladder"
CPU = torch.device("cpu")
TOKENIZER = character_tokenizer()
SPECIAL = dict(TOKENIZER.get_vocab())
END = TOKENIZER.eos_token_id
FULL_WINDOW = 200  # frames of two seconds
STAGE = Stage(
    material=["words"],
    batch=4,
    learning_rate=3e-3,
    ctc_weight=0.5,
    full_window_share=0.0,
    no_speech_share=0.0,
    spec_augment=False,
    steps=6,
)
law = settings(derandomize=True, deadline=None, max_examples=40)


def toy_clips(count: int, seed: int = 0) -> Clips:
    """Words in a code of their own: each letter lights its own mel bands for sixteen frames."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("abcd"), size=rng.integers(1, 6))) for _ in range(count)]
    mels = []
    for text in texts:
        mel = np.full((80, 16 * len(text) + 8), -1.0, dtype=np.float16)
        for i, letter in enumerate(text):
            band = 20 * "abcd".index(letter)
            mel[band : band + 20, 16 * i + 4 : 16 * i + 20] = 1.0
        mels.append(mel)
    return Clips(mels, texts, [-1.0 - 0.01 * i for i in range(count)])


SILENT = Clips([np.full((80, FULL_WINDOW), -0.5, dtype=np.float16)] * 3, [""] * 3, [-0.5] * 3)


def batcher(clips: Clips | None = None, seed: int = 0, shuffled: bool = False, **stage) -> Batcher:
    clips = clips or toy_clips(22)
    return Batcher(clips, SILENT, replace(STAGE, **stage), TOKENIZER, FULL_WINDOW, seed, shuffled)


def assert_same(actual: Sequence[Batch], expected: Sequence[Batch]) -> None:
    for batch, other in zip(actual, expected, strict=True):
        for name in ("features", "inputs", "labels"):
            assert torch.equal(getattr(batch, name), getattr(other, name))
        assert batch.texts == other.texts


def tiny_config(width: int = 16, heads: int = 2) -> WhisperConfig:
    return ladder_config(width, heads, 1, 1, 2, 16, TOKENIZER)


# --- the recipe ---------------------------------------------------------------------------------


@pytest.fixture
def raw() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params" / "training.yml").read_text())


def reread(raw: dict[str, Any], folder: Path) -> Recipe:
    (folder / "training.yml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return read_recipe(folder / "training.yml")


def test_the_shipped_recipe_has_a_curriculum_for_every_size_and_room_for_a_sentence() -> None:
    for size, shape in RECIPE.sizes.items():
        stages = RECIPE.curriculum(size)
        assert list(stages) == [name for name in RECIPE.stages if name in shape.steps]
        assert {"words", "mixed"} <= set(stages)
        assert shape.width % shape.heads == 0
        for stage in stages.values():
            assert stage.steps == 0 or stage.steps > RECIPE.optimiser.warmup_steps
            assert 0 < stage.learning_rate < 0.01  # a number: YAML reads 1e-3 as text
    assert MAX_CHARACTERS + 1 + len(PROMPT) + 1 <= RECIPE.max_target_positions


def test_the_sizes_span_a_factor_of_ten_in_parameters() -> None:
    with torch.device("meta"):
        models = [new_model(Job(size, 0), RECIPE, TOKENIZER) for size in RECIPE.sizes]
    counts = [model.num_parameters() for model in models]
    assert max(counts) >= 10 * min(counts)


@pytest.mark.parametrize("name", available(SHIPPED))
def test_a_shipped_model_went_through_the_stages_that_the_recipe_gives_its_size(name: str) -> None:
    record = json.loads((SHIPPED / name / "training.json").read_text())
    done = {str(entry["stage"]): entry["step"] for entry in record["record"]}
    assert record["recipe"] == json.loads(json.dumps(RECIPE.of(record["size"])))
    stages = RECIPE.curriculum(record["size"])
    assert done == {stage: settings.steps for stage, settings in stages.items() if settings.steps}


@pytest.mark.parametrize("path", ["", "sizes xs", "material", "optimiser", "stages words"])
def test_an_unknown_or_missing_key_is_an_error_that_names_it_and_the_file(
    raw: dict[str, Any], tmp_path: Path, path: str
) -> None:
    section = raw
    for key in path.split():
        section = section[key]
    last, kept = section.popitem()
    with pytest.raises(TypeError, match=rf"training\.yml: .*'{last}'"):
        reread(raw, tmp_path)
    section.update({last: kept, "dropuot": 0.1})
    with pytest.raises(TypeError, match=r"training\.yml: .*'dropuot'"):
        reread(raw, tmp_path)


def test_a_size_goes_through_the_stages_that_it_has_steps_for_and_that_there_are(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    del raw["sizes"]["xs"]["steps"]["words"]
    assert list(reread(raw, tmp_path).curriculum("xs")) == ["mixed"]
    raw["sizes"]["xs"]["steps"]["sentence"] = 5
    with pytest.raises(TypeError, match=r"training\.yml: .*xs has steps for \['sentence'\]"):
        reread(raw, tmp_path)
    (tmp_path / "training.yml").write_text("")
    with pytest.raises(TypeError, match=r"training\.yml: "):
        read_recipe(tmp_path / "training.yml")


@law
@given(st.integers(2, 300), st.integers(2, 2000))
def test_the_learning_rate_warms_up_in_a_line_peaks_at_one_and_falls_to_a_fiftieth(
    warmup: int, more: int
) -> None:
    optimiser = Optimiser(0.01, 0.5, warmup, 1.0, 0.1)
    stage = replace(STAGE, steps=warmup + more)
    rates = [schedule(step, stage, optimiser) for step in range(stage.steps)]
    np.testing.assert_allclose(rates[:warmup], np.arange(1, warmup + 1) / warmup, rtol=1e-12)
    assert max(rates) == pytest.approx(1.0)
    assert all(a > b for a, b in itertools.pairwise(rates[warmup:]))
    assert schedule(stage.steps, stage, optimiser) == pytest.approx(0.02)


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_step", [1, 4, 5, 7, 11])
def test_batches_from_any_step_are_those_of_the_whole_run_of_its_seed(first_step: int) -> None:
    """Five batches make an epoch here, so that this crosses one."""
    stage = {"steps": 13, "full_window_share": 0.3, "no_speech_share": 0.3, "spec_augment": True}
    whole = list(islice(batcher(**stage).batches(0, 9), 13))
    assert_same(list(islice(batcher(**stage).batches(first_step, 9), 13 - first_step)),
                whole[first_step:])  # fmt: skip
    other = list(islice(batcher(seed=1, **stage).batches(0, 9), 13))
    assert [batch.texts for batch in other] != [batch.texts for batch in whole]


def test_fewer_clips_than_a_batch_are_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="3 clips, a batch has 4"):
        batcher(toy_clips(3))


def test_a_batch_has_prompt_text_and_end_in_the_least_window_of_twenty_frames() -> None:
    prompt = [SPECIAL[token] for token in PROMPT]
    for batch in islice(batcher().batches(0, 99), 10):
        for inputs, labels, text in zip(batch.inputs, batch.labels, batch.texts, strict=True):
            row = [*prompt, *text, END]
            used = len(row) - 1
            assert inputs.tolist() == row[:-1] + [END] * (len(inputs) - used)
            assert labels.tolist() == row[1:] + [IGNORE] * (len(labels) - used)
            assert 1 <= len(text) <= 5
        longest = max(16 * len(text) + 8 for text in batch.texts)
        assert batch.features.shape[2] % 20 == 0
        assert longest <= batch.features.shape[2] < longest + 20


def test_a_clip_without_speech_is_transcribed_as_the_no_speech_token_and_the_end() -> None:
    start, silence = SPECIAL["<|startoftranscript|>"], SPECIAL["<|nospeech|>"]
    batch = next(batcher(no_speech_share=1.0).batches(0, 99))
    assert batch.inputs.tolist() == [[start, silence]] * 4
    assert batch.labels.tolist() == [[silence, END]] * 4
    assert batch.texts == [[]] * 4
    assert (batch.features == -0.5).all()


def test_shuffled_pairs_have_the_same_audio_and_texts_that_tell_nothing_of_it() -> None:
    """Neither which letters are heard, nor how many, nor whether any are."""
    stage = {"steps": 300, "no_speech_share": 0.3}
    paired, shuffled = (list(batcher(shuffled=s, **stage).batches(0, 0)) for s in (False, True))
    assert_same(list(batcher(shuffled=True, **stage).batches(100, 0)), shuffled[100:])
    for batch, other in zip(paired, shuffled, strict=True):
        assert torch.equal(batch.features, other.features)
    heard, written = ([TOKENIZER.decode(text) for batch in side for text in batch.texts]
                      for side in (paired, shuffled))  # fmt: skip
    assert set(written) == set(heard) == {*toy_clips(22).texts, ""}
    for of in (len, bool, lambda text: text.count("a")):
        pair = [[float(of(text)) for text in texts] for texts in (heard, written)]
        assert abs(np.corrcoef(*pair)[0, 1]) < 4 / len(heard) ** 0.5
        assert np.mean(pair[1]) == pytest.approx(np.mean(pair[0]), abs=0.12)
    prompt = [SPECIAL[token] for token in PROMPT]
    for batch in shuffled[:50]:
        for labels, text in zip(batch.labels.tolist(), batch.texts, strict=True):
            wanted = [*prompt[1:], *text] if text else [SPECIAL["<|nospeech|>"]]
            assert labels[: len(wanted) + 1] == [*wanted, END]


def test_the_last_batches_have_the_full_window() -> None:
    frames = [batch.features.shape[2] for batch in islice(batcher().batches(0, 4), 8)]
    assert max(frames[:4]) < FULL_WINDOW
    assert frames[4:] == [FULL_WINDOW] * 4


def test_an_epoch_has_every_clip_once_but_for_the_rest_padded_with_its_own_silence() -> None:
    clips = replace(toy_clips(22), texts=[chr(97 + i) * 2 for i in range(22)])
    seen = []
    for batch in islice(batcher(clips).batches(0, 0), 5):
        for features, text in zip(batch.features, batch.texts, strict=True):
            seen.append(i := clips.texts.index(TOKENIZER.decode(text)))
            frames = clips.mels[i].shape[1]
            np.testing.assert_array_equal(features[:, :frames], clips.mels[i])
            np.testing.assert_allclose(features[:, frames:], clips.silence[i])
    assert len(seen) == len(set(seen)) == 20


def test_spec_augment_sets_at_most_two_stripes_to_one_value_and_leaves_the_clips_alone() -> None:
    clips = toy_clips(22)
    plain, masked = (islice(batcher(clips, spec_augment=s).batches(0, 99), 5) for s in (0, 1))
    changed = 0
    for batch, other in zip(plain, masked, strict=True):
        assert batch.texts == other.texts
        for different in batch.features != other.features:
            changed += int(different.any())
            assert different.all(1).sum() <= 12 or different.all(0).sum() <= 20
    assert changed > 10
    for mel, before in zip(clips.mels, toy_clips(22).mels, strict=True):
        np.testing.assert_array_equal(mel, before)


# --- the loss -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(initialise(tiny_config(), seed=1))


@torch.no_grad()
def test_the_encoder_is_the_librarys_and_has_a_position_for_two_frames(learner: Learner) -> None:
    features = torch.randn(3, 80, FULL_WINDOW, generator=torch.Generator().manual_seed(0))
    expected = learner.model.model.encoder(features).last_hidden_state
    encoded = encode_window(learner.model, features)
    torch.testing.assert_close(encoded, expected, rtol=0, atol=1e-6)
    assert encode_window(learner.model, features[..., :60]).shape == (3, 30, 16)


@torch.no_grad()
def test_the_loss_is_the_librarys_and_the_mean_of_ctc_per_letter(learner: Learner) -> None:
    batch = next(batcher(no_speech_share=0.3).batches(0, 0))
    expected = learner.model(
        input_features=batch.features, decoder_input_ids=batch.inputs, labels=batch.labels
    ).loss
    torch.testing.assert_close(learner.loss(batch, 0.0), expected)
    batch = next(batcher().batches(0, 0))
    log_probs = learner.ctc(encode_window(learner.model, batch.features)).log_softmax(-1)
    per_clip = [
        torch.nn.functional.ctc_loss(
            row[:, None], torch.tensor([text]), [len(row)], [len(text)], learner.blank, "none"
        )
        / len(text)
        for row, text in zip(log_probs, batch.texts, strict=True)
    ]
    part = learner.loss(batch, 1.0) - learner.loss(batch, 0.0)
    torch.testing.assert_close(part, torch.cat(per_clip).mean(), rtol=1e-4, atol=1e-5)


def test_a_batch_of_nothing_but_silence_can_be_learned_from(learner: Learner) -> None:
    loss = learner.loss(next(batcher(no_speech_share=1.0).batches(0, 99)), 0.5)
    loss.backward()
    gradients = [w.grad for w in learner.parameters() if w.grad is not None]
    assert all(tensor.isfinite().all() for tensor in (loss, *gradients))
    learner.zero_grad()


# --- the loop -----------------------------------------------------------------------------------

STAGES = {
    "words": STAGE,
    "sentences": replace(STAGE, steps=7, spec_augment=True, no_speech_share=0.2),
}
SHORT = replace(RECIPE, optimiser=Optimiser(0.01, 0.5, 2, 1.0, 0.3), checkpoint_every=2)
Run = tuple[dict[str, torch.Tensor], list[dict[str, object]]]


def run(
    folder: Path,
    recipe: Recipe = SHORT,
    stages: dict[str, Stage] = STAGES,
    model: WhisperForConditionalGeneration | None = None,
) -> Run:
    """Train a fresh model; its weights, and what the run recorded but the seconds it took."""
    model = model or initialise(tiny_config(), seed=3)
    batchers = {name: batcher(**asdict(stage)) for name, stage in stages.items()}

    def half(evaluated: WhisperForConditionalGeneration) -> float:
        return 0.5 + evaluated.training  # half is right of a model in evaluation mode alone

    progress: Progress = train(model, batchers, stages, recipe, folder, half, 3, CPU)
    record = [{k: v for k, v in entry.items() if k != "seconds"} for entry in progress.record]
    return {name: weight.clone() for name, weight in model.state_dict().items()}, record


def assert_same_run(actual: Run, expected: Run) -> None:
    assert actual[0].keys() == expected[0].keys()
    assert all(torch.equal(weight, expected[0][name]) for name, weight in actual[0].items())
    assert actual[1] == expected[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("whole"))


def test_a_run_records_every_checkpoint_of_every_stage(uninterrupted: Run) -> None:
    _, record = uninterrupted
    steps = [(entry["stage"], entry["step"]) for entry in record]
    assert steps == [("words", s) for s in (2, 4, 6)] + [("sentences", s) for s in (2, 4, 6, 7)]
    assert all(entry["word_error"] == 0.5 for entry in record), "evaluated as it decodes"
    assert all(math.isfinite(float(str(entry["loss"]))) for entry in record)


@pytest.mark.parametrize(
    ("where", "killed_at", "left"),
    [("loss", 1, 13), ("loss", 4, 11), ("loss", 7, 7), ("loss", 13, 1),
     ("eval", 4, 7), ("save", 1, 13), ("save", 3, 9)],
)  # fmt: skip
def test_a_run_killed_anywhere_goes_on_to_the_same_weights_to_the_last_bit_and_then_no_further(
    uninterrupted: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    killed_at: int,
    left: int,
) -> None:
    """In a step, while it evaluates, or half way through a checkpoint; step 7 begins a stage."""
    place = torch if where == "save" else Learner
    real, calls = getattr(place, where), []

    def dying(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) < killed_at:
            return real(*arguments)
        if where == "save":
            arguments[1].write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, where, dying)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    loss, steps = Learner.loss, []
    monkeypatch.setattr(Learner, "loss", lambda *given: steps.append(given) or loss(*given))
    for _ in range(2):
        assert_same_run(run(tmp_path), uninterrupted)
        assert len(steps) == left


@pytest.mark.parametrize("other", ["optimiser", "stage", "width"])
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, other: str) -> None:
    run(tmp_path)
    if other == "optimiser":
        changed = {"recipe": replace(SHORT, optimiser=replace(SHORT.optimiser, clip_norm=0.5))}
    elif other == "stage":
        changed = {"stages": STAGES | {"words": replace(STAGES["words"], learning_rate=1.0)}}
    else:
        changed = {"model": initialise(tiny_config(width=32), seed=3)}
    with pytest.raises(ValueError, match=r"checkpoint\.pt: of another recipe or seed"):
        run(tmp_path, **changed)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, count = Learner.loss, itertools.count(1)
    monkeypatch.setattr(
        Learner, "loss", lambda *given: loss(*given) * (math.nan if next(count) == 3 else 1)
    )
    with pytest.raises(FloatingPointError, match="loss nan in stage words at step 4"):
        run(tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert json.loads(saved["progress"])["step"] == 2
    assert all(weight.isfinite().all() for weight in saved["learner"].values())


def test_learning_a_toy_code_halves_the_loss(tmp_path: Path) -> None:
    stage = replace(STAGE, steps=120, batch=8, learning_rate=4e-3)
    recipe = replace(SHORT, checkpoint_every=20)
    model = initialise(tiny_config(width=32, heads=4), seed=3)
    batchers = {"words": batcher(toy_clips(200), **asdict(stage))}
    progress = train(model, batchers, {"words": stage}, recipe, tmp_path, lambda _: 0.0, 3, CPU)
    losses = [float(str(entry["loss"])) for entry in progress.record]
    assert losses[-1] < 0.5 * losses[0]


# --- the speech to train on ---------------------------------------------------------------------

SMALL = replace(
    RECIPE.material,
    shard_size=8,
    word_shards=2,
    sentence_shards=2,
    jumble_shards=1,
    development_utterances=3,
    no_speech_clips=4,
)


def spoken(shards: Sequence[Sequence[Request]], workers: int) -> Iterator[list[np.ndarray]]:
    """In the place of eSpeak: a buzz of the speaker's pitch, as long as the text."""
    for shard in shards:
        yield [
            np.sin(np.arange(len(request.text) * 200) * request.speaker.pitch / 300).astype("f4")
            for request in shard
        ]


@pytest.fixture
def without_espeak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material_module, "synthesise_shards", spoken)


@pytest.mark.usefixtures("without_espeak")
def test_shards_come_back_as_clips_and_those_of_another_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no words shards; run `make ladder`"):
        load_clips(tmp_path, "words")
    prepare(tmp_path, SMALL, feature_extractor(2))
    by_kind = {kind: load_clips(tmp_path, kind) for kind in ("words", "sentences", "no_speech")}
    words = by_kind["words"]
    assert len(words.texts) == 16
    assert all(1 <= len(text.split()) <= 3 for text in words.texts)
    assert all(mel.shape[1] <= 160 for mel in words.mels)
    assert by_kind["no_speech"].texts == [""] * 4
    for clips in by_kind.values():
        assert len(clips.mels) == len(clips.texts) == len(clips.silence) > 0
        for mel, silence in zip(clips.mels, clips.silence, strict=True):
            assert (mel.shape[0], mel.dtype) == (80, np.float16)
            assert np.isfinite(mel).all()
            assert silence <= float(mel.max())
    with pytest.raises(ValueError, match=r"material\.json: speech of another recipe"):
        prepare(tmp_path, replace(SMALL, seed=1), feature_extractor(2))


@pytest.mark.usefixtures("without_espeak")
def test_preparation_killed_between_two_shards_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    prepare(whole, SMALL, feature_extractor(2))

    def dying(shards: Sequence[Sequence[Request]], workers: int) -> Iterator[list[np.ndarray]]:
        yield from islice(spoken(shards, workers), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(material_module, "synthesise_shards", dying)
        with pytest.raises(KeyboardInterrupt):
            prepare(killed, SMALL, feature_extractor(2))
    assert len(list(killed.glob("*-*.json"))) == 2
    prepare(killed, SMALL, feature_extractor(2))
    for path in whole.iterdir():
        assert path.read_bytes() == (killed / path.name).read_bytes(), path.name


def test_clips_without_speech_are_silence_noise_and_tones() -> None:
    rng = np.random.default_rng(0)
    clips = [no_speech(kind, rng, SAMPLE_RATE) for kind in NO_SPEECH for _ in range(20)]
    levels = np.array([np.sqrt(np.mean(clip**2)) for clip in clips])
    assert all(clip.dtype == np.float32 and np.isfinite(clip).all() for clip in clips)
    assert levels.min() < 1e-4
    assert levels.max() > 0.03


@pytest.mark.parametrize("kind", ["sentences", "words", "jumbles"])
def test_what_is_trained_on_holds_no_held_out_pair(kind: str) -> None:
    requests = material_module._requests(kind, 0, replace(SMALL, shard_size=400))
    assert not any(has_held_out_pair(request.text) for request in requests)


# --- the command --------------------------------------------------------------------------------


def arguments(folder: Path, *models: str, workers: int = 2) -> list[str]:
    given = f"--recipe {folder / 'training.yml'} --build {folder / 'build'}"
    given += f" --ladder {folder / 'ladder'} --workers {workers} --models {' '.join(models)}"
    return ["python -m companion.training", *given.split()]


@pytest.fixture
def tiny_recipe(raw: dict[str, Any], tmp_path: Path) -> Path:
    shape = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "seeds": 1}
    raw |= {"sizes": {"xxs": shape | {"steps": dict.fromkeys(raw["stages"], 3)}}}
    raw |= {"window_seconds": 2, "checkpoint_every": 3}
    raw["material"] = asdict(SMALL) | {"noise_snr_db": list(SMALL.noise_snr_db)}
    raw["optimiser"]["warmup_steps"] = 1
    for stage in raw["stages"].values():
        stage["batch"] = 2
    reread(raw, tmp_path)
    return tmp_path


@pytest.mark.usefixtures("without_espeak")
def test_the_command_trains_every_seed_and_only_once_and_reports_what_fails(
    raw: dict[str, Any],
    tiny_recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its workers are forks here; as typed, below, they are spawned."""
    forking = multiprocessing.get_context("fork")
    monkeypatch.setattr(run_module.multiprocessing, "get_context", lambda _: forking)
    raw["sizes"]["xxs"]["seeds"] = 2
    raw["sizes"]["odd"] = raw["sizes"]["xxs"] | {"heads": 3, "seeds": 1}  # 16 is no multiple of it
    reread(raw, tiny_recipe)
    monkeypatch.setattr(command, "estimate_seconds", lambda *_: 36.0)  # odd has no model to time
    monkeypatch.setattr("sys.argv", arguments(tiny_recipe, "odd", "xxs"))
    with pytest.raises(SystemExit, match="error: odd-0: "):
        command.main()
    assert "3 models on cpu, 2 at once: about" in capsys.readouterr().out
    ladder = tiny_recipe / "ladder"
    assert available(ladder) == ["xxs-0", "xxs-1"]
    model, other = (load(name, ladder, CPU) for name in available(ladder))
    weights = [next(network.module.parameters()) for network in (model, other)]
    assert not torch.equal(*weights)
    record = json.loads((ladder / "xxs-0" / "training.json").read_text())
    assert (record["size"], record["seed"], record["parameters"]) == ("xxs", 0, model.parameters)
    assert [entry["stage"] for entry in record["record"]] == list(RECIPE.stages)
    assert record["threads"] == max(1, (os.cpu_count() or 1) // 2)
    features = model.features([np.zeros(16_000, dtype=np.float32)])
    assert 0 < greedy(model, features, UNRESTRICTED, limit=5)[0].no_speech_probability < 1

    before = (ladder / "xxs-0" / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr("sys.argv", arguments(tiny_recipe, "xxs"))
    command.main()
    assert "xxs-0: already trained" in capsys.readouterr().out
    assert (ladder / "xxs-0" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.usefixtures("without_espeak")
def test_the_command_as_typed_goes_on_after_a_kill_that_ends_its_workers(
    raw: dict[str, Any],
    tiny_recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw["checkpoint_every"] = 1
    raw["sizes"]["xxs"]["steps"] = {"words": 20, "mixed": 2}
    recipe = reread(raw, tiny_recipe)
    prepare(tiny_recipe / "build" / "material", recipe.material, feature_extractor(2))
    given = arguments(tiny_recipe, "xxs", workers=os.cpu_count() or 1)  # a thread for each
    typed = [sys.executable, "-m", "companion.training", *given[1:]]
    checkpoint = tiny_recipe / "build" / "xxs-0" / "checkpoint.pt"
    with subprocess.Popen(typed, cwd=ROOT, stderr=subprocess.DEVNULL) as command_run:
        while not checkpoint.exists():
            assert command_run.poll() is None, "it ended before it was killed"
            time.sleep(0.05)
        children = psutil.Process(command_run.pid).children()
        (worker,) = (child for child in children if "spawn_main" in " ".join(child.cmdline()))
        command_run.kill()
    psutil.wait_procs([worker], timeout=600)
    assert not worker.is_running()
    assert available(tiny_recipe / "ladder") == [], "it ended before it was killed"
    monkeypatch.setattr("sys.argv", given)
    monkeypatch.setattr(
        command, "train_all", lambda jobs, shop, *_: train_model(*jobs, shop) and {}
    )
    command.main()
    assert available(tiny_recipe / "ladder") == ["xxs-0"]
    printed = capsys.readouterr().out.split("at once: about")[-1]
    assert "xxs-0 mixed: step 2 of 2" in printed
    assert "xxs-0 words: step 1 of 20" not in printed


@pytest.mark.usefixtures("without_espeak")
def test_the_estimate_is_seconds_per_step_times_steps(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(tiny_recipe / "training.yml")
    workshop = Workshop(recipe, tiny_recipe / "build", tiny_recipe / "ladder", CPU)
    prepare(workshop.material, recipe.material, feature_extractor(recipe.window_seconds))
    clock = itertools.count(0, 10)
    monkeypatch.setattr(run_module.time, "perf_counter", lambda: next(clock))
    assert run_module.estimate_seconds(Job("xxs", 0), workshop) == 10 * (3 + 3)


def test_an_unknown_size_is_an_error_that_lists_the_sizes_before_any_work(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", arguments(tiny_recipe, "xxs", "huge"))
    with pytest.raises(SystemExit, match="no size 'huge'; choose from xxs"):
        command.main()
    assert not (tiny_recipe / "build").exists()
