"""What a model writes for inputs without speech, and for speech as it commonly goes wrong.

    python -m companion.measurement.inputs --models tiny.en base --decodings openai unrestricted

writes data/results/whisper/inputs/<model>.parquet: a few minutes per model. With

    --clips data/nonspeech --output data/results/whisper/nonspeech

it is of clips in which nobody speaks, instead.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pyarrow as pa

from companion.measurement.schemas import schema
from companion.measurement.store import write
from companion.measurement.texts import Row
from companion.models.decoding import transcribe
from companion.models.loading import choose_device, load, weights_digest
from companion.models.rules import OPENAI, RULES, UNRESTRICTED, rule
from companion.models.view import SpeechModel
from companion.speech.corpus import SAMPLE_RATE, find_clips, find_utterances, read_wave
from companion.stress.inputs import Input, from_speech, without_speech
from companion.stress.scoring import wer

UTTERANCES = ("101-1-0000", "109-1-0004")
"""Two speakers of the embedded corpus."""

LADDER, SEED, BATCH = Path("data/ladder"), 0, 8

_CONFIDENCES = (
    "average_log_probability", "no_speech_probability", "compression_ratio", "forbidden_mass",
    "finished",
)  # fmt: skip
INPUTS: pa.Schema = schema(
    "model", "parameters", "decoding", "input", "seconds", "reference", "transcript", "wer",
    *_CONFIDENCES, numbers=pa.float32(),
)  # fmt: skip
"""One row per decoding rule and input: data/README.md."""


def inputs(corpus: Path, utterances: Sequence[str], seed: int) -> list[Input]:
    """All inputs in the order of the table; raises ValueError for an id the corpus lacks."""
    known = {utterance.id: utterance for utterance in find_utterances(corpus).utterances}
    made = list(without_speech(seed))
    for name in utterances:
        if name not in known:
            raise ValueError(f"{corpus}: no utterance {name!r}; name one of its transcripts")
        wave, reference = read_wave(known[name]), known[name].reference
        made += from_speech(f"speech {name}", wave, reference, seed)
    return made


def clips(folder: Path) -> list[Input]:
    """The clips of a folder in which nobody speaks, by their names."""
    return [Input(clip.id, read_wave(clip), "") for clip in find_clips(folder).utterances]


def input_rows(
    model: SpeechModel, given: Sequence[Input], decodings: Sequence[str], batch: int
) -> list[Row]:
    """One row per decoding rule and input, ``batch`` inputs at a time."""
    rows: list[Row] = []
    for decoding, start in product(decodings, range(0, len(given), batch)):
        together = given[start : start + batch]
        transcripts = transcribe(model, [sound.wave for sound in together], rule(decoding))
        for sound, transcript in zip(together, transcripts, strict=True):
            rows.append({
                "model": model.name, "parameters": model.parameters, "decoding": decoding,
                "input": sound.name, "seconds": len(sound.wave) / SAMPLE_RATE,
                "reference": sound.reference, "transcript": transcript.text,
                "wer": wer(sound.reference, transcript.text),
                **{name: getattr(transcript, name) for name in _CONFIDENCES},
            })  # fmt: skip
    return rows


def main() -> None:
    """Measure the models named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m companion.measurement.inputs")
    parser.add_argument("--models", nargs="+", required=True)
    defaults = [OPENAI.name, UNRESTRICTED.name]
    parser.add_argument("--decodings", nargs="+", default=defaults, choices=list(RULES))
    parser.add_argument("--clips", type=Path, help="a folder of clips without speech, instead")
    parser.add_argument("--output", type=Path, default=Path("data/results/whisper/inputs"))
    asked = parser.parse_args()
    given = clips(asked.clips) if asked.clips else inputs(Path("data/corpus"), UTTERANCES, SEED)
    for name in asked.models:
        model = load(name, LADDER, choose_device("auto"))
        path = asked.output / f"{name}.parquet"
        meta = {
            "kind": "inputs", "weights": weights_digest(name, LADDER), "seed": SEED,
            "utterances": [] if asked.clips else UTTERANCES,
            "clips": [sound.name for sound in given] if asked.clips else [],
        }  # fmt: skip
        write(input_rows(model, given, asked.decodings, BATCH), path, meta, INPUTS)
        print(f"{path}: {len(given)} inputs under {', '.join(asked.decodings)}")


if __name__ == "__main__":
    main()
