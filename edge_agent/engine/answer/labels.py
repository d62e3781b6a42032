"""Labels as paths of tokens, and their scores by the model's logits.

The score of a label is its probability under a model that can write only labels. Where labels differ in their next
token, it is the softmax over those tokens; along a label these are multiplied. A label that another one begins with
ends with the end-of-turn token as a choice. So scores sum to 1 without normalization by length. Where the first
tokens differ, one pass over the prompt is enough.

A trained model may have one more token there, for an input that is unlike its training. Its score is its log-odds
against the first tokens of all labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from edge_agent.engine.prompt.prompts import Unlikeness

TokenPath = tuple[int, ...]
LogitsRow = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens to decode after the prompt; logits are wanted after `tokens[i]` for each i in `outputs`."""

    tokens: TokenPath
    outputs: tuple[int, ...]


class LabelTree:
    """The labels of a task. Raises ValueError for a label without tokens."""

    def __init__(self, labels: Sequence[str], tokenize: Callable[[str], Sequence[int]], end_of_turn: int) -> None:
        # Each label with its end; labels that differ only in Unicode normalization have the same tokens.
        paths = {label: (*tokenize(label), end_of_turn) for label in labels}
        following: dict[TokenPath, dict[int, int]] = {}
        for label, path in paths.items():
            if len(path) == 1:
                raise ValueError(f"label {label!r} has no tokens")
            for length, token in enumerate(path):
                places = following.setdefault(path[:length], {})
                places.setdefault(token, len(places))
        tokens_of = {path: np.array(list(places), dtype=np.intp) for path, places in following.items()}
        self._first_tokens = tokens_of[()]
        self._choices = {path: tokens for path, tokens in tokens_of.items() if len(tokens) > 1}
        alike = Counter(paths.values())
        # For each choice on a label's path, the place of its token there; and how many labels have the same tokens.
        self._ways = {
            label: (
                [
                    (path[:at], following[path[:at]][token])
                    for at, token in enumerate(path)
                    if path[:at] in self._choices
                ],
                alike[path],
            )
            for label, path in paths.items()
        }
        self.branches = self._find_branches()

    @property
    def needs_prompt_logits(self) -> bool:
        return () in self._choices

    def log_odds(self, token: int, row: LogitsRow) -> float:
        """Of a token that no label begins with, against all labels. row: [vocabulary], after the prompt."""
        others = (row[self._first_tokens] - row[token]).tolist()
        most = max(others)
        odds: float = -most - math.log(sum(math.exp(one - most) for one in others))
        return odds

    def choose(self, path: TokenPath, row: LogitsRow) -> LogitsRow:
        """The logits of this path's choices, copied from a row [vocabulary]."""
        return row[self._choices[path]]

    def scores(self, logits: Mapping[TokenPath, LogitsRow]) -> dict[str, float]:
        """Label -> probability, in the order of the labels. logits: of each path's choices, by `choose`."""
        chances = {path: _softmax(logits[path]) for path in self._choices}
        return {
            label: prod(chances[path][place] for path, place in way) / alike
            for label, (way, alike) in self._ways.items()
        }

    def _find_branches(self) -> tuple[Branch, ...]:
        """Branches that hold each choice below the root once, and end at the deepest ones."""
        branches: list[Branch] = []
        covered: set[TokenPath] = {()}
        for path in sorted(self._choices, key=len, reverse=True):
            if path in covered:
                continue
            on_the_way = [path[:length] for length in range(1, len(path) + 1)]
            fresh = [one for one in on_the_way if one in self._choices and one not in covered]
            covered.update(fresh)
            branches.append(Branch(path, tuple(len(one) - 1 for one in fresh)))
        return tuple(branches)


_NOTHING = Unlikeness()


class LabelAnswer:
    """Collects the logits that the tree of labels needs.

    unlike: see Finished.
    """

    def __init__(self, tree: LabelTree, unlikeness: Unlikeness = _NOTHING) -> None:
        self.tree = tree
        self.unlike = unlikeness.texts
        self._unlikeness = unlikeness
        self._logits: dict[TokenPath, LogitsRow] = {}

    @property
    def needs_prompt_logits(self) -> bool:
        return self._unlikeness.token is not None or self.tree.needs_prompt_logits

    def add(self, path: TokenPath, row: LogitsRow) -> None:
        """Adds the row [vocabulary] after the prompt and this path of label tokens."""
        if path or self.tree.needs_prompt_logits:
            self._logits[path] = self.tree.choose(path, row)
        if not path and self._unlikeness.token is not None:
            excess = self.tree.log_odds(self._unlikeness.token, row) - self._unlikeness.most_log_odds
            self.unlike = excess if self.unlike is None else max(self.unlike, excess)

    def scores(self) -> dict[str, float]:
        return self.tree.scores(self._logits)


def _softmax(logits: LogitsRow) -> list[float]:
    # Not by numpy, which is slower for a few labels.
    values: list[float] = logits.tolist()
    most = max(values)
    weights = [math.exp(value - most) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]
