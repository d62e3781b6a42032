from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge_agent.commands.command_desk import CommandDesk, Deeds
from edge_agent.commands.commands import (
    Authority,
    CancelFields,
    CommandError,
    DrainFields,
    encode_result,
    fields_of,
    parse_command,
)
from edge_agent.commands.nonces import Nonces
from edge_agent.core.publications import Publication
from tests.helpers.support import BASE, config, inbound

KEY = b"a shared secret"
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()


def refused(fields: dict[str, Any], *, now: float = NOW, operation: str = "drain", key: bytes = KEY) -> CommandError:
    with pytest.raises(CommandError) as caught:
        Authority(key).check(operation, fields, now)
    return caught.value


def signed(operation: str = "drain", *, key: bytes = KEY, **fields: Any) -> dict[str, Any]:
    """As a client would sign, by the words of the contract."""
    fields = {"id": "1", "ts": "2026-03-04T05:06:07.000Z", "nonce": "n1", **fields}
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    text = f"{operation}\n{canonical}".encode()
    return {**fields, "hmac": hmac.new(key, text, hashlib.sha256).hexdigest()}


def test_without_a_key_no_signature_is_asked_for() -> None:
    Authority(None).check("drain", {}, NOW)


def test_an_empty_key_lets_nobody_in() -> None:
    assert "key" in refused(signed(key=b""), key=b"").message


def test_a_good_signature_is_accepted() -> None:
    Authority(KEY).check("drain", signed(timeout_s=5, name="Gerät"), NOW)


def test_the_order_of_the_fields_does_not_matter() -> None:
    Authority(KEY).check("drain", dict(reversed(signed(timeout_s=5).items())), NOW)


def test_the_signature_may_be_in_capitals() -> None:
    fields = signed()
    Authority(KEY).check("drain", {**fields, "hmac": fields["hmac"].upper()}, NOW)


@pytest.mark.parametrize("missing", ["hmac", "ts", "nonce"])
def test_a_command_without_a_part_of_its_signature_is_refused(missing: str) -> None:
    fields = signed()
    del fields[missing]
    error = refused(fields)
    assert error.code == "unauthorized"
    assert missing in error.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hmac", "00" * 32),
        ("hmac", "ü"),
        ("hmac", 5),
        ("timeout_s", 6),
        ("id", "2"),
        ("nonce", "other"),
        ("extra", 1),
    ],
)
def test_a_changed_command_is_refused(field: str, value: Any) -> None:
    assert refused({**signed(timeout_s=5), field: value}).code == "unauthorized"


def test_the_signature_of_another_operation_or_key_is_refused() -> None:
    assert "hmac" in refused(signed("resume")).message
    assert "hmac" in refused(signed(key=b"another secret")).message


@pytest.mark.parametrize("age_s", [61.0, 3600.0, -61.0])
def test_a_stale_command_or_one_from_the_future_is_refused(age_s: float) -> None:
    assert refused(signed(), now=NOW + age_s).message.startswith("ts:")


@pytest.mark.parametrize("age_s", [59.0, -59.0])
def test_clocks_may_differ_a_little(age_s: float) -> None:
    Authority(KEY).check("drain", signed(), NOW + age_s)


@pytest.mark.parametrize(
    "ts", ["2026-03-04T05:06:07", "yesterday", "", 1772600767, None, "2026-03-04", "0001-01-01T00:00:00+14:00"]
)
def test_a_time_without_zone_or_sense_is_refused(ts: Any) -> None:
    assert refused(signed(ts=ts)).message.startswith("ts:")


def test_a_time_in_another_zone_is_the_same_time() -> None:
    Authority(KEY).check("drain", signed(ts="2026-03-04T07:06:07+02:00"), NOW)


@pytest.mark.parametrize("nonce", ["", 5, None])
def test_a_nonce_is_a_text(nonce: Any) -> None:
    assert refused(signed(nonce=nonce)).message.startswith("nonce: should be a string")


