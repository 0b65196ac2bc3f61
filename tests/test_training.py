"""The recipe, the batches, the loss and the resumable loop; on toys, in seconds."""

import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
from companion.models.ladder import feature_extractor, initialise, ladder_config
from companion.models.loading import available, load
from companion.models.rules import UNRESTRICTED
from companion.models.tokenizer import PROMPT, character_tokenizer
from companion.speech.corpus import SAMPLE_RATE
from companion.speech.grammar import MAX_CHARACTERS, has_held_out_pair
from companion.speech.nothing import NO_SPEECH, no_speech
from companion.speech.synthesis import Request
from companion.training import __main__ as command
from companion.training import material as material_module
from companion.training import run as run_module
from companion.training import train as train_module
from companion.training.batches import IGNORE, Batch, Batcher
from companion.training.material import Clips, prepare
from companion.training.material import load as load_clips
from companion.training.recipe import Material, Optimiser, Recipe, Stage, read_recipe
from companion.training.run import Job, Workshop, new_model
from companion.training.train import Learner, Progress, encode_window, schedule, train

RECIPE = Path(__file__).parents[1] / "params" / "training.yml"
SHIPPED = Path(__file__).parents[1] / "data" / "ladder"
CPU = torch.device("cpu")
TOKENIZER = character_tokenizer()
FULL_WINDOW = 200  # frames of two seconds
law = settings(derandomize=True, deadline=None, max_examples=40)

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


def silent_clips(count: int) -> Clips:
    mels = [np.full((80, FULL_WINDOW), -0.5, dtype=np.float16) for _ in range(count)]
    return Clips(mels, [""] * count, [-0.5] * count)


def batcher(
    stage: Stage = STAGE, clips: Clips | None = None, seed: int = 0, shuffled: bool = False
) -> Batcher:
    clips = clips or toy_clips(22)
    return Batcher(clips, silent_clips(3), stage, TOKENIZER, FULL_WINDOW, seed, shuffled)


