"""Trains the demonstration model from scratch.

    python -m rigs.training                          # the one in the repository, about 20 minutes on 2 cores
    python -m rigs.training --steps 50 --out /somewhere

Same seed, threads, packages and machine give the same files, byte for byte.
"""

import argparse
import json
import math
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken as SpecialToken
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional

from rigs.machine import parser_of
from rigs.training.model import Qwen2
from rigs.training.readings import DEMO
from rigs.training.tasks import OTHER_TEXTS, OTHER_WORDS, draw_example

# What training does not make: the configuration, the special tokens and the chat template.
GIVEN = ("config.json", "generation_config.json", "tokenizer_config.json")
CONFIG = json.loads((DEMO / "checkpoint" / "config.json").read_text("utf-8"))
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", TURN_END)
# The pre-tokenizer of Qwen2, Qwen2.5 and their coders, verbatim: llama.cpp knows it as "qwen2".
QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZER_EXAMPLES = 6000
BATCHES_PER_POOL = 32
IGNORED = -100

Batch = tuple[torch.Tensor, torch.Tensor]
Forward = Callable[[torch.Tensor], torch.Tensor]


def tokenizer_texts(seed: int) -> list[str]:
    """What the vocabulary is made of: prompts and answers as in training, and plain words."""
    source = random.Random(f"tokenizer {seed}")
    special = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
    texts = [part for _ in range(TOKENIZER_EXAMPLES) for part in special.split("".join(draw_example(source))) if part]
    words = [f" {word}" for word in OTHER_WORDS] + list(OTHER_WORDS) + list(OTHER_TEXTS)
    return texts + words * 3


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE over all 256 bytes; the special tokens come after the vocabulary, as in Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2_REGEX), behavior="isolated", invert=False)
    bytes_only = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(**bytes_only)])
    tokenizer.post_processor = processors.ByteLevel(**bytes_only)
    tokenizer.decoder = decoders.ByteLevel(**bytes_only)
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"] - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([SpecialToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    if (size := tokenizer.get_vocab_size()) != CONFIG["vocab_size"]:
        raise ValueError(f"the texts give only {size} tokens, wanted {CONFIG['vocab_size']}")
    return tokenizer


def encode_examples(tokenizer: Tokenizer, examples: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Token ids of prompt, answer and closing token, with the length of the prompt, shortest first."""
    prompts = tokenizer.encode_batch([prompt for prompt, _ in examples])
    answers = tokenizer.encode_batch([answer + TURN_END for _, answer in examples])
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


def loss_of(model: Qwen2, forward: Forward, batch: Batch) -> torch.Tensor:
    """Cross entropy of the answer tokens."""
    inputs, targets = batch
    mask = targets != IGNORED
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(forward(inputs)[mask])
    return functional.cross_entropy(logits.float(), targets[mask])


def train(tokenizer: Tokenizer, arguments: argparse.Namespace) -> Qwen2:
    """A trained model; AdamW, warm-up, then a cosine down to nothing."""
    torch.manual_seed(arguments.seed)
    model = Qwen2(CONFIG)
    forward: Forward = model if arguments.eager else torch.compile(model, dynamic=True)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.5e-3, betas=(0.9, 0.98), foreach=True)
    warm_up = min(200, arguments.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / max(warm_up, 1), 0.5 + 0.5 * math.cos(math.pi * step / arguments.steps)),
    )
    batches = training_batches(tokenizer, arguments.seed, arguments.batch_size)
    began_s, losses = time.monotonic(), []
    for step in range(1, arguments.steps + 1):
        loss = loss_of(model, forward, next(batches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0 or step == arguments.steps:
            mean = sum(losses) / len(losses)
            losses.clear()
            print(f"step {step}: loss {mean:.4f}, {time.monotonic() - began_s:.0f} s", flush=True)
    return model


def main() -> None:
    parser = parser_of("rigs.training", __doc__)
    parser.add_argument("--out", type=Path, default=DEMO)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--eager", action="store_true", help="do without torch.compile (no C++ compiler needed, half as fast)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    folder: Path = arguments.out / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    for name in GIVEN if arguments.out.resolve() != DEMO else ():
        shutil.copy(DEMO / "checkpoint" / name, folder)
    tokenizer = train_tokenizer(tokenizer_texts(arguments.seed))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    state = train(tokenizer, arguments).state_dict()
    # BF16, the tied output matrix left out.
    tensors = {f"model.{name}": value.to(torch.bfloat16).contiguous() for name, value in state.items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
