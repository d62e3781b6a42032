"""Offline converter: a Hugging Face checkpoint becomes a model bundle, without torch."""

import os

# Read by libraries when they are loaded. One thread for numpy's products: the sums, and so the bytes, do not depend on
# how many there are, and the work is shared out by whole matrices. And llama.cpp's threads sleep while they wait for
# each other: awake, they are many times slower as soon as anything else wants a core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
