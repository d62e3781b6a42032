"""Answers that keep to a JSON Schema: llguidance says which tokens may come next and which text is forced."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from edge_agent.core.pipe import EngineRequest, Finish
from edge_agent.core.schemas import best_error, validator
from edge_agent.engine.answer.answer import Continuation, InvalidOutputError
from edge_agent.engine.answer.schema_check import grammar_of
from edge_agent.engine.answer.text_answer import TextAnswer, WrittenAnswer
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.llama import Llama, NumericError, common_length

log = logging.getLogger(__name__)

# A token is sampled from at most this many allowed ones, as sorting a whole vocabulary takes longer than it is worth.
_MAX_CANDIDATES = 4096
# For longer strings to choose from, a table of beginnings would be too large.
_MAX_CHOICE = 100


class AnswerGuess:
    """A guess of the next answer to a schema, which is decoded with the prompt and then only checked.

    Speculative decoding (Leviathan et al., ICML 2023) without a second model: sensors mostly repeat themselves. The
    guess is the common beginning of the last two answers. It changes no answer: the model's own logits make each
    choice. Guessed tokens are kept only as far as they agree with it.
    """

    def __init__(self) -> None:
        self._last = Continuation()
        self._guess = Continuation()

    def learn(self, answer: Continuation) -> None:
        """Call with each finished answer."""
        length = common_length(self._last.tokens, answer.tokens)
        count = common_length(self._last.outputs, answer.outputs)
        outputs = tuple(at for at in answer.outputs[:count] if at < length)
        # The last token is one after which the model chooses.
        self._guess = Continuation(answer.tokens[: outputs[-1] + 1], outputs) if outputs else Continuation()
        self._last = answer

    def draft_after(self, opening: Sequence[int], max_tokens: int) -> Continuation:
        """This opening and what probably follows, at most `max_tokens`; without a guess the opening alone."""
        plain = Continuation(tuple(opening), (len(opening) - 1,))
        outputs = tuple(at for at in self._guess.outputs if at < max_tokens)
        if outputs[:1] != plain.outputs:
            return plain
        return Continuation(self._guess.tokens[: outputs[-1] + 1], outputs)


class JsonSchema:
    """What all answers to one schema share: the compiled grammar, the validator and the guess of the next answer."""

    def __init__(self, llama: Llama, schema: Mapping[str, Any]) -> None:
        self._llama = llama
        self._validator = validator(schema)
        self.guess = AnswerGuess()
        self._start: LLMatcher | None = LLMatcher(llama.json_tokenizer, grammar_of(schema), log_level=0)
        if self._start.is_error():
            log.warning("answers are written freely: %s", self._start.get_error())
            self._start = None
        self.opening = self.consume_forced(self._start) if self._start is not None else []
        """The tokens that every answer begins with."""
        self.spellings = _spellings(llama, schema)

    def answer(self, request: EngineRequest) -> WrittenAnswer:
        if self._start is None:
            return FreeJsonAnswer(self._llama, request, self)
        return JsonAnswer(self._llama, request, self, self._start.deep_copy())

    def consume_forced(self, matcher: LLMatcher) -> list[int]:
        """Consumes and returns the tokens of the text that is forced here."""
        tokens = matcher.compute_ff_tokens()
        matcher.consume_tokens(tokens)
        # llguidance leaves out the last token where a longer one could stand in its place.
        rest = matcher.compute_ff_bytes()
        if rest and (rest.endswith(b'"') or not self._can_extend(matcher, rest)):
            last = self._llama.json_tokenizer.tokenize_bytes(rest)
            matcher.consume_tokens(last)
            tokens += last
        return tokens

    def _can_extend(self, matcher: LLMatcher, forced: bytes) -> bool:
        """Whether an allowed token is longer than the forced text."""
        return any(
            len(self._llama.piece(token)) > len(forced) for token in self._llama.allowed_tokens(matcher).tolist()
        )

    def check(self, text: str, finish: Finish | None, max_tokens: int) -> None:
        """Raises InvalidOutputError unless the text is complete JSON that validates."""
        if finish is not Finish.SCHEMA:
            raise InvalidOutputError(f"max_tokens ({max_tokens}) ended the answer before its JSON was complete")
        try:
            value = json.loads(text)
            # 1e999 is infinite, and "\ud800" no text: neither can be sent as JSON.
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
            fault = best_error(self._validator, value)
        except (ValueError, RecursionError) as error:
            raise InvalidOutputError(f"the answer is not JSON: {error}") from error
        if fault is not None:
            where = ".".join(map(str, ["output", *fault.absolute_path]))
            raise InvalidOutputError(f"{where}: {fault.message[:200]}")


class JsonAnswer(WrittenAnswer):
    """Asks the model only where the schema leaves a choice; forced tokens are decoded with the token before them.

    Forced tokens count as completion tokens and toward max_tokens.
    """

    def __init__(self, llama: Llama, request: EngineRequest, schema: JsonSchema, matcher: LLMatcher) -> None:
        super().__init__(llama, request, TextStream())
        self._schema = schema
        self._matcher = matcher
        # The tokens decided so far, and the offsets of those after which the model chose; -1 is the prompt.
        self._tokens: list[int] = []
        self._choices: list[int] = []
        self._string_so_far = b""  # What has been written since the last quotation mark.
        self._write(schema.opening)

    def next_tokens(self, row: int) -> list[int]:
        start = len(self._tokens)
        self._choices.append(start - 1)
        if not self._matcher.is_stopped():
            token = self._pick_allowed(row)
            self._matcher.consume_token(token)
            self._write([token, *self._schema.consume_forced(self._matcher)])
        if self._matcher.is_error():
            raise InvalidOutputError(f"the schema cannot be followed here: {self._matcher.get_error()}")
        if self.finish is None and self._matcher.is_stopped():
            self.finish = Finish.SCHEMA
            self._schema.guess.learn(Continuation(tuple(self._tokens), tuple(self._choices)))
        elif len(self._tokens) >= self._request.max_tokens:
            self.finish = Finish.LENGTH
        self.completion_tokens = len(self._tokens)
        if self.finish is None:
            return self._tokens[start:]
        self._text.end()
        return []

    def check(self) -> None:
        self._schema.check(self._text.text, self.finish, self._request.max_tokens)

    def draft(self) -> Continuation:
        return self._schema.guess.draft_after(self._tokens, self._request.max_tokens)

    def _pick_allowed(self, row: int) -> int:
        """The next token after this row that the schema allows. Raises NumericError."""
        allowed = self._choice_tokens()
        token = self._pick(row)
        if allowed is None:
            # Usually it is allowed, and checking it is a thousand times faster than computing all allowed tokens.
            if self._matcher.validate_tokens([token]) == 1:
                return token
            allowed = self._llama.allowed_tokens(self._matcher)
        if not allowed.size:
            raise NumericError("no token of the vocabulary is allowed")
        logits = self._llama.logits(row)[allowed]
        if self._sampler is None:
            return int(allowed[np.argmax(logits)])
        if allowed.size > _MAX_CANDIDATES:
            likely = np.argpartition(logits, -_MAX_CANDIDATES)[-_MAX_CANDIDATES:]
            allowed, logits = allowed[likely], logits[likely]
        return self._sampler.pick(allowed, logits)

    def _choice_tokens(self) -> npt.NDArray[np.intp] | None:
        """The tokens that continue a string to choose as the tokenizer spells it; None if anything else may come.

        llguidance also allows parts of them, such as `n` of `noise`, which a model picks to write what is not a choice.
        """
        continuations = self._schema.spellings.get(self._string_so_far)
        if not continuations:
            return None
        allowed = self._llama.allowed_tokens(self._matcher)
        pieces = map(self._llama.piece, allowed.tolist())
        if any((self._string_so_far + piece).partition(b'"')[0] not in self._schema.spellings for piece in pieces):
            return None
        tokens = np.intersect1d(allowed, list(continuations))
        return tokens if tokens.size else None

    def _write(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if len(self._tokens) >= self._request.max_tokens:
                self.finish = Finish.LENGTH
                return
            self._tokens.append(token)
            piece = self._llama.piece(token)
            self._text.write(piece)
            self._string_so_far = (self._string_so_far + piece).rpartition(b'"')[2]


class FreeJsonAnswer(TextAnswer):
    """Is written freely, because llguidance cannot hold a model to the schema; the finished text must validate."""

    finish_of_turn = Finish.SCHEMA

    def __init__(self, llama: Llama, request: EngineRequest, schema: JsonSchema) -> None:
        super().__init__(llama, request, TextStream())
        self._schema = schema

    def check(self) -> None:
        self._schema.check(self._text.text, self.finish, self._request.max_tokens)


def _spellings(llama: Llama, schema: Mapping[str, Any]) -> dict[bytes, set[int]]:
    """The tokens with which the tokenizer continues each prefix of a string to choose from.

    There are none after a whole string, or inside a token.
    """
    continuations: dict[bytes, set[int]] = {}
    texts = {json.dumps(text, ensure_ascii=False)[1:-1] for text in _strings(schema) if len(text) <= _MAX_CHOICE}
    for text in texts:
        prefix = b""
        for token in llama.tokenize(text, parse_special=False):
            continuations.setdefault(prefix, set()).add(token)
            for byte in llama.piece(token):
                prefix += bytes([byte])
                continuations.setdefault(prefix, set())
    return continuations | {text.encode(): set() for text in texts}


def _strings(schema: object) -> Iterator[str]:
    """The strings that an answer may have to choose from: values and names of properties."""
    if isinstance(schema, list):
        for inner in schema:
            yield from _strings(inner)
    elif isinstance(schema, dict):
        values = [*schema.get("enum", ()), schema.get("const"), *schema.get("properties", ())]
        yield from (value for value in values if isinstance(value, str))
        for inner in schema.values():
            yield from _strings(inner)
