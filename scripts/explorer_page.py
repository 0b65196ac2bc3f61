"""Write docs/explorer.html: sounds of the embedded corpus and what models make of them.

``python scripts/explorer_page.py``; minutes on two cores. The page needs no server and no network.
Sounds are synthesised speech, so that it may be given on. What shows it is explorer_page.html.
"""

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from companion.explore import spectra_of
from companion.measurement.run import spread
from companion.measurement.texts import text_columns
from companion.models.inside import Inside, inside
from companion.models.loading import load
from companion.models.rules import RULES
from companion.models.view import SpeechModel
from companion.results.tables import write_text
from companion.speech.corpus import SAMPLE_RATE, Utterance, find_utterances, read_wave
from companion.stress.conditions import condition
from companion.stress.mixture import Mixture, Speakers
from spectral import effective_rank

ROOT = Path(__file__).parents[1]
CORPUS, LADDER = ROOT / "data" / "corpus", ROOT / "data" / "ladder"
PAGE, TEMPLATE = ROOT / "docs" / "explorer.html", Path(__file__).with_suffix(".html")
MODELS = {"tiny.en": "openai", "base": "openai", "m-0": "unrestricted"}
"""Whose view is shown, and by which rule each decodes."""
CONDITIONS = {"clean": "clean", "noise-0.8": "noise of severity 0.8", "hell": "Hell"}
UTTERANCES, SEED = 20, 0
MODES, SHOWN = 10, 20  # of an effective rank; eigenvalues that are drawn
_COMPRESSION = 0.95  # of what libsndfile calls so: 16 kbit/s
_DATA = "/*DATA*/"


def chosen() -> tuple[list[Utterance], Speakers]:
    """The utterances of the page, and the speakers whom a mix is made of."""
    corpus = find_utterances(CORPUS).utterances
    return [*spread(corpus, UTTERANCES)], Speakers(corpus)


def mixtures(utterance: Utterance, speakers: Speakers) -> dict[str, Mixture]:
    """One utterance under every condition."""
    clean = Mixture.of(utterance, read_wave(utterance))
    return {name: condition(name).apply(clean, speakers, SEED) for name in CONDITIONS}


def sound(wave: np.ndarray) -> str:
    """Samples (samples,) at 16 kHz as MP3, which every browser plays, in a data address."""
    file = BytesIO()
    loudest = max(1.0, float(np.abs(wave).max()))
    with soundfile.SoundFile(
        file, "w", SAMPLE_RATE, 1, "MPEG_LAYER_III", format="MP3",
        bitrate_mode="CONSTANT", compression_level=_COMPRESSION,
    ) as written:  # fmt: skip
        written.write(wave / loudest)
    return f"data:audio/mpeg;base64,{b64encode(file.getvalue()).decode()}"


def view(model: SpeechModel, sounds: Mapping[str, Mixture]) -> dict[str, Any]:
    """What a model makes of every condition, and spectra of each stress beside clean speech."""
    rule = RULES[MODELS[model.name]]
    seen = {name: inside(model, mixture.wave, rule) for name, mixture in sounds.items()}
    return {
        "sides": {name: _side(model, sounds[name], side) for name, side in seen.items()},
        "spectra": {name: _spectra(seen["clean"], seen[name]) for name in seen if name != "clean"},
    }


def _side(model: SpeechModel, mixture: Mixture, seen: Inside) -> dict[str, Any]:
    """tokens: text, probability, risk, and the second that it listens to most."""
    about = text_columns(model, mixture, seen.transcript)
    risks = [*(seen.risk.risks if seen.risk else ())]
    risks += [math.nan] * (len(seen.pieces) - len(risks))
    weights = seen.listening.mean(0)  # over layers
    heard = max(1, round(weights.shape[1] * len(seen.wave) / SAMPLE_RATE / seen.window_seconds))
    seconds = (weights[:, :heard].argmax(1) + 0.5) * seen.window_seconds / weights.shape[1]
    columns = (seen.probabilities, risks, seconds)
    numbers = zip(*(_rounded(column, 3) for column in columns), strict=True)
    return {
        "text": seen.transcript.text,
        "wer": _rounded(about["wer"], 2),
        "outcome": about["outcome"],
        "log_probability": _rounded(seen.transcript.average_log_probability, 2),
        "no_speech": _rounded(seen.transcript.no_speech_probability, 2),
        "risk": _rounded(seen.risk.risk if seen.risk else math.nan, 2),
        "tokens": [[piece, *token] for piece, token in zip(seen.pieces, numbers, strict=True)],
        **{name: _rounded(values, 3) for name, values in seen.profile.items()},
    }


def _spectra(clean: Inside, stressed: Inside) -> dict[str, Any]:
    """log10 of eigenvalues, and effective ranks, of as many first rows of both: by layer."""
    spectra, rows = spectra_of({"clean": clean, "stressed": stressed})
    return {"rows": rows} | {
        kind: {
            "log10": [[_logarithms(layer) for layer in layers] for layers in sides.values()],
            "rank": [_rounded(effective_rank(layers, MODES), 2) for layers in sides.values()],
        }
        for kind, sides in spectra.items()
    }


def _logarithms(values: Tensor) -> list[float | None]:
    return [*_rounded(values[values > 0][:SHOWN].log10(), 2)]


def _rounded(values: Any, digits: int) -> Any:
    """A number or a list of them for JSON, which knows no NaN."""
    if np.ndim(values):
        return [_rounded(value, digits) for value in values]
    value = round(float(values), digits)
    return None if math.isnan(value) else value


def data() -> dict[str, Any]:
    """All that the page shows."""
    utterances, speakers = chosen()
    models = [load(name, LADDER, torch.device("cpu")) for name in MODELS]
    shown = []
    for utterance in tqdm(utterances):
        sounds = mixtures(utterance, speakers)
        shown.append(
            {
                "id": utterance.id,
                "reference": utterance.reference.lower(),
                "sounds": {name: sound(mixture.wave) for name, mixture in sounds.items()},
                "seconds": {n: _rounded(len(m.wave) / SAMPLE_RATE, 2) for n, m in sounds.items()},
                "views": {model.name: view(model, sounds) for model in models},
            }
        )
    facts = {m.name: f"{m.name}, {m.parameters / 1e6:.1f} M parameters" for m in models}
    return {"models": facts, "conditions": CONDITIONS, "modes": MODES, "utterances": shown}


def page(shown: Mapping[str, Any]) -> str:
    """The page with its data in it."""
    packed = json.dumps(shown, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return TEMPLATE.read_text(encoding="utf-8").replace(_DATA, packed.replace("</", r"<\/"))


if __name__ == "__main__":
    write_text(PAGE, page(data()))
