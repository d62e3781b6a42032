"""tokenizer.json and tokenizer_config.json of a Qwen2 checkpoint, in the form of llama.cpp.

Does what upstream's converter does through transformers (conversion/base.py `get_vocab_base`, gguf-py `SpecialVocab`),
from the JSON alone. Upstream recognises the pre-tokenizer by hashing a tokenized sample; here its definition is
compared.
"""

from dataclasses import dataclass
from typing import Any

from gguf import TokenType

from ..errors import CheckpointError, escaped
from .config import SPECIAL_TOKENS

FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPLIT_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_QWEN2 = "qwen2"
PRE_R1_DISTILL = "deepseek-r1-qwen"
R1_BOS = "<｜begin▁of▁sentence｜>"
# Tokens that behave as control tokens although some checkpoints do not mark them special.
_CONTROL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_CONTROL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A byte-level BPE vocabulary. `tokens` and `token_types` have one entry per row of the embedding."""

    pre: str
    tokens: list[str]
    token_types: list[int]
    merges: list[str]
    special_ids: dict[str, int]
    """By kind. Kinds are bos, eos, unk, sep, pad and mask, and in a part of a vocabulary eot, the end of a turn."""
    adds: dict[str, bool]  # For bos, eos and sep, whether encoding adds it.


def parse_tokenizer(
    raw: dict[str, Any], config: dict[str, Any], fallback_ids: dict[str, int], vocab_size: int
) -> Tokenizer:
    """The vocabulary of `vocab_size` tokens; ids without a token become `[PAD<id>]` of type UNUSED.

    `fallback_ids` are config.json's special tokens, used where tokenizer_config.json names none. Raises CheckpointError
    for anything that llama.cpp would silently tokenize in another way than this tokenizer.
    """
    model = raw.get("model")
    if not isinstance(model, dict):
        raise _wrong("model", model, "an object")
    _check_algorithm(raw, model)
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab or not all(type(token_id) is int for token_id in vocab.values()):
        raise CheckpointError(f"{FILE}: model.vocab must be an object that maps tokens to ids")
    added = _added_tokens(raw, config)
    tokens, types = _tokens(vocab, added, vocab_size)
    adds = _added_by_encoding(raw.get("post_processor"), config)
    special_ids = _special_ids(config, {text: token_id for token_id, (text, _) in added.items()}, fallback_ids)
    for kind, token_id in special_ids.items():
        if not 0 <= token_id < vocab_size:
            raise CheckpointError(f"{CONFIG_FILE}: {kind}_token has id {token_id}, allowed is 0 to {vocab_size - 1}")
    if "eos" not in special_ids:
        # llama.cpp would take token 11 for it (llama.cpp issue 7898).
        raise CheckpointError(f"{CONFIG_FILE}: no eos_token that {FILE} knows, and no eos_token_id in config.json")
    if adds.get("bos") and "bos" not in special_ids:
        raise CheckpointError(f"{CONFIG_FILE}: encoding adds a first token, but no bos_token is known")
    is_r1_distill = adds.get("bos") is True and tokens[special_ids["bos"]] == R1_BOS
    return Tokenizer(
        pre=PRE_R1_DISTILL if is_r1_distill else PRE_QWEN2,
        tokens=tokens,
        token_types=types,
        merges=_merges(model.get("merges"), vocab),
        special_ids=special_ids,
        adds=adds,
    )


def _check_algorithm(raw: dict[str, Any], model: dict[str, Any]) -> None:
    if model.get("type", "BPE") != "BPE":
        raise _wrong("model.type", model.get("type"), "BPE")
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(field):
            raise _wrong(f"model.{field}", model[field], "null, empty or false")
    match raw.get("normalizer"):
        case None | {"type": "NFC"}:
            pass  # llama.cpp does not normalize; the agent applies NFC itself
        case other:
            raise _wrong("normalizer", other, "NFC or null")
    match raw.get("pre_tokenizer"):
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", **byte_level},
            ],
        } if pattern == SPLIT_REGEX and not byte_level.get("use_regex") and not byte_level.get("add_prefix_space"):
            pass
        case other:
            raise _wrong("pre_tokenizer", other, "Qwen2's regular expression in a Split, and ByteLevel")


def _added_tokens(raw: dict[str, Any], config: dict[str, Any]) -> dict[int, tuple[str, bool]]:
    """By id, the text of each added token and whether it is special, which it is if one of the two files says so."""
    entries, decoder = raw.get("added_tokens") or [], config.get("added_tokens_decoder") or {}
    if not isinstance(entries, list) or not isinstance(decoder, dict):
        raise CheckpointError(f"{FILE}: added_tokens must be a list and {CONFIG_FILE}: added_tokens_decoder an object")
    numbered = [(int(key) if key.isdecimal() and len(key) < 10 else None, entry) for key, entry in decoder.items()]
    added: dict[int, tuple[str, bool]] = {}
    ids: dict[str, int] = {}
    for entry in [*entries, *({**entry, "id": key} for key, entry in numbered if isinstance(entry, dict))]:
        match entry:
            case {"content": str(content), "id": int(token_id)}:
                text, special = added.get(token_id, (content, False))
                if text != content or ids.setdefault(content, token_id) != token_id:
                    raise CheckpointError(
                        f"{FILE}: added token {escaped(content)} with id {token_id} contradicts {escaped(text)} "
                        f"with id {ids.get(content, token_id)}"
                    )
                added[token_id] = (content, special or entry.get("special") is True)
            case _:
                raise CheckpointError(f"{FILE}: added token {escaped(str(entry))} must have a text and an integer id")
    return added


def _tokens(vocab: dict[str, int], added: dict[int, tuple[str, bool]], vocab_size: int) -> tuple[list[str], list[int]]:
    texts: list[str | None] = [None] * vocab_size
    types = [int(TokenType.UNUSED)] * vocab_size
    for text, token_id in [*vocab.items(), *((text, token_id) for token_id, (text, _) in added.items())]:
        if not 0 <= token_id < vocab_size:
            raise CheckpointError(
                f"{FILE}: token {escaped(text)} has id {token_id}, "
                f"vocab_size in config.json allows 0 to {vocab_size - 1}"
            )
        if texts[token_id] not in (None, text):
            raise CheckpointError(
                f"{FILE}: id {token_id} belongs to both {escaped(str(texts[token_id]))} and {escaped(text)}"
            )
        texts[token_id], types[token_id] = text, int(TokenType.NORMAL)
    for token_id, (text, special) in added.items():
        is_marked = any(text.startswith(head) and text.endswith(tail) for head, tail in _CONTROL_BRACKETS)
        if special or is_marked or text in _CONTROL_TEXTS:
            types[token_id] = int(TokenType.CONTROL)
        else:
            # llama.cpp matches these against raw text, where a space is a space.
            texts[token_id] = text.replace("\N{LOWER ONE EIGHTH BLOCK}", " ")
            types[token_id] = int(TokenType.USER_DEFINED)
    return [f"[PAD{token_id}]" if text is None else text for token_id, text in enumerate(texts)], types


def _merges(raw: Any, vocab: dict[str, int]) -> list[str]:
    """Merges in GGUF's form `left right`, from either of tokenizer.json's two forms."""
    if not isinstance(raw, list) or not raw:
        raise CheckpointError(f"{FILE}: model.merges must be a list that is not empty")
    merges: list[str] = []
    for merge in raw:
        match merge.split(" ") if isinstance(merge, str) else merge:
            case [str(left), str(right)] if left in vocab and right in vocab and left + right in vocab:
                # A space inside a part would read as the separator, so byte-level BPE writes it as Ġ, chr(32 + 256).
                merges.append(f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}")
            case _:
                allowed = 'allowed are "a b" and ["a", "b"] of a, b and ab in model.vocab'
                raise CheckpointError(f"{FILE}: merge {escaped(str(merge))}, {allowed}")
    return merges


def _added_by_encoding(post_processor: Any, config: dict[str, Any]) -> dict[str, bool]:
    """What encoding adds, from the post-processor, else from tokenizer_config.json."""
    adds: dict[str, bool] = {}
    match post_processor:
        case {"type": "Sequence", "processors": [*processors]}:
            pass
        case other:
            processors = [] if other is None else [other]
    bos = _token_text(config, "bos")
    for processor in processors:
        match processor:
            case {"type": "ByteLevel"}:
                adds.setdefault("bos", False)
                adds.setdefault("eos", False)
            case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": first}}, {"Sequence": _}]}:
                if first != bos:
                    raise CheckpointError(
                        f"{FILE}: post_processor adds {escaped(str(first))}, {CONFIG_FILE} calls "
                        f"{escaped(str(bos))} the bos_token"
                    )
                adds |= {"bos": True, "sep": False}
            case {"type": "TemplateProcessing", "single": [{"Sequence": _}]}:
                pass
            case other:
                raise _wrong("post_processor", other, "ByteLevel, or a template that adds no token but the first")
    for name in ("bos", "eos", "sep"):
        stated = config.get(f"add_{name}_token")
        if isinstance(stated, bool):
            adds.setdefault(name, stated)
    if config.get("add_bos_token") is True and bos == R1_BOS:
        # transformers loads R1-Distill with its Llama tokenizer, which follows add_bos_token and not tokenizer.json.
        adds["bos"] = True
    return adds


def _special_ids(config: dict[str, Any], ids_by_text: dict[str, int], fallback_ids: dict[str, int]) -> dict[str, int]:
    """The special ids, from tokenizer_config.json by text, then from config.json."""
    ids: dict[str, int] = {}
    for kind in SPECIAL_TOKENS:
        token_id = ids_by_text.get(_token_text(config, kind) or "", fallback_ids.get(kind))
        if token_id is not None:
            ids[kind] = token_id
    return ids


def _token_text(config: dict[str, Any], kind: str) -> str | None:
    entry = config.get(f"{kind}_token")
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _wrong(field: str, value: Any, allowed: str) -> CheckpointError:
    return CheckpointError(f"{FILE}: {field} is {escaped(repr(value), 100)}, allowed is {allowed}")
