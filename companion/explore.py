"""Explore: hear one sound and see what a Whisper makes of it, clean and under stress.

The controls of notebooks/explore.ipynb, which run without a browser as well.
"""

import html
import math
import tempfile
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import soundfile
from matplotlib.figure import Figure

from companion.figures.explore import (
    PROFILE,
    Spectra,
    draw_eigenvalues,
    draw_listening,
    draw_profile,
)
from companion.measurement.run import spread
from companion.measurement.texts import text_columns
from companion.models.capture import COMPONENTS
from companion.models.inside import Inside, hear_window, inside_window
from companion.models.loading import available, choose_device, is_here, load
from companion.models.published import PUBLISHED
from companion.models.rules import RULES
from companion.models.view import SpeechModel
from companion.speech.corpus import SAMPLE_RATE, Utterance, find_utterances, read_wave
from companion.stress.conditions import CONDITIONS, GRADED
from companion.stress.mixture import Mixture, Speakers
from spectral import effective_rank, eigenvalues

SEED = 0
LISTED, KEPT = 200, 24  # utterances of a corpus to choose from; sounds that stay as heard
_MODES = 10  # of the effective ranks that are told


def uploaded(name: str, content: bytes) -> Utterance:
    """A recording of one's own as an utterance without a reference; it is read and checked.

    Raises UnusableUtterance, naming the file, what is wrong with it, and the remedy.
    """
    folder = Path(tempfile.mkdtemp(prefix="explore-"))
    path = folder / (Path(name.replace("\\", "/")).name or "recording")
    path.write_bytes(content)
    utterance = Utterance(path.name, path.name, "", path)
    try:
        read_wave(utterance)
    except ValueError as error:
        raise type(error)(str(error).replace(f"{folder}/", "")) from None
    return utterance


