"""Offline converter: a Hugging Face checkpoint becomes a model bundle, without torch."""

import os

# llama.cpp's threads read this as they start: it makes them sleep while they wait for each other, because busy waiting
# makes them many times slower as soon as another process needs a core.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Without it ggml forks a debugger at an abort, to print a backtrace.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
