"""Texts of special tokens, whole and in parts, in every place of a conversation: the prompt has no control token more.

`python -m rigs.fuzz.prompts MODEL.gguf --count 1000`: exit code 1 if one had, or if a text did not come through.
"""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from edge_agent.core.protocol import ChatMessage, TaskPrefix
from edge_agent.engine.llama import ContextSizes, Llama
from edge_agent.engine.prompt.chat import Chat
from rigs.fuzz.children import FAILED, Outcome, drive

_Role = Literal["system", "user", "assistant"]
_ROLES: tuple[_Role, ...] = ("system", "user", "assistant")
_FILLERS = ("", " ", "\n", "x", "7 mm/s", "é", "e\u0301", "\ufdd0", "\ufdd1", "\u200b", "<", "|", ">", "<|", "|>", "\0")


def outcomes(model: Path, count: int, first: int = 0) -> Iterator[tuple[int, Outcome]]:
    """Of each conversation: its number, what became of it, and why."""
    sizes = ContextSizes(context_tokens=256, batch_tokens=64, sequences=1, outputs=1)
    llama = Llama(str(model), sizes)
    chat, specials = Chat(llama), sorted(llama.special_texts())
    for number in range(first, first + count):
        yield number, _outcome(llama, chat, conversation(specials, number))


def conversation(specials: list[str], number: int) -> list[ChatMessage]:
    """Always the same for the same number. The first ones have each special text alone, in each role."""
    if number < len(specials) * len(_ROLES):
        at, role = divmod(number, len(_ROLES))
        return [ChatMessage(role=_ROLES[role], content=specials[at])]
    dice = random.Random(number)
    return [
        ChatMessage(role=dice.choice(_ROLES), content="".join(_piece(specials, dice) for _ in range(dice.randrange(6))))
        for _ in range(dice.randrange(1, 5))
    ]


def _piece(specials: list[str], dice: random.Random) -> str:
    special = dice.choice(specials)
    at = dice.randrange(len(special) + 1)
    return dice.choice(
        [special, special[:at], special[at:], special[:at] + special + special[at:], dice.choice(_FILLERS)]
    )


def _outcome(llama: Llama, chat: Chat, messages: list[ChatMessage]) -> Outcome:
    plain = [ChatMessage(role=message.role, content="x") for message in messages]
    wanted, found = (_control(llama, chat, said) for said in (plain, messages))
    if found[0] != wanted[0]:
        return FAILED, f"{len(found[0])} control tokens, not {len(wanted[0])}: {messages}"
    text = found[1].decode(errors="replace")
    for message in messages:
        content = unicodedata.normalize("NFC", message.content)
        content = content.replace("\ufdd0", "\ufffd").replace("\ufdd1", "\ufffd")
        if content not in text:
            return FAILED, f"{content!r} is not in {text!r}"
    # The head of a task's prompts is made by itself.
    head = chat.prefix(TaskPrefix(task="t", system=messages[0].content, user_head=messages[-1].content))
    bare = chat.prefix(TaskPrefix(task="t", system="x", user_head="x"))
    if sum(map(llama.is_control, head)) != sum(map(llama.is_control, bare)):
        return FAILED, f"a prefix has other control tokens: {messages}"
    return "text", ""


def _control(llama: Llama, chat: Chat, messages: list[ChatMessage]) -> tuple[list[int], bytes]:
    tokens, _ = chat.prompt(messages, thinks=False)
    return [token for token in tokens if llama.is_control(token)], b"".join(map(llama.piece, tokens))


if __name__ == "__main__":
    sys.exit(drive("prompts", __doc__, outcomes, of_model=True))
