"""Trains quantized blocks with PyTorch, to win back accuracy: levels, scales, norms and biases.

It trains block after block, as EfficientQAT does (arXiv 2407.11062). Types and bytes of the file stay the same.
"""