def assert_same(found: Sequence[Batch], wanted: Sequence[Batch]) -> None:
    for one, other in zip(found, wanted, strict=True):
        for name in ("features", "inputs", "labels"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
        assert one.texts == other.texts


def tiny_config(width: int = 16, heads: int = 2) -> WhisperConfig:
    return ladder_config(
        width=width,
        heads=heads,
        encoder_layers=1,
        decoder_layers=1,
        window_seconds=2,
        max_target_positions=16,
        tokenizer=TOKENIZER,
    )


# --- the recipe ---------------------------------------------------------------------------------


@pytest.fixture
def raw() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    return found


def reread(raw: dict[str, Any], folder: Path) -> Recipe:
    (folder / "training.yml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return read_recipe(folder / "training.yml")


def test_the_shipped_recipe_has_a_curriculum_for_every_size() -> None:
    recipe = read_recipe(RECIPE)
    for size, shape in recipe.sizes.items():
        stages = recipe.curriculum(size)
        assert list(stages) == [name for name in recipe.stages if name in shape.steps]
        assert {"words", "mixed"} <= set(stages)
        assert shape.width % shape.heads == 0
        for stage in stages.values():
            assert stage.steps == 0 or stage.steps > recipe.optimiser.warmup_steps
            assert 0 < stage.learning_rate < 0.01  # a number: YAML reads 1e-3 as text


def test_the_sizes_span_a_factor_of_ten_in_parameters() -> None:
    recipe = read_recipe(RECIPE)
    with torch.device("meta"):
        models = [new_model(Job(size, 0), recipe, TOKENIZER) for size in recipe.sizes]
    counts = [model.num_parameters() for model in models]
    assert max(counts) >= 10 * min(counts)


@pytest.mark.parametrize("name", available(SHIPPED))
def test_a_shipped_model_went_through_the_stages_that_the_recipe_gives_its_size(name: str) -> None:
    record = json.loads((SHIPPED / name / "training.json").read_text())
    done = {str(entry["stage"]): entry["step"] for entry in record["record"]}
    recipe = read_recipe(RECIPE)
    assert record["recipe"] == json.loads(json.dumps(recipe.of(record["size"])))
    stages = recipe.curriculum(record["size"])
    assert done == {stage: settings.steps for stage, settings in stages.items() if settings.steps}


def test_the_longest_sentence_fits_the_decoder_with_prompt_and_end() -> None:
    recipe = read_recipe(RECIPE)
    assert MAX_CHARACTERS + 1 + len(PROMPT) + 1 <= recipe.max_target_positions


SECTIONS: list[tuple[str, ...]] = [
    (),
    ("sizes", "xs"),
    ("material",),
    ("optimiser",),
    ("stages", "words"),
]


def section(raw: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        raw = raw[key]
    return raw


@pytest.mark.parametrize("path", SECTIONS)
def test_an_unknown_or_missing_key_is_an_error_that_names_it_and_the_file(
    raw: dict[str, Any], tmp_path: Path, path: tuple[str, ...]
) -> None:
    *_, last = section(raw, path)
    kept = section(raw, path).pop(last)
    with pytest.raises(TypeError, match=rf"training\.yml: .*'{last}'"):
        reread(raw, tmp_path)
    section(raw, path).update({last: kept, "dropuot": 0.1})
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


# --- the schedule -------------------------------------------------------------------------------


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
    assert all(a > b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    assert schedule(stage.steps, stage, optimiser) == pytest.approx(0.02)


# --- batches ------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_batches_and_other_seeds_others() -> None:
    first, again, other = (list(islice(batcher(seed=seed).batches(0, 99), 6)) for seed in (1, 1, 2))
    assert_same(first, again)
    assert [batch.texts for batch in first] != [batch.texts for batch in other]


@pytest.mark.parametrize("first_step", [1, 4, 5, 7, 11])
def test_batches_from_any_step_on_are_those_of_a_run_from_the_start(first_step: int) -> None:
    """Five batches make an epoch here, so that this crosses one."""
    stage = replace(STAGE, steps=13, full_window_share=0.3, no_speech_share=0.3, spec_augment=True)
    whole = list(islice(batcher(stage).batches(0, 9), stage.steps))
    resumed = list(islice(batcher(stage).batches(first_step, 9), stage.steps - first_step))
    assert_same(resumed, whole[first_step:])


def test_there_is_a_batch_for_every_step_of_a_stage() -> None:
    for steps in (1, 5, 9, 10, 11):
        stage = replace(STAGE, steps=steps)
        assert len(list(islice(batcher(stage).batches(0, 99), steps))) == steps


def test_fewer_clips_than_a_batch_are_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="3 clips, a batch has 4"):
        batcher(clips=toy_clips(3))


def test_a_batch_has_prompt_text_and_end_in_the_least_window_of_twenty_frames() -> None:
    prompt = TOKENIZER.convert_tokens_to_ids(list(PROMPT))
    for batch in islice(batcher().batches(0, 99), 10):
        for inputs, labels, text in zip(batch.inputs, batch.labels, batch.texts, strict=True):
            row = [*prompt, *text, TOKENIZER.eos_token_id]
            used = len(row) - 1
            assert inputs[:used].tolist() == row[:-1]
            assert labels[:used].tolist() == row[1:]
            assert (inputs[used:] == TOKENIZER.eos_token_id).all()
            assert (labels[used:] == IGNORE).all()
            assert 1 <= len(text) <= 5
        longest = max(16 * len(text) + 8 for text in batch.texts)
        assert batch.features.shape[2] % 20 == 0
        assert longest <= batch.features.shape[2] < longest + 20


def test_a_clip_without_speech_is_answered_by_the_no_speech_token_and_the_end() -> None:
    start, silence = TOKENIZER.convert_tokens_to_ids(["<|startoftranscript|>", "<|nospeech|>"])
    end = TOKENIZER.eos_token_id
    (batch,) = islice(batcher(replace(STAGE, no_speech_share=1.0)).batches(0, 99), 1)
    assert batch.inputs.tolist() == [[start, silence]] * 4
    assert batch.labels.tolist() == [[silence, end]] * 4
    assert batch.texts == [[]] * 4
    assert (batch.features == -0.5).all()


def test_shuffled_pairs_have_the_same_audio_and_texts_that_tell_nothing_of_it() -> None:
    """Neither which letters are heard, nor how many, nor whether any are."""
    stage = replace(STAGE, steps=300, no_speech_share=0.3, spec_augment=False)
    told, shuffled = (list(batcher(stage, shuffled=s).batches(0, 0)) for s in (False, True))
    repeated = list(batcher(stage, shuffled=True).batches(100, 0))
    assert_same(repeated, shuffled[100:])
    heard, written = [], []
    for one, other in zip(told, shuffled, strict=True):
        assert torch.equal(one.features, other.features)
        heard += [TOKENIZER.decode(text) for text in one.texts]
        written += [TOKENIZER.decode(text) for text in other.texts]
    assert set(written) == set(heard) == {*toy_clips(22).texts, ""}
    for of in (len, bool, lambda text: text.count("a")):
        pair = [[float(of(text)) for text in texts] for texts in (heard, written)]
        assert abs(np.corrcoef(*pair)[0, 1]) < 4 / len(heard) ** 0.5
        assert np.mean(pair[1]) == pytest.approx(np.mean(pair[0]), abs=0.12)
    prompt, nothing = (TOKENIZER.convert_tokens_to_ids(list(t)) for t in (PROMPT, ["<|nospeech|>"]))
    for batch in shuffled[:50]:
        for labels, text in zip(batch.labels.tolist(), batch.texts, strict=True):
            wanted = [*prompt[1:], *text] if text else nothing
            assert labels[: len(wanted) + 1] == [*wanted, TOKENIZER.eos_token_id]


def test_only_the_control_s_recipe_says_that_pairs_are_shuffled() -> None:
    recipe = read_recipe(RECIPE)
    control, own = recipe.of("xs-shuffled"), recipe.of("xs")
    assert control["shape"].pop("shuffled_pairs") is True
    assert control == own


def test_the_last_batches_have_the_full_window() -> None:
    frames = [batch.features.shape[2] for batch in islice(batcher().batches(0, 4), 8)]
    assert max(frames[:4]) < FULL_WINDOW
    assert frames[4:] == [FULL_WINDOW] * 4


def test_an_epoch_has_every_clip_once_but_for_the_rest_padded_with_its_own_silence() -> None:
    clips = toy_clips(22)
    clips = Clips(clips.mels, [chr(97 + i) * 2 for i in range(22)], clips.silence)
    seen = []
    for batch in islice(batcher(clips=clips).batches(0, 0), 5):
        for features, text in zip(batch.features, batch.texts, strict=True):
            seen.append(i := clips.texts.index(TOKENIZER.decode(text)))
            frames = clips.mels[i].shape[1]
            np.testing.assert_array_equal(features[:, :frames], clips.mels[i])
            np.testing.assert_allclose(features[:, frames:], clips.silence[i])
    assert len(seen) == len(set(seen)) == 20


def test_spec_augment_sets_at_most_two_stripes_to_one_value_and_leaves_the_clips_alone() -> None:
    clips = toy_clips(22)
    before = [mel.copy() for mel in clips.mels]
    plain = islice(batcher(clips=clips).batches(0, 99), 5)
    masked = islice(batcher(replace(STAGE, spec_augment=True), clips).batches(0, 99), 5)
    changed = 0
    for one, other in zip(plain, masked, strict=True):
        assert one.texts == other.texts
        for features, with_mask in zip(one.features, other.features, strict=True):
            different = features != with_mask
            changed += int(different.any())
            rows, columns = different.all(1), different.all(0)
            assert rows.sum() <= 12 or columns.sum() <= 20
    assert changed > 10
    for mel, copy in zip(clips.mels, before, strict=True):
        np.testing.assert_array_equal(mel, copy)


# --- the loss -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(initialise(tiny_config(), seed=1))


@torch.no_grad()
def test_the_encoder_on_the_full_window_is_the_librarys(learner: Learner) -> None:
    features = torch.randn(3, 80, FULL_WINDOW, generator=torch.Generator().manual_seed(0))
    expected = learner.model.model.encoder(features).last_hidden_state
    found = encode_window(learner.model, features)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_encoder_on_a_shorter_window_has_a_position_for_two_frames(learner: Learner) -> None:
    features = torch.randn(2, 80, 60, generator=torch.Generator().manual_seed(0))
    assert encode_window(learner.model, features).shape == (2, 30, 16)


@torch.no_grad()
def test_without_ctc_the_loss_is_the_librarys_own(learner: Learner) -> None:
    stage = replace(STAGE, no_speech_share=0.3)
    (batch,) = islice(batcher(stage).batches(0, 0), 1)
    expected = learner.model(
        input_features=batch.features, decoder_input_ids=batch.inputs, labels=batch.labels
    ).loss
    torch.testing.assert_close(learner.loss(batch, 0.0), expected)


@torch.no_grad()
def test_the_ctc_part_is_the_mean_over_clips_of_the_loss_per_letter(learner: Learner) -> None:
    (batch,) = islice(batcher().batches(0, 0), 1)
    context = encode_window(learner.model, batch.features)
    log_probs = learner.ctc(context).log_softmax(-1)
    each = [
        torch.nn.functional.ctc_loss(
            row[:, None], torch.tensor([text]), [len(row)], [len(text)], learner.blank, "none"
        )
        / len(text)
        for row, text in zip(log_probs, batch.texts, strict=True)
    ]
    part = learner.loss(batch, 1.0) - learner.loss(batch, 0.0)
    torch.testing.assert_close(part, torch.cat(each).mean(), rtol=1e-4, atol=1e-5)


def test_a_batch_of_nothing_but_silence_can_be_learned_from(learner: Learner) -> None:
    (batch,) = islice(batcher(replace(STAGE, no_speech_share=1.0)).batches(0, 99), 1)
    loss = learner.loss(batch, 0.5)
    loss.backward()
    assert loss.isfinite()
    assert all(
        weight.grad is None or weight.grad.isfinite().all() for weight in learner.parameters()
    )
    learner.zero_grad()


# --- the loop -----------------------------------------------------------------------------------

STAGES = {
    "words": STAGE,
    "sentences": replace(STAGE, steps=7, spec_augment=True, no_speech_share=0.2),
}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    optimiser = Optimiser(
        weight_decay=0.01,
        adamw_learning_rate_share=0.5,
        warmup_steps=2,
        clip_norm=1.0,
        full_window_last_share=0.3,
    )
    return replace(read_recipe(RECIPE), optimiser=optimiser, checkpoint_every=2)


def run(
    recipe: Recipe,
    folder: Path,
    stages: dict[str, Stage] = STAGES,
    evaluate: Callable[[WhisperForConditionalGeneration], float] = lambda model: 0.5,
    model: WhisperForConditionalGeneration | None = None,
) -> tuple[dict[str, torch.Tensor], Progress]:
    """Train a fresh model in ``folder`` and return its weights and the record of the run."""
    folder.mkdir(exist_ok=True)
    model = model or initialise(tiny_config(), seed=3)
    batchers = {name: batcher(stage) for name, stage in stages.items()}
    progress = train(model, batchers, stages, recipe, folder, evaluate, 3, CPU)
    return {name: weight.clone() for name, weight in model.state_dict().items()}, progress


def without_seconds(progress: Progress) -> list[dict[str, object]]:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in progress.record]


def assert_equal_weights(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, wanted[name], rtol=0, atol=0)


@pytest.fixture(scope="module")
def uninterrupted(
    recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, torch.Tensor], Progress]:
    return run(recipe, tmp_path_factory.mktemp("whole"))


def test_a_run_records_every_checkpoint_of_every_stage(
    uninterrupted: tuple[dict[str, torch.Tensor], Progress],
) -> None:
    record = uninterrupted[1].record
    steps = [(entry["stage"], entry["step"]) for entry in record]
    assert steps == [("words", s) for s in (2, 4, 6)] + [("sentences", s) for s in (2, 4, 6, 7)]
    assert all(entry["word_error"] == 0.5 for entry in record)
    assert all(math.isfinite(float(str(entry["loss"]))) for entry in record)


@pytest.mark.parametrize("killed_at", [1, 4, 6, 7, 8, 13])
def test_a_run_killed_at_any_step_goes_on_to_the_same_weights_to_the_last_bit(
    recipe: Recipe,
    uninterrupted: tuple[dict[str, torch.Tensor], Progress],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
) -> None:
    """Step 7 is the first of the second stage; before step 2 there is no checkpoint at all."""
    loss, calls = Learner.loss, []

    def dying(self: Learner, batch: Batch, ctc_weight: float) -> torch.Tensor:
        calls.append(batch)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return loss(self, batch, ctc_weight)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "loss", dying)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path)
    calls.clear()
    monkeypatch.setattr(Learner, "loss", dying)
    killed_at = 99
    weights, progress = run(recipe, tmp_path)
    assert_equal_weights(weights, uninterrupted[0])
    assert without_seconds(progress) == without_seconds(uninterrupted[1])
    assert len(calls) <= 13


