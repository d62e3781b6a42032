"""docs/security.md: its commands make a list that counts, and its table names tests."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from edge_agent.core.config import ModelConfig
from edge_agent.models.trust import read_trust
from tests.docs.pages import page, sample
from tests.docs.test_models import NEEDS_OPENSSL
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
    table = page("security").split("\n### Attacks\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| (?!attack|-).*\|$", table, flags=re.MULTILINE)
    named = [re.findall(r"`(test_\w+)`", row) for row in rows if not row.startswith("|---")]
    there = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert len(named) >= 13
    assert all(named)
    assert not {name for names in named for name in names} - there
