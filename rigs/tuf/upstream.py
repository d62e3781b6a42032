"""What python-tuf makes of each situation: prints an object, true where the client takes the release.

Runs in an environment of its own, as a file: nothing of this repository is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

_NAME = "model.gguf"
_NOW = datetime.now(UTC)
_LATER, _BEFORE = _NOW + timedelta(days=9), _NOW - timedelta(days=1)


@dataclass(frozen=True)
class Release:
    """The signed bytes of each role, and the file."""

    timestamp: bytes
    snapshot: bytes
    targets: bytes
    weights: bytes


def signed(part: Root | Timestamp | Snapshot | Targets, *signers: CryptoSigner) -> bytes:
    one = Metadata(part)
    for signer in signers:
        one.sign(signer, append=True)
    data: bytes = one.to_bytes()
    return data


def root(version: int, keys: Sequence[CryptoSigner], *signers: CryptoSigner) -> bytes:
    """One of these keys is enough for each role."""
    made = Root(version=version, expires=_LATER)
    for role in ("root", "timestamp", "snapshot", "targets"):
        for key in keys:
            made.add_key(key.public_key, role)
    return signed(made, *signers)


def release(version: int, signer: CryptoSigner, weights: bytes, expires: datetime = _LATER) -> Release:
    file = TargetFile.from_data(_NAME, weights, ["sha256"])
    snapshot = Snapshot(version=version, expires=expires, meta={"targets.json": MetaFile(version)})
    return Release(
        signed(Timestamp(version=version, expires=expires, snapshot_meta=MetaFile(version)), signer),
        signed(snapshot, signer),
        signed(Targets(version=version, expires=expires, targets={_NAME: file}), signer),
        weights,
    )


def takes(roots: Sequence[bytes], offered: Release, known: Release | None = None) -> bool:
    """Whether a client takes what is offered. roots: as it got them; known: the release that it saw before."""
    try:
        client = TrustedMetadataSet(roots[0], EnvelopeType.METADATA)
        for newer in roots[1:]:
            client.update_root(newer)
        if known is not None:
            client.update_timestamp(known.timestamp)
        client.update_timestamp(offered.timestamp)
        client.update_snapshot(offered.snapshot)
        client.update_targets(offered.targets).targets[_NAME].verify_length_and_hashes(offered.weights)
    except (RepositoryError, LengthOrHashMismatchError):
        return False
    return True


def main() -> None:
    old, new, stranger = (CryptoSigner.generate_ed25519() for _ in range(3))
    first, both, revoking = root(1, [old], old), root(2, [old, new], old), root(3, [new], old, new)
    one, two = release(1, old, b"one"), release(2, old, b"two")
    cases: dict[str, Callable[[], bool]] = {
        "a newer release": lambda: takes([first], two, one),
        "rollback": lambda: takes([first], one, two),
        "freeze": lambda: takes([first], release(2, old, b"two", _BEFORE)),
        "mix-and-match of files": lambda: takes([first], replace(two, weights=b"one")),
        "mix-and-match of metadata": lambda: takes([first], replace(two, targets=one.targets)),
        "another signer": lambda: takes([first], release(2, stranger, b"two")),
        "rotation, signed with the old key": lambda: takes([first, both], two),
        "rotation, signed with the new key": lambda: takes([first, both], release(2, new, b"two")),
        "revoked key": lambda: takes([first, both, revoking], release(3, old, b"three")),
        "the key beside a revoked one": lambda: takes([first, both, revoking], release(3, new, b"three")),
        "older revocation after a newer one": lambda: takes([first, both, revoking, both], release(3, new, b"three")),
    }
    print(json.dumps({name: case() for name, case in cases.items()}))


if __name__ == "__main__":
    main()
