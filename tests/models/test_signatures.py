import os
from pathlib import Path

import pytest

from edge_agent.models.signatures import public_key_fault
from tests.helpers.keys import NO_PUBLIC_KEYS

OTHER_KIND = "should be an Ed25519 public key, but holds a key of another kind"
NONE_THERE = "should be an Ed25519 public key in PEM, but none can be read from it"
FAULTS = {
    **dict.fromkeys(("private", "both"), "holds a private key, which must not be on a board"),
    "two": "should hold one key (got 2)",
    **dict.fromkeys(("EC", "X25519", "unknown"), OTHER_KIND),
    **dict.fromkeys(("DER", "OpenSSH", "cut short", "empty", "text"), NONE_THERE),
}


@pytest.mark.parametrize("kind", NO_PUBLIC_KEYS)
def test_the_fault_of_a_key_file_says_what_it_holds(tmp_path: Path, kind: str) -> None:
    (tmp_path / "key").write_bytes(NO_PUBLIC_KEYS[kind])
    assert str(public_key_fault(tmp_path / "key")).startswith(FAULTS[kind])


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none", "."):
        assert public_key_fault(tmp_path / name) == "should be a file that can be read"


def test_a_key_file_that_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to("/proc/self/mem")
    assert public_key_fault(tmp_path / "key") == "cannot be read: Input/output error"
