"""The parsers of outside input, each as a function of bytes that may raise only its own errors.

corpus/ has a folder for each name: coverage.py adds to them, the tests replay them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convert.errors import CheckpointError
from convert.read.config import parse_config
from convert.read.lora_config import parse_lora_config
from convert.read.safetensors import SafetensorsFile
from convert.read.strict_json import parse_object
from convert.read.tokenizer import parse_tokenizer
from edge_agent.commands.fields import CommandError, parse_command
from edge_agent.core import topics
from edge_agent.core.config_file import ConfigError
from edge_agent.core.messages import Error, Refusal
from edge_agent.core.schemas import check_schema
from edge_agent.core.strict_json import encode
from edge_agent.gguf.adapter import check_adapter
from edge_agent.gguf.header import HeaderError
from edge_agent.gguf.model import read_model_facts
from edge_agent.loader import load_config
from edge_agent.models.bundle import ManifestError, parse_manifest
from edge_agent.requests.parse import Parser
from edge_agent.requests.replies import reply_document
from edge_agent.requests.request import Request
from edge_agent.requests.tasks import load_tasks
from tests.helpers.support import BASE, TASKS, config, inbound

_MAX_MESSAGE = 100_000
_CONFIG = config(TASKS)
_PARSER = Parser(_CONFIG, load_tasks(_CONFIG))
_SEPARATOR = b"\x1f"


@contextmanager
def _refused(*errors: type[Exception]) -> Iterator[None]:
    """Catches these errors, whose messages must be neither empty nor huge."""
    try:
        yield
    except errors as error:
        assert 0 < len(str(error)) <= _MAX_MESSAGE, len(str(error))  # noqa: PT017


@contextmanager
def _file(data: bytes, nbytes: int | None = None) -> Iterator[Path]:
    """Padded with zeros to `nbytes`."""
    descriptor = os.memfd_create("fuzz")
    try:
        os.write(descriptor, data)
        os.ftruncate(descriptor, max(len(data), nbytes or 0))
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def gguf(data: bytes) -> None:
    """The header of a model and of an adapter; the weights are zeros."""
    with _file(data, 1 << 18) as path:
        for read in (read_model_facts, check_adapter):
            with _refused(HeaderError):
                read(path)


def safetensors(data: bytes) -> None:
    with _file(data) as path, _refused(CheckpointError), SafetensorsFile(path) as file:
        end = max((tensor.offset + tensor.nbytes for tensor in file.tensors.values()), default=0)
        assert end <= len(data)


def checkpoint(data: bytes) -> None:
    """config.json, tokenizer.json, tokenizer_config.json and adapter_config.json, separated."""
    parts = (*data.split(_SEPARATOR), b"{}", b"{}", b"{}", b"{}")
    documents: list[dict[str, Any]] = []
    for part in parts[:4]:
        documents.append({})
        with _refused(CheckpointError):
            documents[-1] = parse_object(part, "part.json")
    with _refused(CheckpointError):
        parse_config(documents[0])
    with _refused(CheckpointError):
        parse_tokenizer(documents[1], documents[2], {"eos": 0}, 300)
    with _refused(CheckpointError):
        parse_lora_config(documents[3])


def manifest(data: bytes) -> None:
    with _refused(ManifestError):
        found = parse_manifest(data)
        assert len(found.name) <= 128


def messages(data: bytes) -> None:
    """Payload, task, Response Topic, Content Type and Correlation Data, separated. Every refusal is a reply."""
    parts = data.split(_SEPARATOR)
    payload, task, reply, kind, correlation = (*parts[:5], *[b""] * (5 - len(parts[:5])))
    known = {"response_topic": _text(reply), "content_type": _text(kind), "correlation": correlation or None}
    topic = f"{BASE}/infer/{_text(task) or 'triage'}/request"
    if topics.name_fault(topic):
        return
    one = inbound(topic, payload, **known)  # type: ignore[arg-type]
    for found in _PARSER.parse(one):
        error = found.refusal or _error(found)
        assert topics.name_fault(found.reply_topic) is None
        if error is not None:
            document = reply_document(found, error.code.status, 0.0, "board1", error=error)
            assert json.loads(encode(document))["error"]["message"]
    with _refused(CommandError):
        parse_command(payload)


def _error(request: Request) -> Error | None:
    assert request.task is not None
    assert request.envelope is not None
    try:
        request.task.run(1, request.envelope)
    except Refusal as refusal:
        return refusal.error
    return None


def _text(data: bytes) -> str | None:
    return data.decode(errors="ignore").replace("\0", "") or None


def topic_names(data: bytes) -> None:
    """A filter and a topic, on a line each."""
    one, _, other = data.decode("utf-8", "replace").replace("\ufffd", "\ud800").partition("\n")
    topics.publish_pattern_fault(one, 2)
    allowed = (one,) if topics.filter_fault(one) is None else ("#",)
    if topics.reply_topic_fault(other, allowed) is None:
        assert topics.matches(allowed[0], other)
        assert not other.endswith("/request")
        assert not set(other) & set("+#\0\n")
        assert topics.overlap(allowed[0], other)
        other.encode()
    if topics.filter_fault(one) is None and topics.filter_fault(other) is None:
        assert topics.overlap(one, other) == topics.overlap(other, one)
    values = topics.wildcard_values(one, other)
    if values is not None and topics.publish_pattern_fault(other, len(values)) is None:
        topics.fill_publish_pattern(other, values)


def schema(data: bytes) -> None:
    """JSON that a task may have as its schema."""
    try:
        document = json.loads(data.partition(_SEPARATOR)[0])
    except (ValueError, RecursionError):
        return
    fault = check_schema(document)
    assert fault is None or 0 < len(fault) <= _MAX_MESSAGE


def configuration(data: bytes) -> None:
    with _file(data) as path, _refused(ConfigError):
        load_config(path)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (gguf, safetensors, checkpoint, manifest, messages, topic_names, schema, configuration)
}
