"""The training of the demonstration model, with the libraries and the vocabulary of `edge-convert train`."""

import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM, get_cosine_schedule_with_warmup

from convert.learning.model import batch_of
from convert.learning.vocabulary import END_OF_TEXT, END_OF_TURN, EncodedExample, train_bpe
from edge_agent.tools.demo.readings import checkpoint_folder
from rigs.training.tasks import OTHER_TEXTS, OTHER_WORDS, draw_example

# What training does not make: the configuration, the special tokens and the chat template.
GIVEN = ("config.json", "generation_config.json", "tokenizer_config.json")
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", END_OF_TURN)
BATCH, BATCHES_PER_POOL = 64, 32


def write_checkpoint(folder: Path, steps: int, threads: int) -> None:
    """Trains, and writes what the demonstration needs. Equal steps, threads, packages and machines give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(1)
    config = Qwen2Config.from_pretrained(checkpoint_folder(), initializer_range=0.04, use_cache=False)
    tokenizer = new_tokenizer(config.vocab_size)
    model = new_model(config)
    fit(model, batches(tokenizer), steps)
    for name in GIVEN:
        (folder / name).write_bytes((checkpoint_folder() / name).read_bytes())
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    # The tied output matrix is among the parameters once, as the embedding.
    weights = dict(model.to(torch.bfloat16).named_parameters())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def new_tokenizer(size: int) -> Tokenizer:
    """A tokenizer of prompts and answers as in training, and plain words.

    `size` includes the special tokens, whose ids are given.
    """
    source = random.Random("tokenizer 1")
    special = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
    texts = [part for _ in range(6000) for part in special.split("".join(draw_example(source))) if part]
    words = [f" {word}" for word in OTHER_WORDS] + list(OTHER_WORDS) + list(OTHER_TEXTS)
    tokenizer = train_bpe(texts + words * 3, size - len(SPECIAL_TOKENS), SPECIAL_TOKENS)
    if (found := tokenizer.get_vocab_size()) != size:
        raise ValueError(f"the texts give only {found} tokens, wanted {size}")
    return tokenizer


def new_model(config: Qwen2Config) -> Any:
    """An untrained model. What layers add to the hidden state starts smaller the more layers it has, as in GPT-2."""
    model = Qwen2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data /= (2 * config.num_hidden_layers) ** 0.5
    return model


def batches(tokenizer: Tokenizer) -> Iterator[tuple[Any, Any]]:
    """Ids and targets of fresh examples of about equal length, without end."""
    source = random.Random("training 1")
    while True:
        pool = [draw_example(source) for _ in range(BATCH * BATCHES_PER_POOL)]
        encoded = [
            EncodedExample(tokenizer.encode(prompt).ids, tokenizer.encode(answer + END_OF_TURN).ids)
            for prompt, answer in pool
        ]
        encoded.sort(key=lambda one: one.length)
        starts = list(range(0, len(encoded), BATCH))
        source.shuffle(starts)
        for start in starts:
            yield batch_of(encoded[start : start + BATCH])


def fit(model: Any, examples: Iterator[tuple[Any, Any]], steps: int) -> None:
    """AdamW with a warm-up, then a cosine down to nothing; only the tokens of answers count."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(200, steps // 10), steps)
    losses = []
    for step, (ids, targets) in enumerate(islice(examples, steps), start=1):
        loss = model(torch.from_numpy(ids), labels=torch.from_numpy(targets)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step}: loss {fmean(losses[-100:]):.4f}", flush=True)
