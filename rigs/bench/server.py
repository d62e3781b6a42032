"""llama.cpp's own programs: llama-server as a side of the comparison, and what its benchmarks reach."""

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from rigs.bench.workload import (
    CLIENTS,
    CONTEXT_TOKENS,
    EXTRACT_TOKENS,
    GENERATED_TOKENS,
    LABELS,
    SCHEMA,
    THREADS,
    Answer,
    Kind,
    Reading,
    prompt,
)
from rigs.llama_sources import run_program
from tests.helpers.processes import ends, free_port, wait_until

PROGRAMS = ("llama-server", "llama-bench", "llama-batched-bench")
# Greedy, without penalties and other samplers, which is the server's fastest way to the same token.
_GREEDY = {"temperature": 0, "samplers": ["top_k"], "top_k": 1, "repeat_penalty": 1.0}
_START_S = 300.0
_ANSWER_S = 300.0


class LlamaServer:
    """llama-server with a slot per client, which share one cache of cells; prompts stay in every slot."""

    name = "llama-server"

    def __init__(self, programs: Path, model: Path, folder: Path) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._log = folder / "llama-server.log"
        command = [str(programs / "llama-server"), "--model", str(model), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--parallel", str(CLIENTS), "--kv-unified"]
        command += ["--ctx-size", str(CONTEXT_TOKENS), *_threads()]
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            wait_until(self._is_healthy, f"llama-server is ready; see {self._log}", _START_S)
        except AssertionError:
            self.close()
            raise

    def count_tokens(self, text: str) -> int:
        """Special tokens in the text count as such."""
        return len(self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"])

    def ask(self, kind: Kind, reading: Reading) -> Answer:
        """Raises ValueError for an answer that was cut."""
        reply = self._post(
            "/completion", {"prompt": prompt(kind, reading), "cache_prompt": True, **_GREEDY, **_form(kind)}
        )
        wanted_stop = "limit" if kind is Kind.GENERATE else "eos"
        if reply["truncated"] or reply["stop_type"] != wanted_stop:
            raise ValueError(f"llama-server cut an answer or ended it otherwise than by {wanted_stop!r}: {reply}")
        return Answer(
            text=reply["content"],
            prompt_tokens=reply["tokens_evaluated"],
            cached_tokens=reply["timings"]["cache_n"],
            completion_tokens=reply["tokens_predicted"],
        )

    def close(self) -> None:
        ends(self._process)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """Raises OSError for any status but 200, and if the server is gone."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as response:
            return json.load(response)

    def _is_healthy(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the server ended with {self._process.returncode}:\n{self._log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=5):
                return True
        except OSError:
            return False


def prefill_tokens_per_s(programs: Path, model: Path, *, batch_tokens: int, shared_tokens: int) -> float:
    """What llama-bench reaches for one full batch behind `shared_tokens` in the cache, as the mean of three passes."""
    command = [str(programs / "llama-bench"), "--model", str(model), "--output", "json", "--repetitions", "3"]
    command += ["--n-depth", str(shared_tokens), "--n-prompt", str(batch_tokens), "--n-gen", "0"]
    command += ["--threads", str(THREADS), "--batch-size", str(batch_tokens), "--ubatch-size", str(batch_tokens)]
    (result,) = json.loads(run_program(command))
    return float(result["avg_ts"])


def batched_tokens_per_s(
    programs: Path, model: Path, *, shared_tokens: int, own_tokens: int, written_tokens: int
) -> float:
    """What llama-batched-bench writes per second, in CLIENTS sequences that share the beginning of their prompts.

    The program shares all of a prompt or nothing of it. So the time of the prompts is that of a run with only the
    tokens of their own, and the time of writing that of a run that shares prompts of full length.
    """
    prompts_s = _batched(programs, model, own_tokens, written_tokens)["t_pp"]
    writing_s = _batched(programs, model, shared_tokens + own_tokens, written_tokens, "-pps")["t_tg"]
    return CLIENTS * written_tokens / (prompts_s + writing_s)


def _batched(programs: Path, model: Path, prompt_tokens: int, written: int, *more: str) -> dict[str, float]:
    command = [str(programs / "llama-batched-bench"), "--model", str(model), "--ctx-size", str(CONTEXT_TOKENS)]
    command += [*_threads(), "--kv-unified", "-npp", str(prompt_tokens), "-ntg", str(written), "-npl", str(CLIENTS)]
    output = run_program([*command, "--output-format", "jsonl", *more])
    (result,) = (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    return {key: float(value) for key, value in result.items()}


def _threads() -> list[str]:
    return ["--threads", str(THREADS), "--threads-batch", str(THREADS)]


def _form(kind: Kind) -> dict[str, Any]:
    match kind:
        case Kind.CLASSIFY:
            # No label has more than four tokens, and another token ends it.
            return {"grammar": "root ::= " + " | ".join(map(json.dumps, LABELS)), "n_predict": 8}
        case Kind.EXTRACT:
            return {"json_schema": SCHEMA, "n_predict": EXTRACT_TOKENS}
        case Kind.GENERATE:
            return {"n_predict": GENERATED_TOKENS, "ignore_eos": True}
