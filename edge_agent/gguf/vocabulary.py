"""Checks the vocabulary of a qwen2 model: byte-level BPE, complete, with distinct tokens.

Source: src/llama-vocab.cpp (llama_vocab::impl::load) of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.core.errors import shown
from edge_agent.gguf.header import I32, STRING, Array, Header, HeaderError, read_strings

_TOKENS = "tokenizer.ggml.tokens"
# Their tokens are raw text, not bytes; llama.cpp aborts on a blank.
_NOT_OF_BYTES = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")
_PREFIX, _ID = "tokenizer.ggml.", "_token_id"
_END, _BEGIN, _ADDS_BEGIN = f"{_PREFIX}eos{_ID}", f"{_PREFIX}bos{_ID}", f"{_PREFIX}add_bos_token"


def check_vocabulary(path: Path, header: Header) -> int:
    """Gives the number of tokens. Raises HeaderError, OSError."""
    header.text(f"{_PREFIX}model", "gpt2")
    if (pre := header.values.get(f"{_PREFIX}pre")) in _NOT_OF_BYTES:
        raise HeaderError(f"{_PREFIX}pre: should be of a vocabulary of bytes, as qwen2 is (got {shown(pre)})")
    tokens = header.array(_TOKENS, STRING)
    header.array(f"{_PREFIX}merges", STRING)
    header.array(f"{_PREFIX}token_type", I32, tokens.count)
    # llama.cpp uses token 11 where one is missing.
    required = (_END, _BEGIN) if header.values.get(_ADDS_BEGIN) is True else (_END,)
    named = (key for key in header.values if key.startswith(_PREFIX) and key.endswith(_ID))
    for key in dict.fromkeys((*required, *named)):
        header.integer(key, tokens.count - 1, least=0)
    _check_distinct(path, tokens)
    return tokens.count


def _check_distinct(path: Path, tokens: Array) -> None:
    seen: set[bytes] = set()
    for number, token in enumerate(read_strings(path, tokens)):
        # llama.cpp's name for an empty token.
        text = token or b"[EMPTY_%d]" % number
        if text in seen or b"\0" in text:
            why = "every token once" if text in seen else "no zero byte in a token"
            raise HeaderError(f"{_TOKENS}: should have {why} (got {shown(text.decode(errors='replace'))} as {number})")
        seen.add(text)
