"""Whether the service can read what it is given, and write what it keeps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_agent.board.files import reason
from edge_agent.core.config import ECHO_MODEL, Config
from edge_agent.store.journal import journal_facts
from edge_agent.store.journal_connection import WAL_SUFFIX, JournalError
from edge_agent.store.journal_file import FILE
from edge_agent.tools.doctor.account import Account
from edge_agent.tools.doctor.check import Check, Verdict

# The journal keeps 8 MB of answers and what waits; decoded prefixes take most.
MIN_STATE_FREE_MB = 200.0
_JOURNAL_S = 5.0
_MOST_ENTRIES = 2000


def storage(config: Config, account: Account, config_path: Path) -> Iterator[Check]:
    yield state(config.state_dir, account)
    if config.queue.journal == "disk":
        yield journal(config.state_dir / FILE)
    yield readable(config, account, config_path)


def state(folder: Path, account: Account) -> Check:
    """Where the service keeps requests and what it measured."""

    def failed(found: str, advice: str) -> Check:
        return Check(name="state", verdict=Verdict.FAILED, found=found, advice=advice)

    try:
        if not account.may_write(folder):
            return failed(
                f"{account.name} may not write into {folder}",
                f"give it the folder: chown -R {account.user} {folder}, or start the service once: its unit does",
            )
        free_mb = shutil.disk_usage(folder).free / 1e6
        foreign = _foreign(folder, account)
    except FileNotFoundError:
        return Check(
            name="state",
            verdict=Verdict.WARNING,
            found=f"{folder} is not there yet",
            advice="the unit makes it (StateDirectory=); else make it, for the account that runs the agent",
        )
    except OSError as error:
        return failed(f"{folder}: {reason(error)}", "look after state_dir, and the disk that it lies on")
    if foreign:
        return Check(
            name="state",
            verdict=Verdict.WARNING,
            found=f"{foreign[0]} and {len(foreign) - 1} more below {folder} are not {account.name}'s",
            advice=f"an agent ran here for somebody else; the service cannot write these: chown -R {account.user} "
            f"{folder}",
        )
    if free_mb < MIN_STATE_FREE_MB:
        return Check(
            name="state",
            verdict=Verdict.WARNING,
            found=f"{free_mb:.0f} MB free at {folder}",
            advice=f"free at least {MIN_STATE_FREE_MB:.0f} MB: requests are kept in memory only once the disk is full",
        )
    return Check(name="state", verdict=Verdict.GOOD, found=f"{account.name} can write, {free_mb:.0f} MB free")


def _foreign(folder: Path, account: Account) -> list[str]:
    """What root or somebody else left there, of the first some thousand."""
    found: list[str] = []
    for number, path in enumerate(folder.rglob("*")):
        if number == _MOST_ENTRIES:
            break
        try:
            if path.lstat().st_uid != account.user:
                found.append(str(path.relative_to(folder)))
        except FileNotFoundError:  # an agent runs, and writes
            continue
    return found


def journal(path: Path) -> Check:
    """Read, not written: an agent may be using it."""

    def told(verdict: Verdict, found: str, advice: str | None = None) -> Check:
        return Check(name="journal", verdict=verdict, found=found, advice=advice)

    try:
        if not path.exists():
            return told(Verdict.GOOD, "none yet: made at the first start")
        facts = journal_facts(path, _JOURNAL_S)
    except JournalError as error:
        if str(error) == "interrupted":
            return told(
                Verdict.WARNING, f"not read within {_JOURNAL_S:g} s", "look after the disk: it is slow, or busy"
            )
        return told(
            Verdict.WARNING,
            f"{path.name} cannot be read: {error}",
            f"the agent puts a damaged one aside as {path.name}.damaged, and goes on with what can be read; "
            "look after the disk, or ask as root: who may not write there cannot read it either",
        )
    except OSError as error:
        return told(Verdict.SKIPPED, f"{path}: {reason(error)}", "ask as root")
    if facts.fault is not None:
        return told(
            Verdict.FAILED,
            f"{path.name} is damaged: {facts.fault}",
            "restart the service: it goes on with what can be read; look after the disk",
        )
    size_mb = sum(p.stat().st_size for p in (path, Path(f"{path}{WAL_SUFFIX}")) if p.exists()) / 1e6
    waiting = f"{facts.unanswered} wait for an answer, {facts.undelivered} answers for the broker"
    quarantined = f", {facts.quarantined} quarantined" if facts.quarantined else ""
    return told(Verdict.GOOD, f"{facts.requests} requests in {size_mb:.1f} MB: {waiting}{quarantined}")


def readable(config: Config, account: Account, config_path: Path) -> Check:
    """The configuration, models and certificates; of secrets the unit takes care (LoadCredential=)."""
    tls = config.mqtt.tls
    model = config.models["default"]
    paths = [config_path, config.models_dir, model.public_key, *((tls.ca_file, tls.cert_file) if tls else ())]
    if not str(model.path).startswith(ECHO_MODEL):
        paths += [model.path, *(sorted(model.path.iterdir())[:50] if model.path.is_dir() else ())]
    closed = []
    for path in paths:
        try:
            if path is not None and not account.may_read(path):
                closed.append(str(path))
        except OSError:
            continue  # that it is not there is other checks' to tell
    if closed:
        return Check(
            name="files",
            verdict=Verdict.FAILED,
            found=f"{account.name} may not read {', '.join(closed)}",
            advice="mend owner or mode: chmod a+rX for models and certificates, chgrp edge-agent and chmod g+r for the "
            "configuration; folders on the way to them need x",
        )
    return Check(
        name="files", verdict=Verdict.GOOD, found=f"{account.name} can read configuration, models, certificates"
    )
