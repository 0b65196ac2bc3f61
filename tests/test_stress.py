"""Laws of the perturbations: what each does to a wave, and what it must leave alone."""

import hashlib
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.speech.corpus import SAMPLE_RATE, UnusableUtterance, Utterance
from companion.stress.conditions import CONDITIONS, Stress, condition
from companion.stress.mixture import Mixture, Speakers, rms
from companion.stress.perturbations import (
    GaussianNoise,
    Perturbation,
    SpeakerMix,
    Substitute,
    TimeStretch,
)
from companion.stress.stretching import METHODS, RESAMPLED, VOCODER, WSOLA, stretched

SEED = 20260408
law = settings(derandomize=True, deadline=None, max_examples=15)


def wave_of(utterance: Utterance) -> np.ndarray:
    """A second or two of a voiced sound of its own pitch and loudness."""
    state = int.from_bytes(hashlib.sha256(utterance.id.encode()).digest()[:4])
    rng = np.random.default_rng(state)
    time = np.arange(int(rng.uniform(1.0, 2.0) * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = rng.uniform(80, 300) * (1 + 0.1 * np.sin(2 * np.pi * 3 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    sound = sum(np.sin(k * phase) / k for k in range(1, 9)) * rng.uniform(0.02, 0.2)
    return (sound * (1.2 + np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def corpus(speakers: int = 8, per_speaker: int = 2) -> list[Utterance]:
    return [
        Utterance(f"{s}-1-{i:04d}", str(s), f"speaker {s} says sentence {i}", Path("nowhere"))
        for s in range(speakers)
        for i in range(per_speaker)
    ]


UTTERANCES = corpus()
SPEAKERS = Speakers(UTTERANCES, wave_of)
TARGET = UTTERANCES[3]
CLEAN = Mixture.of(TARGET, wave_of(TARGET))
DRAWN = ["1-1-0001", "3-1-0001", "2-1-0001", "7-1-0000", "5-1-0001", "0-1-0001"]  # once and for all


REPLACED = ("silence", "noise-alone", "tones")  # by audio without speech


def under(*perturbations: Perturbation, seed: int = SEED, on: Mixture = CLEAN) -> Mixture:
    return Stress("test", perturbations).apply(on, SPEAKERS, seed)


def added(after: Mixture, before: Mixture) -> np.ndarray:
    """What was added to a wave, padded with silence to the longer one."""
    padded = np.zeros(after.wave.size)
    padded[: before.wave.size] = before.wave
    return after.wave - padded


def ids(mixture: Mixture) -> list[str]:
    return [part.utterance.id for part in mixture.parts]


# Each perturbation does what it says


@law
@given(rate=st.floats(0.1, 10.0), method=st.sampled_from(METHODS))
def test_stretch_divides_the_duration_by_its_rate(rate: float, method: str) -> None:
    assert under(TimeStretch(rate, method)).wave.size == round(CLEAN.wave.size / rate)


@pytest.mark.parametrize("rate", [3.5, 1 / 3.5, 1.065])
@pytest.mark.parametrize("method", METHODS)
def test_only_resampling_moves_the_pitch_and_by_its_rate(rate: float, method: str) -> None:
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tone = Mixture.of(TARGET, np.sin(2 * np.pi * 440 * time).astype(np.float32))
    wave = under(TimeStretch(rate, method), on=tone).wave
    peak = np.abs(np.fft.rfft(wave * np.hanning(wave.size))).argmax() * SAMPLE_RATE / wave.size
    assert peak == pytest.approx(440 * (rate if method == RESAMPLED else 1), rel=0.02)


@pytest.mark.parametrize("rate", [3.5, 1 / 3.5, 1.065])
@pytest.mark.parametrize("method", [WSOLA, RESAMPLED])
def test_what_is_heard_when_is_divided_by_the_rate_to_the_end(rate: float, method: str) -> None:
    burst = np.hanning(1600) * np.sin(2 * np.pi * 1000 * np.arange(1600) / SAMPLE_RATE)
    for start in (0, 40_000, 80_000 - burst.size):
        wave = np.zeros(80_000, np.float32)
        wave[start : start + burst.size] = burst
        power = (
            under(TimeStretch(rate, method), on=Mixture.of(TARGET, wave)).wave.astype(float) ** 2
        )
        middle = (power * np.arange(power.size)).sum() / power.sum() * rate
        assert middle == pytest.approx(start + burst.size / 2, abs=0.06 * SAMPLE_RATE)


@pytest.mark.parametrize("method", METHODS)
def test_stretch_follows_the_target_level(method: str) -> None:
    faster = under(TimeStretch(3.5, method))
    assert faster.target_rms == pytest.approx(rms(faster.wave), rel=1e-6)
    if method != VOCODER:
        assert faster.target_rms == pytest.approx(CLEAN.target_rms, rel=0.1)


@law
@given(snr_db=st.floats(-40.0, 60.0), seed=st.integers(0, 2**63))
def test_noise_has_the_stated_ratio(snr_db: float, seed: int) -> None:
    noise = added(under(GaussianNoise(snr_db), seed=seed), CLEAN)
    measured = 20 * math.log10(rms(CLEAN.wave) / rms(noise))
    assert measured == pytest.approx(snr_db, abs=0.01)


def test_noise_is_white_gaussian_and_relative_to_all_that_is_audible() -> None:
    mix = under(SpeakerMix())
    noise = added(under(GaussianNoise(0.0), on=mix), mix)
    assert rms(noise) == pytest.approx(rms(mix.wave), rel=1e-5)
    unit = noise / rms(noise)
    assert abs(unit.mean()) < 0.03
    assert (unit**4).mean() == pytest.approx(3.0, abs=0.15)
    assert abs((unit[1:] * unit[:-1]).mean()) < 0.03


def test_mix_is_the_sum_of_six_speakers_at_their_levels() -> None:
    mix = under(SpeakerMix(5, -6.0))
    total = np.zeros(mix.wave.size)
    total[: CLEAN.wave.size] = CLEAN.wave
    for part in mix.parts[1:]:
        wave = wave_of(part.utterance)
        level = rms(CLEAN.wave) * 10 ** (part.level_db / 20)
        total[: wave.size] += wave * (level / rms(wave))
    np.testing.assert_allclose(mix.wave, total, atol=1e-6)
    assert [part.level_db for part in mix.parts] == [0.0] + [-6.0] * 5
    lengths = [wave_of(part.utterance).size for part in mix.parts]
    assert mix.wave.size == max(lengths) > CLEAN.wave.size, "to the end of the longest"


@law
@given(seed=st.integers(-(2**63), 2**63), count=st.integers(1, 7))
def test_interferers_are_distinct_other_speakers(seed: int, count: int) -> None:
    mix = under(SpeakerMix(count), seed=seed)
    speakers = [part.utterance.speaker for part in mix.parts]
    assert speakers[0] == TARGET.speaker
    assert len(set(speakers)) == len(speakers) == count + 1
    assert mix.references == tuple(part.utterance.reference for part in mix.parts)


def test_every_other_utterance_interferes_somewhere() -> None:
    heard = {name for seed in range(60) for name in ids(under(SpeakerMix(), seed=seed))}
    others = {utterance.id for utterance in UTTERANCES if utterance.speaker != TARGET.speaker}
    assert heard == others | {TARGET.id}


@pytest.mark.parametrize("name", ["hell", "hell-wsola", "hell-resampled"])
def test_hell_has_no_scale_of_its_own_and_nothing_is_clipped(name: str) -> None:
    hell = under(*CONDITIONS[name].perturbations).wave
    for scale in (2.0**-60, 2.0**-20, 2.0**5, 2.0**60):
        scaled = Mixture.of(TARGET, CLEAN.wave * np.float32(scale))
        stressed = under(*CONDITIONS[name].perturbations, on=scaled).wave
        np.testing.assert_array_equal(stressed / scale, hell)


@pytest.mark.parametrize("method", METHODS)
def test_rounding_does_not_grow_in_the_stretch(method: str) -> None:
    # in float32 it grows to 1e-3, and another machine's FFT would make another Hell
    ten = 10 * under(TimeStretch(3.5, method)).wave.astype(np.float64)
    wave = stretched(10 * CLEAN.wave.astype(np.float64), 3.5, method)
    within = 1e-8 if method == VOCODER else 1e-5  # the others sum in float32
    np.testing.assert_allclose(wave, ten, rtol=1e-6, atol=within)


# Severity


@pytest.mark.parametrize("identity", [TimeStretch(1), SpeakerMix(0), GaussianNoise(math.inf)])
def test_identities_return_the_mixture_itself(identity: Perturbation) -> None:
    assert identity.apply(CLEAN, SPEAKERS, SEED) is CLEAN


def test_severity_runs_from_nothing_at_all_to_the_condition_itself() -> None:
    slower = Stress("slower", tuple(TimeStretch(1 / 3.5, method) for method in METHODS))
    for stress in (*CONDITIONS.values(), slower):
        assert stress.at_severity(0).apply(CLEAN, SPEAKERS, SEED) is CLEAN
        assert stress.at_severity(1) is stress
        assert tuple(part.at_severity(1) for part in stress.perturbations) == stress.perturbations
    assert CONDITIONS["clean"].apply(CLEAN, SPEAKERS, SEED) is CLEAN
    assert CLEAN.wave is Mixture.of(TARGET, CLEAN.wave).wave


@law
@given(mild=st.floats(0, 1), more=st.floats(0, 1), snr=st.floats(-20, 50), rate=st.floats(1, 4))
def test_severity_is_monotone(mild: float, more: float, snr: float, rate: float) -> None:
    mild, more = sorted((mild, more))
    noise, mix, slow = GaussianNoise(snr), SpeakerMix(5, -snr), TimeStretch(1 / rate)
    assert noise.at_severity(mild).snr_db >= noise.at_severity(more).snr_db
    assert mix.at_severity(mild).interferers <= mix.at_severity(more).interferers
    if mild > 0:
        assert mix.at_severity(mild).level_db <= mix.at_severity(more).level_db
    assert TimeStretch(rate).at_severity(mild).rate <= TimeStretch(rate).at_severity(more).rate
    assert slow.at_severity(mild).rate >= slow.at_severity(more).rate


def test_severity_in_numbers() -> None:
    for method in METHODS:
        assert TimeStretch(4.0, method).at_severity(0.5) == TimeStretch(2.0, method)
    assert GaussianNoise(0.0).at_severity(0.5).snr_db == pytest.approx(15.0)
    assert SpeakerMix(5, 0.0).at_severity(0.5).level_db == pytest.approx(-15.0)


def test_milder_forms_use_the_same_draw() -> None:
    full, half = (added(under(GaussianNoise(0.0).at_severity(s)), CLEAN) for s in (1, 0.5))
    assert np.corrcoef(full, half)[0, 1] > 0.9999
    assert ids(under(SpeakerMix().at_severity(0.1))) == ids(under(SpeakerMix()))
    assert ids(under(SpeakerMix(3))) == ids(under(SpeakerMix(5)))[:4]


# Order and composition

ORDERS = [
    order
    for size in range(4)
    for order in itertools.permutations(CONDITIONS["hell"].perturbations, size)
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "-".join(p.name for p in order))
def test_any_subset_in_any_order_is_well_defined(order: tuple[Perturbation, ...]) -> None:
    mixture = under(*order)
    names = [perturbation.name for perturbation in order]
    assert mixture.applied == tuple(names)
    assert mixture.wave.dtype == np.float32
    assert np.isfinite(mixture.wave).all()
    assert ids(mixture) == (ids(under(SpeakerMix())) if "mix" in names else [TARGET.id])
    assert len(mixture.references) == (6 if "mix" in names else 1)


def test_orders_differ() -> None:
    assert len({under(*order).wave.tobytes() for order in ORDERS}) == len(ORDERS)


def test_stretch_before_the_mix_takes_the_target_alone_after_it_everyone() -> None:
    first, last = under(TimeStretch(2), SpeakerMix()), under(SpeakerMix(), TimeStretch(2))
    others = [wave_of(part.utterance).size for part in first.parts[1:]]
    assert first.wave.size == max(*others, round(CLEAN.wave.size / 2))
    assert last.wave.size == round(max(*others, CLEAN.wave.size) / 2)


def test_levels_are_relative_to_the_target_alone_in_any_order() -> None:
    loud = GaussianNoise(-20.0)
    assert under(loud).target_rms == CLEAN.target_rms
    noisy = under(loud)
    interferers = added(under(SpeakerMix(), on=noisy), noisy)
    np.testing.assert_allclose(interferers, added(under(SpeakerMix()), CLEAN), atol=1e-5)


def test_composition_is_application_one_after_the_other() -> None:
    steps = (*CONDITIONS["hell"].perturbations, GaussianNoise(3.0), SpeakerMix(2, -3.0))
    one_by_one = CLEAN
    for step in steps:
        one_by_one = under(step, on=one_by_one)
    at_once = under(*steps)
    np.testing.assert_array_equal(at_once.wave, one_by_one.wave)
    assert (at_once.parts, at_once.applied) == (one_by_one.parts, one_by_one.applied)
    assert len({part.utterance.speaker for part in at_once.parts}) == 8


def test_noise_twice_is_two_draws_and_one_whatever_else_is_applied() -> None:
    once, mix = under(GaussianNoise(0.0)), under(SpeakerMix())
    first = added(once, CLEAN)
    second, in_mix = (added(under(GaussianNoise(0.0), on=base), base) for base in (once, mix))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert np.corrcoef(first, in_mix[: first.size])[0, 1] > 0.9999


# Seeds


def hell_hash() -> str:
    """A hash of the samples of every Hell: what another process must find too."""
    waves = [
        CONDITIONS[name].apply(CLEAN, SPEAKERS, SEED).wave.tobytes()
        for name in ("hell", "hell-wsola", "hell-resampled")
    ]
    return hashlib.sha256(b"".join(waves)).hexdigest()


def test_another_process_makes_the_same_samples_of_the_draws_of_every_machine() -> None:
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": f"{here.parent}:{here}"}
    command = [sys.executable, "-c", "import test_stress as t; print(t.hell_hash())"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == hell_hash()
    assert ids(under(SpeakerMix())) == DRAWN


@pytest.mark.parametrize("name", ["mix", "noise", *(n for n in CONDITIONS if n in REPLACED)])
def test_a_draw_is_that_of_its_seed_and_utterance(name: str) -> None:
    (perturbation,) = CONDITIONS[name].perturbations
    here = under(perturbation)
    np.testing.assert_array_equal(here.wave, under(perturbation).wave)
    renamed = Mixture.of(replace(TARGET, id="other"), CLEAN.wave)
    for other in (under(perturbation, seed=SEED + 1), under(perturbation, on=renamed)):
        assert not np.array_equal(other.wave, here.wave)
    if name in REPLACED:
        assert here.wave.shape == CLEAN.wave.shape
        assert here.references == CLEAN.references


def test_utterances_do_not_depend_on_each_other_nor_on_the_order_of_the_corpus() -> None:
    hell = CONDITIONS["hell"]
    backwards = Speakers(reversed(UTTERANCES), wave_of)
    clean = [Mixture.of(utterance, wave_of(utterance)) for utterance in UTTERANCES[:4]]
    forth = [hell.apply(mixture, SPEAKERS, SEED).wave for mixture in clean]
    back = [hell.apply(mixture, backwards, SEED).wave for mixture in reversed(clean)][::-1]
    for wave, again in zip(forth, back, strict=True):
        np.testing.assert_array_equal(wave, again)


def test_what_leaves_the_corpus_changes_only_the_mixes_it_was_in() -> None:
    mixes = [under(SpeakerMix(2), seed=seed) for seed in range(20)]
    gone = mixes[0].parts[1].utterance
    fewer = Speakers([utterance for utterance in UTTERANCES if utterance != gone], wave_of)
    for seed, mix in enumerate(mixes):
        now = SpeakerMix(2).apply(CLEAN, fewer, seed)
        assert (ids(now) == ids(mix)) == (gone.id not in ids(mix))


def test_unusable_interferers_are_passed_over_as_if_they_were_not_listed() -> None:
    gone = under(SpeakerMix()).parts[1].utterance

    def read(utterance: Utterance) -> np.ndarray:
        return wave_of(utterance) * (np.nan if utterance == gone else 1)

    without = Speakers([known for known in UTTERANCES if known != gone], wave_of)
    expected = SpeakerMix().apply(CLEAN, without, SEED)
    actual = SpeakerMix().apply(CLEAN, Speakers(UTTERANCES, read), SEED)
    assert ids(actual) == ids(expected)
    assert gone.id not in ids(actual)
    np.testing.assert_array_equal(actual.wave, expected.wave)


# Bad input

BAD_WAVES = {
    "2-D": (np.ones((2, 100), np.float32), r"shape \(2, 100\).*average"),
    "0-D": (np.array(1.0), r"shape \(\)"),
    "int16": (np.ones(100, np.int16), "int16.*divide"),
    "complex": (np.ones(100, np.complex64), "complex64"),
    "bool": (np.ones(100, bool), "bool"),
    "empty": (np.ones(0, np.float32), "no samples"),
    "NaN": (np.array([0.1, np.nan], np.float32), "1 of 2 samples"),
    "infinite": (np.array([0.1, np.inf, -np.inf], np.float32), "2 of 3 samples"),
    "beyond float32": (np.array([0.1, 1e39]), "1 of 2 samples"),
    "silent": (np.zeros(100, np.float32), "all 100 samples are zero"),
    "below float32": (np.full(100, 1e-60), "all 100 samples are zero"),
    "list": ([0.1, 0.2], "list"),
}


@pytest.mark.parametrize("kind", BAD_WAVES)
def test_bad_waves_are_refused_by_name(kind: str) -> None:
    wave, message = BAD_WAVES[kind]
    with pytest.raises(UnusableUtterance, match=rf"^{TARGET.id}: .*{message}"):
        Mixture.of(TARGET, wave)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32_and_what_is_given_is_never_written_to(dtype: type) -> None:
    wave = wave_of(TARGET).astype(dtype)
    wave.flags.writeable = False
    mixture = Mixture.of(TARGET, wave)
    assert mixture.wave.dtype == np.float32
    hell = under(*CONDITIONS["hell"].perturbations, on=mixture).wave
    assert hell.dtype == np.float32
    assert not np.shares_memory(hell, wave)


def test_one_sample_can_be_mixed_and_drowned_but_not_stretched() -> None:
    tiny = Mixture.of(TARGET, np.array([0.5], np.float32))
    assert under(GaussianNoise(0.0), on=tiny).wave.size == 1
    assert under(SpeakerMix(), on=tiny).wave.size > 1
    for method in METHODS:
        with pytest.raises(UnusableUtterance, match=f"{TARGET.id}: 1 samples .* 2048 at least"):
            under(TimeStretch(method=method), on=tiny)


def test_too_few_other_speakers() -> None:
    few_speakers = Speakers(corpus(speakers=4), wave_of)
    with pytest.raises(ValueError, match=rf"{TARGET.id}: .*5 interferers.*has 3, 3 of .*usable"):
        SpeakerMix().apply(CLEAN, few_speakers, SEED)


BAD_VALUES = [
    (TimeStretch, [0, -1, 0.01, 100, math.nan, math.inf, "3.5", None, True],
     "stretch rate is .*; give a number from 0.1 to 10"),
    (GaussianNoise, [-math.inf, math.nan, 1000, "0", None],
     "noise snr_db is .*; give a number from -100 to 100"),
    (Substitute, ["music", None, 1], "substitute by is .*; choose from speech, silence"),
    (SpeakerMix, [-1, 2.5, 5.0, "5", True, None], "mix interferers is .*; give a whole number"),
    (lambda method: TimeStretch(2.0, method), ["tape", None],
     "stretch method is .*; choose from vocoder, wsola, resampled"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [(make, value, message) for make, values, message in BAD_VALUES for value in values],
)
def test_bad_values_are_named_with_the_remedy(
    make: Callable[[object], object], value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(value)


@pytest.mark.parametrize("severity", [-0.1, 1.1, math.nan, "1", None, True])
def test_bad_severities(severity: object) -> None:
    for perturbation in CONDITIONS["hell"].perturbations:
        with pytest.raises(ValueError, match=r"severity is .*; give a number from 0"):
            perturbation.at_severity(severity)  # type: ignore[arg-type]


def test_unknown_conditions_are_named() -> None:
    assert condition("hell") is CONDITIONS["hell"]
    with pytest.raises(ValueError, match="no condition 'heaven'; choose from clean, stretch"):
        condition("heaven")


def test_swapped_audio_is_another_speaker_s_as_it_is() -> None:
    swapped = under(Substitute("speech"))
    other = swapped.parts[1].utterance
    assert other.speaker != TARGET.speaker
    assert swapped.target == TARGET
    ((drawn, wave),) = SPEAKERS.draw({TARGET.speaker}, 1, SEED, CLEAN.key("substitute"))
    assert drawn == other
    np.testing.assert_array_equal(swapped.wave, wave)