class Explorer:
    """Controls, and what they show: ``box`` is the widget, ``update`` shows what is chosen.

    ladder: the folder of models. corpora: folders of speech in LibriSpeech's layout, of which those
    that are there are offered; a mix takes its speakers from the corpus of the utterance, and for
    a recording of one's own from the first.
    """

    def __init__(self, ladder: Path, corpora: Sequence[Path], device: str = "auto") -> None:
        self._device = choose_device(device)
        names = [*(name for name in PUBLISHED if is_here(name, ladder)), *available(ladder)]
        spoken = [find_utterances(folder).utterances for folder in corpora if folder.is_dir()]
        if not spoken:
            raise FileNotFoundError(f"{[*map(str, corpora)]}: no such folders; name one of speech")
        self._speakers = {u.id: Speakers(corpus) for corpus in spoken for u in corpus}
        self._model = cache(lambda name: load(name, ladder, self._device))
        self._mixture = lru_cache(KEPT)(self._mixed)
        # mixtures are known by their identity: the same choice gives the same object
        self._window = lru_cache(KEPT)(lambda model, mixture: hear_window(model, mixture.wave))
        self._inside = lru_cache(KEPT)(
            lambda model, mixture, rule: inside_window(
                model, self._window(model, mixture), RULES[rule]
            )
        )
        self.sides: dict[str, Inside] = {}
        listed = [
            (f"{utterance.id}: {utterance.reference.lower()}", utterance)
            for corpus in spoken
            for utterance in spread(corpus, LISTED)
        ]
        rules = [name for name, rule in RULES.items() if not rule.by_library]
        wide = {"layout": {"width": "48%"}, "style": {"description_width": "6em"}}
        self.model = widgets.Dropdown(options=names, description="model", **wide)
        self.utterance = widgets.Dropdown(options=listed, description="utterance", **wide)
        stresses = [name for name in CONDITIONS if CONDITIONS[name].perturbations]
        self.stress = widgets.Dropdown(options=stresses, description="stress", **wide)
        self.stress.value = "noise"
        self.severity = widgets.FloatSlider(
            1.0, min=0, max=1, step=0.05, description="severity", continuous_update=False, **wide
        )
        self.decoding = widgets.Dropdown(options=rules, description="decoding", **wide)
        self.start = widgets.BoundedFloatText(0, max=3600, description="from (s)", **wide)
        self.layer = widgets.Dropdown(options=[("mean of all", 0)], description="layer", **wide)
        self.token = widgets.IntSlider(1, 1, 1, description="token", **wide)
        kinds = "audio/*,.flac,.opus,.mka,.caf,.amr,.3gp"
        whole = {"width": "max-content"}
        self.upload = widgets.FileUpload(accept=kinds, description="your recording", layout=whole)
        self.progress = widgets.IntProgress(max=4, description="ready", **wide)
        self.message, self.text = widgets.HTML(), widgets.HTML()
        self.sound = {
            side: widgets.Audio(format="wav", autoplay=False, loop=False)
            for side in ("clean", "stressed")
        }
        self.listening, self.profile, self.spectra = (widgets.HTML() for _ in range(3))
        for control in ("model", "utterance", "stress", "severity", "decoding", "start"):
            getattr(self, control).observe(self.update, "value")
        for control in (self.layer, self.token):
            control.observe(self._draw_listening, "value")
        self.upload.observe(self._load, "value")
        pairs = ("model utterance", "stress severity", "decoding start", "upload progress")
        rows = [widgets.HBox([getattr(self, name) for name in pair.split()]) for pair in pairs]
        sounds = [widgets.VBox([widgets.Label(n), self.sound[n]]) for n in self.sound]
        pictures = (self.listening, self.profile, self.spectra)
        shown = (widgets.HBox([self.layer, self.token]), *pictures)
        self.box = widgets.VBox([*rows, self.message, widgets.HBox(sounds), self.text, *shown])
        self.update()

    def update(self, change: object = None) -> None:
        """Hear and show what is chosen; what cannot be is said instead, and nothing old stays."""
        self.severity.disabled = self.stress.value not in GRADED
        self.message.value = ""
        try:
            self._step(0, f"loading {self.model.value}")
            model = self._model(self.model.value)
            severity = self.severity.value if self.stress.value in GRADED else 1.0
            chosen = (self.stress.value, severity) if severity else ("clean", 1.0)
            stresses = {"clean": ("clean", 1.0), "stressed": chosen}
            about = model.window_samples, self.utterance.value, float(self.start.value)
            sounds = {side: self._mixture(*about, *stress) for side, stress in stresses.items()}
            for side, mixture in sounds.items():
                self.sound[side].value = _wav(mixture.wave[: model.window_samples])
            sides = {}
            for i, (side, mixture) in enumerate(sounds.items()):
                self._step(i + 1, f"hearing it {side}")
                sides[side] = mixture, self._inside(model, mixture, self.decoding.value)
        except (ValueError, OSError) as error:
            self.message.value = f"<b role=alert>{html.escape(str(error))}</b>"
            self.sides, self.text.value = {}, ""
            for sound in self.sound.values():
                sound.value = b""
            for picture in (self.listening, self.profile, self.spectra):
                picture.value = ""
            self._step(4, "not shown")
            return
        self._step(3, "drawing")
        self.sides = {side: seen for side, (_, seen) in sides.items()}
        spectra, length = spectra_of(self.sides)
        self.text.value = _texts_in_words(model, sides, spectra, length)
        self._choose_from(len(model.layers), max(len(seen.pieces) for seen in self.sides.values()))
        self._draw_listening()
        self.profile.value = _picture(draw_profile(self.sides), _profile_in_words(self.sides))
        self.spectra.value = _picture(
            draw_eigenvalues(spectra, length),
            f"Eigenvalues of every layer and component, clean and stressed, of the first {length} "
            "rows; the effective ranks are in the text above.",
        )
        self._step(4, "ready")

    def _step(self, done: int, doing: str) -> None:
        self.progress.value, self.progress.description = done, doing

    def _mixed(
        self, samples: int, utterance: Utterance, start: float, stress: str, severity: float
    ) -> Mixture:
        wave = read_wave(utterance)[round(start * SAMPLE_RATE) :]
        if not len(wave):
            raise ValueError(f"{utterance.path.name}: ends before {start:g} s; choose less")
        clean = Mixture.of(utterance, wave[:samples])
        speakers = self._speakers.get(utterance.id) or next(iter(self._speakers.values()))
        return CONDITIONS[stress].at_severity(severity).apply(clean, speakers, SEED)

    def _load(self, change: object = None) -> None:
        for file in self.upload.value:
            try:
                recording = uploaded(file["name"], bytes(file["content"]))
            except ValueError as error:
                self.message.value = f"<b role=alert>{html.escape(str(error))}</b>"
            else:
                first = (f"yours: {recording.id}", recording)
                self.utterance.options = [first, *self.utterance.options]
                self.utterance.value = recording

    def _choose_from(self, layers: int, tokens: int) -> None:
        wanted = [("mean of all", 0), *((str(i), i) for i in range(1, layers + 1))]
        sides, self.sides = self.sides, {}  # nothing is drawn meanwhile
        if [*self.layer.options] != wanted:
            self.layer.options = wanted
        self.token.max = max(tokens, 1)
        self.sides = sides

    def _draw_listening(self, change: object = None) -> None:
        if self.sides:
            layer, token = self.layer.value - 1, self.token.value - 1
            figure = draw_listening(self.sides, layer, token)
            self.listening.value = _picture(figure, _listening_in_words(self.sides, layer, token))


