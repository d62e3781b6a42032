"""What the alarm of revocations is told while the agent runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from edge_agent.core.config import Config
from edge_agent.models.bundle import open_model
from edge_agent.models.revocation_watch import INTERVAL_S, RevocationWatch
from edge_agent.models.trust import FILE
from edge_agent.worker.supervisor import Supervisor
from tests.helpers.processes import wait_until
from tests.helpers.support import config
from tests.models.test_trust import Board


def told_by(watch: RevocationWatch, told: list[tuple[str | None, str | None]], now: float) -> tuple[str | None, ...]:
    before = len(told)

    def has_told() -> bool:
        watch.tick(now)
        return len(told) > before

    wait_until(has_told, "the list is read")
    return told[-1]


def test_a_list_is_read_each_minute_and_the_alarm_told_of_it(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.publish()
    model = open_model("default", board.bundle, board.read())
    whole: Config = config("").model_copy(update={"models": {"default": board.config}, "state_dir": tmp_path / "state"})
    told: list[tuple[str | None, str | None]] = []
    supervisor = cast("Supervisor", SimpleNamespace(model=model))
    watch = RevocationWatch(whole, supervisor, lambda fault, revoked: told.append((fault, revoked)))
    assert told_by(watch, told, 0.0) == (None, None)
    assert (tmp_path / "state" / FILE).is_file()

    board.revoke_manifest(2)
    watch.tick(INTERVAL_S - 1)
    assert watch._reading is None
    assert told_by(watch, told, INTERVAL_S) == (None, "revoked by list 2")
    board.list.unlink()
    fault, revoked = told_by(watch, told, 2 * INTERVAL_S)
    assert "should be a file" in (fault or "")
    assert revoked == "revoked by list 2"
    board.old_public.unlink()
    fault, _ = told_by(watch, told, 3 * INTERVAL_S)
    assert "public_keys[0]" in (fault or "")


def test_without_a_list_nothing_is_read() -> None:
    watch = RevocationWatch(config(""), cast("Supervisor", None), lambda *_: None)
    watch.tick(1e9)
    assert watch._reading is None
