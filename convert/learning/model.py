"""A small Qwen2 model, trained from nothing with PyTorch and transformers."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from ..agent import ControlToken, FieldTable
from ..evaluate.requests import row_error
from ..progress import OnProgress
from ..read.model import FIELDS_FILE
from .pace import Pace
from .recipe import MAX_TOKENS, Recipe
from .table import build_table
from .training_rows import Row
from .vocabulary import END_OF_TEXT, EncodedExample, Vocabulary, build_vocabulary

_Tokens = npt.NDArray[np.int64]
_IGNORED = -100
_HEAD_WIDTH = 32
_MIN_CONTEXT = 2048
# The standard deviation of the initial weights.
_SPREAD = 0.04


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """Weights in BF16, and what prompts are made of."""

    vocabulary: Vocabulary
    model: Any
    steps: int  # How many it was trained for.

    @property
    def table(self) -> FieldTable:
        return self.vocabulary.table

    def with_table(self, table: FieldTable) -> "TrainedModel":
        """The model with another table, which must have the same tokens."""
        return replace(self, vocabulary=replace(self.vocabulary, table=table))

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def write(self, folder: Path) -> None:
        """Writes a checkpoint that `edge-convert` takes."""
        self.model.save_pretrained(folder)
        self.vocabulary.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(self.vocabulary.config()), "utf-8")
        (folder / FIELDS_FILE).write_text(self.table.model_dump_json(by_alias=True), "utf-8")


def train_model(
    rows: Sequence[Row], recipe: Recipe, progress: OnProgress, *, seconds: float = math.inf
) -> TrainedModel:
    """Equal rows, recipes, numbers of threads and machines give equal models, unless `seconds` ends the training.

    Raises ConvertError for a long row.
    """
    pace = Pace(recipe.steps, seconds, monotonic())
    transformers_logging.disable_progress_bar()
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(recipe.seed)
    vocabulary = build_vocabulary(build_table(rows), rows, recipe.text_tokens)
    examples = list[EncodedExample]()
    for row in rows:
        encoded = vocabulary.encode(row, recipe.labelled_weight if row.chances is None else 1.0)
        if (length := max(example.length for example in encoded)) > MAX_TOKENS:
            raise row_error(row.request, f"input and answer: should take at most {MAX_TOKENS} tokens (got {length})")
        examples += encoded
    model = _new_model(vocabulary, recipe, max(example.length for example in examples))
    steps = _fit(model, vocabulary, _Batches(vocabulary, examples, recipe), recipe, progress, pace)
    return TrainedModel(vocabulary, model.to(torch.bfloat16), steps)


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
            max_position_embeddings=max(_MIN_CONTEXT, 2 * longest),
            tie_word_embeddings=True,
            attention_dropout=recipe.attention_dropout,
            initializer_range=_SPREAD,
            bos_token_id=None,
            eos_token_id=vocabulary.end_of_turn,
            pad_token_id=vocabulary.id_of(ControlToken(END_OF_TEXT)),
        )
    )


class _Embedding:
    """The vectors of all tokens. Those of a number's bins lie on a curve, so that few rows say much about each bin.

    A curve is a point and `cosines` cosines of the bin's place among the bins, the first one of half a period.
    `tokens` are the vectors of the model, which hold the curves only after `write`.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, recipe: Recipe) -> None:
        self.tokens = model.get_input_embeddings().weight
        numbers = [field for field in vocabulary.table.fields if field.bins]
        bins = [[vocabulary.id_of(control) for control in field.bins] for field in numbers]
        self._ids = torch.tensor([token for tokens in bins for token in tokens])
        self._field = torch.tensor([field for field, tokens in enumerate(bins) for _ in tokens])
        self._places = torch.tensor([(place + 0.5) / len(tokens) for tokens in bins for place in range(len(tokens))])
        self._rates = torch.arange(1, recipe.cosines + 1)
        self._points = torch.nn.Parameter(_SPREAD * torch.randn(len(bins), recipe.width))
        self._weights = torch.nn.Parameter(_SPREAD * torch.randn(len(bins), recipe.cosines, recipe.width))
        # Less and more than all rows may lie off the curve, because few rows or none have such a value.
        ends = {token for tokens in bins for token in (tokens[0], tokens[-1])}
        self._ends = torch.tensor([index for index, id_ in enumerate(self._ids.tolist()) if id_ in ends])
        self._offsets = torch.nn.Parameter(torch.zeros(len(ends), recipe.width))

    @property
    def parameters(self) -> list[Any]:
        return [self._points, self._weights, self._offsets]

    def vectors(self) -> Any:
        """The vectors of all tokens, [tokens, width]."""
        if not len(self._ids):
            return self.tokens
        # Faster ones are weaker, so that bins near each other are alike.
        cosines = torch.cos(math.pi * torch.outer(self._places, self._rates)) / self._rates**2
        curves = self._points[self._field] + (cosines.unsqueeze(-1) * self._weights[self._field]).sum(1)
        return self.tokens.index_copy(0, self._ids, curves.index_add(0, self._ends, self._offsets))

    def write(self) -> None:
        """Copies the vectors into the model's own embedding."""
        with torch.no_grad():
            self.tokens.copy_(self.vectors())


