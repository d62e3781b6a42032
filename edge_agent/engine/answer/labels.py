"""Labels as a tree of tokens, and their scores by the model's logits.

The score of a label is its probability under a model that can write only labels. Where labels differ in their next
token, it is the softmax over those tokens; along a label these are multiplied. A label that another one begins with
ends with the end-of-turn token as a choice. So scores sum to 1 without normalization by length, and one pass over the
prompt is enough where the first tokens differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens to decode after the prompt; logits are wanted after `tokens[i]` for each i in `outputs`."""

    tokens: Path
    outputs: tuple[int, ...]


@dataclass(slots=True)
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)


class LabelTree:
    """The labels of a task. Raises ValueError for a label without tokens."""

    def __init__(self, labels: Sequence[str], tokenize: Callable[[str], Sequence[int]], end_of_turn: int) -> None:
        self._end_of_turn = end_of_turn
        self._labels = tuple(labels)
        self._root = _Node()
        for label in labels:
            tokens = tokenize(label)
            if not tokens:
                raise ValueError(f"label {label!r} has no tokens")
            node = self._root
            for token in tokens:
                node = node.children.setdefault(token, _Node())
            node.labels.append(label)
        self._choices = self._find_choices()
        self.branches = self._find_branches()

    @property
    def needs_prompt_logits(self) -> bool:
        return () in self._choices

    def scores(self, logits: Callable[[Path], npt.NDArray[np.float32]]) -> dict[str, float]:
        """Label -> probability, in the order of the labels.

        logits: the logits of a path's choices, as `choose` returns them.
        """
        probabilities = {
            path: dict(zip(tokens, _softmax(logits(path)), strict=True)) for path, tokens in self._choices.items()
        }
        found: dict[str, float] = {}
        stack: list[tuple[_Node, Path, float]] = [(self._root, (), 1.0)]
        while stack:
            node, path, probability = stack.pop()
            choice = probabilities.get(path)
            here = probability if choice is None else probability * choice.get(self._end_of_turn, 0.0)
            for label in node.labels:
                # Labels that differ only in Unicode normalization have the same tokens.
                found[label] = here / len(node.labels)
            for token, child in node.children.items():
                stack.append((child, (*path, token), probability if choice is None else probability * choice[token]))
        return {label: found[label] for label in self._labels}

    def choose(self, path: Path, row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The logits of this path's choices, copied from a row [vocabulary]."""
        return row[np.asarray(self._choices[path], dtype=np.intp)]

    def _find_choices(self) -> dict[Path, tuple[int, ...]]:
        choices: dict[Path, tuple[int, ...]] = {}
        stack: list[tuple[_Node, Path]] = [(self._root, ())]
        while stack:
            node, path = stack.pop()
            tokens = tuple(node.children) + ((self._end_of_turn,) if node.labels and node.children else ())
            if len(tokens) > 1:
                choices[path] = tokens
            stack.extend((child, (*path, token)) for token, child in node.children.items())
        return choices

    def _find_branches(self) -> tuple[Branch, ...]:
        """Branches that hold each choice below the root once, and end at the deepest ones."""
        branches: list[Branch] = []
        covered: set[Path] = {()}
        for path in sorted(self._choices, key=len, reverse=True):
            if path in covered:
                continue
            on_the_way = [length for length in range(1, len(path) + 1) if path[:length] in self._choices]
            fresh = [length for length in on_the_way if path[:length] not in covered]
            covered.update(path[:length] for length in fresh)
            branches.append(Branch(path, tuple(length - 1 for length in fresh)))
        return tuple(branches)


class LabelAnswer:
    """Collects the logits that the tree of labels needs."""

    def __init__(self, tree: LabelTree) -> None:
        self.tree = tree
        self._logits: dict[Path, npt.NDArray[np.float32]] = {}

    def add(self, path: Path, row: npt.NDArray[np.float32]) -> None:
        """Adds the row [vocabulary] after the prompt and this path of label tokens."""
        self._logits[path] = self.tree.choose(path, row)

    def scores(self) -> dict[str, float]:
        return self.tree.scores(self._logits.__getitem__)

    def close(self) -> None:
        self._logits.clear()


def _softmax(logits: npt.NDArray[np.float32]) -> list[float]:
    shifted = np.exp(logits.astype(np.float64) - float(np.max(logits)))
    result: list[float] = (shifted / shifted.sum()).tolist()
    return result
