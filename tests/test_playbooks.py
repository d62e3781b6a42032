"""The playbooks, run by Ansible without a board, in `make check`, which installs it. rigs.deploy has boards."""

import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_agent.core.topics import Topics
from rigs.deploy.fleet import ANSIBLE, ANSIBLE_BIN, Broker
from tests.helpers.client import Client

pytestmark = pytest.mark.skipif(
    not (ANSIBLE_BIN / "ansible-playbook").exists(), reason="needs Ansible: make build/ansible/ready"
)


OTHER = Topics("edgeai/v1", "hall2", "lathe-01")


class Technician:
    """A copy of the example, and the programs of Ansible in the folder of the playbooks."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ANSIBLE, folder / "ansible", ignore=shutil.ignore_patterns("plant", "roles"))
        self.plant = Path(shutil.copytree(ANSIBLE / "example", folder / "ansible/plant"))
        self.vault = self.plant / "group_vars/boards/vault.yml"
        (folder / "vault-password").write_text("open sesame\n", "ascii")
        self.environment = {**os.environ, "ANSIBLE_VAULT_PASSWORD_FILE": str(folder / "vault-password")}

    def run(self, program: str, *words: str, code: int = 0) -> str:
        command, folder = [str(ANSIBLE_BIN / program), *words], self.plant.parent
        done = subprocess.run(
            command, cwd=folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert done.returncode == code, done.stdout.decode()
        return done.stdout.decode()

    def make_accounts(self, *options: str, code: int = 0) -> str:
        return self.run("ansible-playbook", "-i", "plant/hosts.yml", "credentials.yml", *options, code=code)

    def passwords(self) -> dict[str, str]:
        text = self.run("ansible-vault", "view", str(self.vault))
        return dict(re.findall(r"^ +(\S+): (\S+)$", text, flags=re.MULTILINE))

    def files(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.vault, *sorted((self.plant / "mosquitto").iterdir()))]

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.plant / name
        path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")


# It runs in batches of one board, the second of which fails.
BATCHES = """
- hosts: all
  gather_facts: false
  tasks:
    - {ansible.builtin.ping: , ignore_unreachable: true, register: ping}
    - {ansible.builtin.group_by: {key: "away_{{ 'unreachable' in ping }}"}}
- hosts: away_False
  order: sorted
  gather_facts: false
  serial: 1
  max_fail_percentage: 0
  roles: [x]
