"""Offline converter: a Hugging Face checkpoint becomes a model bundle, without torch."""

__version__ = "0.1.0"
