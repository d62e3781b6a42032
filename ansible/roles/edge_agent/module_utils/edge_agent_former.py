"""The configuration that is replaced: kept in memory until the service has answered with the new one, or put back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ansible.module_utils.edge_agent_places import CONFIG

ETC = Path(CONFIG).parent
# Not on the disk, for there are secrets in it.
KEPT = Path("/run/edge-agent-former")


def is_kept() -> bool:
    """Whether nothing has answered yet with the configuration that is there."""
    return KEPT.is_dir()


def keep() -> None:
    """What is there, unless one is kept already, which was the last that something has answered with."""
    if is_kept() or not (ETC / Path(CONFIG).name).is_file():
        return
    partial = KEPT.with_suffix(".new")
    shutil.rmtree(partial, ignore_errors=True)
    _copy(ETC, partial)
    partial.rename(KEPT)


def forget() -> None:
    shutil.rmtree(KEPT, ignore_errors=True)


def restore() -> bool:
    """Whether there was one. Each file is whole at any time, and those that came later go."""
    if not is_kept():
        return False
    names = _files(KEPT)
    for name in names:
        new = (ETC / name).with_name(f".{Path(name).name}.new")
        _copy(KEPT / name, new)
        new.replace(ETC / name)
    for name in set(_files(ETC)) - set(names):
        (ETC / name).unlink()
    # As old as they were: a service that was not stopped meanwhile is not to be started again for it.
    for folder in (path for path in (KEPT, *KEPT.rglob("*")) if path.is_dir()):
        shutil.copystat(folder, ETC / folder.relative_to(KEPT))
    forget()
    return True


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def _copy(source: Path, target: Path) -> None:
    """With owners and times, which shutil leaves out."""
    subprocess.run(["cp", "--archive", "--no-target-directory", str(source), str(target)], check=True)
