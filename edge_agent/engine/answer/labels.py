"""Labels as paths of tokens, and their scores by the model's logits.

The score of a label is its probability under a model that can write only labels. Where labels differ in their next
token, it is the softmax over those tokens; along a label these are multiplied. Where one label is the beginning of
another, the end-of-turn token is one of the choices. So scores sum to 1 without normalization by length. Where the
first tokens differ, one pass over the prompt is enough.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.core.pipe import Finish
from edge_agent.engine.answer.answer import Answer, Continuation
from edge_agent.engine.step.cache_sequence import CacheSequence

TokenPath = tuple[int, ...]
LogitsRow = npt.NDArray[np.float32]


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
                indices = following.setdefault(path[:length], {})
                indices.setdefault(token, len(indices))
        self._choices = {
            path: np.array(list(indices), dtype=np.intp) for path, indices in following.items() if len(indices) > 1
        }
        label_counts = Counter(paths.values())
        # For each choice on a label's path, the index of its token there; and how many labels have the same tokens.
        self._choices_of_label = {
            label: (
                [
                    (path[:at], following[path[:at]][token])
                    for at, token in enumerate(path)
                    if path[:at] in self._choices
                ],
                label_counts[path],
            )
            for label, path in paths.items()
        }
        self.branches = self._find_branches()

    def has_choice(self, path: TokenPath) -> bool:
        """Whether labels part after this path."""
        return path in self._choices

    def is_complete(self, logits: Mapping[TokenPath, LogitsRow]) -> bool:
        """Whether `scores` has all that it needs."""
        return len(logits) == len(self._choices)

    def choice_logits(self, path: TokenPath, row: LogitsRow) -> LogitsRow:
        """The logits of this path's choices, copied from a row [vocabulary]."""
        return row[self._choices[path]]

    def scores(self, logits: Mapping[TokenPath, LogitsRow]) -> dict[str, float]:
        """The probability of each label, in their order, from each path's `choice_logits`."""
        chances = {path: _softmax(logits[path]) for path in self._choices}
        return {
            label: prod(chances[path][index] for path, index in choices) / label_count
            for label, (choices, label_count) in self._choices_of_label.items()
        }

    def _find_branches(self) -> tuple[Continuation, ...]:
        """Branches that hold each choice below the root once, and end at the deepest ones."""
        branches: list[Continuation] = []
        covered: set[TokenPath] = {()}
        for path in sorted(self._choices, key=len, reverse=True):
            if path in covered:
                continue
            prefixes = [path[:length] for length in range(1, len(path) + 1)]
            fresh = [prefix for prefix in prefixes if prefix in self._choices and prefix not in covered]
            covered.update(fresh)
            branches.append(Continuation(path, tuple(len(prefix) - 1 for prefix in fresh)))
        return tuple(branches)


class LabelAnswer(Answer):
    """Collects the logits that the tree of labels needs."""

    end = Finish.LABELS

    def __init__(self, logits: Callable[[int], LogitsRow], tree: LabelTree) -> None:
        """`logits` gives the logits of a row of the last batch."""
        self.branches = tree.branches
        self._logits = logits
        self._tree = tree
        self._read: dict[TokenPath, LogitsRow] = {}

    def max_cells(self, parallel_branches: int) -> int:
        lengths = sorted((len(branch.tokens) for branch in self.branches), reverse=True)
        return sum(lengths[:parallel_branches])

    def read(self, sequence: CacheSequence, rows: Sequence[int]) -> None:
        for row in rows:
            path = sequence.path
            if self._tree.has_choice(path):
                self._read[path] = self._tree.choice_logits(path, self._logits(row))
            sequence.outputs_read += 1
        if rows and self._tree.is_complete(self._read):
            self.finish = self.end

    def result(self) -> dict[str, Any]:
        return {"scores": self._tree.scores(self._read)}


def _softmax(logits: LogitsRow) -> list[float]:
    # Not by numpy, which is slower for a few labels.
    values: list[float] = logits.tolist()
    highest = max(values)
    weights = [math.exp(value - highest) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]
