"""The part of a vocabulary that texts need, and how it reads other texts."""

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import ConvertError
from ..plan import make_plan
from ..quantize.recipe import Quantization
from ..read.model import SourceModel
from ..read.vocabulary import cut_model, kept_tokens
from ..report.quality import Coverage
from ..write.gguf_file import write_gguf
from .runner import LoadedVocabulary
from .texts import Texts, tokenized


@dataclass(frozen=True, slots=True)
class WantedVocabulary:
    """Which part of a vocabulary a model keeps."""

    texts: Texts  # All tokens of these texts are kept.
    tokens: int  # How many tokens are kept altogether.
    evaluation: Texts  # Measures how much of other texts the tokens cover.


def fit_vocabulary(model: SourceModel, wanted: WantedVocabulary) -> tuple[SourceModel, list[int]]:
    """The model with the tokens to keep, and these, ascending. Raises ConvertError if the texts need more."""
    with _loaded(model) as whole:
        # Which of several end-of-turn tokens llama.cpp picks depends on the whole vocabulary, so its pick is kept.
        end_of_turn = {"eot": whole.end_of_turn} if whole.end_of_turn >= 0 else {}
        documents = tokenized(wanted.texts.documents, whole, wanted.texts.name)
        used = {token for tokens in documents for token in tokens}
        # A request may be a line alone, and a newline after it would change its last token.
        for line in _lines(wanted.texts):
            used.update(whole.tokenize(line, parse_special=False))
    tokenizer = replace(model.tokenizer, special_ids=model.tokenizer.special_ids | end_of_turn)
    kept = kept_tokens(tokenizer, used, wanted.tokens)
    return cut_model(replace(model, tokenizer=tokenizer), kept), kept


def coverage_of(texts: Texts, model: SourceModel, cut: SourceModel, kept: Sequence[int]) -> Coverage:
    """`cut` is the model with the kept tokens alone. Raises ConvertError for texts without a line."""
    if not (lines := _lines(texts)):
        raise ConvertError(f"{texts.name}: holds no text")
    known, covered, before, after = set(kept), 0, 0, 0
    with _loaded(model) as whole, _loaded(cut) as part:
        for line in lines:
            tokens = whole.tokenize(line, parse_special=False)
            covered += known.issuperset(tokens)
            before += len(tokens)
            after += len(part.tokenize(line, parse_special=False))
    return Coverage(name=texts.name, lines=len(lines), covered=covered, tokens_before=before, tokens=after)


def _lines(texts: Texts) -> list[str]:
    """The lines of all texts in NFC, without blank ones."""
    contents = [content for one in texts.documents for content in (one.text, *(text for _, text in one.messages))]
    return [line for content in contents for line in unicodedata.normalize("NFC", content).splitlines() if line.strip()]


@contextmanager
def _loaded(model: SourceModel) -> Iterator[LoadedVocabulary]:
    """The model's vocabulary as llama.cpp loads it, which also tokenizes on the board."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        write_gguf(path, make_plan(model, Quantization.BF16).entries, [], [])
        with LoadedVocabulary(path) as vocabulary:
            yield vocabulary
