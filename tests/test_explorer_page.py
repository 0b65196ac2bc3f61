"""The static explorer holds what the models give, all of it, and nothing from elsewhere."""

import json
import re
from base64 import b64decode
from io import BytesIO
from typing import Any

import explorer_page
import numpy as np
import pytest
import soundfile
import torch

from companion.models.loading import is_here, load
from companion.speech.corpus import SAMPLE_RATE

PAGE = explorer_page.PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', PAGE)
    assert match
    data: dict[str, Any] = json.loads(match[1])
    return data


def test_the_page_is_one_small_file_that_asks_for_no_other(shown: dict[str, Any]) -> None:
    assert len(PAGE.encode()) < 2e6
    assert explorer_page.page(shown) == PAGE, "run make explorer"
    code = PAGE.replace(json.dumps(shown, ensure_ascii=False, separators=(",", ":")), "")
    assert set(re.findall(r"\w+://[^\s\"'<>]+", code)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"<(?:link|script|img|iframe)[^>]* (?:src|href)=\"(?!data:)", code)


def test_twenty_utterances_are_heard_by_every_model_clean_and_stressed(
    shown: dict[str, Any],
) -> None:
    assert len(shown["utterances"]) == explorer_page.UTTERANCES == 20
    for utterance in shown["utterances"]:
        assert [*utterance["sounds"]] == [*explorer_page.CONDITIONS] == [*shown["conditions"]]
        assert [*utterance["views"]] == [*explorer_page.MODELS] == [*shown["models"]]
        for view in utterance["views"].values():
            assert [*view["sides"]] == [*explorer_page.CONDITIONS]
            for side in view["sides"].values():
                assert "".join(piece for piece, *_ in side["tokens"]) == side["text"]
                assert all(0 <= probability <= 1 for _, probability, *_ in side["tokens"])


def test_every_sound_is_that_of_the_condition(shown: dict[str, Any]) -> None:
    utterances, speakers = explorer_page.chosen()
    for utterance, entry in zip(utterances, shown["utterances"], strict=True):
        assert entry["id"] == utterance.id
        for name, mixture in explorer_page.mixtures(utterance, speakers).items():
            kind, data = entry["sounds"][name].split(",")
            assert kind == "data:audio/mpeg;base64"
            wave, rate = soundfile.read(BytesIO(b64decode(data)))
            assert rate == SAMPLE_RATE
            assert len(wave) / rate == pytest.approx(entry["seconds"][name], abs=0.2)
            size = 2 ** (len(wave) + len(mixture.wave)).bit_length()
            spectra = [np.fft.rfft(samples, size) for samples in (wave, mixture.wave)]
            alike = np.fft.irfft(spectra[0] * spectra[1].conj()).max()
            alike /= np.linalg.norm(wave) * np.linalg.norm(mixture.wave)
            assert alike > (0.95 if name == "clean" else 0.7), "MP3 leaves out what is above 6 kHz"


STRESSES = {"tiny.en": ("noise-0.8",), "base": ("hell",), "m-0": ("noise-0.8", "hell")}


@pytest.mark.parametrize("name", explorer_page.MODELS)
def test_a_model_gives_the_numbers_again(shown: dict[str, Any], name: str) -> None:
    """Of the first utterance: clean, and under one stress or another of each of two models."""
    if not is_here(name, explorer_page.LADDER):
        pytest.skip(f"{name}: its weights are not installed; run make weights")
    model = load(name, explorer_page.LADDER, torch.device("cpu"))
    utterances, speakers = explorer_page.chosen()
    sounds = explorer_page.mixtures(utterances[0], speakers)
    chosen = {condition: sounds[condition] for condition in ("clean", *STRESSES[name])}
    now = json.loads(json.dumps(explorer_page.view(model, chosen)))
    then = shown["utterances"][0]["views"][name]
    _compare(now, {key: {c: then[key][c] for c in now[key]} for key in then}, name)


def _compare(now: Any, then: Any, place: str) -> None:
    """The same, numbers within what another machine makes of the last digit."""
    if isinstance(now, list):
        now, then = dict(enumerate(now)), dict(enumerate(then))
    if isinstance(now, dict):
        assert now.keys() == then.keys(), place
        for key, value in now.items():
            _compare(value, then[key], f"{place} {key}")
    elif isinstance(now, float):
        assert now == pytest.approx(then, abs=0.015, rel=0.01), place
    else:
        assert now == then, place
