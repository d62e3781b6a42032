"""Runs on a board instead of the agent, under its unit, and writes what the unit lets it do.

`python probe.py FILE` writes a JSON object of texts, each `done` or the name of the error.
"""

import ctypes
import errno
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_agent.board.board import Board
from edge_agent.board.firmware import ask_firmware

MODELS = Path("/var/lib/edge-agent/models")
CREDENTIALS = Path("/etc/edge-agent/credentials")


def main(path: Path) -> None:
    tried = {name: _outcome(attempt) for name, attempt in _ATTEMPTS.items()}
    reading = asdict(Board(Path("/"), MODELS).read())
    secrets = {file.name: file.read_text(encoding="utf-8") for file in sorted(CREDENTIALS.iterdir())}
    found = {
        "tried": tried,
        "readings": sorted(_known(reading)),
        "sensor_errors": reading["errors"],
        "secrets": secrets,
    }
    path.write_text(json.dumps(found), encoding="utf-8")


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except Exception as error:  # noqa: BLE001 - the name of any error is the result
        return repr(error)
    return "done"


def _known(value: Any, name: str = "") -> list[str]:
    """Names of the values that are not null."""
    if isinstance(value, dict):
        return [found for key, below in value.items() for found in _known(below, f"{name}.{key}")]
    return [] if value is None else [name]


def _callback() -> None:
    """Like llama-cpp-python's callbacks."""
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    ctypes.CDLL(None).qsort(numbers, 3, 4, compare(lambda one, other: one[0] - other[0]))
    if list(numbers) != [1, 2, 3]:
        raise RuntimeError(f"sorted as {list(numbers)}")


def _other_processes() -> None:
    if Path("/proc/1").exists():
        raise RuntimeError("sees number 1")


def _map_model() -> None:
    model = next(MODELS.glob("*/model.gguf"))
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        mapped[:: mmap.PAGESIZE]


def _write(folder: str) -> Callable[[], None]:
    def write() -> None:
        file = Path(folder) / "probe"
        file.write_bytes(b"")
        file.unlink()

    return write


_ATTEMPTS: dict[str, Callable[[], object]] = {
    "ask the firmware": lambda: ask_firmware(Path("/dev/vcio"), 0x0003_0046, bytes(4)),
    "call back from C": _callback,
    "map the model": _map_model,
    "map memory to write and execute": lambda: mmap.mmap(
        -1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ),
    "write state": _write("/var/lib/edge-agent/state"),
    "write models": _write(str(MODELS)),
    "write the configuration": _write("/etc/edge-agent"),
    "write the program": _write("/opt/edge-agent/current/bin"),
    "write temporary files": _write("/tmp"),
    "read homes": lambda: list(Path("/root").iterdir()),
    "see no other processes": _other_processes,
    "change the kernel": lambda: Path("/proc/sys/kernel/panic").write_text("10", encoding="ascii"),
    "find a host by name": lambda: socket.getaddrinfo("localhost", 8883),
    "open a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "become root": lambda: os.setuid(0),
    "make a namespace": lambda: _checked(ctypes.CDLL(None, use_errno=True).unshare(0x1000_0000)),
    "use real-time priority": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
}


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
