"""Jacobians of transformer layers: exact propagators, matrix-free operators, singular triplets."""
