"""PURE. What a text gives away is taken out of it: credentials anywhere, and callers' words in the service's log."""

from __future__ import annotations

import re

LEFT_OUT = "(left out)"

# What repeats has a bound: texts come from the bus, and time must not grow with the square of their length.
_PEM = re.compile(r"-----BEGIN [^\n-]*PRIVATE KEY-----.*?(?:-----END [^\n-]*-----|\Z)", re.DOTALL)
_URL_USER = re.compile(r"(?P<scheme>(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/@\"']+@")
# user:password@host without a scheme, as people write it where a host is asked for.
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
    """Without what looks like credentials, wherever it stands."""
    text = _PEM.sub(f"{LEFT_OUT[:-1]}: a private key)", text)
    text = _URL_USER.sub(rf"\g<scheme>{LEFT_OUT}@", text)
    text = _USER_PASSWORD.sub(f"{LEFT_OUT}@", text)
    text = _NAMED.sub(rf"\g<name>{LEFT_OUT}", text)
    return _AUTHORIZATION.sub(rf"\g<name>{LEFT_OUT}", text)


def without_value(fault: str) -> str:
    """A fault as faults.py words it, without the value that was given: `port: should be … (got …)`."""
    head, found, _ = fault.partition("(got ")
    return f"{head}(got {LEFT_OUT})" if found else fault


def scrubbed_value(value: object) -> object:
    """The same for what JSON or TOML can hold; a text whose key says that it is a secret goes whole."""
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


# What basicConfig in cli.py writes.
_LINE = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<logger>[\w.]+): (?P<message>.*)", re.DOTALL)
_CODE = re.compile(r"(?P<head>.*? code=[\w-]+):? .*", re.DOTALL)
# Callers choose these: ids, and names of tasks that there are none of.
_CALLERS = re.compile(r"\b(?P<name>id|op|task|topic)=(?:-?\d+|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_WORKERS_WORDS = re.compile(r"(?P<head>worker ended: .*? log=)(?P<words>.*)", re.DOTALL)
_OURS = "edge_agent."
# Modules whose sentences quote what came over the bus, in whatever folder: a journal has lines of earlier releases too.
QUOTING = frozenset({"dispatcher", "command_desk", "reception"})
_FRAME = re.compile(r"\s*(?:File \"[^\"]+\", line \d+, in \S+)\s*|Traceback \(most recent call last\):\s*")
_EXCEPTION = re.compile(r"(?P<type>[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning))(?::.*)?", re.DOTALL)
# What cli.py says when it does not start: of the configuration, and in the end of the model.
_START = re.compile(r"(?:edge-agent|/\S+\.toml): .*")
# llama.cpp's last words: where in its source it ended the process, and which condition did not hold.
_ABORT = re.compile(r"[\w./+-]+\.(?:c|cpp|h|cu|m):\d+: GGML_ASSERT\([^\n\"']*\) failed")


def log_text(message: str) -> str | None:
    """A message of the service's own as it may leave the board; None = nothing of it.

    Callers' words come into the log as values that are quoted in a refusal (INFO), in exceptions, and at DEBUG. Only
    what is known not to quote them is kept: an unknown form of line is left out, not passed on.
    """
    if "\n" in message:
        kept = [text for line in message.split("\n") if (text := log_text(line)) is not None]
        return "\n".join(kept) or None
    match = _LINE.fullmatch(message)
    if match is None:
        return _loose(message)
    if match["level"] == "DEBUG" or not match["logger"].startswith(_OURS):
        return None
    told = _CALLERS.sub(rf"\g<name>={LEFT_OUT}", match["message"])
    if match["logger"].rpartition(".")[2] in QUOTING and (code := _CODE.fullmatch(told)):
        told = f"{code['head']} {LEFT_OUT}"
    elif words := _WORKERS_WORDS.fullmatch(told):
        kept = [text for word in words["words"].split(" | ") if (text := _loose(word)) is not None]
        told = words["head"] + (" | ".join(kept) or LEFT_OUT)
    return scrubbed(f"{match['level']} {match['logger']}: {without_value(told)}")


def _loose(line: str) -> str | None:
    """Of a line without a level: part of a traceback, or what native code said when it ended the process."""
    if _FRAME.fullmatch(line):
        return line
    if assertion := _ABORT.search(line):
        return scrubbed(assertion[0])
    if _START.fullmatch(line):
        return scrubbed(without_value(line))
    exception = _EXCEPTION.fullmatch(line.strip())
    return f"{exception['type']}: {LEFT_OUT}" if exception else None