"""


def test_a_play_ends_with_what_has_become_of_each_board(tmp_path: Path) -> None:
    technician = Technician(tmp_path)
    folder = tmp_path / "ansible"
    (folder / "roles/x/tasks").mkdir(parents=True)
    tasks = "[{assert: {that: true}}, {debug: {msg: 'by {{ edge_agent_by }}'}}, "
    tasks += """{block: [{command: 'cat {{ playbook_dir }}/reply', failed_when: inventory_hostname == 'b'}],
                 rescue: [{fail: {msg: '{{ edge_agent_failure_text }}'}}]}]"""
    (folder / "roles/x/tasks/main.yml").write_text(tasks, "ascii")
    reply = {"error": {"code": "downgrade", "message": "version 1 is older; `allow_downgrade` permits it"}}
    (folder / "reply").write_text(json.dumps(reply), "ascii")
    # This is the account of a domain.
    technician.environment["SUDO_USER"] = r"PLANT\tom"
    (folder / "batches.yml").write_text(BATCHES, "ascii")
    here = ["a ansible_connection=local", "b ansible_connection=local", "c ansible_connection=local"]
    away = [f"{name} ansible_host=127.0.0.1 ansible_port=1" for name in "ed"]
    (folder / "hosts").write_text("\n".join([*here, *away]), "ascii")
    of_role = f"@{ANSIBLE}/roles/edge_agent/vars/main.yml"
    shown = technician.run("ansible-playbook", "-i", "hosts", "-e", of_role, "batches.yml", code=2)
    assert rf"by PLANT\\tom@{platform.node()}" in shown
    assert "x : assert" not in shown
    assert "downgrade: version 1 is older; `-e edge_agent_allow_downgrade=true` permits it" in shown
    assert shown.endswith("done:        1: a\nfailed:      1: b\nnot begun:   1: c\nnot reached: 2: d,e\n")
    assert re.search(r"^not reached: \[d\]: .*Connection refused$", shown, flags=re.MULTILINE)
    assert shown.count("Connection refused") == 2
    assert re.findall(r"^(\w+) +: ok=", shown, flags=re.MULTILINE) == ["a", "b", "c"]

    (folder / "roles/edge_agent/tasks").mkdir(parents=True)
    row = "{drift: \"{{ ['unit', 'etc'] if inventory_hostname == 'b' else [] }}\"}"
    (folder / "roles/edge_agent/tasks/report.yml").write_text(f"[{{set_fact: {{edge_agent_row: {row}}}}}]", "ascii")
    (folder / "templates/report.md.j2").write_text("a table", "ascii")
    (folder / "hosts").write_text(
        "[boards]\n" + "\n".join([*here, *away]) + "\n[boards:vars]\nansible_become=false", "ascii"
    )
    shown = technician.run("ansible-playbook", "-i", "hosts", "report.yml", code=2)
    assert (folder / "report.md").read_text("ascii") == "a table"
    assert "differs from the inventory: unit; etc" in shown
    assert "d, e could not be reached" in shown
    assert re.findall(r"^(\w+) +: ok=", shown, flags=re.MULTILINE) == ["a", "b", "c"]
    assert shown.endswith("done:        2: a,c\nfailed:      1: b\nnot begun:   none\nnot reached: 2: d,e\n")
    technician.run("ansible-playbook", "-i", "hosts", "report.yml", "--limit", "a,c", code=0)


def test_no_board_gets_the_account_of_another_one_or_of_a_user(tmp_path: Path) -> None:
    technician = Technician(tmp_path)
    technician.edit("hosts.yml", "press-05", "press-04.hall2")
    technician.edit("hosts.yml", "lathe-01", "operator")
    shown = technician.make_accounts(code=2)
    assert all(f'a user of the sample (got "{name}").' in shown for name in ("press-04", "operator"))
    assert not technician.vault.exists()


@pytest.mark.mosquitto
@pytest.mark.usefixtures("require_mosquitto")
def test_one_play_makes_passwords_and_rights_and_a_later_one_keeps_them(tmp_path: Path) -> None:
    technician = Technician(tmp_path)
    shown, first = technician.make_accounts("--diff", "-vvv"), technician.passwords()
    assert {"press-04", "press-05", "lathe-01", "sensors", "operator", "monitoring", "web", "homeassistant"} == set(
        first
    )
    assert not [password for password in first.values() if password in shown]
    before = technician.files()
    technician.make_accounts()
    assert technician.files() == before

    technician.edit("hosts.yml", "lathe-01", "lathe-02.plant")
    reads = "subscribe: ['plant/{{ edge_agent_device }}/+/vibration']\n    publish: plant/x-{1}/triage\n    "
    deep = "\n  deep: {subscribe: ['other/#'], publish: 'deep/x-{1}/triage'}"
    joined = "\n  joined: {signals: [saws, cells], publish: 'odd/saw-{machine}/answer'}"
    technician.edit("group_vars/boards/main.yml", "deadline_ms: 5000", f"{reads}deadline_ms: 5000{deep}{joined}")
    saws = "saws: {values: {vib: {topic: saws/+/vib}, hz: {topic: saws/+/all, path: [hz]}}}"
    cells = "cells: {source: sparkplug, group: G, rebirth: true, values: {vib: {metric: Vib}}}"
    technician.edit("group_vars/boards/main.yml", "  commands:", f"  signals:\n    {saws}\n    {cells}\n  commands:")
    shown, second = technician.make_accounts(), technician.passwords()
    assert {**first, "lathe-02": second["lathe-02"]} == second
    assert "lathe-01" in shown.split("kept, but")[1]
    rights = (technician.plant / "mosquitto/edge-agent.acl").read_text("utf-8")
    assert "topic read plant/lathe-02/+/vibration\ntopic write plant/+/triage\n" in rights
    assert "topic read other/#\ntopic write deep/#\n" in rights
    assert "topic read saws/+/vib\ntopic read saws/+/all\n" in rights
    cells_read = "topic read spBv1.0/G/+/+\ntopic read spBv1.0/G/+/+/+\n"
    assert f"{cells_read}topic write spBv1.0/G/NCMD/+\n" in rights
    assert "topic write odd/+/answer\ntopic write odd/+/+/answer\n" in rights
    answers = "topic read deep/#\ntopic read odd/+/+/answer\ntopic read odd/+/answer\ntopic read plant/+/triage\n"
    assert f"user web\n{answers}# END boards\n" in rights
    assert "user lathe-01\n" not in rights

    broker = Broker(tmp_path / "broker", {})
    shutil.copytree(technician.plant / "mosquitto", tmp_path / "broker", dirs_exist_ok=True)
    topics = Topics("edgeai/v1", "hall2", "lathe-02")
    with broker:
        board, watcher = (
            Client(broker.port, "5", (name, second[name]), tmp_path / "broker/ca.pem")
            for name in ("lathe-02", "monitoring")
        )
        watcher.subscribe("edgeai/v1/+/+/state")
        board.publish(OTHER.state, b"{}")
        board.publish(topics.state, b'{"state":"online"}')
        watcher.wait_for(topics.state, lambda state: state["state"] == "online")
        assert not watcher.on(OTHER.state)
        board.close()
        watcher.close()