def test_a_run_killed_while_it_evaluates_or_saves_goes_on_to_the_same_weights(
    recipe: Recipe,
    uninterrupted: tuple[dict[str, torch.Tensor], Progress],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluations = []

    def dying(model: WhisperForConditionalGeneration) -> float:
        evaluations.append(model)
        if len(evaluations) == 4:
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path, evaluate=dying)

    def half(state: object, path: Path) -> None:
        path.write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_module.torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, tmp_path)
    weights, progress = run(recipe, tmp_path)
    assert_equal_weights(weights, uninterrupted[0])
    assert without_seconds(progress) == without_seconds(uninterrupted[1])


def test_a_finished_run_started_again_trains_no_further(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run(recipe, tmp_path)

    def never(*_: object) -> torch.Tensor:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(Learner, "loss", never)
    again, progress = run(recipe, tmp_path)
    assert_equal_weights(again, first)
    assert len(progress.record) == 7


@pytest.mark.parametrize("other", ["optimiser", "stage", "width"])
def test_a_checkpoint_of_another_recipe_is_refused(
    recipe: Recipe, tmp_path: Path, other: str
) -> None:
    run(recipe, tmp_path)
    stages, model = STAGES, initialise(tiny_config(), seed=3)
    if other == "optimiser":
        recipe = replace(recipe, optimiser=replace(recipe.optimiser, clip_norm=0.5))
    elif other == "stage":
        stages = STAGES | {"words": replace(STAGES["words"], learning_rate=1.0)}
    else:
        model = initialise(tiny_config(width=32), seed=3)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: of another recipe or seed"):
        run(recipe, tmp_path, stages=stages, model=model)


def test_the_model_is_evaluated_as_it_decodes_and_trained_on_afterwards(
    recipe: Recipe, tmp_path: Path
) -> None:
    modes = []

    def evaluate(model: WhisperForConditionalGeneration) -> float:
        modes.append(model.training)
        return 1.0

    model = initialise(tiny_config(), seed=3)
    run(recipe, tmp_path, evaluate=evaluate, model=model)
    assert modes == [False] * 7


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = Learner.loss, []

    def diverging(self: Learner, batch: Batch, ctc_weight: float) -> torch.Tensor:
        calls.append(batch)
        return loss(self, batch, ctc_weight) * (math.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(Learner, "loss", diverging)
    with pytest.raises(FloatingPointError, match="loss nan in stage words at step 4"):
        run(recipe, tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert json.loads(saved["progress"])["step"] == 2
    assert all(weight.isfinite().all() for weight in saved["learner"].values())


def test_learning_a_toy_code_halves_the_loss(recipe: Recipe, tmp_path: Path) -> None:
    stage = replace(STAGE, steps=120, batch=8, learning_rate=4e-3)
    recipe = replace(recipe, checkpoint_every=20)
    model = initialise(tiny_config(width=32, heads=4), seed=3)
    batchers = {"words": batcher(stage, toy_clips(200))}
    progress = train(model, batchers, {"words": stage}, recipe, tmp_path, lambda _: 0.0, 3, CPU)
    losses = [float(str(entry["loss"])) for entry in progress.record]
    assert losses[-1] < 0.5 * losses[0]


# --- the speech to train on ---------------------------------------------------------------------


@pytest.fixture
def small() -> Material:
    return replace(
        read_recipe(RECIPE).material,
        shard_size=8,
        word_shards=2,
        sentence_shards=2,
        jumble_shards=1,
        development_utterances=3,
        no_speech_clips=4,
    )


def spoken(shards: Sequence[Sequence[Request]], workers: int) -> Iterator[list[np.ndarray]]:
    """In the place of eSpeak: a buzz of the voice's pitch, as long as the text."""
    for shard in shards:
        yield [
            np.sin(np.arange(len(request.text) * 200) * request.voice.pitch / 300).astype("f4")
            for request in shard
        ]


@pytest.fixture
def without_espeak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material_module, "synthesise_shards", spoken)


@pytest.mark.usefixtures("without_espeak")
def test_shards_come_back_as_clips_with_their_texts_lengths_and_silence(
    small: Material, tmp_path: Path
) -> None:
    extractor = feature_extractor(2)
    prepare(tmp_path, small, extractor)
    words, sentences = load_clips(tmp_path, "words"), load_clips(tmp_path, "sentences")
    silent = load_clips(tmp_path, "no_speech")
    assert len(words.texts) == 16
    assert all(1 <= len(text.split()) <= 3 for text in words.texts)
    assert all(mel.shape[1] <= 160 for mel in words.mels)
    assert sentences.texts
    assert silent.texts == [""] * 4
    for clips in (words, sentences, silent):
        assert len(clips.mels) == len(clips.texts) == len(clips.silence)
        for mel, silence in zip(clips.mels, clips.silence, strict=True):
            assert mel.shape[0] == 80
            assert mel.dtype == np.float16
            assert np.isfinite(mel).all()
            assert silence <= float(mel.max())


@pytest.mark.usefixtures("without_espeak")
def test_preparation_killed_between_two_shards_goes_on_to_the_same_bytes(
    small: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = feature_extractor(2)
    prepare(tmp_path / "whole", small, extractor)

    def dying(shards: Sequence[Sequence[Request]], workers: int) -> Iterator[list[np.ndarray]]:
        yield from islice(spoken(shards, workers), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(material_module, "synthesise_shards", dying)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "killed", small, extractor)
    assert len(list((tmp_path / "killed").glob("*-*.json"))) == 2
    prepare(tmp_path / "killed", small, extractor)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name


@pytest.mark.usefixtures("without_espeak")
def test_speech_of_another_recipe_is_refused(small: Material, tmp_path: Path) -> None:
    prepare(tmp_path, small, feature_extractor(2))
    with pytest.raises(ValueError, match=r"material\.json: speech of another recipe"):
        prepare(tmp_path, replace(small, seed=1), feature_extractor(2))


def test_material_that_was_not_prepared_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no words shards; run `make ladder`"):
        load_clips(tmp_path, "words")


def test_clips_without_speech_are_silence_noise_and_tones() -> None:
    rng = np.random.default_rng(0)
    clips = [no_speech(kind, rng, SAMPLE_RATE) for kind in NO_SPEECH for _ in range(20)]
    levels = np.array([np.sqrt(np.mean(clip**2)) for clip in clips])
    assert all(clip.dtype == np.float32 and np.isfinite(clip).all() for clip in clips)
    assert levels.min() < 1e-4
    assert levels.max() > 0.03


def heard_pairs(kind: str, material: Material) -> list[str]:
    requests = material_module._requests(kind, 0, replace(material, shard_size=400))
    return [request.text for request in requests if has_held_out_pair(request.text)]


def test_sentences_to_train_on_hold_no_held_out_pair(small: Material) -> None:
    assert heard_pairs("sentences", small) == []


@pytest.mark.parametrize("kind", ["words", "jumbles"])
def test_random_words_to_train_on_hold_no_held_out_pair(small: Material, kind: str) -> None:
    assert heard_pairs(kind, small) == []


# --- the command --------------------------------------------------------------------------------


def arguments(folder: Path, *models: str) -> list[str]:
    return [
        "python -m companion.training",
        *("--models", *models),
        *("--recipe", str(folder / "training.yml")),
        *("--build", str(folder / "build")),
        *("--ladder", str(folder / "ladder")),
        *("--workers", "1"),
    ]


def wait_until(true: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.fixture
def tiny_recipe(raw: dict[str, Any], small: Material, tmp_path: Path) -> Path:
    steps = dict.fromkeys(raw["stages"], 3)
    shape = {
        "width": 16,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "steps": steps,
        "seeds": 1,
    }
    for stage in raw["stages"].values():
        stage["batch"] = 2
    raw |= {"sizes": {"xxs": shape}, "window_seconds": 2, "checkpoint_every": 3}
    raw["material"] = asdict(small) | {"noise_snr_db": list(small.noise_snr_db)}
    raw["optimiser"]["warmup_steps"] = 1
    reread(raw, tmp_path)
    return tmp_path


@pytest.mark.usefixtures("without_espeak")
def test_the_command_trains_every_seed_and_only_once_and_reports_what_fails(
    raw: dict[str, Any],
    tiny_recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw["sizes"]["xxs"]["seeds"] = 2
    raw["sizes"]["odd"] = raw["sizes"]["xxs"] | {"heads": 3, "seeds": 1}  # 16 is no multiple of it
    reread(raw, tiny_recipe)
    monkeypatch.setattr(command, "estimate_seconds", lambda *_: 36.0)  # odd has no model to time
    monkeypatch.setattr("sys.argv", [*arguments(tiny_recipe, "odd", "xxs")[:-1], "2"])
    with pytest.raises(SystemExit, match="error: odd-0: "):
        command.main()
    assert "3 models on cpu, 2 at once: about" in capsys.readouterr().out
    ladder = tiny_recipe / "ladder"
    assert available(ladder) == ["xxs-0", "xxs-1"]
    first, second = (
        load(name, ladder, CPU).module.state_dict()["model.decoder.embed_tokens.weight"]
        for name in available(ladder)
    )
    assert not torch.equal(first, second)
    model = load("xxs-0", ladder, CPU)
    record = json.loads((ladder / "xxs-0" / "training.json").read_text())
    assert (record["size"], record["seed"], record["parameters"]) == ("xxs", 0, model.parameters)
    assert [entry["stage"] for entry in record["record"]] == list(read_recipe(RECIPE).stages)
    assert record["threads"] == max(1, (os.cpu_count() or 1) // 2)
    features = model.features([np.zeros(16_000, dtype=np.float32)])
    assert 0 < greedy(model, features, UNRESTRICTED, limit=5)[0].no_speech_probability < 1

    weights = (ladder / "xxs-0" / "model.safetensors").read_bytes()
    parts = arguments(tiny_recipe, "xxs")
    monkeypatch.setattr("sys.argv", parts)
    command.main()
    assert "xxs-0: already trained" in capsys.readouterr().out
    assert (ladder / "xxs-0" / "model.safetensors").read_bytes() == weights


def test_the_command_as_typed_goes_on_after_a_kill_that_ends_its_workers(
    raw: dict[str, Any],
    tiny_recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    raw["window_seconds"] = 6  # the voices are eSpeak's own here: a sentence takes seconds
    raw["checkpoint_every"] = 1
    raw["sizes"]["xxs"]["steps"] = dict.fromkeys(raw["stages"], 4)
    reread(raw, tiny_recipe)
    cores = str(os.cpu_count() or 1)  # as many workers get a thread each, though one has a job
    given = [*arguments(tiny_recipe, "xxs")[:-1], cores]
    typed = [sys.executable, "-m", "companion.training", *given[1:]]
    checkpoint = tiny_recipe / "build" / "xxs-0" / "checkpoint.pt"
    with subprocess.Popen(typed, cwd=RECIPE.parents[1], stderr=subprocess.DEVNULL) as command_run:
        wait_until(lambda: checkpoint.exists())
        children = psutil.Process(command_run.pid).children()
        (worker,) = (one for one in children if "spawn_main" in " ".join(one.cmdline()))
        command_run.kill()
    psutil.wait_procs([worker], timeout=600)
    assert not worker.is_running()
    assert available(tiny_recipe / "ladder") == [], "it ended before it was killed"
    monkeypatch.setattr("sys.argv", given)
    command.main()
    assert available(tiny_recipe / "ladder") == ["xxs-0"]
    said = capfd.readouterr().out.split("xxs-0: saved")[0].split("at once: about")[-1]
    assert "xxs-0 mixed: step 4 of 4" in said
    assert "xxs-0 words: step 1 of 4" not in said


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
