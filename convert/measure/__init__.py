"""Runs models on texts: inputs of the matrices, divergences of the predictions, and what both say about types."""
