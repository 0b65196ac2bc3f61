"""Spectra of a transformer's activations, and the graphs that its tokens form.

Kernels on torch tensors: batched over any leading dimensions, on the tensor's own device, in
float64 whatever the input. Importing this package needs torch, numpy and scipy alone.
"""

from spectral.graphs import attention_graph, graph_kirchhoff_index, similarity_graph
from spectral.spectra import (
    effective_rank,
    eigenvalues,
    kirchhoff_index,
    resolved_kirchhoff_index,
    resolved_modes,
    spectral_slope,
)

__version__ = "0.1.0"

__all__ = [
    "attention_graph",
    "effective_rank",
    "eigenvalues",
    "graph_kirchhoff_index",
    "kirchhoff_index",
    "resolved_kirchhoff_index",
    "resolved_modes",
    "similarity_graph",
    "spectral_slope",
]
