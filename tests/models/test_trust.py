"""Which lists of revocations count, and what they take out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.core.config import ModelConfig
from edge_agent.core.model import ModelError, RevokedError
from edge_agent.models.bundle import content_fault, open_model
from edge_agent.models.trust import FILE, Trust, keep_revocations, read_trust
from tests.helpers.bundles import flip
from tests.helpers.keys import key_sha256, sign, signature, write_keys, write_revocations
from tests.models.test_bundle import bundle, listed


class Board:
    """A board with the keys `old` and `new` that names a list of revocations, and a bundle that `old` signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old, self.old_public = write_keys(folder, "old")
        self.new, self.new_public = write_keys(folder, "new")
        self.list = folder / "revocations.json"
        self.bundle = bundle(folder / "demo")
        sign(self.bundle, self.old)
        self.config = ModelConfig(
            path=self.bundle, public_keys=(self.old_public, self.new_public), revocations=self.list
        )

    def publish(self, number: int = 1, private: Path | None = None, **fields: Any) -> None:
        write_revocations(self.list, private or self.new, number, **fields)

    def revoke_manifest(self, number: int = 1) -> None:
        self.publish(number, manifests=[listed((self.bundle / "manifest.json").read_bytes())["sha256"]])

    def read(self) -> Trust:
        """Reads the lists as a start or a switch does."""
        trust = read_trust(self.config, self.folder)
        keep_revocations(self.folder, trust)
        return trust

    def refusal(self) -> str | None:
        """Why the bundle does not open."""
        trust = self.read()
        fault = content_fault(self.bundle, trust)
        try:
            open_model("default", self.bundle, trust)
        except RevokedError as error:
            return fault if fault == str(error) else f"check-config says: {fault}"
        return fault and f"check-config says: {fault}"


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_a_revoked_manifest_is_refused_with_the_reason(board: Board) -> None:
    board.publish(manifests=["0" * 64], keys=["1" * 64])
    assert (board.refusal(), board.read().fault) == (None, None)
    manifest = listed((board.bundle / "manifest.json").read_bytes())["sha256"]
    board.publish(2, manifests=["0" * 64, manifest], reason="leaks\x1b names")
    assert board.refusal() == "demo/manifest.json: revoked by list 2: leaks\\x1b names"


def test_a_revoked_key_opens_no_bundle_and_signs_no_list(board: Board) -> None:
    board.publish(keys=[key_sha256(board.old_public)])
    assert board.refusal() == "demo/manifest.json: signed with a key that is revoked by list 1"
    # Whoever has the old key can neither take the revocation back nor revoke the new key.
    for fields in ({}, {"keys": [key_sha256(board.new_public)]}):
        board.publish(2, board.old, **fields)
        assert "signed with another key" in (board.read().fault or "")
        assert board.refusal() is not None
    sign(board.bundle, board.new)
    assert board.refusal() is None


def test_a_list_counts_only_if_a_key_signed_it_that_it_does_not_revoke(board: Board) -> None:
    board.publish(private=board.old, keys=[key_sha256(board.old_public)])
    assert "revokes the key that signed it" in (board.read().fault or "")
    board.publish(private=write_keys(board.folder, "stranger")[0])
    assert "signed with another key" in (board.read().fault or "")
    assert (board.refusal(), board.read().revocations) == (None, None)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.unlink(), "should be a file that can be read"),
        (lambda file: file.unlink() or file.mkdir(), "should be a file that can be read"),
        (lambda file: flip(file, 20), "revocations.json.sig: signed with another key, or what it signs was changed"),
        (lambda file: file.with_name(f"{file.name}.sig").unlink(), "revocations.json.sig: missing"),
        (lambda file: file.with_name(f"{file.name}.sig").write_bytes(b"x" * 63), "should have 64 bytes (got 63)"),
        (lambda file: file.write_bytes(b" " * 1_000_001), "should be at most 1000000 bytes"),
    ],
    ids=["gone", "folder", "changed", "unsigned", "cut", "endless"],
)
def test_a_faulty_list_changes_nothing(board: Board, spoil: Callable[[Path], object], told: str) -> None:
    board.revoke_manifest()
    before = board.refusal()
    assert before is not None
    spoil(board.list)
    trust = board.read()
    assert trust.fault is not None
    assert trust.fault.startswith("models.default.revocations: ")
    assert told in trust.fault
    assert board.refusal() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not JSON", "is not JSON"),
        ('{"schema":1,"number":2,"number":3,"manifests":[],"keys":[]}', "occurs twice"),
        ('{"schema":2,"number":1,"manifests":[],"keys":[]}', "schema: "),
        ('{"schema":1,"number":0,"manifests":[],"keys":[]}', "number: "),
        ('{"schema":1,"number":1,"manifests":["ab"],"keys":[]}', "manifests[0]: "),
        ('{"schema":1,"number":1,"keys":[]}', "manifests: required, but missing"),
        ('{"schema":1,"number":1,"manifests":[],"keys":[],"key":[]}', "key: unknown key, should be one of schema, "),
    ],
)
def test_a_signed_list_that_says_nothing_clear_is_faulty(board: Board, text: str, told: str) -> None:
    board.list.write_text(text, "utf-8")
    board.list.with_name("revocations.json.sig").write_bytes(signature(board.list, board.new))
    assert told in (board.read().fault or "")


def test_an_older_list_does_not_take_back_what_a_newer_one_revoked(board: Board) -> None:
    board.publish(7)
    older = {path: path.read_bytes() for path in (board.list, board.list.with_name("revocations.json.sig"))}
    board.revoke_manifest(8)
    assert board.refusal() is not None
    for path, content in older.items():
        path.write_bytes(content)
    assert "number should be at least 8, the kept list's (got 7)" in (board.read().fault or "")
    assert board.refusal() is not None
    # Another list with the same number is not newer.
    board.publish(8)
    assert "number should be above 8" in (board.read().fault or "")
    board.publish(9)
    assert (board.read().fault, board.refusal()) == (None, None)


@pytest.mark.expects_warning
def test_a_state_that_cannot_be_read_or_written_forgets_the_newest_list_and_ends_nothing(board: Board) -> None:
    board.publish(7)
    (board.folder / FILE).write_bytes(b"{}")
    assert "the configured list is used, whatever its number" in str(board.read().fault)
    assert board.read().fault is None
    assert json.loads((board.folder / FILE).read_bytes())["number"] == 7
    (board.folder / FILE).unlink()
    (board.folder / FILE).mkdir()
    assert board.read().revocations is not None


def test_a_key_that_cannot_be_used_is_named_by_its_place(board: Board) -> None:
    board.new_public.write_bytes(b"x")
    with pytest.raises(ModelError, match=r"models\.default\.public_keys\[1\]: should be an Ed25519 public key"):
        board.read()


def test_an_older_list_never_takes_the_place_of_the_kept_one(board: Board) -> None:
    """It might when another thread has kept a newer one since this one was read."""
    board.publish(5)
    older = board.read()
    board.publish(6)
    board.read()
    keep_revocations(board.folder, older)
    assert json.loads((board.folder / FILE).read_bytes())["number"] == 6
