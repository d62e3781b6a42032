"""A model with a part of its vocabulary has fewer rows of the embedding and of the output matrix, and fewer merges.

A text whose original tokens are all kept has the same tokens as before. Each merge that makes one of them makes a kept
token, and is kept with both of its parts. A merge that is left out makes a token that this text never has, in no step.
Other texts usually have more tokens; all bytes are kept.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from gguf import TokenType

from ..agent import model_facts, model_tokens, read_header
from ..errors import ConvertError, escaped
from .lora import Lora
from .model import SourceModel
from .tensors import OUTPUT, TOKEN_EMBD, ModelTensor
from .tokenizer import Tokenizer

DEFAULT_TOKENS = 65_536
# The rows of a matrix, for llama.cpp's fast kernels, are a multiple of this.
ROW_GROUP = 8
END_OF_TURN_KEY = "tokenizer.ggml.eot_token_id"
_TEXT_TYPES = (int(TokenType.NORMAL), int(TokenType.UNUSED))


def kept_tokens(tokenizer: Tokenizer, used: Collection[int], size: int) -> list[int]:
    """The ids to keep: bytes, added and used tokens and the parts that they merge from; then others by rank of merge.

    `size` is how many, rounded up to whole groups. Raises ConvertError if more are needed, or if none would be left
    out.
    """
    ids = {text: number for number, text in enumerate(tokenizer.tokens)}
    parts_of = defaultdict[int, set[int]](set)
    for merge in tokenizer.merges:
        left, right = merge.split(" ")
        if {left, right, left + right} <= ids.keys():
            parts_of[ids[left + right]] |= {ids[left], ids[right]}
    added = [number for number, kind in enumerate(tokenizer.token_types) if kind not in _TEXT_TYPES]
    single_bytes = [number for number, text in enumerate(tokenizer.tokens) if len(text) == 1]
    kept, waiting = set[int](), [*added, *single_bytes, *tokenizer.special_ids.values(), *used]
    while waiting:
        if (token := waiting.pop()) not in kept:
            kept.add(token)
            waiting += parts_of.get(token, ())
    limit = -(-size // ROW_GROUP) * ROW_GROUP
    got = f"got {size}, the default" if size == DEFAULT_TOKENS else f"got {size}"
    if len(kept) > limit:
        raise ConvertError(
            f"--vocabulary-size: should be at least {len(kept)}, for bytes, special tokens and texts ({got})"
        )
    for token, parts in parts_of.items():
        if len(kept) < limit and parts <= kept:
            kept.add(token)
    if len(kept) == len({*added, *single_bytes, *parts_of, *tokenizer.special_ids.values()}):
        raise ConvertError(f"--vocabulary-size: should be less than {len(kept)}, the tokens in use ({got})")
    return sorted(kept)


def cut_model(model: SourceModel, kept: Sequence[int]) -> SourceModel:
    """Keeps only these tokens, ascending, as from `kept_tokens`. Raises ConvertError for a model that `train` made."""
    if model.fields is not None:
        raise ConvertError("--vocabulary: the checkpoint is of a trained model, which has no more tokens than it needs")
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


def cut_to_match(model: SourceModel, path: Path) -> SourceModel:
    """Cuts the model to a model file's tokens, if those are a part of its own. Raises ConvertError for other tokens."""
    facts = model_facts(path)
    if facts.tokens == facts.all_tokens:
        return model
    ids = {text.encode(): number for number, text in enumerate(model.tokenizer.tokens)}
    kept = [ids.get(text, -1) for text in model_tokens(path)]
    if -1 in kept or not set(kept).issuperset(model.tokenizer.special_ids.values()):
        raise ConvertError(f"{escaped(str(path))}: has other tokens than this checkpoint")
    end_of_turn = read_header(path).integer(END_OF_TURN_KEY, len(kept) - 1, minimum=-1, default=-1)
    special_ids = model.tokenizer.special_ids | ({"eot": kept[end_of_turn]} if end_of_turn >= 0 else {})
    return cut_model(replace(model, tokenizer=replace(model.tokenizer, special_ids=special_ids)), kept)


def cut_lora(lora: Lora, kept: Sequence[int]) -> Lora:
    """An update of the output matrix has the rows of these tokens alone."""
    updates = [replace(one, b=one.b[[*kept]]) if one.name == OUTPUT else one for one in lora.updates]
    return replace(lora, updates=updates)


def _cut(tensor: ModelTensor, kept: Sequence[int]) -> ModelTensor:
    return replace(tensor, shape=(len(kept), tensor.columns), source=replace(tensor.source, rows=kept))
