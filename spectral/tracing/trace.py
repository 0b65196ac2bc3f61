"""``spectral.attach``: record a Whisper in memory while its own library decodes with it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spectral._validation import whole_number
from spectral.graphs import attention_graph, graph_kirchhoff_index, similarity_graph
from spectral.jacobians.propagators import linearise
from spectral.spectra import eigenvalues, observables, slope_reason
from spectral.tracing.runs import EMBEDDING, GramRecorder, Recorder, Run, following, self_attention
from spectral.whisper import COMPONENTS, HIDDEN_STATE, KEY, QUERY, as_layer, recognise

NAMES = {
    "self_attn.out": "self_attention",
    "self_attn.q": QUERY,
    "self_attn.k": KEY,
    "cross_attn.out": "cross_attention",
    "mlp.out": "ffn",
    "resid_post": HIDDEN_STATE,
}
"""What a layer's activations are called, beside resid_pre: the stream before it."""

_WINDOW = ("window", "run", "row", "attempt", "temperature", "kept")
_JACOBIANS = (*_WINDOW, "T", "token", "layer", "sigma_1", "ratio", "alignment", "gain", "unstable",
              "injection")  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of results by column; ``names`` of the columns where there may be no row."""

    rows: list[dict[str, Any]]
    names: Sequence[str] | None = None

    def to_frame(self) -> Any:
        """A pandas.DataFrame; pandas is imported here alone."""
        import pandas

        return pandas.DataFrame(self.rows, columns=self.names)


@dataclass(frozen=True)
class Window:
    """One text that was written, or given: a row of a batch in one run of the decoder.

    window: its number, from 0. run, row: which batch and which of its rows, from 0. attempt: which
    one at this window, from 1, where openai-whisper tries several temperatures; kept: whether it is
    the one that the library went on with, None where that cannot be known. tokens: of the text,
    without timestamps. positions: those of the decoder's input that predict them.
    """

    window: int
    run: int
    row: int
    attempt: int
    temperature: float | None
    kept: bool | None
    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    source: Run = field(repr=False, compare=False)

    def columns(self) -> dict[str, Any]:
        """What every row of a table says of its window; T: how many tokens it has."""
        return {name: getattr(self, name) for name in _WINDOW} | {"T": len(self.positions)}


@contextmanager
def attach(
    model: Any,
    *,
    keep: Literal["rows", "gram"] = "rows",
    start: int | None = None,
    end: int | None = None,
) -> Iterator["Trace"]:
    """Record what goes on inside the decoder: ``with attach(model) as trace: model.transcribe(x)``.

    Texts and confidences stay as they are without it, to the last bit. Inside the block the model
    may decode by its library's own ways, window after window and in batches, or be called itself.
    What was recorded stays on the model's device, usable after the block: per window (6 layers + 1)
    x positions x width numbers and its context, S x width, in the model's dtype; with
    ``keep="gram"`` 3 layers x T^2 in float64 and, of the last two batches alone, 3 layers of rows.

    Args:
        model: A Whisper of openai-whisper or transformers, or what has one as ``module``.
        keep: "rows", or "gram": of the text's rows only what has their Gram matrices, from which
            spectra are exact; no activations, attention, graphs or Jacobians then.
        start: Number of <|startoftranscript|>; by default as the library has it.
        end: Number of <|endoftext|>, below which tokens are text; by default likewise.

    Raises TypeError for a model of another structure; ValueError for a compiled one, a vocabulary
    without known start and end, beams, or another ``keep``; RuntimeError inside the block, where a
    layer was silent, or a cache was rearranged.

    >>> with attach(model) as trace:  # doctest: +SKIP
    ...     model.transcribe("talk.mp3")
    >>> trace.spectra(k=50).to_frame()  # doctest: +SKIP
    """
    if keep not in ("rows", "gram"):
        raise ValueError(f"keep must be 'rows' or 'gram', got {keep!r}")
    recorder = (GramRecorder if keep == "gram" else Recorder)(recognise(model, start, end))
    watchers = None if isinstance(model, nn.Module) else getattr(model, "watchers", None)
    with following(recorder, watchers):
        yield Trace(recorder)


class Trace:
    """The windows that were decoded in a block of :func:`attach`, and what is read off them.

    Layers count from 0, as the libraries count their blocks.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @property
    def windows(self) -> list[Window]:
        """In the order in which they began; a pass that tells of no text, such as the language's,
        is none. Raises RuntimeError where nothing was decoded."""
        found: list[Window] = []
        for number, run in enumerate(self._recorder.runs):
            texts = self._recorder.texts(run)
            if not run.cached and run.chosen is None and not any(rows for rows, _ in texts):
                continue
            for row, (positions, tokens) in enumerate(texts):
                place = len(found), number, row, run.attempt, run.temperature, run.kept[row]
                found.append(Window(*place, tuple(tokens), tuple(positions), run))
        if not found:
            raise RuntimeError(
                "nothing was decoded in the block: call the model inside it; a model that is "
                "compiled, or another copy of it, calls no hook of this one"
            )
        return found

    @property
    def names(self) -> list[str]:
        """What can be asked for, such as ``decoder.2.cross_attn.out``."""
        kinds = ("resid_pre", *NAMES)
        return [f"decoder.{i}.{kind}" for i in range(self._layers) for kind in kinds]

    def __getitem__(self, name: str) -> list[Tensor]:
        """The rows that predict text, (T, width) of every window; see :meth:`activations`."""
        return self.activations(name)

    def activations(self, name: str, whole: bool = False) -> list[Tensor]:
        """What has this name, (T, width) of every window; ``whole``: at every position fed.

        Raises KeyError for a name that is none, ValueError where Gram matrices alone were kept.
        """
        place = self._place(name)
        return [
            one.source.outputs(*place, one.row)[slice(None) if whole else list(one.positions)]
            for one in self.windows
        ]

    def attention(self, layer: int, window: int, whole: bool = False) -> Tensor:
        """One layer's self-attention in one window, (heads, T, T), float64.

        Over all earlier positions and the own one; the prompt's columns are then dropped, so rows
        may sum to less than one. ``whole``: between all positions fed.
        """
        chosen = self.windows[window]
        self._place(f"decoder.{layer}.self_attn.q")
        query, key = (chosen.source.outputs(kind, layer, chosen.row) for kind in (QUERY, KEY))
        real = _real(chosen, len(query))
        weights = self_attention(query, key, self._recorder.decoder.heads, real)
        positions = slice(None) if whole else list(chosen.positions)
        return weights[:, positions][:, :, positions]

    def spectra(self, k: int = 50, eps: float = 1e-6, rows: int | None = None) -> Table:
        """Spectra of every window, layer and component, of its first ``rows`` rows or of all.

        T: rows; resolved: modes above noise; n_eff, n_eff_singular, alpha, Kf, Kf_resolved: as
        :mod:`spectral.spectra` defines them over ``k`` modes, alpha with a reason where it is NaN.
        """
        whole_number(k, "k", least=2)
        modes = {component: self.eigenvalues(component, rows) for component in COMPONENTS}
        found: list[dict[str, Any]] = []
        for window in self.windows:
            count = min(len(window.positions), rows or len(window.positions))
            shared = window.columns() | {"T": count}
            for component in COMPONENTS:
                columns = observables(modes[component][window.window], k, eps)
                for layer in range(self._layers):
                    own = {
                        n.replace("kirchhoff", "Kf"): c[layer].item() for n, c in columns.items()
                    }
                    reason = slope_reason(int(own["resolved"]), k)
                    place = {"layer": layer, "component": component, "k": k}
                    found.append(shared | place | own | {"alpha_reason": reason})
        return Table(found)

    def eigenvalues(self, component: str, rows: int | None = None) -> list[Tensor]:
        """Covariance eigenvalues of a component, (layers, min(T, width)) of every window."""
        if component not in COMPONENTS:
            raise KeyError(f"no component {component!r}; there are: {', '.join(COMPONENTS)}")
        return [eigenvalues(self._stacked(one, component)[:, :rows]) for one in self.windows]

    def graphs(self) -> Table:
        """Kirchhoff indices of the latent graphs of every window and layer.

        graph: "attention", by head (from 0) and, where head is None, of their mean; "similarity" of
        hidden states after the layer.
        """
        found: list[dict[str, Any]] = []
        for window in self.windows:
            states = self._stacked(window, HIDDEN_STATE)
            similar = graph_kirchhoff_index(similarity_graph(states)).tolist()
            for layer in range(self._layers):
                weights = self.attention(layer, window.window)
                both = torch.cat([weights.mean(0, keepdim=True), weights])
                heads = graph_kirchhoff_index(attention_graph(both)).tolist()
                own = window.columns() | {"layer": layer, "graph": "attention"}
                for head, index in enumerate(heads, -1):
                    found.append(own | {"head": None if head < 0 else head, "Kf": index})
                found.append(own | {"graph": "similarity", "head": None, "Kf": similar[layer]})
        return Table(found)

    def jacobians(self, tokens: int = 8, windows: Sequence[int] | None = None) -> Table:
        """Gain, alignment and the like at ``tokens`` positions per window, evenly apart.

        Of these ``windows``, by default of all that are not known to be dropped attempts. In
        float64, modulo the direction 1, at the recorded states; :class:`spectral.LinearisedLayers`
        says what the columns are. token: of the text, from 0. Raises ValueError where Gram matrices
        alone were kept.
        """
        whole_number(tokens, "tokens", least=1)
        found: list[dict[str, Any]] = []
        layers = [as_layer(layer.layer, torch.float64) for layer in self._recorder.decoder.layers]
        before = [self._place(f"decoder.{i}.resid_pre") for i in range(self._layers)]
        for one in self.windows:
            wanted = one.kept is not False if windows is None else one.window in windows
            if not wanted or not one.positions:
                continue
            run, first, last = one.source, one.positions[0], one.positions[-1] + 1
            step = -(-(last - first) // tokens)
            chosen = slice(first + (last - first - 1) % step // 2, last, step)
            hidden = [run.outputs(*place, one.row).double() for place in before]
            assert run.context is not None, "rows are kept with their context"
            heard = run.context[one.row * len(run.context) // run.windows]  # samples share one
            point = linearise(layers, hidden, heard.double(), _real(one, len(hidden[0])), chosen)
            columns = {name: value.tolist() for name, value in point.columns().items()}
            for i, position in enumerate(range(last)[chosen]):
                if position in one.positions:
                    own = one.columns() | {"token": one.positions.index(position)}
                    for layer in range(self._layers):
                        values = {name: value[layer][i] for name, value in columns.items()}
                        found.append(own | {"layer": layer} | values)
        return Table(found, _JACOBIANS)

    def _stacked(self, window: Window, kind: str) -> Tensor:
        """All layers' rows that predict text, (layers, T, width), or their reduced form."""
        run, rows = window.source, list(window.positions)
        if run.state is not None and kind in COMPONENTS:
            reduced: Tensor = run.state[window.row][kind]
            return reduced
        return torch.stack([run.outputs(kind, i, window.row)[rows] for i in range(self._layers)])

    @property
    def _layers(self) -> int:
        return len(self._recorder.decoder.layers)

    def _place(self, name: str) -> tuple[str, int]:
        found = re.fullmatch(r"decoder\.(\d+)\.(.+)", name)
        layer, kind = (int(found[1]), found[2]) if found else (-1, name)
        if 0 <= layer < self._layers and kind == "resid_pre":
            return (HIDDEN_STATE, layer - 1) if layer else (EMBEDDING, 0)
        if not 0 <= layer < self._layers or kind not in NAMES:
            kinds = ", ".join(("resid_pre", *NAMES))
            raise KeyError(
                f"no activations {name!r}; there are decoder.0 to decoder.{self._layers - 1}, each "
                f"with .{kinds}"
            )
        return NAMES[kind], layer


def _real(window: Window, positions: int) -> Tensor | None:
    """Which positions are no padding before a prompt, (positions,); None for all."""
    if window.source.padding is None:
        return None
    known = window.source.padding[window.row]
    return torch.cat([known, known.new_ones(positions - len(known))])