class _Batches:
    def __init__(self, vocabulary: Vocabulary, examples: Sequence[EncodedExample], recipe: Recipe) -> None:
        self._examples, self._recipe = examples, recipe
        self._draw = np.random.default_rng(recipe.seed)
        # A teacher's answers drawn by their chances have, on average, the gradient of the divergence from the teacher.
        weights = np.array([example.weight for example in examples])
        self._shares = weights / weights.sum()
        self._masked = _masked(vocabulary)
        self._beyond, self._chances = _beyond(vocabulary, examples)

    def next(self) -> tuple[_Tokens, _Tokens]:
        draw, recipe = self._draw, self._recipe
        chosen = [self._examples[index] for index in draw.choice(len(self._examples), recipe.batch, p=self._shares)]
        ids, targets = batch_of(chosen)
        ids = np.where(draw.random(ids.shape) < recipe.mask_share, self._masked[ids], ids)
        return np.where(draw.random(ids.shape) < self._chances[ids], self._beyond[ids], ids), targets


def _fit(
    model: Any, vocabulary: Vocabulary, batches: _Batches, recipe: Recipe, progress: OnProgress, pace: Pace
) -> int:
    """AdamW with a warm-up, then a cosine down to nothing; only the tokens of answers count. Returns the steps."""
    embedding = _Embedding(model, vocabulary, recipe)
    parameters = [*model.parameters(), *embedding.parameters]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    done, steps = 0, recipe.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / max(steps // 20, 1), 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    model.train()
    while done < steps:
        ids, targets = batches.next()
        vectors, is_answer = embedding.vectors(), torch.from_numpy(targets[:, 1:] != _IGNORED)
        read = functional.embedding(torch.from_numpy(ids), vectors)
        hidden = model.model(inputs_embeds=read).last_hidden_state[:, :-1][is_answer]
        # The curves are not used as outputs, which no answer has, because all bins of a number would then push its
        # point away together.
        loss = functional.cross_entropy(
            hidden @ embedding.tokens.T,
            torch.from_numpy(targets[:, 1:])[is_answer],
            label_smoothing=recipe.label_smoothing,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        done += 1
        steps = pace.target_steps(done, monotonic())
        schedule.step()
        progress(pace.words, pace.share)
    embedding.write()
    model.eval()
    return done


def batch_of(chosen: Sequence[EncodedExample]) -> tuple[_Tokens, _Tokens]:
    """Ids and targets [rows, tokens], padded on the right; only tokens of answers are targets."""
    longest = max(len(example.prompt) + len(example.answer) for example in chosen)
    ids = np.zeros((len(chosen), longest), np.int64)
    targets = np.full((len(chosen), longest), _IGNORED, np.int64)
    for row, example in enumerate(chosen):
        end = len(example.prompt) + len(example.answer)
        ids[row, :end] = [*example.prompt, *example.answer]
        targets[row, len(example.prompt) : end] = example.answer
    return ids, targets


def _masked(vocabulary: Vocabulary) -> _Tokens:
    """Gives, by token, the token of the missing value for each bin of a number, and any other token itself."""
    masked = np.arange(len(vocabulary))
    for field in vocabulary.table.fields:
        masked[[vocabulary.id_of(control) for control in field.bins]] = vocabulary.id_of(field.missing)
    return masked


def _beyond(vocabulary: Vocabulary, examples: Sequence[EncodedExample]) -> tuple[_Tokens, npt.NDArray[np.float64]]:
    """Gives, by token, the bin beyond it if it is the first or last of a number, else itself; and how often to take it.

    To a model that has not seen them, the rows with the smallest and the largest number lie beyond all rows.
    """
    beyond = np.arange(len(vocabulary))
    # A row has an example for each answer that it may have.
    prompts = {id(example.prompt): example.prompt for example in examples}.values()
    rows = np.bincount([token for prompt in prompts for token in prompt], minlength=len(vocabulary))
    for field in vocabulary.table.fields:
        if field.bins:
            ids = [vocabulary.id_of(control) for control in field.bins]
            beyond[[ids[1], ids[-2]]] = ids[0], ids[-1]
    return beyond, (beyond != np.arange(len(vocabulary))) / (1 + rows)
