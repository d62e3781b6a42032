"""tokenizer.json and tokenizer_config.json of a Qwen2 checkpoint, in the form of llama.cpp.

Does what upstream's converter does through transformers (conversion/base.py `get_vocab_base`), from the JSON alone.
Upstream recognises the pre-tokenizer by hashing a tokenized sample; here its definition is compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ..errors import CheckpointError, printable
from .special_tokens import CONFIG_FILE, FILE, R1_BOS, SpecialTokens, read_special_tokens, wrong

SPLIT_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_QWEN2 = "qwen2"
PRE_R1_DISTILL = "deepseek-r1-qwen"
# Tokens that behave as control tokens although some checkpoints do not mark them special.
_CONTROL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_CONTROL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


class TokenType(IntEnum):
    """llama.cpp's token types."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A byte-level BPE vocabulary. `tokens` and `token_types` have one entry per row of the embedding."""

    pre: str
    tokens: list[str]
    token_types: list[int]
    merges: list[str]
    special: SpecialTokens


def parse_tokenizer(
    raw: dict[str, Any], config: dict[str, Any], fallback_ids: dict[str, int], vocab_size: int
) -> Tokenizer:
    """The vocabulary of `vocab_size` tokens; ids without a token become `[PAD<id>]` of type UNUSED.

    fallback_ids: config.json's special tokens, used where tokenizer_config.json names none. Raises CheckpointError for
    anything that llama.cpp would silently tokenize in another way than this tokenizer.
    """
    model = _object(raw, "model")
    _check_algorithm(raw, model)
    vocab = _vocab(model)
    added = _added_tokens(raw, config)
    ids_by_text = {text: token_id for token_id, (text, _) in added.items()}
    special = read_special_tokens(raw, config, ids_by_text, fallback_ids)
    for kind, token_id in special.ids.items():
        if not 0 <= token_id < vocab_size:
            raise CheckpointError(f"{CONFIG_FILE}: {kind}_token has id {token_id}, allowed is 0 to {vocab_size - 1}")
    tokens, types = _tokens(vocab, added, vocab_size)
    is_r1_distill = special.adds.get("bos") is True and tokens[special.ids["bos"]] == R1_BOS
    return Tokenizer(
        pre=PRE_R1_DISTILL if is_r1_distill else PRE_QWEN2,
        tokens=tokens,
        token_types=types,
        merges=_merges(model, vocab),
        special=special,
    )


def _check_algorithm(raw: dict[str, Any], model: dict[str, Any]) -> None:
    if model.get("type", "BPE") != "BPE":
        raise wrong("model.type", model.get("type"), "BPE")
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(field):
            raise wrong(f"model.{field}", model[field], "null, empty or false")
    normalizer = raw.get("normalizer")
    # llama.cpp does not normalize; the agent applies NFC itself.
    if normalizer is not None and (not isinstance(normalizer, dict) or normalizer.get("type") != "NFC"):
        raise wrong("normalizer", normalizer, "NFC or null")
    pre = raw.get("pre_tokenizer")
    steps = pre.get("pretokenizers") if isinstance(pre, dict) and pre.get("type") == "Sequence" else None
    if not isinstance(steps, list) or len(steps) != 2 or not all(isinstance(step, dict) for step in steps):
        raise wrong("pre_tokenizer", pre, "a Sequence of Split and ByteLevel, as Qwen2 has it")
    split, byte_level = steps
    if split.get("type") != "Split" or split.get("behavior") != "Isolated" or split.get("invert") is not False:
        raise wrong("pre_tokenizer.pretokenizers[0]", split, "an isolating Split")
    if split.get("pattern") != {"Regex": SPLIT_REGEX}:
        raise wrong("pre_tokenizer pattern", split.get("pattern"), "Qwen2's regular expression")
    if byte_level.get("type") != "ByteLevel" or byte_level.get("use_regex") or byte_level.get("add_prefix_space"):
        raise wrong("pre_tokenizer.pretokenizers[1]", byte_level, "ByteLevel without regex and prefix space")


