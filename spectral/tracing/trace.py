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

    window, run, row: its number, and which batch and row it is, from 0. attempt: which one at this
    sound, from 1, where openai-whisper tries several temperatures; kept: whether the library went
    on with it, None where that cannot be known, or the text was given. tokens: of the text, without
    timestamps. positions: those of the decoder's input that predict them.
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

    def columns(self, rows: int | None = None) -> dict[str, Any]:
        """What every row of a table says of its window; T: how many of its first rows it is of."""
        return {name: getattr(self, name) for name in _WINDOW} | {"T": len(self.positions[:rows])}


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
    without known start and end, beams, speculative decoding, or another ``keep``; RuntimeError
    inside the block, where a layer was silent, or a cache was rearranged.

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
        windows: list[Window] = []
        for number, run in enumerate(self._recorder.runs):
            texts = self._recorder.texts(run)
            if not run.cached and run.chosen is None and not any(rows for rows, _ in texts):
                continue
            for row, (positions, tokens) in enumerate(texts):
                place = len(windows), number, row, run.attempt, run.temperature, run.kept[row]
                windows.append(Window(*place, tuple(tokens), tuple(positions), run))
        if not windows:
            raise RuntimeError(
                "nothing was decoded in the block: call the model inside it; a model that is "
                "compiled, or another copy of it, calls no hook of this one"
            )
        return windows

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
            window.source.outputs(*place, window.row)[_rows(window, whole)]
            for window in self.windows
        ]

    def attention(self, layer: int, window: int, whole: bool = False) -> Tensor:
        """One layer's self-attention in one window, (heads, T, T), float64.

        Without the columns of the prompt, so that rows may sum to less than one; ``whole``: between
        all positions fed.
        """
        chosen = self.windows[window]
        self._place(f"decoder.{layer}.self_attn.q")
        return self._attention(chosen, layer, whole)

    def spectra(self, k: int = 50, eps: float = 1e-6, rows: int | None = None) -> Table:
        """Spectra of every window, layer and component, of its first ``rows`` rows or of all.

        T: rows; resolved: modes above noise; n_eff, n_eff_singular, alpha, Kf, Kf_resolved: as
        :mod:`spectral.spectra` defines them over ``k`` modes, alpha with a reason where it is NaN.
        Raises ValueError for ``rows`` below 1 or k below 2.
        """
        whole_number(k, "k", least=2)
        spectra = {component: self.eigenvalues(component, rows) for component in COMPONENTS}
        table: list[dict[str, Any]] = []
        for window in self.windows:
            for component in COMPONENTS:
                columns = observables(spectra[component][window.window], k, eps)
                for layer in range(self._layers):
                    values = {
                        n.replace("kirchhoff", "Kf"): c[layer].item() for n, c in columns.items()
                    }
                    place = window.columns(rows) | {"layer": layer, "component": component, "k": k}
                    reason = slope_reason(int(values["resolved"]), k)
                    table.append(place | values | {"alpha_reason": reason})
        return Table(table)

    def eigenvalues(self, component: str, rows: int | None = None) -> list[Tensor]:
        """Covariance eigenvalues of a component, (layers, min(T, width)) of every window."""
        if component not in COMPONENTS:
            raise KeyError(f"no component {component!r}; there are: {', '.join(COMPONENTS)}")
        if rows is not None:
            whole_number(rows, "rows", least=1)
        return [eigenvalues(self._stacked(window, component)[:, :rows]) for window in self.windows]

    def graphs(self) -> Table:
        """Kirchhoff indices of the latent graphs of every window and layer.

        graph: "attention", by head and, where that is None, of their mean; or "similarity".
        """
        table: list[dict[str, Any]] = []
        for window in self.windows:
            states = self._stacked(window, HIDDEN_STATE)
            similar = graph_kirchhoff_index(similarity_graph(states)).tolist()
            for layer in range(self._layers):
                weights = self._attention(window, layer)
                both = torch.cat([weights.mean(0, keepdim=True), weights])
                heads = graph_kirchhoff_index(attention_graph(both)).tolist()
                place = window.columns() | {"layer": layer, "graph": "attention"}
                for head, index in enumerate(heads, -1):
                    table.append(place | {"head": None if head < 0 else head, "Kf": index})
                table.append(place | {"graph": "similarity", "head": None, "Kf": similar[layer]})
        return Table(table)

    def jacobians(self, tokens: int = 8, windows: Sequence[int] | None = None) -> Table:
        """Gain, alignment and the like at ``tokens`` positions per window, evenly apart.

        Of these ``windows``, by default of all that are not known to be dropped attempts. In
        float64, modulo the direction 1, at the recorded states; :class:`spectral.LinearisedLayers`
        says what the columns are. token: of the text, from 0. Raises ValueError for a window that
        is none, or where Gram matrices alone were kept.
        """
        whole_number(tokens, "tokens", least=1)
        if missing := sorted({*(windows or ())} - {window.window for window in self.windows}):
            raise ValueError(f"no windows {missing}; there are 0 to {len(self.windows) - 1}")
        table: list[dict[str, Any]] = []
        layers = [as_layer(layer.layer, torch.float64) for layer in self._recorder.decoder.layers]
        before = [self._place(f"decoder.{i}.resid_pre") for i in range(self._layers)]
        for window in self.windows:
            wanted = window.kept is not False if windows is None else window.window in windows
            if not wanted or not window.positions:
                continue
            run, first, last = window.source, window.positions[0], window.positions[-1] + 1
            step = -(-(last - first) // tokens)
            chosen = slice(first + (last - first - 1) % step // 2, last, step)
            hidden = [run.outputs(*place, window.row).double() for place in before]
            assert run.context is not None, "rows are kept with their context"
            context = run.context[
                window.row * len(run.context) // run.windows
            ].double()  # of all samples
            point = linearise(layers, hidden, context, _real(window, len(hidden[0])), chosen)
            columns = {name: value.tolist() for name, value in point.columns().items()}
            for i, position in enumerate(range(last)[chosen]):
                if position in window.positions:
                    token = {"token": window.positions.index(position)}
                    for layer in range(self._layers):
                        values = {name: value[layer][i] for name, value in columns.items()}
                        table.append(window.columns() | token | {"layer": layer} | values)
        return Table(table, _JACOBIANS)

    def _attention(self, window: Window, layer: int, whole: bool = False) -> Tensor:
        query, key = (window.source.outputs(kind, layer, window.row) for kind in (QUERY, KEY))
        real = _real(window, len(query))
        weights = self_attention(query, key, self._recorder.decoder.heads, real)
        rows = _rows(window, whole)
        return weights[:, rows][:, :, rows]

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
        match = re.fullmatch(r"decoder\.(\d+)\.(.+)", name)
        layer, kind = (int(match[1]), match[2]) if match else (-1, name)
        if 0 <= layer < self._layers and kind == "resid_pre":
            return (HIDDEN_STATE, layer - 1) if layer else (EMBEDDING, 0)
        if not 0 <= layer < self._layers or kind not in NAMES:
            kinds = ", ".join(("resid_pre", *NAMES))
            raise KeyError(
                f"no activations {name!r}; there are decoder.0 to decoder.{self._layers - 1}, each "
                f"with .{kinds}"
            )
        return NAMES[kind], layer


def _rows(window: Window, whole: bool) -> Any:
    """Those that predict text, or all."""
    return slice(None) if whole else list(window.positions)


def _real(window: Window, positions: int) -> Tensor | None:
    """Which positions are no padding before a prompt, (positions,); None for all."""
    if window.source.padding is None:
        return None
    known = window.source.padding[window.row]
    return torch.cat([known, known.new_ones(positions - len(known))])
