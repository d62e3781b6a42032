"""Checks of what the service's account may read and write."""

from __future__ import annotations

import os
import pwd
import shutil
from contextlib import suppress
from pathlib import Path

from edge_agent.core.config import Config
from edge_agent.core.pipe import is_echo
from edge_agent.models.trust import signature_of
from edge_agent.store.database import FILE
from edge_agent.tools.doctor.check import Check, failed, good, warning
from edge_agent.tools.programs import ProgramError, program_output

SERVICE_ACCOUNT = "edge-agent"
# The requests and decoded prefixes.
MIN_STATE_FREE_MB = 200.0


def state(folder: Path) -> Check:
    """The folder for requests, measurements and prefixes."""
    path = folder / FILE if os.access(folder / FILE, os.F_OK) else folder
    if not os.access(folder, os.F_OK):
        advice = (
            "the unit creates /var/lib/edge-agent/state and may write nowhere else; else create it for your account"
        )
        return warning("state", f"{folder} does not exist yet", advice)
    if not is_allowed(os.W_OK, path):
        advice = f"change its owner: chown -R {SERVICE_ACCOUNT} {folder}; an agent may have run here as another account"
        return failed("state", f"{_account_name()} may not write {path}", advice)
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < MIN_STATE_FREE_MB:
        advice = f"free at least {MIN_STATE_FREE_MB:.0f} MB: with a full disk, requests are kept in memory only"
        return warning("state", f"{free_mb:.0f} MB free at {folder}", advice)
    return good("state", f"{_account_name()} can write, {free_mb:.0f} MB free")


def files(config: Config, config_path: Path) -> Check:
    """The configuration, models and certificates. The unit takes care of secrets (LoadCredential=)."""
    tls, model = config.mqtt.tls, config.models["default"]
    keys = model.key_files.values()
    lists = () if model.revocations is None else (model.revocations, signature_of(model.revocations))
    paths = [config_path, config.models_dir, *keys, *lists, *((tls.ca_file, tls.cert_file) if tls else ())]
    if not is_echo(model.path):
        paths.append(model.path)
        # A bundle that is missing or cannot be listed is reported by itself.
        with suppress(OSError):
            paths += sorted(model.path.iterdir())[:50]
    # Other checks report files that are missing.
    if unreadable := [
        str(path) for path in paths if path and os.access(path, os.F_OK) and not is_allowed(os.R_OK, path)
    ]:
        return failed(
            "files",
            f"{_account_name()} may not read {', '.join(unreadable)}",
            "change owner or mode: chmod a+rX for models and certificates, chgrp edge-agent and chmod g+r for the "
            "configuration; the folders above them need x",
        )
    return good("files", f"{_account_name()} can read configuration, models, certificates")


def _account_name() -> str:
    return SERVICE_ACCOUNT if service_account() else "this account"


def service_account() -> pwd.struct_passwd | None:
    """The service's account if root asks and it exists; else it is that of this process."""
    try:
        return pwd.getpwnam(SERVICE_ACCOUNT) if os.geteuid() == 0 else None
    except KeyError:
        return None


def is_allowed(access: int, path: Path) -> bool:
    """Whether that account may read (R_OK) or write (W_OK) a file or folder."""
    account = service_account()
    if account is None:
        return os.access(path, access)
    command = ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "test")
    try:
        program_output((*command, "-r" if access == os.R_OK else "-w", str(path)), 3.0)
    except ProgramError:
        return False
    return True
