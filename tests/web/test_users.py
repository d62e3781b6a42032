"""`edge-agent web user`: the file of people and programs."""

import io
import json
import os
import stat
import time
from pathlib import Path

import pytest

from edge_agent.web.users import Users, hashed_password, is_password_of
from tests.helpers.processes import EdgeAgent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "users.json"


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))


def test_a_user_who_was_added_logs_in_and_only_the_owner_reads_the_file(edge_agent: EdgeAgent, file: Path) -> None:
    assert edge_agent("web", "user", "add", "Jörg Müller", "--users", file, "--role", "feedback").returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "correct horse" not in file.read_text("utf-8")
    user = Users(file).person("Jörg Müller")
    assert user is not None
    assert user.roles == {"view", "feedback"}
    assert is_password_of(user, "correct horse")
    assert not is_password_of(user, "correct horsf")


def test_a_file_that_exists_keeps_its_mode(edge_agent: EdgeAgent, file: Path) -> None:
    assert "ana may use" in edge_agent("web", "user", "add", "ana", "--users", file).stdout
    file.chmod(0o640)
    edge_agent("web", "user", "remove", "ana", "--users", file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_leaves_the_file_to_its_owner(edge_agent: EdgeAgent, file: Path) -> None:
    edge_agent("web", "user", "add", "ana", "--users", file)
    os.chown(file, 65534, 65534)
    edge_agent("web", "user", "remove", "ana", "--users", file)
    assert (file.stat().st_uid, file.stat().st_gid) == (65534, 65534)


def test_a_token_is_printed_once_and_kept_as_a_hash(edge_agent: EdgeAgent, file: Path) -> None:
    ended = edge_agent("web", "user", "add", "node-red", "--users", file, "--role", "try", "--token")
    token = ended.stdout.strip()
    assert len(token) >= 43
    assert token not in file.read_text("utf-8")
    program = Users(file).with_token(token)
    assert program is not None
    assert program.name == "node-red"
    assert Users(file).with_token("x") is None


def test_users_are_listed_and_removed(edge_agent: EdgeAgent, file: Path) -> None:
    edge_agent("web", "user", "add", "ana", "--users", file, "--role", "feedback")
    assert edge_agent("web", "user", "list", "--users", file).stdout.splitlines()[1].split() == [
        "ana",
        "password",
        "view",
        "feedback",
    ]
    roles = edge_agent("web", "user", "roles", "ana", "--users", file, "--role", "try")
    assert roles.stdout.startswith("ana may use")
    user = Users(file).person("ana")
    assert user is not None
    assert user.roles == {"view", "try"}
    assert is_password_of(user, "correct horse")
    assert edge_agent("web", "user", "roles", "bob", "--users", file).returncode == 1
    assert edge_agent("web", "user", "remove", "ana", "--users", file).returncode == 0
    assert json.loads(file.read_text("utf-8")) == {"users": {}}
    assert edge_agent("web", "user", "remove", "ana", "--users", file).returncode == 1


def test_a_user_is_replaced_only_by_force(edge_agent: EdgeAgent, file: Path) -> None:
    add = ("web", "user", "add", "ana", "--users", file, "--token")
    assert edge_agent(*add).returncode == 0
    before = file.read_bytes()
    assert edge_agent(*add).returncode == 1
    assert file.read_bytes() == before
    assert edge_agent(*add, "--force").returncode == 0
    assert file.read_bytes() != before


@pytest.mark.parametrize(
    "arguments",
    [("add",), ("list", "ana"), ("remove",), (), ("add", "a "), ("add", "ana\x1b"), ("add", "x" * 65)],
)
def test_what_cannot_be_done_is_a_fault_of_usage(edge_agent: EdgeAgent, file: Path, arguments: tuple[str, ...]) -> None:
    assert edge_agent("web", "user", *arguments, "--users", file).returncode == 64
    assert not file.exists()


def test_a_short_password_is_refused(edge_agent: EdgeAgent, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    ended = edge_agent("web", "user", "add", "ana", "--users", file)
    assert ended.returncode == 64
    assert "8 to 256" in ended.stderr


def test_a_file_of_another_kind_is_left_as_it_is(edge_agent: EdgeAgent, file: Path) -> None:
    file.write_text("users = []", "utf-8")
    assert edge_agent("web", "user", "add", "ana", "--users", file).returncode == 1
    assert file.read_text("utf-8") == "users = []"


def test_a_name_that_nobody_has_takes_as_long_as_a_wrong_password(edge_agent: EdgeAgent, file: Path) -> None:
    edge_agent("web", "user", "add", "ana", "--users", file)
    user = Users(file).person("ana")
    times = []
    for known in (user, None):
        begin = time.process_time()
        for _ in range(3):
            assert not is_password_of(known, "wrong horse")
        times.append(time.process_time() - begin)
    assert 0.5 < times[0] / times[1] < 2


def test_two_users_with_one_password_have_different_hashes() -> None:
    assert hashed_password("correct horse") != hashed_password("correct horse")
