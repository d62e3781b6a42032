"""The example server that llama-cpp-python ships: the same binding as ours, in Python, with continuous batching."""

from __future__ import annotations

import json
from pathlib import Path

from edge_agent.tools.demo.broker import free_port
from rigs.bench.build import ExampleServer
from rigs.bench.http_server import HttpServer
from rigs.bench.sizes import BATCH_TOKENS, CLIENTS, CONTEXT_TOKENS, THREADS
from rigs.bench.workload import (
    EXTRACT_TOKENS,
    GENERATED_TOKENS,
    SCHEMA,
    SYSTEM,
    Answer,
    Kind,
    Reading,
    user_text,
)


class PythonServer:
    """A Side, for `extract` and `generate`: it has no way to score labels. Raises ValueError for a cut answer."""

    name = "example server"

    def __init__(self, example: ExampleServer, model: Path, folder: Path) -> None:
        port = free_port()
        config = folder / "example-server.json"
        # Twice the sequences: it keeps finished ones as its cache of prompts.
        settings = {
            "path": str(model),
            "alias": "default",
            "n_ctx": CONTEXT_TOKENS,
            "n_batch": BATCH_TOKENS,
            "n_ubatch": BATCH_TOKENS,
            "n_seq_max": 2 * CLIENTS,
            "threads": THREADS,
            "threads_batch": THREADS,
            "kv_unified": True,
            "store_logits": False,
        }
        config.write_text(json.dumps({"server": {"host": "127.0.0.1", "port": port}, "model": settings}))
        command = [str(example.python), str(example.script), "--config-file", str(config)]
        self.server = HttpServer(command, port, health="/healthz", log=folder / "example-server.log")

    def ask(self, kind: Kind, reading: Reading) -> Answer:
        body = {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": user_text(kind, reading)},
            ],
            "temperature": 0,
            "max_tokens": EXTRACT_TOKENS if kind is Kind.EXTRACT else GENERATED_TOKENS,
        }
        if kind is Kind.EXTRACT:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "report", "schema": SCHEMA}}
        reply = self.server.post("/v1/chat/completions", body)
        choice, usage = reply["choices"][0], reply["usage"]
        if kind is Kind.EXTRACT and choice["finish_reason"] != "stop":
            raise ValueError(f"the example server cut an answer: {reply}")
        return Answer(
            text=choice["message"]["content"],
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            completion_tokens=usage["completion_tokens"],
        )

    def close(self) -> None:
        self.server.stop()
