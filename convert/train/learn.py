"""Trains a small Qwen2 model from nothing, with PyTorch and transformers."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from ..agent import FieldTable
from ..progress import OnProgress
from ..read.model import FIELDS_FILE
from .rows import Row
from .table import learn_table
from .vocabulary import END_OF_TEXT, Encoded, Vocabulary, learn_vocabulary

_Tokens = npt.NDArray[np.int64]
_IGNORED = -100
_HEAD_WIDTH = 32
_LEAST_CONTEXT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """width: of the hidden state. steps: of `batch` rows each. seed: of weights, order and changes.

    text_tokens: of texts and answers, at most. neighbours: the share of numbers that move to the next bin above or
    below. missing: the share of numbers that are left out.
    """

    width: int = 64
    layers: int = 3
    text_tokens: int = 2048
    steps: int = 800
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.1
    smoothing: float = 0.02
    neighbours: float = 0.3
    missing: float = 0.03
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """A trained model with what its prompts are made of."""

    vocabulary: Vocabulary
    model: Any

    @property
    def table(self) -> FieldTable:
        return self.vocabulary.table

    @property
    def parameters(self) -> int:
        return sum(one.numel() for one in self.model.parameters())

    def write(self, folder: Path) -> None:
        """A checkpoint that `edge-convert` takes."""
        self.model.to(torch.bfloat16).save_pretrained(folder)
        self.vocabulary.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(self.vocabulary.config()), "utf-8")
        (folder / FIELDS_FILE).write_text(self.table.model_dump_json(by_alias=True), "utf-8")


def learn(rows: Sequence[Row], recipe: Recipe, progress: OnProgress) -> Learned:
    """Equal rows, recipes, numbers of threads and machines give equal models."""
    transformers_logging.disable_progress_bar()
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(recipe.seed)
    vocabulary = learn_vocabulary(learn_table(rows), rows, recipe.text_tokens)
    examples = [vocabulary.encode(row) for row in rows]
    model = _new_model(vocabulary, recipe, max(len(one.prompt) + len(one.answer) for one in examples))
    _train(model, examples, _Changes(vocabulary, recipe), recipe, progress)
    return Learned(vocabulary, model)


def _new_model(vocabulary: Vocabulary, recipe: Recipe, longest: int) -> Any:
    heads = max(recipe.width // _HEAD_WIDTH, 1)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(vocabulary),
            hidden_size=recipe.width,
            intermediate_size=2 * recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=max(_LEAST_CONTEXT, 2 * longest),
            tie_word_embeddings=True,
            attention_dropout=recipe.dropout,
            initializer_range=0.04,
            bos_token_id=None,
            eos_token_id=vocabulary.end_of_turn,
            pad_token_id=vocabulary.id_of(END_OF_TEXT),
        )
    )


def _train(model: Any, examples: Sequence[Encoded], changes: "_Changes", recipe: Recipe, progress: OnProgress) -> None:
    """AdamW with a warm-up, then a cosine down to nothing; only the tokens of answers count."""
    draw = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    warm_up = max(recipe.steps // 20, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))
    )
    model.train()
    for step in range(recipe.steps):
        ids, targets = _batch([examples[one] for one in draw.integers(len(examples), size=recipe.batch)])
        logits = model(input_ids=torch.from_numpy(changes.of(ids, draw))).logits
        loss = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1),
            torch.from_numpy(targets[:, 1:]).flatten(),
            ignore_index=_IGNORED,
            label_smoothing=recipe.smoothing,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress("training", (step + 1) / recipe.steps)
    model.eval()


def _batch(chosen: Sequence[Encoded]) -> tuple[_Tokens, _Tokens]:
    """Ids and targets [rows, tokens], padded on the right; only tokens of answers are targets."""
    longest = max(len(one.prompt) + len(one.answer) for one in chosen)
    ids = np.zeros((len(chosen), longest), np.int64)
    targets = np.full((len(chosen), longest), _IGNORED, np.int64)
    for row, one in enumerate(chosen):
        end = len(one.prompt) + len(one.answer)
        ids[row, :end] = [*one.prompt, *one.answer]
        targets[row, len(one.prompt) : end] = one.answer
    return ids, targets


class _Changes:
    """Changes of an input that leave its answer as it is: noise of about a bin, and missing numbers."""

    def __init__(self, vocabulary: Vocabulary, recipe: Recipe) -> None:
        self._neighbours, self._missing_share = recipe.neighbours, recipe.missing
        # By token; that of another kind stays as it is.
        self._lower, self._upper, self._missing = (np.arange(len(vocabulary)) for _ in range(3))
        for field in vocabulary.table.fields:
            if field.limits is not None:
                missing, *bins = map(vocabulary.id_of, field.controls)
                self._lower[bins[1:]], self._upper[bins[:-1]], self._missing[bins] = bins[:-1], bins[1:], missing

    def of(self, ids: _Tokens, draw: np.random.Generator) -> _Tokens:
        chance, half = draw.random(ids.shape), self._neighbours / 2
        moved = np.where(chance < half, self._lower[ids], np.where(chance >= 1 - half, self._upper[ids], ids))
        return np.where(draw.random(ids.shape) < self._missing_share, self._missing[moved], moved)
