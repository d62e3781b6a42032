"""The tokens of a model, by byte-level BPE of the rows' texts and answers, and the control tokens of their fields."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ..agent import ControlToken, FieldTable, strangeness
from ..read.tokenizer import SPLIT_REGEX
from .training_rows import Row

END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|im_end|>"


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Token ids of a prompt and of its answer, with the end of the turn."""

    prompt: list[int]
    answer: list[int]
    weight: float = 1.0  # How often it is drawn, relative to others.

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer, and the table whose control tokens it has."""

    tokenizer: Tokenizer
    table: FieldTable

    def __len__(self) -> int:
        size: int = self.tokenizer.get_vocab_size()
        return size

    @property
    def end_of_turn(self) -> int:
        return self.id_of(ControlToken(END_OF_TURN))

    def id_of(self, control: ControlToken) -> int:
        token: int | None = self.tokenizer.token_to_id(control.text)
        assert token is not None
        return token

    def encode(self, row: Row, weight: float) -> list[EncodedExample]:
        """The row with each answer that it may have; they share its weight by their chances."""
        prompt = self.prompt_ids(self.table.parts(row.task.name, row.values))
        if (token := self.table.answer_token(row.task.name, row.answer)) is not None:
            return [EncodedExample(prompt, [self.id_of(token)], weight)]
        chances = {row.answer_text: 1.0} if row.chances is None else row.chances
        return [
            EncodedExample(prompt, [*self._text_ids(answer), self.end_of_turn], weight * chance)
            for answer, chance in chances.items()
        ]

    def prompt_ids(self, parts: Iterable[ControlToken | str]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            ids += [self.id_of(part)] if isinstance(part, ControlToken) else self._text_ids(part)
        return ids

    def strangeness(self, row: Row) -> float | None:
        """How strange the row's texts are; None for a task that writes its answers, or without texts."""
        task = self.table.tasks[row.task.name]
        fields = (field for field in self.table.fields if field.name in task.fields)
        if not task.is_scored or not any(field.edges is None for field in fields):
            return None
        texts = [part for part in self.table.parts(row.task.name, row.values) if isinstance(part, str)]
        # A character of a byte-level token is a byte.
        tokens = (token for text in texts for token in self.tokenizer.encode(text, add_special_tokens=False).tokens)
        return strangeness(map(len, tokens))

    def known_strangeness(self, rows: Sequence[Row]) -> float | None:
        """The greatest strangeness of a task's rows whose texts other rows have, too; None without such rows."""
        texts = [_texts(self.table, row) for row in rows]
        counts = Counter(text for row_texts in texts for text in set(row_texts))
        known = [row for row, row_texts in zip(rows, texts, strict=True) if all(counts[text] > 1 for text in row_texts)]
        return max((strange for row in known if (strange := self.strangeness(row)) is not None), default=None)

    def _text_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        return {
            "add_bos_token": False,
            "bos_token": None,
            "eos_token": END_OF_TURN,
            "pad_token": END_OF_TEXT,
            "tokenizer_class": "Qwen2Tokenizer",
        }


def build_vocabulary(table: FieldTable, rows: Sequence[Row], size: int) -> Vocabulary:
    """`size` is the most tokens that the BPE may have, not counting the control tokens."""
    # The text of its own ensures that there is a merge, whatever the rows hold.
    texts = ["the", *(text for row in rows for text in (row.answer_text, *_texts(table, row)))]
    tokenizer = train_bpe(texts, size, [END_OF_TEXT, END_OF_TURN, *(control.text for control in table.controls)])
    # A control token that a text spells is no control token, as on the board.
    tokenizer.encode_special_tokens = True
    return Vocabulary(tokenizer, table)


def train_bpe(texts: Iterable[str], size: int, special: Iterable[str]) -> Tokenizer:
    """Byte-level BPE as in Qwen2, of at most `size` tokens; the special tokens come after them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT_REGEX), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    return tokenizer


def _texts(table: FieldTable, row: Row) -> list[str]:
    return [part for part in table.parts(row.task.name, row.values) if isinstance(part, str)]
