"""PURE: which rules of a grammar can never end. llama.cpp takes them, and the model then writes until it is stopped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_TOKENS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\{(\d+)(?:,\d*)?\}|[()|*?]|[\w-]+')


def endless_rules(rules: Mapping[str, str]) -> list[str]:
    """Names of the rules from which no finite text comes.

    rules: name -> body, in the part of GBNF that `schema_grammar` writes.
    """
    tokens = {name: list(_TOKENS.finditer(body)) for name, body in rules.items()}
    ending: set[str] = set()
    # Rules stand after those they use, except where a schema contains itself: few rounds are enough.
    while found := [name for name, body in tokens.items() if name not in ending and _Body(body, ending).ends()]:
        ending.update(found)
    return [name for name in rules if name not in ending]


class _Body:
    def __init__(self, tokens: Sequence[re.Match[str]], ending: set[str]) -> None:
        self._tokens = tokens
        self._ending = ending
        self._at = 0

    def ends(self) -> bool:
        """Whether one of the alternatives up to the end of the group does: all in it that must be there does."""
        any_ends, here, last = False, True, True
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            self._at += 1
            text = token.group()
            if text == ")":
                break
            if text == "|":
                any_ends, here, last = any_ends or (here and last), True, True
            elif text in {"*", "?"} or token[1] == "0":
                last = True
            elif text == "(":
                here, last = here and last, self.ends()
            elif token[1] is None:
                here, last = here and last, text[0] in '"[' or text in self._ending
        return any_ends or (here and last)
