"""The one way in which outputs of a decoder's parts are seen: forward hooks for a while."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from spectral.tracing.structure import DecoderLayer

COMPONENTS = ("self_attention", "cross_attention", "ffn")
"""What a decoder layer adds to the residual stream, in order."""

HIDDEN_STATE = "hidden_state"
"""The residual stream after a layer."""

QUERY, KEY = "query", "key"
KINDS = (*COMPONENTS, HIDDEN_STATE, QUERY, KEY)

Sink = Callable[[str, int, Tensor], None]


@contextmanager
def watching(layers: Sequence[DecoderLayer], sink: Sink) -> Iterator[None]:
    """Give ``sink`` the kind, layer (from 0) and output (batch, positions, width) of every part.

    Outputs are the library's own tensors: copy what is to be kept, as some layers hand out a buffer
    that a later operation overwrites in place.
    """
    handles = []
    try:
        for i, layer in enumerate(layers):
            for kind in (*COMPONENTS, QUERY, KEY):
                module = getattr(layer, kind)
                handles.append(module.register_forward_hook(_giving(sink, kind, i)))
            handles.append(layer.layer.register_forward_hook(_giving(sink, HIDDEN_STATE, i)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def positions_before(layers: Sequence[DecoderLayer], sink: Callable[[int], None]) -> Iterator[None]:
    """Give ``sink`` the number of positions that are cached whenever the first layer is called."""

    def give(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        sink(past(named.get("kv_cache", named.get("past_key_values"))))

    handle = layers[0].layer.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def past(cache: Any) -> int:
    """How many positions are cached: as the libraries count them."""
    if not isinstance(cache, dict):
        return 0 if cache is None else int(cache.get_seq_length())
    return next(iter(cache.values())).shape[1] if cache else 0


def _giving(sink: Sink, kind: str, layer: int) -> Callable[[nn.Module, Any, Any], None]:
    def give(module: nn.Module, inputs: Any, output: Any) -> None:
        sink(kind, layer, (output[0] if isinstance(output, tuple) else output).detach())

    return give
