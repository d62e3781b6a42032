"""Removes credentials from any text, and callers' words from the service's log."""

from __future__ import annotations

import re

LEFT_OUT = "(left out)"

# Repetitions are bounded: with texts from the bus, the time must not grow with the square of their length.
_PEM = re.compile(r"-----BEGIN [^\n-]*PRIVATE KEY-----.*?(?:-----END [^\n-]*-----|\Z)", re.DOTALL)
_URL_USER = re.compile(r"(?P<scheme>(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/@\"']+@")
# user:password@host without a scheme.
_USER_PASSWORD = re.compile(r"(?<![^\s/@\"'=])[^\s/@\"'=:]{1,128}:[^\s/@\"']{1,256}@(?=[\w\[])")
_NAMED = re.compile(
    r"(?P<name>\b(?:\w{1,40}[-_])?(?:password|passwd|pwd|passphrase|secret|(?<!per_)token|api[-_]?key|private[-_]?key|hmac|nonce)"
    r"[\"']?\s*[:=]\s*)(?P<value>\"(?:[^\"\\]|\\.)*\"?|'[^']*'?|[^\s,;]+)",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"(?P<name>\b(?:authorization|bearer|basic)[\"']?\s*[:=]?\s+)[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE
)


def scrubbed(text: str) -> str:
    """The text without anything that looks like credentials."""
    text = _PEM.sub(f"{LEFT_OUT[:-1]}: a private key)", text)
    text = _URL_USER.sub(rf"\g<scheme>{LEFT_OUT}@", text)
    text = _USER_PASSWORD.sub(f"{LEFT_OUT}@", text)
    text = _NAMED.sub(rf"\g<name>{LEFT_OUT}", text)
    return _AUTHORIZATION.sub(rf"\g<name>{LEFT_OUT}", text)


def without_value(fault: str) -> str:
    """A fault `port: should be … (got …)` without the value."""
    head, found, _ = fault.partition("(got ")
    return f"{head}(got {LEFT_OUT})" if found else fault


def scrubbed_value(value: object) -> object:
    """A JSON value without credentials; a text is left out whole if its key names a secret."""
    if isinstance(value, str):
        return scrubbed(value)
    if isinstance(value, dict):
        return {
            scrubbed(str(key)): LEFT_OUT if isinstance(one, str) and _NAMED.match(f"{key}=x") else scrubbed_value(one)
            for key, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [scrubbed_value(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float)) else scrubbed(str(value))


# The format that cli.py sets.
_LINE = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<logger>[\w.]+): (?P<message>.*)", re.DOTALL)
_CODE = re.compile(r"(?P<head>.*? code=[\w-]+):? .*", re.DOTALL)
# Callers choose these values, also names of tasks that do not exist.
_CALLERS = re.compile(r"\b(?P<name>id|op|task|topic)=(?:-?\d+|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_WORKER_END = re.compile(r"(?P<head>worker ended: .*? log=)(?P<log>.*)", re.DOTALL)
_OURS = "edge_agent."
_FRAME = re.compile(r"\s*(?:File \"[^\"]+\", line \d+, in \S+)\s*|Traceback \(most recent call last\):\s*")
_EXCEPTION = re.compile(r"(?P<type>[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning))(?::.*)?", re.DOTALL)
# Faults of the configuration or the model, by which cli.py ends.
_START = re.compile(r"(?:edge-agent|/\S+\.toml): .*")
# llama.cpp's last line: where in its source it ended the process, and which condition failed.
_ABORT = re.compile(r"[\w./+-]+\.(?:c|cpp|h|cu|m):\d+: GGML_ASSERT\([^\n\"']*\) failed")


def log_text(message: str) -> str | None:
    """A message of the service as it may leave the board; None = nothing of it.

    The log quotes callers in refusals (INFO), in exceptions, and at DEBUG. A line of an unknown form is left out.
    """
    if "\n" in message:
        kept = [text for line in message.split("\n") if (text := log_text(line)) is not None]
        return "\n".join(kept) or None
    match = _LINE.fullmatch(message)
    if match is None:
        return _bare_line(message)
    if match["level"] == "DEBUG" or not match["logger"].startswith(_OURS):
        return None
    text = _CALLERS.sub(rf"\g<name>={LEFT_OUT}", match["message"])
    if code := _CODE.fullmatch(text):
        text = f"{code['head']} {LEFT_OUT}"
    elif worker := _WORKER_END.fullmatch(text):
        kept = [line for part in worker["log"].split(" | ") if (line := _bare_line(part)) is not None]
        text = worker["head"] + (" | ".join(kept) or LEFT_OUT)
    return scrubbed(f"{match['level']} {match['logger']}: {without_value(text)}")


def _bare_line(line: str) -> str | None:
    """What may leave of a line without a level: part of a traceback, or native code's last line."""
    if _FRAME.fullmatch(line):
        return line
    if assertion := _ABORT.search(line):
        return scrubbed(assertion[0])
    if _START.fullmatch(line):
        return scrubbed(without_value(line))
    exception = _EXCEPTION.fullmatch(line.strip())
    return f"{exception['type']}: {LEFT_OUT}" if exception else None
