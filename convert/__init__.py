"""Offline converter: a Hugging Face checkpoint becomes a model bundle, without torch."""

import os

# Read by llama.cpp's threads as they start: they sleep while they wait for each other. Awake, they are many times
# slower as soon as anything else wants a core.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.2.0"
