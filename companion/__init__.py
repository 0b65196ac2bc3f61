"""All that the notebooks share beside the kernels: from speech to figures."""
