"""docs/fleet.md: its certificates are trusted, its plays and variables exist. rigs.deploy follows its plays."""

import re
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

from edge_agent.tools.demo.readings import tasks
from tests.conftest import NEEDS_OPENSSL
from tests.docs.pages import ROOT, commands, page, sample

# The variables of playbooks, which no role describes.
OF_PLAYBOOKS = {"edge_agent_decommission_all"}


@NEEDS_OPENSSL
def test_certificates_are_those_that_python_trusts(tmp_path: Path) -> None:
    (tmp_path / "plant").mkdir()
    script = sample("fleet", "sh", "openssl req")
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "broker.pem", tmp_path / "broker.key")
    client = ssl.create_default_context(cafile=tmp_path / "plant" / "ca.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server, server_hostname="broker.example")
    for end in (caller, server.wrap_bio(to_server, to_client, server_side=True)):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    # Raises if it does not trust the certificate.
    caller.do_handshake()


def test_the_example_names_the_labels_of_the_demonstrations_bundle() -> None:
    example = (ROOT / "ansible/example/group_vars/boards/main.yml").read_text("utf-8")
    assert ", ".join(tasks()["machine-triage"]["labels"]) in example.replace("\n# ", " ")


def test_plays_and_variables_exist() -> None:
    plays = {name for line in commands("fleet") for name in re.findall(r"^ansible-playbook .* (\w+\.yml)", line)}
    assert plays == {path.name for path in (ROOT / "ansible").glob("*.yml")}
    specification = (ROOT / "ansible/roles/edge_agent/meta/argument_specs.yml").read_text("utf-8")
    known = set(re.findall(r"^ +(edge_agent_\w+):$", specification, flags=re.MULTILINE)) | OF_PLAYBOOKS
    assert not set(re.findall(r"\bedge_agent_\w+", page("fleet"))) - known
