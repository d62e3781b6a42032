"""From messages to prompt tokens by the model's chat template; text of messages never becomes a control token.

Before the template runs, a private marker cuts every special token that a message spells. The rendered text is split at
the markers and tokenized piece by piece. So no piece spells a special token of a message. A message without any is
tokenized exactly as the whole text.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from edge_agent.core.pipe import ChatMessage, EngineRequest, TaskPrefix
from edge_agent.engine.prompt.chat_template import CLOCK, ChatError, ChatTemplate, UnusableTemplateError

# The echo engine, which needs this module, works where llama.cpp is missing.
if TYPE_CHECKING:
    from edge_agent.engine.llama import Llama

log = logging.getLogger(__name__)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHT_START = "<think>"
THOUGHT_END = "</think>"

# Unicode noncharacters have no meaning in text, and are replaced where a caller sends them.
_CUT = "\ufdd0"
_END_OF_PREFIX = "\ufdd1"
_REPLACEMENT = "\ufffd"


class Chat:
    """Prompts by the model's chat template. Raises UnusableTemplateError."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        source = llama.chat_template()
        if source is None:
            log.warning("the model carries no chat template; ChatML is used")
            source = CHATML
        specials = llama.special_texts()
        self.is_reasoning = THOUGHT_END in source or THOUGHT_END in specials
        self.is_timeless = CLOCK not in source  # The same request always has the same prompt.
        self._specials = _Specials(specials)
        try:
            self._template = ChatTemplate(source)
        except UnusableTemplateError as error:
            raise UnusableTemplateError(f"the model's chat template cannot be used: {error}") from error
        self._bos_text = _text(llama, llama.bos)
        self._eos_text = _text(llama, llama.eos)

    def prompt(self, request: EngineRequest, *, thinks: bool) -> tuple[list[int], bool]:
        """Tokens of the prompt, and whether it ends inside a thought that the template opened.

        Unless it `thinks`, the thought is closed at once. Raises ChatError.
        """
        rendered = self._render(
            [(message.role, self._cut(self._without_thought(message))) for message in request.messages], thinks=thinks
        )
        is_open = self.is_reasoning and rendered.rstrip().endswith(THOUGHT_START)
        if is_open and not thinks:
            rendered = f"{rendered.rstrip()}\n\n{THOUGHT_END}\n\n"
            is_open = False
        tokens = self._tokenize(rendered)
        if not tokens:
            raise ChatError("it writes nothing for them")
        return tokens, is_open

    def prefix(self, task: TaskPrefix) -> list[int]:
        """Tokens that all prompts of a task begin with; the last one may differ where the text continues.

        Empty if the template does not take the task's messages in this form.
        """
        messages = [(message.role, self._cut(self._without_thought(message))) for message in task.messages]
        messages.append(("user", self._cut(task.user_prefix) + _END_OF_PREFIX))
        try:
            rendered = self._render(messages, thinks=True)
        except ChatError:
            return []
        text, mark, _ = rendered.partition(_END_OF_PREFIX)
        return self._tokenize(text) if mark else []

    def _without_thought(self, message: ChatMessage) -> str:
        """The content without an earlier thought: the template cannot find the marks once they are cut."""
        if self.is_reasoning and message.role == "assistant":
            return message.content.rpartition(THOUGHT_END)[2]
        return message.content

    def _cut(self, text: str) -> str:
        return self._specials.cut(_clean(text))

    def _render(self, messages: Iterable[tuple[str, str]], *, thinks: bool) -> str:
        return self._template.render(
            messages, bos_token=self._bos_text, eos_token=self._eos_text, enable_thinking=thinks
        )

    def _tokenize(self, rendered: str) -> list[int]:
        pieces = (self._llama.tokenize(text, parse_special=True) for text in rendered.split(_CUT))
        tokens = [token for piece in pieces for token in piece]
        # Templates that write the BOS and models that add one: never two (deepseek-ai/DeepSeek-R1 #68).
        bos = self._llama.bos
        if self._llama.adds_bos and bos >= 0 and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tokens


class _Specials:
    """Finds where a text spells a special token, or would together with a neighbouring text."""

    def __init__(self, texts: frozenset[str]) -> None:
        # A text of one character cannot be cut. The order only keeps the pattern stable.
        texts = frozenset(text for text in texts if len(text) > 1)
        ordered = sorted(texts, key=lambda text: (-len(text), text))
        # A look-ahead finds overlapping places too.
        self._whole = re.compile(f"(?=({'|'.join(map(re.escape, ordered))}))") if ordered else None
        self._heads = frozenset(text[:length] for text in texts for length in range(2, len(text)))
        self._tails = frozenset(text[1:] for text in texts)
        self._longest = max(map(len, texts), default=0)

    def cut(self, text: str) -> str:
        """The text with a marker after the first character of each such place."""
        if self._whole is None or not text:
            return text
        places = {match.start() + 1 for match in self._whole.finditer(text)}
        places |= {
            len(text) - length + 1
            for length in range(2, min(self._longest, len(text) + 1))
            if text[-length:] in self._heads
        }
        if any(text[:length] in self._tails for length in range(1, min(self._longest, len(text) + 1))):
            places.add(1)
        if not places:
            return text
        edges = [0, *sorted(places), len(text)]
        return _CUT.join(text[start:end] for start, end in pairwise(edges))


def _clean(text: str) -> str:
    # Qwen's tokenizer.json normalizes to NFC, llama.cpp does not.
    text = unicodedata.normalize("NFC", text)
    return text.replace(_CUT, _REPLACEMENT).replace(_END_OF_PREFIX, _REPLACEMENT)


def _text(llama: Llama, token: int) -> str:
    return llama.piece(token).decode(errors="replace") if token >= 0 else ""