def test_a_time_that_is_refused_is_told_with_the_time_here_and_that_of_the_start() -> None:
    with pytest.raises(CommandError) as refusal:
        Authority(KEY).check("drain", signed(), NOW + 2, 1.0)
    for told in (
        "here, 2026-03-04T05:06:09+00:00",
        "start, 2026-03-04T05:06:08+00:00",
        '(got "2026-03-04T05:06:07.000Z")',
    ):
        assert told in refusal.value.message


def test_a_replayed_command_is_refused() -> None:
    authority = Authority(KEY)
    authority.check("drain", signed(), NOW)
    for later in (NOW, NOW + 59):
        with pytest.raises(CommandError, match="seen before"):
            authority.check("drain", signed(), later)


def test_a_replay_is_refused_as_long_as_its_time_would_pass() -> None:
    authority = Authority(KEY)
    authority.check("drain", signed(), NOW - 60)
    authority.check("drain", signed(nonce="n2", ts="2026-03-04T05:07:07Z"), NOW + 59)
    with pytest.raises(CommandError, match="seen before"):
        authority.check("drain", signed(), NOW + 59)


def test_a_refused_command_uses_no_nonce_up() -> None:
    authority = Authority(KEY)
    with pytest.raises(CommandError):
        authority.check("drain", {**signed(), "timeout_s": 5}, NOW)
    authority.check("drain", signed(), NOW)


def test_a_clock_that_is_set_makes_no_command_fresh_again_and_locks_nobody_out() -> None:
    authority = Authority(KEY)
    authority.check("drain", signed(), NOW)
    authority.check("drain", signed(nonce="n2", ts="2026-03-04T08:06:07Z"), NOW + 3 * 3600, 300.0)
    with pytest.raises(CommandError, match="seen before"):
        authority.check("drain", signed(), NOW, 600.0)
    # The next agent starts with a clock that is behind, or far ahead, and is put right.
    with pytest.raises(CommandError, match="after the agent's start"):
        Authority(KEY).check("drain", signed(), NOW + 30, 29.0)
    Authority(KEY).check("drain", signed(), NOW + 30, 31.0)


def test_the_next_agent_knows_what_was_carried_out_whatever_its_clock_says(tmp_path: Path) -> None:
    Authority(KEY, Nonces(tmp_path / "nonces")).check("drain", signed(), NOW)
    with pytest.raises(CommandError, match="seen before"):
        Authority(KEY, Nonces(tmp_path / "nonces")).check("drain", signed(), NOW, 3600.0)


@pytest.mark.parametrize("payload", [b"", b"  \n", b"{}"])
def test_an_empty_command_has_no_fields(payload: bytes) -> None:
    assert parse_command(payload) == {}


