"""Spectra of a transformer's activations, the graphs its tokens form, and its layers' Jacobians.

Kernels on torch tensors, batched over any leading dimensions, on the tensor's own device: spectra
and graphs in float64, Jacobians in the dtype of the layer. Importing this needs torch alone.
"""

from spectral.graphs import attention_graph, graph_kirchhoff_index, similarity_graph
from spectral.jacobians.layers import Attention, FeedForward, Layer, LayerNorm
from spectral.jacobians.propagators import (
    LinearisedLayers,
    autodiff_propagators,
    layer_gains,
    linearise,
    unstable_dimensions,
)
from spectral.jacobians.triplets import LinearOperator, top_singular_triplets
from spectral.monitor import Monitor
from spectral.spectra import (
    effective_rank,
    eigenvalues,
    kirchhoff_index,
    resolved_kirchhoff_index,
    resolved_modes,
    spectral_slope,
)
from spectral.tracing.trace import attach

__version__ = "0.1.0"

__all__ = [
    "Attention",
    "FeedForward",
    "Layer",
    "LayerNorm",
    "LinearOperator",
    "LinearisedLayers",
    "Monitor",
    "attach",
    "attention_graph",
    "autodiff_propagators",
    "effective_rank",
    "eigenvalues",
    "graph_kirchhoff_index",
    "kirchhoff_index",
    "layer_gains",
    "linearise",
    "resolved_kirchhoff_index",
    "resolved_modes",
    "similarity_graph",
    "spectral_slope",
    "top_singular_triplets",
    "unstable_dimensions",
]
