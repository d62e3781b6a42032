"""Texts to calibrate and evaluate a model with, cut into chunks of tokens that run independently."""

import hashlib
import random
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..agent import ChatError, ChatTemplate, chat_template_fault, compact_json, json_values
from ..errors import ConvertError, escaped
from ..read.files import read_user_file, user_rows
from .runner import CHUNK_TOKENS, LoadedVocabulary

_FOLDER = Path(__file__).parents[1] / "texts"
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class TextDocument:
    """A plain text, or a conversation."""

    text: str = ""
    messages: tuple[tuple[str, str], ...] = ()  # The role and the content of each message.
    row_input: Any = None  # The input of a row.


@dataclass(frozen=True, slots=True)
class Texts:
    """Documents of one or several files."""

    name: str  # Printable, for messages and reports.
    sha256: str  # The hash, in hex, of the content of all files, one after the other.
    documents: list[TextDocument]


def calibration_files() -> list[Path]:
    """The included calibration texts: factory and general, English and Chinese."""
    return sorted((_FOLDER / "calibration").glob("*.jsonl"))


def evaluation_files() -> list[Path]:
    """The included evaluation texts; none of them is a calibration text."""
    return sorted((_FOLDER / "evaluation").glob("*.jsonl"))


def read_texts(paths: Sequence[Path]) -> Texts:
    """A `.jsonl` holds one document per line: `{"text": …}`, `{"input": …, "answer": …}` as a row has it, or
    `{"messages": [{"role", "content"}, …]}`. Any other file is one plain text. Raises ConvertError."""
    digest = hashlib.sha256()
    documents: list[TextDocument] = []
    for path in paths:
        data, content = read_user_file(path)
        if not content.strip():
            raise ConvertError(f"{escaped(str(path))}: holds no text")
        # The result depends on the names and on where each file ends.
        digest.update(f"{path.name}, {len(data)}\n".encode())
        digest.update(data)
        if path.suffix.lower() == ".jsonl":
            with user_rows():
                documents += [_document(value, where) for where, value in json_values(content, str(path))]
        else:
            documents.append(TextDocument(text=content))
    name = escaped("+".join(path.name for path in paths))
    return Texts(name, digest.hexdigest(), documents)


def _document(value: Any, where: str) -> TextDocument:
    match value:
        case {"text": str(text)}:
            return TextDocument(text=text)
        case {"messages": [_, *_] as messages}:
            turns = tuple(_message(message) for message in messages)
            if all(role in _ROLES for role, _ in turns):
                return TextDocument(messages=turns)
        case {"input": str() | dict() | list() as row_input, **more}:
            texts = (one if isinstance(one, str) else compact_json(one) for one in (row_input, more.get("answer", "")))
            return TextDocument(messages=tuple(zip(("user", "assistant"), texts, strict=True)), row_input=row_input)
    raise ConvertError(
        f'{where}: must be an object with "text", with "input" as in a row, or with "messages" of "role" '
        f'({", ".join(_ROLES)}) and "content"'
    )


def _message(value: Any) -> tuple[str, str]:
    match value:
        case {"role": str(role), "content": str(content)}:
            return role, content
    return "", ""


def chunks(texts: Texts, vocabulary: LoadedVocabulary, *, seed: int, max_chunks: int) -> list[list[int]]:
    """At most `max_chunks` of CHUNK_TOKENS each, in an order by `seed`. Raises ConvertError for less than one."""
    documents = list(texts.documents)
    random.Random(seed).shuffle(documents)  # noqa: S311 - a reproducible order
    tokens: list[int] = []
    for of_document in tokenized(documents, vocabulary, texts.name):
        tokens += of_document
        if len(tokens) >= max_chunks * CHUNK_TOKENS:
            break
    if len(tokens) < CHUNK_TOKENS:
        raise ConvertError(f"{texts.name}: {len(tokens)} tokens; at least {CHUNK_TOKENS} are needed")
    count = min(max_chunks, len(tokens) // CHUNK_TOKENS)
    return [tokens[number * CHUNK_TOKENS : (number + 1) * CHUNK_TOKENS] for number in range(count)]


def tokenized(documents: Sequence[TextDocument], vocabulary: LoadedVocabulary, name: str) -> Iterator[list[int]]:
    """The tokens of each document. `name` is that of the texts, for messages.

    Text is normalized to NFC, as Qwen's tokenizer does and llama.cpp does not. The model's chat template formats
    conversations; without one, only their contents count. Raises ConvertError.
    """
    template = None
    if (source := vocabulary.chat_template) is not None and any(document.messages for document in documents):
        if (fault := chat_template_fault(source)) is not None:
            raise ConvertError(f"the model's chat template cannot be used: {escaped(fault)}")
        template = ChatTemplate(source)
    for document in documents:
        chat = template if document.messages else None
        if chat is None:
            contents = [content for _, content in document.messages] or [document.text]
            text = "\n\n".join([*contents, ""])
        else:
            try:
                text = chat.render(document.messages, bos_token=vocabulary.bos_text, add_generation_prompt=False)
            except ChatError as error:
                raise ConvertError(f"the chat template rejects a conversation of {name}: {error}") from None
        yield vocabulary.tokenize(unicodedata.normalize("NFC", text), parse_special=chat is not None)
