"""A model with a part of its vocabulary: fewer rows of the embedding and of the output matrix, and fewer merges.

A text whose original tokens are all kept has the same tokens as before. Each merge that makes one of them makes a kept
token, and is kept with both of its parts. A merge that is left out makes a token that this text never has, in no step.
Other texts have more tokens, as all bytes are kept.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from gguf import TokenType

from ..agent import STRING, TOKENS_KEY, model_facts, read_header, read_strings
from ..errors import ConvertError, escaped
from .lora import Lora
from .model import SourceModel
from .safetensors import StoredRows, StoredTensor
from .tensors import OUTPUT, TOKEN_EMBD, ModelTensor
from .tokenizer import Tokenizer

# llama.cpp's fast kernels take so many rows at once, and no rest.
ROW_GROUP = 8
_OF_TEXT = (int(TokenType.NORMAL), int(TokenType.UNUSED))


def kept_tokens(tokenizer: Tokenizer, used: Collection[int], size: int) -> list[int]:
    """Bytes, added tokens, used ones and all that merge into them; then those that merge first, up to `size`.

    size: rounded up to whole groups. Raises ConvertError if more are needed.
    """
    most = -(-size // ROW_GROUP) * ROW_GROUP
    ids = {text: number for number, text in enumerate(tokenizer.tokens)}
    parts = defaultdict[int, list[int]](list)
    for left, right in (merge.split(" ") for merge in tokenizer.merges):
        parts[ids[left + right]] += [ids[left], ids[right]]
    added = [number for number, kind in enumerate(tokenizer.token_types) if kind not in _OF_TEXT]
    whole = [number for number, text in enumerate(tokenizer.tokens) if len(text) == 1]
    kept = set[int]()

    def keep(wanted: Collection[int]) -> None:
        waiting = [*wanted]
        while waiting:
            if (one := waiting.pop()) not in kept:
                kept.add(one)
                waiting += parts.get(one, ())

    keep([*added, *whole, *tokenizer.special_ids.values(), *used])
    if len(kept) > most:
        raise ConvertError(
            f"--vocabulary-size: should be at least {len(kept)}, for bytes, special tokens and texts (got {size})"
        )
    for number in parts:
        if len(kept) >= most:
            break
        keep([number])
    return sorted(kept)


def cut_model(model: SourceModel, kept: Sequence[int]) -> SourceModel:
    """kept: numbers of tokens, ascending; see `kept_tokens`."""
    places = {number: at for at, number in enumerate(kept)}
    config = model.config.model_copy(update={"vocab_size": len(kept)})
    tensors = [_cut(tensor, kept) if tensor.name in (TOKEN_EMBD, OUTPUT) else tensor for tensor in model.tensors]
    tokenizer = model.tokenizer
    texts = {tokenizer.tokens[number] for number in kept}
    merges = [merge for merge in tokenizer.merges if {*merge.split(" "), merge.replace(" ", "")} <= texts]
    cut = replace(
        tokenizer,
        tokens=[tokenizer.tokens[number] for number in kept],
        token_types=[tokenizer.token_types[number] for number in kept],
        merges=merges,
        special_ids={kind: places[number] for kind, number in tokenizer.special_ids.items()},
    )
    return replace(model, config=config, tensors=tensors, tokenizer=cut)


def cut_like(model: SourceModel, path: Path) -> SourceModel:
    """With the tokens of a model file that has a part of its vocabulary. Raises ConvertError for other tokens."""
    facts = model_facts(path)
    if facts.tokens == facts.all_tokens:
        return model
    ids = {text.encode(): number for number, text in enumerate(model.tokenizer.tokens)}
    texts = list(read_strings(path, read_header(path).array(TOKENS_KEY, STRING)))
    if unknown := [text for text in texts if text not in ids]:
        shown = escaped(unknown[0].decode(errors="replace"))
        raise ConvertError(f"{escaped(str(path))}: has the token {shown}, which the checkpoint lacks")
    return cut_model(model, sorted(ids[text] for text in texts))


def cut_lora(lora: Lora, kept: Sequence[int]) -> Lora:
    """An update of the output matrix loses the same rows."""
    updates = [replace(one, b=one.b[[*kept]]) if one.name == OUTPUT else one for one in lora.updates]
    return replace(lora, updates=updates)


def _cut(tensor: ModelTensor, kept: Sequence[int]) -> ModelTensor:
    assert isinstance(tensor.source, StoredTensor)
    return replace(tensor, shape=(len(kept), tensor.columns), source=StoredRows(tensor.source, kept))
