"""The same attacks on python-tuf's client and on a board: do both take and refuse the same?"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from edge_agent.core.clock import is_expired
from edge_agent.core.config import ModelConfig
from edge_agent.core.model import ModelError
from edge_agent.models.bundle import open_model
from edge_agent.models.trust import Trust, keep_revocations, read_trust
from rigs.llama_sources import make_environment, run_program
from rigs.machine import ROOT, parser_of
from tests.helpers.ggufs import WEIGHTS, gguf
from tests.helpers.keys import key_sha256, sign, trusting, write_keys, write_revocations
from tests.models.test_bundle import bundle

REQUIREMENTS = ("tuf==7.0.1", "securesystemslib[crypto]==1.6.0")


def main() -> int:
    parser_of("rigs.tuf", __doc__).parse_args()
    python = make_environment(ROOT / "build" / "tuf", REQUIREMENTS)
    theirs = json.loads(run_program([str(python), str(Path(__file__).with_name("upstream.py"))]))
    with tempfile.TemporaryDirectory() as folder:
        ours = cases(Path(folder))
    words = {True: "taken", False: "refused"}
    for name in sorted(theirs.keys() | ours.keys(), key=list(ours).index):
        mark = "" if theirs.get(name) is ours.get(name) else "  DIFFERS"
        print(f"{name:36} tuf {words[theirs[name]]:8} ours {words[ours[name]]}{mark}")
    return 0 if theirs == ours else 1


def cases(folder: Path) -> dict[str, bool]:
    """What a board takes, by case; the version of the last switch stands for what it saw before."""
    (old, old_public), (new, new_public), (stranger, _) = (write_keys(folder, name) for name in ("o", "n", "s"))
    first, both = trusting(old_public), trusting(old_public, new_public)
    names = iter(range(1000))

    def release(version: int, private: Path, weights: bytes = b"w", **fields: str) -> Path:
        made = bundle(
            folder / f"bundle-{next(names)}",
            {"model.gguf": gguf(data=WEIGHTS.replace(b"w", weights, 1))},
            version=version,
            **fields,
        )
        sign(made, private)
        return made

    def mixed(*taken: str) -> Path:
        made, other = release(2, old), release(1, old, b"W")
        for name in taken:
            (made / name).write_bytes((other / name).read_bytes())
        return made

    configured = ModelConfig(path=folder, public_keys=(old_public, new_public), revocations=folder / "revocations.json")

    def listed(number: int, *keys: Path) -> Trust:
        write_revocations(folder / "revocations.json", new, number, keys=[key_sha256(key) for key in keys])
        trust = read_trust(configured, folder)
        keep_revocations(folder, trust)
        return trust

    older, revoking = listed(1), listed(2, old_public)
    assert (older.fault, revoking.fault) == (None, None)
    return {
        "a newer release": takes(release(2, old), first, 1),
        "rollback": takes(release(1, old), first, 2),
        "freeze": takes(release(2, old, expires="2026-01-01"), first),
        "mix-and-match of files": takes(mixed("model.gguf"), first),
        "mix-and-match of metadata": takes(mixed("manifest.json", "manifest.sig"), first),
        "another signer": takes(release(2, stranger), first),
        "rotation, signed with the old key": takes(release(2, old), both),
        "rotation, signed with the new key": takes(release(2, new), both),
        "revoked key": takes(release(3, old), revoking),
        "the key beside a revoked one": takes(release(3, new), revoking),
        # A switch is refused while the list is faulty.
        "older revocation after a newer one": takes(release(3, new), listed(1)),
    }


def takes(path: Path, trust: Trust, least_version: int = 0) -> bool:
    """As a model-switch decides."""
    try:
        model = open_model("default", path, replace(trust, least_version=least_version))
    except ModelError:
        return False
    return trust.fault is None and not (model.expires and is_expired(model.expires))


if __name__ == "__main__":
    sys.exit(main())
