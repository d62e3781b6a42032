"""What llama.cpp itself reaches with this model and these threads: llama-bench and llama-batched-bench."""

from __future__ import annotations

import json
from pathlib import Path

from rigs.bench.sizes import CLIENTS, CONTEXT_TOKENS, THREADS
from tests.helpers.llama_sources import run_program


def prefill_tokens_per_s(programs: Path, model: Path, *, batch_tokens: int, shared_tokens: int) -> float:
    """Of one full batch behind so many tokens that are there already, the mean of three passes."""
    command = [str(programs / "llama-bench"), "--model", str(model), "--output", "json", "--repetitions", "3"]
    command += ["--n-depth", str(shared_tokens)]
    command += ["--n-prompt", str(batch_tokens), "--n-gen", "0", "--threads", str(THREADS)]
    command += ["--batch-size", str(batch_tokens), "--ubatch-size", str(batch_tokens)]
    (result,) = json.loads(run_program(command))
    return float(result["avg_ts"])


def batched_tokens_per_s(
    programs: Path, model: Path, *, shared_tokens: int, own_tokens: int, written_tokens: int
) -> float:
    """Written tokens per second of CLIENTS sequences that share the beginning of their prompts, in lockstep.

    llama-batched-bench shares all of a prompt or nothing of it: the time of the prompts is taken from a run that shares
    nothing and has only the tokens of their own, the time of writing from one that shares prompts of full length.
    """
    prompts_s = _batched(programs, model, own_tokens, written_tokens)["t_pp"]
    writing_s = _batched(programs, model, shared_tokens + own_tokens, written_tokens, "-pps")["t_tg"]
    return CLIENTS * written_tokens / (prompts_s + writing_s)


def _batched(programs: Path, model: Path, prompt: int, written: int, *more: str) -> dict[str, float]:
    command = [str(programs / "llama-batched-bench"), "--model", str(model), "--ctx-size", str(CONTEXT_TOKENS)]
    command += ["--threads", str(THREADS), "--threads-batch", str(THREADS), "--kv-unified"]
    command += ["-npp", str(prompt), "-ntg", str(written), "-npl", str(CLIENTS), "--output-format", "jsonl", *more]
    lines = [line for line in run_program(command).splitlines() if line.startswith("{")]
    (result,) = map(json.loads, lines)
    return {key: float(value) for key, value in result.items()}
