"""docs/security.md: its commands make a list that counts, its tables name tests and judge each requirement."""

import os
import re
import subprocess
from pathlib import Path

from edge_agent.core.config import ModelConfig
from edge_agent.models.trust import read_trust
from tests.conftest import NEEDS_OPENSSL
from tests.docs.pages import page, sample, table
from tests.helpers.keys import key_sha256, write_keys
from tests.models.test_bundle import bundle, listed

TESTS = Path(__file__).parents[1]


@NEEDS_OPENSSL
def test_the_commands_make_a_list_that_revokes_the_key_and_the_bundle(tmp_path: Path) -> None:
    publics = tuple(write_keys(tmp_path, f"signer-{year}")[1] for year in (2026, 2027))
    manifest = (bundle(tmp_path / "pumps-2") / "manifest.json").read_bytes()
    words = ["bash", "-euo", "pipefail", "-c", sample("security", "sh", "revocations.json")]
    subprocess.run(words, cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"]}, capture_output=True)
    config = ModelConfig(path=tmp_path, public_keys=publics, revocations=tmp_path / "revocations.json")
    trust = read_trust(config)
    assert trust.fault is None
    assert trust.revocation(listed(manifest)["sha256"], None) == "revoked by list 1: leaked"
    assert trust.revocation(None, key_sha256(publics[0])) is not None
    assert trust.revocation(None, key_sha256(publics[1])) is None


def test_each_attack_names_tests_that_there_are() -> None:
    attacks = page("security").split("\n### Attacks\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| (?!attack|-).*\|$", attacks, flags=re.MULTILINE)
    named = [re.findall(r"`(test_\w+)`", row) for row in rows if not row.startswith("|---")]
    assert len(named) >= 13
    assert all(named)


def test_the_tests_that_the_page_names_are_there() -> None:
    there = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", page("security")))
    assert len(named) >= 18
    assert not named - there


def test_each_requirement_is_judged() -> None:
    rows = [row for row in table("security", "IEC 62443-4-2") if re.match("(CR|SAR|EDR) ", row[0])]
    assert len(rows) >= 35
    for requirement, state, by in rows:
        assert re.search(r"\b(met|partly|broker|system|no such)\b", state), requirement
        assert by, requirement
    groups = {row[0].split(" ")[1].split(".")[0] for row in rows}
    assert groups == set("1234567")