def _vocab(model: dict[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise CheckpointError(f"{FILE}: model.vocab must be an object that maps tokens to ids")
    for token, token_id in vocab.items():
        if type(token_id) is not int:
            raise wrong(f"model.vocab[{printable(token)}]", token_id, "an integer")
    return vocab


def _added_tokens(raw: dict[str, Any], config: dict[str, Any]) -> dict[int, tuple[str, bool]]:
    """Id → (text, whether it is special) from both files; special in one of them is enough."""
    added: dict[int, tuple[str, bool]] = {}
    ids: dict[str, int] = {}
    for where, token_id, entry in _added_entries(raw, config):
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or type(token_id) is not int:
            raise CheckpointError(f"{where}: added token {printable(str(entry))} must have a text and an integer id")
        text, special = added.get(token_id, (content, False))
        if text != content or ids.setdefault(content, token_id) != token_id:
            raise CheckpointError(
                f"{where}: added token {printable(content)} with id {token_id} contradicts "
                f"{printable(text)} with id {ids.get(content, token_id)}"
            )
        added[token_id] = (content, special or entry.get("special") is True)
    return added


def _added_entries(raw: dict[str, Any], config: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    entries, decoder = raw.get("added_tokens"), config.get("added_tokens_decoder")
    entries = [] if entries is None else entries
    decoder = {} if decoder is None else decoder
    if not isinstance(entries, list) or not isinstance(decoder, dict):
        raise CheckpointError(f"{FILE}: added_tokens must be a list and {CONFIG_FILE}: added_tokens_decoder an object")
    for entry in entries:
        yield FILE, entry.get("id") if isinstance(entry, dict) else None, entry
    for key, entry in decoder.items():
        yield CONFIG_FILE, int(key) if key.isascii() and key.isdigit() and len(key) < 10 else None, entry


def _tokens(vocab: dict[str, int], added: dict[int, tuple[str, bool]], vocab_size: int) -> tuple[list[str], list[int]]:
    texts: list[str | None] = [None] * vocab_size
    types = [int(TokenType.UNUSED)] * vocab_size
    for text, token_id in [*vocab.items(), *((text, token_id) for token_id, (text, _) in added.items())]:
        if not 0 <= token_id < vocab_size:
            raise CheckpointError(
                f"{FILE}: token {printable(text)} has id {token_id}, "
                f"vocab_size in config.json allows 0 to {vocab_size - 1}"
            )
        if texts[token_id] not in (None, text):
            raise CheckpointError(
                f"{FILE}: id {token_id} belongs to both {printable(str(texts[token_id]))} and {printable(text)}"
            )
        texts[token_id], types[token_id] = text, TokenType.NORMAL
    for token_id, (text, special) in added.items():
        if special or _looks_like_control(text):
            types[token_id] = TokenType.CONTROL
        else:
            # llama.cpp matches these against raw text, where a space is a space.
            texts[token_id], types[token_id] = text.replace("\N{LOWER ONE EIGHTH BLOCK}", " "), TokenType.USER_DEFINED
    tokens = [f"[PAD{token_id}]" if text is None else text for token_id, text in enumerate(texts)]
    _check_encodable(tokens, "model.vocab")
    return tokens, types


def _looks_like_control(text: str) -> bool:
    return text in _CONTROL_TEXTS or any(text.startswith(a) and text.endswith(b) for a, b in _CONTROL_BRACKETS)


def _merges(model: dict[str, Any], vocab: dict[str, int]) -> list[str]:
    """Merges in GGUF's form `left right`, from either of tokenizer.json's two forms."""
    raw = model.get("merges")
    if not isinstance(raw, list) or not raw:
        raise CheckpointError(f"{FILE}: model.merges must be a list that is not empty")
    merges: list[str] = []
    for merge in raw:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise CheckpointError(f'{FILE}: merge {printable(str(merge))}, allowed are "a b" and ["a", "b"]')
        left, right = parts
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise CheckpointError(
                f"{FILE}: merge of {printable(left)} and {printable(right)}: not all of it is in model.vocab"
            )
        # A space inside a part would read as the separator: byte-level BPE writes it as Ġ, chr(32 + 256).
        merges.append(f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}")
    _check_encodable(merges, "model.merges")
    return merges


def _check_encodable(texts: list[str], field: str) -> None:
    try:
        "\n".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        raise CheckpointError(f"{FILE}: {field} holds half a surrogate pair, which is not text") from None


def _object(raw: dict[str, Any], field: str) -> dict[str, Any]:
    value = raw.get(field)
    if not isinstance(value, dict):
        raise wrong(field, value, "an object")
    return value
