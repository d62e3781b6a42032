"""Ansible module: configuration, certificates and secrets of a board, which come into force if the broker takes them.

The new ones are tried where they are to be, in a view of the files that nobody else has: nothing that runs is touched.
"""

from __future__ import annotations

import grp
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils import edge_agent_former
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.edge_agent_former import ETC
from ansible.module_utils.edge_agent_places import CONFIG

DOCUMENTATION = """
module: edge_agent_configure
short_description: Configuration, certificates and secrets of a board, which come into force if the broker takes them
description:
  - What differs is tried first by C(edge-agent doctor --broker), which reads it as the service will. If that refuses
    the configuration, or no broker of it takes this board, nothing is changed.
  - What is replaced is kept until C(edge_agent_switch) has seen the service answer, else that puts it back.
  - A dry run tries nothing.
options:
  program:
    description: The edge-agent that is to take it.
    type: path
    required: true
  config:
    description: Text of config.toml. Without one, what is there is tried, and nothing changed.
    type: str
  files:
    description: Contents of files beside it, by name.
    type: dict
    default: {}
  credentials:
    description: Contents of files for root alone, by name. Those of SECRETS that are not named are removed.
    type: dict
    default: {}
"""

SECRETS = ("mqtt_password", "mqtt_key", "command_key")
GROUP = "edge-agent"
# A name that is asked for at several servers, several brokers that do not answer.
TRIAL_S = 120.0


class RefusedError(Exception):
    """By the agent, in its words."""


@dataclass(frozen=True)
class File:
    """name: below ETC."""

    name: str
    content: str

    @property
    def is_secret(self) -> bool:
        return self.name.startswith("credentials/")

    @property
    def mode(self) -> int:
        return 0o600 if self.is_secret else 0o640

    @property
    def group(self) -> int:
        return 0 if self.is_secret else grp.getgrnam(GROUP).gr_gid

    def is_there(self) -> bool:
        path = ETC / self.name
        if not path.is_file() or path.read_bytes() != self.content.encode():
            return False
        found = path.stat()
        return (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, self.group, self.mode)

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        path = folder / self.name
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_bytes(self.content.encode())
        os.chown(new, 0, self.group)
        new.chmod(self.mode)
        new.replace(path)


def configure(module: AnsibleModule) -> dict[str, Any]:
    """Raises RefusedError."""
    given = module.params
    # The configuration last: it names the others.
    wanted = [File(name, str(content)) for name, content in sorted(given["files"].items())]
    # A password that is a number is one in YAML, too.
    wanted += [File(f"credentials/{name}", str(content)) for name, content in sorted(given["credentials"].items())]
    is_trial = given["config"] is None
    if not is_trial:
        wanted.append(File(Path(CONFIG).name, given["config"]))
    others = [file for file in wanted if not file.is_there()]
    unnamed = () if is_trial else sorted(set(SECRETS) - set(given["credentials"]))
    gone = [f"credentials/{name}" for name in unnamed if (ETC / "credentials" / name).exists()]
    changes = [file.name for file in others] + gone
    diff = [
        {
            "before_header": str(ETC / file.name),
            "after_header": str(ETC / file.name),
            "before": _text(ETC / file.name),
            "after": file.content,
        }
        for file in others
        if not file.is_secret
    ]
    if (is_trial or changes) and not module.check_mode:
        for warning in _tried(given["program"], others, gone):
            module.warn(warning)
        if changes:
            edge_agent_former.keep()
        for file in others:
            file.write(ETC)
        for name in gone:
            (ETC / name).unlink()
    return {"changed": bool(changes), "changes": changes, "diff": diff}


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _tried(program: str, others: list[File], gone: list[str]) -> list[str]:
    """What is to be warned of. Raises RefusedError."""
    # In memory: secrets that are refused were never on the disk.
    with tempfile.TemporaryDirectory(prefix="edge-agent-", dir="/run") as place:
        folder = Path(shutil.copytree(ETC, place, symlinks=True, dirs_exist_ok=True))
        for file in others:
            file.write(folder)
        for name in gone:
            (folder / name).unlink()
        inside = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", inside, "sh", place, str(ETC)]
        command += [program, "doctor", "--broker", "--json", "--config", CONFIG]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=TRIAL_S
            )
        except subprocess.TimeoutExpired:
            raise RefusedError(f"no broker was found out about within {TRIAL_S:.0f} s") from None
    try:
        return judged(json.loads(done.stdout)["checks"])
    except (ValueError, KeyError, TypeError):
        raise RefusedError(f"{program} doctor --broker ended with {done.returncode}: {done.stderr.strip()}") from None


def judged(checks: list[dict[str, Any]]) -> list[str]:
    """What is to be warned of: also a broker that fails, where another one takes this board. Raises RefusedError."""
    is_taken = any(check["name"] == "broker" and check["verdict"] == "good" for check in checks)
    told = [
        (
            check["verdict"] == "failed" and not (check["name"] == "broker" and is_taken),
            check["found"] + (f" → {check['advice']}" if check["advice"] else ""),
        )
        for check in checks
        if check["verdict"] in ("failed", "warning")
    ]
    if any(is_fault for is_fault, _ in told):
        raise RefusedError("; ".join(words for is_fault, words in told if is_fault))
    return [words for _, words in told]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path", "required": True},
            "config": {"type": "str"},
            "files": {"type": "dict", "default": {}},
            "credentials": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    if paths := [name for name in module.params["files"] if Path(name).name != name]:
        module.fail_json(msg=f"edge_agent_files: should be names in {ETC}, not paths (got {', '.join(paths)})")
    try:
        result = configure(module)
    except RefusedError as error:
        module.fail_json(msg=f"nothing was changed, for this is not taken: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
