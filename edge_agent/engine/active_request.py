"""A request in the engine, from its arrival to its end, and how it is built from an EngineRequest."""

import json
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from edge_agent.core.pipe import EngineRequest, LabelsPlan, NumberPlan, OddField, SchemaPlan, TextPlan
from edge_agent.engine.answer.answer import Answer, Continuation
from edge_agent.engine.answer.json_answer import JsonSchema
from edge_agent.engine.answer.labels import LabelAnswer, LabelTree
from edge_agent.engine.answer.numbers import NumberAnswers
from edge_agent.engine.answer.text_answer import TextAnswer
from edge_agent.engine.answer.text_stream import TextStream
from edge_agent.engine.engine import MeasuredRequest
from edge_agent.engine.llama import Llama
from edge_agent.engine.prompt.chat import THOUGHT_END, Chat
from edge_agent.engine.prompt.field_prompts import FieldPrompts
from edge_agent.engine.prompt.task_prefixes import Prefix
from edge_agent.engine.step.cache_sequence import CacheSequence
from edge_agent.gguf.model import FIELDS_KEY

# This many trees of labels, and as many schemas, are kept. They come from the tasks of a configuration.
_MAX_KEPT = 64
# What the makers of DeepSeek-R1 recommend, because a thought of the most probable tokens may repeat itself endlessly.
REASONING_TEMPERATURE, REASONING_TOP_P = 0.6, 0.95


@dataclass(slots=True, kw_only=True, eq=False)
class ActiveRequest(MeasuredRequest):
    """One EngineRequest with the tokens of its prompt and the answer so far."""

    prompt: Sequence[int]
    answer: Answer
    odd_fields: tuple[OddField, ...] = ()  # See Finished.
    rare_fields: dict[str, str] | None = None  # See Finished.
    unlike: float | None = None  # See Finished.
    sequence: CacheSequence | None = None  # Its place in the cache; None while it waits.
    reserved_cells: int = 0  # Of the KV cache.
    prefix: Prefix | None = None  # The one that it shares cells with.
    branches: list[CacheSequence] = field(default_factory=list)  # The branches of its answer that are decoded.
    branches_left: list[Continuation] = field(default_factory=list)  # Those that wait for a sequence id.

    def start(self, seq_id: int, shared: int) -> CacheSequence:
        """Places it in a sequence that holds `shared` tokens of its prompt already.

        After the prompt come the tokens of the answer that are decided already, then the guessed ones.
        """
        draft, length = self.answer.draft(), len(self.prompt)
        outputs = tuple(length + offset for offset in draft.outputs)
        self.sequence = CacheSequence(seq_id, [*self.prompt, *draft.tokens], outputs, shared, length)
        self.cached_tokens = shared
        return self.sequence

    def start_branch(self, seq_id: int) -> CacheSequence:
        """Places the next branch of its answer in a sequence that holds the prompt already."""
        branch, length = self.branches_left.pop(), len(self.prompt)
        outputs = tuple(length + index for index in branch.outputs)
        sequence = CacheSequence(seq_id, [*self.prompt, *branch.tokens], outputs, length, length, is_branch=True)
        self.branches.append(sequence)
        return sequence


class RequestBuilder:
    """Keeps what the requests of a task have in common: trees of labels, compiled schemas."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        table = llama.metadata(FIELDS_KEY)
        self.chat: Chat | FieldPrompts = Chat(llama) if table is None else FieldPrompts(llama, table)
        self._close_thought = llama.tokenize(f"{THOUGHT_END}\n\n", parse_special=True)
        self.tree = lru_cache(_MAX_KEPT)(lambda labels: LabelTree(labels, self._label_tokens, llama.end_of_turn))
        self._numbers = NumberAnswers(llama, self.chat)
        self._schema = lru_cache(_MAX_KEPT)(lambda text: JsonSchema(llama, json.loads(text)))

    def prompt_crc32(self, prompt: Sequence[int]) -> int | None:
        """See Finished."""
        if not self.chat.is_timeless:
            return None
        tokens = (*prompt, self._llama.end_of_turn, self._llama.eos)
        return zlib.crc32(struct.pack(f"<{len(tokens)}i", *tokens))

    def build(self, engine_request: EngineRequest) -> ActiveRequest:
        """Raises ChatError for messages that the model's template refuses, ValueError for a label without tokens.

        Raises Refusal for a task or an input that a model of fields is not trained for.
        """
        if self.chat.is_reasoning and isinstance(engine_request.plan, TextPlan):
            engine_request = self._with_reasoning_defaults(engine_request)
        thinks = isinstance(engine_request.plan, TextPlan) and engine_request.max_reasoning_tokens != 0
        read, is_open = None, False
        if isinstance(self.chat, FieldPrompts):
            read = self.chat.read(engine_request)
            prompt = read.prompt
        else:
            prompt, is_open = self.chat.prompt(engine_request, thinks=thinks)
        answer = self._answer(engine_request, is_open=is_open)
        return ActiveRequest(
            engine_request=engine_request,
            prompt=prompt,
            prompt_tokens=len(prompt),
            answer=answer,
            odd_fields=() if read is None else read.odd_fields,
            rare_fields=None if read is None else read.rare_fields,
            unlike=None if read is None else read.unlike,
            branches_left=list(answer.branches),
        )

    def _with_reasoning_defaults(self, engine_request: EngineRequest) -> EngineRequest:
        """Fills in what the request leaves open. Half of the tokens remain for the answer."""
        sampling, limit = engine_request.sampling, engine_request.max_reasoning_tokens
        if sampling.temperature is None:
            sampling = replace(sampling, temperature=REASONING_TEMPERATURE)
        if sampling.top_p is None:
            sampling = replace(sampling, top_p=REASONING_TOP_P)
        if limit is None:
            limit = max(0, engine_request.max_tokens - len(self._close_thought)) // 2
        return replace(engine_request, sampling=sampling, max_reasoning_tokens=limit)

    def _answer(self, engine_request: EngineRequest, *, is_open: bool) -> Answer:
        """A new kind of task with a plan of its own has a case here."""
        match engine_request.plan:
            case LabelsPlan(labels=labels):
                return LabelAnswer(self._llama.logits, self.tree(labels))
            case NumberPlan():
                return self._numbers.begin(engine_request.task)
            case SchemaPlan(schema=schema):
                # Not sorted: the schema's order is the order of the answer's keys.
                return self._schema(json.dumps(schema)).answer(engine_request)
            case TextPlan(stop=stop):
                text = TextStream(stop=stop, is_reasoning=self.chat.is_reasoning, is_open=is_open)
                return TextAnswer(self._llama, engine_request, text, self._close_thought)

    def _label_tokens(self, label: str) -> list[int]:
        return self._llama.tokenize(unicodedata.normalize("NFC", label), parse_special=False)
