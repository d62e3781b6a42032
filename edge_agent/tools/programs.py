"""Runs programs of the system with a time limit, in plain English, without a shell."""

import shutil
import subprocess

UNIT = "edge-agent.service"
_MAX_BYTES = 8_000_000


class ProgramError(Exception):
    """A program is missing, fails, or does not end in time; the message says which and why."""


def program_output(command: tuple[str, ...], limit_s: float, *, may_fail: bool = False) -> str:
    """The end of a program's output, whatever its exit code if it `may_fail`. Raises ProgramError."""
    program = shutil.which(command[0])
    if program is None:
        raise ProgramError(f"{command[0]}: not installed")
    try:
        done = subprocess.run(  # noqa: S603 - constant words, no shell
            (program, *command[1:]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"{command[0]}: no answer within {limit_s:g} s") from error
    except OSError as error:
        raise ProgramError(f"{command[0]}: {error.strerror}") from error
    if done.returncode and not may_fail:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ProgramError(f"{command[0]}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout[-_MAX_BYTES:].decode("utf-8", "replace")


def is_service_active() -> bool:
    try:
        state = program_output(("systemctl", "is-active", UNIT), 3.0, may_fail=True).strip()
    except ProgramError:
        return False
    return state in ("active", "activating", "reloading")
