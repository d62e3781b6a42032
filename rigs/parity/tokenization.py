"""How llama.cpp tokenizes with the vocabulary of a file, in the form that upstream's converter hashes."""

import hashlib
from pathlib import Path

import llama_cpp

from tests.convert.native_quantizer import silence_llama_cpp


def sample_hash(model: Path, text: str) -> str:
    """Hex SHA-256 of the printed list of token ids of `text`, with the tokens that encoding adds."""
    silence_llama_cpp()
    vocabulary = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
    try:
        ids = vocabulary.tokenize(text.encode("utf-8"), add_bos=True, special=False)
    finally:
        vocabulary.close()
    return hashlib.sha256(str(ids).encode()).hexdigest()
