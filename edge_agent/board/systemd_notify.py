"""Notifies systemd of the service's state (sd_notify(3)); does nothing elsewhere."""

import contextlib
import os
import socket


def watchdog_interval_s() -> float | None:
    """How soon systemd expects the next WATCHDOG=1 (WatchdogSec=); None if it expects none."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isascii() or not usec.isdigit() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 1_000_000


def notify(*assignments: str) -> None:
    """Sends lines such as `READY=1`; a notification that cannot be sent is dropped."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as channel:
        channel.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        channel.sendall("\n".join(assignments).encode())
