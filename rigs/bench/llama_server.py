"""llama.cpp's server with eight slots that share one cache of cells, prompts kept in every slot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_agent.tools.demo.broker import free_port
from rigs.bench.http_server import HttpServer
from rigs.bench.sizes import CLIENTS, CONTEXT_TOKENS, THREADS
from rigs.bench.workload import (
    EXTRACT_TOKENS,
    GENERATED_TOKENS,
    SCHEMA,
    Answer,
    Kind,
    Reading,
    free_text,
    prompt,
)

# Greedy, without the penalties and other samplers that the server applies otherwise: its fastest way to the same token.
_GREEDY = {"temperature": 0, "samplers": ["top_k"], "top_k": 1, "repeat_penalty": 1.0}


class LlamaServer:
    """A Side. Raises ValueError for an answer that was cut."""

    name = "llama-server"

    def __init__(self, programs: Path, model: Path, folder: Path) -> None:
        port = free_port()
        command = [str(programs / "llama-server"), "--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--parallel", str(CLIENTS), "--kv-unified", "--ctx-size", str(CONTEXT_TOKENS)]
        command += ["--threads", str(THREADS), "--threads-batch", str(THREADS)]
        self.server = HttpServer(command, port, health="/health", log=folder / "llama-server.log")

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in which special tokens are meant as such."""
        body = {"content": text, "add_special": True, "parse_special": True}
        return len(self.server.post("/tokenize", body)["tokens"])

    def ask(self, kind: Kind, reading: Reading) -> Answer:
        body = {"prompt": prompt(kind, reading), "cache_prompt": True, **_GREEDY, **_form(kind)}
        reply = self.server.post("/completion", body)
        wanted_stop = "limit" if kind is Kind.GENERATE else "eos"
        if reply["truncated"] or reply["stop_type"] != wanted_stop:
            raise ValueError(f"llama-server cut an answer or ended it otherwise than by {wanted_stop!r}: {reply}")
        return Answer(
            text=reply["content"],
            prompt_tokens=reply["tokens_evaluated"],
            cached_tokens=reply["timings"]["cache_n"],
            completion_tokens=reply["tokens_predicted"],
        )

    def count_text_tokens(self, answer: Answer) -> int:
        """Of the string in an `extract` answer, whoever wrote it."""
        return self.count_tokens(free_text(answer))

    def close(self) -> None:
        self.server.stop()


def _form(kind: Kind) -> dict[str, Any]:
    match kind:
        case Kind.CLASSIFY | Kind.CLASSIFY_SHARED:
            # No label has more than four tokens, and one more ends it.
            return {"grammar": "root ::= " + " | ".join(map(json.dumps, kind.labels)), "n_predict": 8}
        case Kind.EXTRACT:
            return {"json_schema": SCHEMA, "n_predict": EXTRACT_TOKENS}
        case Kind.GENERATE:
            return {"n_predict": GENERATED_TOKENS, "ignore_eos": True}