def spectra_of(sides: Mapping[str, Inside]) -> tuple[Spectra, int]:
    """Eigenvalues (layers, modes) by component and side, of as many first rows on each side."""
    length = min(len(seen.pieces) for seen in sides.values())
    spectra = {
        kind: {
            side: eigenvalues(seen.activations[kind][:, :length]) for side, seen in sides.items()
        }
        for kind in (COMPONENTS if length > 1 else ())
    }
    return spectra, length


def _texts_in_words(
    model: SpeechModel, sides: dict[str, tuple[Mixture, Inside]], spectra: Spectra, length: int
) -> str:
    """The texts token by token, what is known of them, and effective ranks: HTML."""
    reference = sides["clean"][0].target.reference
    lines = [f"<p><b>reference</b>: {html.escape(reference.lower() or 'not known')}</p>"]
    for side, (mixture, seen) in sides.items():
        about = text_columns(model, mixture, seen.transcript)
        scored = f"WER {about['wer']:.2f}, {about['outcome']}; " if reference else ""
        ranks = ", ".join(
            f"{kind.replace('_', '-')} {effective_rank(of_sides[side], _MODES).mean():.2f}"
            for kind, of_sides in spectra.items()
        )
        written = "".join(map(_piece, seen.pieces, seen.probabilities)) or "nothing"
        lines.append(
            f"<p><b>{side}</b>: {written}<br>"
            f"{scored}{len(seen.pieces)} tokens, mean log-probability "
            f"{seen.transcript.average_log_probability:.2f}, no-speech probability "
            f"{seen.transcript.no_speech_probability:.2f}{_risk(seen)}<br>"
            f"effective rank of {_MODES} modes, first {length} rows, mean over layers: "
            f"{ranks or 'none of so few rows'}</p>"
        )
    return "".join(lines)


def _piece(text: str, probability: float) -> str:
    """A token on a ground that is the redder the less probable it was, with its probability."""
    shown = html.escape(text).replace(" ", "&nbsp;")
    return (
        f'<span style="background:rgba(213,94,0,{0.7 * (1 - probability):.2f})">{shown}'
        f"<sub>{probability:.2f}</sub></span><wbr>"
    )


def _risk(seen: Inside) -> str:
    return "" if seen.risk is None or math.isnan(seen.risk.risk) else f", risk {seen.risk.risk:.2f}"


def _listening_in_words(sides: dict[str, Inside], layer: int, token: int) -> str:
    """What the picture of cross-attention shows, in words."""
    lines = [f"Log-mel and cross-attention, {f'layer {layer + 1}' if layer >= 0 else 'all layers'}"]
    for side, seen in sides.items():
        if seen.pieces:
            at = min(token, len(seen.pieces) - 1)
            weights = (seen.listening.mean(0) if layer < 0 else seen.listening[layer])[at]
            second = (int(weights.argmax()) + 0.5) * seen.window_seconds / len(weights)
            piece = seen.pieces[at].strip()
            lines.append(f"{side}: token {at + 1}, “{piece}”, listens most at {second:.2f} s")
    return "; ".join(lines) + "."


def _profile_in_words(sides: dict[str, Inside]) -> str:
    """What the picture of tokens and layers shows, in words."""
    lines = []
    for side, seen in sides.items():
        rows = {name: seen.profile[name] for name in PROFILE if name in seen.profile}
        if seen.risk is not None:
            rows["risk of tokens"] = np.array(seen.risk.risks)
        read = (f"{name} {', '.join(f'{x:.2f}' for x in values)}" for name, values in rows.items())
        lines.append(f"{side}: {'; '.join(read) or 'none'}")
    return f"Probability and risk by token, gain and alignment by layer. {'. '.join(lines)}."


def _picture(figure: Figure, words: str) -> str:
    """A figure as HTML, with what it shows in words for who does not see it."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=100, pil_kwargs={"compress_level": 1})
    data = b64encode(file.getvalue()).decode()
    alt = html.escape(words)
    return f'<img alt="{alt}" src="data:image/png;base64,{data}" style="max-width: 100%">'


def _wav(wave: np.ndarray) -> bytes:
    """A WAV file of samples (samples,), as loud as it goes where they are louder than that."""
    file = BytesIO()
    soundfile.write(file, wave / max(1.0, float(np.abs(wave).max())), SAMPLE_RATE, format="WAV")
    return file.getvalue()