def test_a_command_is_an_object() -> None:
    assert parse_command(b'{"id":7,"timeout_s":1.5}') == {"id": 7, "timeout_s": 1.5}


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\xff", "not_utf8"),
        (b"{x", "bad_json"),
        (b'{"a":1,"a":2}', "bad_json"),
        (b'{"a":NaN}', "bad_json"),
        (b"drain", "bad_json"),
        (b"[]", "bad_field"),
        (b"5", "bad_field"),
        (b"null", "bad_field"),
        (b'{"id":"' + b"x" * 65528 + b'"}', "too_long"),
    ],
)
def test_a_bad_command_is_refused_with_its_code(payload: bytes, code: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(payload)
    assert caught.value.code == code
    assert caught.value.message.startswith(
        ("payload: should be ", "payload: should have at most 65536 bytes (got 65537")
    )


def test_a_drain_takes_a_time_or_none() -> None:
    assert fields_of(DrainFields, {}).timeout_s is None
    assert fields_of(DrainFields, {"timeout_s": 0}).timeout_s == 0.0
    assert fields_of(DrainFields, {"timeout_s": 1.5, "id": "x"}).timeout_s == 1.5


@pytest.mark.parametrize("value", [-1, 3601, "5", True, []])
def test_a_bad_time_to_drain_is_named(value: Any) -> None:
    with pytest.raises(CommandError) as caught:
        fields_of(DrainFields, {"timeout_s": value})
    assert caught.value.code == "bad_field"
    assert caught.value.message.startswith("timeout_s: should ")


def test_a_cancel_names_a_request_by_text_or_number() -> None:
    assert fields_of(CancelFields, {"request_id": "a"}).request_id == "a"
    assert fields_of(CancelFields, {"request_id": 7, "reply_to": "r"}).reply_to == "r"
    assert fields_of(CancelFields, {"request_id": "7"}).request_id == "7"


@pytest.mark.parametrize("value", [1.5, True, None, [], {}])
def test_what_is_no_id_cancels_nothing(value: Any) -> None:
    with pytest.raises(CommandError) as caught:
        fields_of(CancelFields, {"request_id": value})
    assert caught.value.message == f"request_id: should be a string or an integer (got {json.dumps(value)})"


def test_a_cancel_without_an_id_is_told_what_is_missing() -> None:
    with pytest.raises(CommandError, match="request_id: required, but missing"):
        fields_of(CancelFields, {})


def test_a_field_that_a_command_does_not_have_is_refused() -> None:
    signed = {"id": [1], "ts": "", "nonce": "", "hmac": ""}
    assert fields_of(CancelFields, {"request_id": "a", **signed}).reply_to is None
    with pytest.raises(CommandError, match=r"replyto: unknown key, should be one of .*reply_to \(got \"r\"\)"):
        fields_of(CancelFields, {"request_id": "a", "replyto": "r"})


def test_results_have_the_fields_of_the_contract() -> None:
    assert json.loads(encode_result("a", {"cancelled": 1})) == {
        "id": "a", "status": "ok", "error": None, "data": {"cancelled": 1},
    }  # fmt: skip
    assert json.loads(encode_result(7, error=CommandError("unknown_command", "m"))) == {
        "id": 7, "status": "failed", "error": {"code": "unknown_command", "message": "m"}, "data": None,
    }  # fmt: skip
    assert json.loads(encode_result(None))["id"] is None


def test_a_command_to_an_earlier_agent_is_not_carried_out_by_the_next() -> None:
    authority = Authority(b"key")
    fields = {"id": 1, "ts": datetime.fromtimestamp(999.0, UTC).isoformat(), "nonce": "n"}
    fields["hmac"] = authority.sign("ping", fields)
    with pytest.raises(CommandError, match="ts"):
        authority.check("ping", fields, 1001.0, 1.0)


@pytest.mark.parametrize("payload", ['{"SECRET": 1, "SECRET": 2}', '"SECRET"', "SECRET"])
def test_a_refused_command_is_logged_without_a_word_of_it(payload: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    published: list[Publication] = []
    desk = CommandDesk(config(), published.append, cast("Deeds", None))
    desk.hear(inbound(f"{BASE}/cmd/ping", payload))
    assert json.loads(published[0].payload)["status"] == "failed"
    (line,) = caplog.messages
    assert line.startswith("command refused op='ping' code=bad_")
    assert "SECRET" not in line


def test_a_key_file_with_another_content_counts_from_the_reload_on(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    settings = config()
    commands_config = settings.commands.model_copy(update={"key_file": tmp_path / "key"})
    settings = settings.model_copy(update={"commands": commands_config})
    published: list[Publication] = []
    desk = CommandDesk(settings, published.append, cast("Deeds", SimpleNamespace(ping=dict)))

    def ping(key: bytes) -> str:
        fields = {"ts": datetime.now(UTC).isoformat(), "nonce": secrets.token_hex(4)}
        fields["hmac"] = Authority(key).sign("ping", fields)
        desk.hear(inbound(f"{BASE}/cmd/ping", json.dumps(fields)))
        return str(json.loads(published[-1].payload)["status"])

    desk._known_since -= 60
    (tmp_path / "key").write_bytes(b"another")
    assert [ping(KEY), ping(b"another")] == ["ok", "failed"]
    desk.reconfigure(settings)
    desk._known_since -= 60
    assert [ping(KEY), ping(b"another")] == ["failed", "ok"]
