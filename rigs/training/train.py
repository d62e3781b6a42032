"""Trains the demonstration model from scratch and writes it with its tasks and its held-out set.

    python -m rigs.training.train                    # the one in the repository, about 20 minutes on 2 cores
    python -m rigs.training.train --steps 50 --out /somewhere

Same seed, threads, packages and machine give the same files, byte for byte.
"""

import argparse
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from rigs.training import checkpoint
from rigs.training.model import Qwen2, Shape
from rigs.training.readings import FAULTS
from rigs.training.tasks import (
    OTHER_TEXTS,
    OTHER_WORDS,
    TASKS,
    VARIANTS,
    Row,
    diagnosis_of,
    draw_example,
    draw_row,
    sentence_of,
)

VOCAB_SIZE = 1024
TOKENIZER_EXAMPLES = 6000
BATCHES_PER_POOL = 32
HELD_OUT_ROWS_PER_FAULT = {
    "standard": 32,
    "key order": 7,
    "no machine": 4,
    "no speed": 3,
    "extra key": 5,
    "plain text": 6,
    "spaced json": 3,
}
IGNORED = -100

Batch = tuple[torch.Tensor, torch.Tensor]
Forward = Callable[[torch.Tensor], torch.Tensor]


def tokenizer_texts(seed: int) -> list[str]:
    """What the vocabulary is made of: prompts and answers as in training, and plain words."""
    source = random.Random(f"tokenizer {seed}")
    special = re.compile("|".join(map(re.escape, checkpoint.SPECIAL_TOKENS)))
    texts = [part for _ in range(TOKENIZER_EXAMPLES) for part in special.split("".join(draw_example(source))) if part]
    words = [f" {word}" for word in OTHER_WORDS] + list(OTHER_WORDS) + list(OTHER_TEXTS)
    return texts + words * 3


def encode_examples(tokenizer: Tokenizer, examples: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Token ids of prompt, answer and closing token, with the length of the prompt, shortest first."""
    prompts = tokenizer.encode_batch([prompt for prompt, _ in examples])
    answers = tokenizer.encode_batch([answer + checkpoint.TURN_END for _, answer in examples])
    encoded = [(prompt.ids + answer.ids, len(prompt.ids)) for prompt, answer in zip(prompts, answers, strict=True)]
    return sorted(encoded, key=lambda item: len(item[0]))


def as_batch(encoded: list[tuple[list[int], int]]) -> Batch:
    """Inputs and targets, padded on the right; only answer tokens are targets."""
    longest = math.ceil((max(len(ids) for ids, _ in encoded) - 1) / 8) * 8
    inputs = torch.zeros(len(encoded), longest, dtype=torch.long)
    targets = torch.full((len(encoded), longest), IGNORED, dtype=torch.long)
    for row, (ids, prompt_length) in enumerate(encoded):
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets[row, prompt_length - 1 : len(ids) - 1] = torch.tensor(ids[prompt_length:])
    return inputs, targets


def training_batches(tokenizer: Tokenizer, seed: int, batch_size: int) -> Iterator[Batch]:
    """Endless fresh examples, in batches of about equal length."""
    source = random.Random(f"training {seed}")
    while True:
        pool = [draw_example(source) for _ in range(batch_size * BATCHES_PER_POOL)]
        encoded = encode_examples(tokenizer, pool)
        starts = list(range(0, len(encoded), batch_size))
        source.shuffle(starts)
        for start in starts:
            yield as_batch(encoded[start : start + batch_size])


def answer_logits(model: Qwen2, forward: Forward, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits at the answer tokens, their targets, and the row each belongs to."""
    inputs, targets = batch
    with torch.autocast("cpu", torch.bfloat16):
        hidden = forward(inputs)
        mask = targets != IGNORED
        logits = model.logits(hidden[mask])
    return logits.float(), targets[mask], mask.nonzero()[:, 0]


def share_exactly_right(model: Qwen2, forward: Forward, batches: list[Batch]) -> float:
    """Share of examples whose greedy answer is the right one, token for token."""
    right = total = 0
    with torch.no_grad():
        for batch in batches:
            logits, targets, rows = answer_logits(model, forward, batch)
            wrong_rows = rows[logits.argmax(-1) != targets].unique()
            total += len(batch[0])
            right += len(batch[0]) - len(wrong_rows)
    return right / total


def train(tokenizer: Tokenizer, arguments: argparse.Namespace) -> Qwen2:
    """A trained model; AdamW, warm-up, then a cosine down to nothing."""
    torch.manual_seed(arguments.seed)
    model = Qwen2(Shape(vocab_size=VOCAB_SIZE))
    forward: Forward = model if arguments.eager else torch.compile(model, dynamic=True)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=(0.9, 0.98), foreach=True)
    warm_up = min(200, arguments.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / max(warm_up, 1), 0.5 + 0.5 * math.cos(math.pi * step / arguments.steps)),
    )
    source = random.Random(f"validation {arguments.seed}")
    validation = encode_examples(tokenizer, [draw_example(source) for _ in range(512)])
    validation_batches = [as_batch(validation[start : start + 128]) for start in range(0, len(validation), 128)]
    batches = training_batches(tokenizer, arguments.seed, arguments.batch_size)
    began_s, losses = time.monotonic(), []
    for step in range(1, arguments.steps + 1):
        logits, targets, _ = answer_logits(model, forward, next(batches))
        loss = functional.cross_entropy(logits, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0 or step == arguments.steps:
            right = share_exactly_right(model, forward, validation_batches) if step % 500 == 0 else float("nan")
            mean = sum(losses) / len(losses)
            losses.clear()
            print(f"step {step}: loss {mean:.4f}, exact {right:.3f}, {time.monotonic() - began_s:.0f} s", flush=True)
    return model


def held_out_rows(seed: int) -> list[Row]:
    """Rows that training never saw: a random stream of their own, and more digits than chance could repeat."""
    source = random.Random(f"held out {seed}")
    rows = [
        draw_row(source, fault, variant)
        for variant in VARIANTS
        for fault in FAULTS
        for _ in range(HELD_OUT_ROWS_PER_FAULT[variant])
    ]
    source.shuffle(rows)
    return rows


def write_data(folder: Path, seed: int) -> None:
    """tasks.json, and heldout.jsonl with one row a line."""
    (folder / "tasks.json").write_text(json.dumps(TASKS, indent=2) + "\n", encoding="utf-8")
    with (folder / "heldout.jsonl").open("w", encoding="utf-8") as lines:
        for row in held_out_rows(seed):
            record = {
                "input": row.user_text,
                "variant": row.variant,
                "borderline": row.case.borderline,
                "fault": row.case.fault,
                "diagnosis": diagnosis_of(row.case),
                "sentence": sentence_of(row),
            }
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "edge_agent" / "tools" / "demo")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument(
        "--eager", action="store_true", help="do without torch.compile (no C++ compiler needed, half as fast)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_data(arguments.out, arguments.seed)
    tokenizer = checkpoint.train_tokenizer(tokenizer_texts(arguments.seed), VOCAB_SIZE)
    folder = arguments.out / "checkpoint"
    checkpoint.write_tokenizer(tokenizer, folder)
    checkpoint.write_model(train(tokenizer, arguments), tokenizer, folder)


if __name__ == "__main__":
    main()
