"""Checks of what the service's account may read and write, and of its journal of requests."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edge_agent.board.files import reason
from edge_agent.core.config import ECHO_MODEL, Config
from edge_agent.store.database import FILE, StoreError, store_facts
from edge_agent.tools.doctor.check import Check, failed, good, skipped, warning

SERVICE_ACCOUNT = "edge-agent"
# The journal and decoded prefixes.
MIN_STATE_FREE_MB = 200.0
_JOURNAL_S = 5.0
_MAX_ENTRIES = 2000
_READ, _WRITE, _ENTER = 4, 2, 1


@dataclass(frozen=True, slots=True)
class Account:
    """is_other: not the account of this process, so modes are compared instead of asking the system."""

    name: str
    user: int
    groups: frozenset[int]
    is_other: bool

    def may_read(self, path: Path) -> bool:
        """A file, or all names in a folder. Raises OSError if it does not exist."""
        return self._may(path, _READ | (_ENTER if path.is_dir() else 0))

    def may_write(self, folder: Path) -> bool:
        """Create files in a folder. Raises OSError if it does not exist."""
        return self._may(folder, _READ | _WRITE | _ENTER)

    def _may(self, path: Path, wanted: int) -> bool:
        path.stat()
        if not self.is_other:
            return os.access(path, wanted)  # its bits are those of a mode
        return self._has_mode(path, wanted) and all(self._has_mode(one, _ENTER) for one in path.resolve().parents)

    def _has_mode(self, path: Path, wanted: int) -> bool:
        found = path.stat()
        shift = 6 if found.st_uid == self.user else 3 if found.st_gid in self.groups else 0
        return (found.st_mode >> shift) & wanted == wanted


def service_account() -> Account:
    """The service's account if root asks and the account exists; else that of this process."""
    own = os.geteuid()
    if own == 0:
        try:
            entry = pwd.getpwnam(SERVICE_ACCOUNT)
        except KeyError:
            pass
        else:
            groups = {group.gr_gid for group in grp.getgrall() if SERVICE_ACCOUNT in group.gr_mem}
            return Account(SERVICE_ACCOUNT, entry.pw_uid, frozenset({entry.pw_gid, *groups}), is_other=True)
    return Account("this account", own, frozenset(os.getgroups()), is_other=False)


def service_checks(config: Config, account: Account, config_path: Path) -> Iterator[Check]:
    yield state(config.state_dir, account)
    if config.queue.journal == "disk":
        yield journal(config.state_dir / FILE)
    yield files(config, account, config_path)


def state(folder: Path, account: Account) -> Check:
    """The folder for requests, measurements and prefixes."""
    try:
        if not account.may_write(folder):
            advice = f"change its owner: chown -R {account.user} {folder}, or start the service once: its unit does it"
            return failed("state", f"{account.name} may not write into {folder}", advice)
        free_mb = shutil.disk_usage(folder).free / 1e6
        foreign = list(_foreign_files(folder, account))
    except FileNotFoundError:
        advice = "the unit creates it (StateDirectory=); else create it for the account that runs the agent"
        return warning("state", f"{folder} does not exist yet", advice)
    except OSError as error:
        return failed("state", f"{folder}: {reason(error)}", "check state_dir and its disk")
    if foreign:
        return warning(
            "state",
            f"{foreign[0]} and {len(foreign) - 1} more below {folder} do not belong to {account.name}",
            f"an agent ran here under another account, and the service cannot write these files: "
            f"chown -R {account.user} {folder}",
        )
    if free_mb < MIN_STATE_FREE_MB:
        advice = f"free at least {MIN_STATE_FREE_MB:.0f} MB: with a full disk, requests are kept in memory only"
        return warning("state", f"{free_mb:.0f} MB free at {folder}", advice)
    return good("state", f"{account.name} can write, {free_mb:.0f} MB free")


def _foreign_files(folder: Path, account: Account) -> Iterator[str]:
    for path in islice(folder.rglob("*"), _MAX_ENTRIES):
        try:
            if path.lstat().st_uid != account.user:
                yield str(path.relative_to(folder))
        except FileNotFoundError:  # a running agent has removed it
            continue


def journal(path: Path) -> Check:
    """The journal is only read: an agent may be using it."""
    try:
        if not path.exists():
            return good("journal", "none yet: created at the first start")
        facts = store_facts(path, _JOURNAL_S)
    except StoreError as error:
        if str(error) == "interrupted":
            return warning("journal", f"not read within {_JOURNAL_S:g} s", "check the disk: it is slow, or busy")
        return warning(
            "journal",
            f"{path.name} cannot be read: {error}",
            f"the agent renames a damaged one to {path.name}.damaged and begins a new one; check the disk, or ask as "
            "root: an account that may not write there cannot read it either",
        )
    except OSError as error:
        return skipped("journal", f"{path}: {reason(error)}; ask as root")
    if facts.fault is not None:
        return failed("journal", f"{path.name} is damaged: {facts.fault}", "restart the service, and check the disk")
    waiting = f"{facts.unanswered} wait for an answer, {facts.undelivered} answers for the broker"
    quarantined = f", {facts.quarantined} quarantined" if facts.quarantined else ""
    return good("journal", f"{facts.requests} requests: {waiting}{quarantined}")


def files(config: Config, account: Account, config_path: Path) -> Check:
    """The configuration, models and certificates. The unit takes care of secrets (LoadCredential=)."""
    tls, model = config.mqtt.tls, config.models["default"]
    paths = [config_path, config.models_dir, model.public_key, *((tls.ca_file, tls.cert_file) if tls else ())]
    if not str(model.path).startswith(ECHO_MODEL):
        paths += [model.path, *(sorted(model.path.iterdir())[:50] if model.path.is_dir() else ())]
    unreadable = []
    for path in filter(None, paths):
        try:
            unreadable += [] if account.may_read(path) else [str(path)]
        except OSError:
            continue  # other checks report files that are missing
    if unreadable:
        return failed(
            "files",
            f"{account.name} may not read {', '.join(unreadable)}",
            "change owner or mode: chmod a+rX for models and certificates, chgrp edge-agent and chmod g+r for the "
            "configuration; the folders above them need x",
        )
    return good("files", f"{account.name} can read configuration, models, certificates")
