"""Which signed commands are carried out, and that none is carried out twice."""

import hashlib
import hmac
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_agent.commands import authority as module
from edge_agent.commands.authority import Authority
from edge_agent.core.codes import CommandError

KEY = b"a shared secret"
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()


def signed(operation: str = "drain", *, key: bytes = KEY, **fields: Any) -> dict[str, Any]:
    """A command that a client has signed by the words of the contract."""
    fields = {"id": "1", "ts": "2026-03-04T05:06:07.000Z", "nonce": "n1", **fields}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    text = f"{operation}\n{canonical}".encode()
    return {**fields, "hmac": hmac.new(key, text, hashlib.sha256).hexdigest()}


def refused(fields: dict[str, Any], *, now: float = NOW, key: bytes = KEY) -> str:
    with pytest.raises(CommandError) as caught:
        Authority(key).check("drain", fields, now)
    assert caught.value.code == "unauthorized"
    return caught.value.message


def test_a_good_signature_is_accepted() -> None:
    for fields in (
        signed(timeout_s=5, name="Gerät"),
        dict(reversed(signed(timeout_s=5).items())),
        {**signed(), "hmac": signed()["hmac"].upper()},
        signed(ts="2026-03-04T07:06:07+02:00"),
    ):
        Authority(KEY).check("drain", fields, NOW)


def test_without_a_key_no_signature_is_needed_and_an_empty_key_refuses_all() -> None:
    Authority(None).check("drain", {}, NOW)
    assert "key" in refused(signed(key=b""), key=b"")


@pytest.mark.parametrize(
    "fields",
    [
        *({**signed(), **changed} for changed in ({"hmac": "00" * 32}, {"hmac": "ü"}, {"id": "2"}, {"extra": 1})),
        *(signed("resume"), signed(key=b"another secret")),
    ],
)
def test_a_changed_command_and_the_signature_of_another_operation_or_key_are_refused(fields: dict[str, Any]) -> None:
    assert "hmac: does not match" in refused(fields)


@pytest.mark.parametrize("name", ["hmac", "ts", "nonce"])
@pytest.mark.parametrize("value", ["", 5, None])
def test_a_command_without_a_part_of_its_signature_is_refused(name: str, value: Any) -> None:
    assert refused({**signed(**({} if name == "hmac" else {name: value})), name: value}).startswith(f"{name}: should")


@pytest.mark.parametrize("age_s", [61.0, 3600.0, -61.0])
def test_a_command_of_another_time_is_refused_with_both_times(age_s: float) -> None:
    message = refused(signed(), now=NOW + age_s)
    assert message.startswith("ts: ")
    assert datetime.fromtimestamp(NOW + age_s, UTC).isoformat(timespec="seconds") in message
    assert '(got "2026-03-04T05:06:07.000Z")' in message


@pytest.mark.parametrize(
    "ts", ["2026-03-04T05:06:07", "yesterday", "", 1772600767, None, "2026-03-04", "0001-01-01T00:00:00+14:00"]
)
def test_a_time_without_zone_or_sense_is_refused(ts: Any) -> None:
    assert refused(signed(ts=ts)).startswith("ts:")


def test_a_refused_command_uses_no_nonce_up() -> None:
    authority = Authority(KEY)
    with pytest.raises(CommandError):
        authority.check("drain", {**signed(), "timeout_s": 5}, NOW)
    authority.check("drain", signed(), NOW)


def test_a_clock_that_is_set_makes_no_command_fresh_again() -> None:
    authority = Authority(KEY)
    authority.check("drain", signed(), NOW)
    authority.check("drain", signed(nonce="n2", ts="2026-03-04T08:06:07Z"), NOW + 3 * 3600)
    with pytest.raises(CommandError, match="seen before"):
        authority.check("drain", signed(), NOW)


def test_nonces_outlive_the_process(tmp_path: Path) -> None:
    Authority(KEY, tmp_path / "nonces").check("drain", signed(), NOW)
    with (tmp_path / "nonces").open("ab") as file:
        file.write(b"torn")
    with pytest.raises(CommandError, match="seen before"):
        Authority(KEY, tmp_path / "nonces").check("drain", signed(), NOW)


def test_the_file_keeps_the_latest_nonces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_NONCES", 10)
    path = tmp_path / "state" / "nonces"
    for number in range(30):
        Authority(KEY, path).check("drain", signed(nonce=str(number) * 5000), NOW)
    assert path.stat().st_size == 10 * 16
    for number in range(20, 30):
        with pytest.raises(CommandError, match="seen before"):
            Authority(KEY, path).check("drain", signed(nonce=str(number) * 5000), NOW)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.expects_warning
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_without_a_usable_file_nonces_are_kept_in_memory(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "nonces")
    authority = Authority(KEY, tmp_path / "nonces")
    authority.check("drain", signed(), NOW)
    with pytest.raises(CommandError, match="seen before"):
        authority.check("drain", signed(), NOW)
