"""A release from the wheelhouses in dist/: `release.py --key signer.pem ARCH…` → dist/release/<version>.

`make release` has built wheelhouses, images and documentation before.
Equal commits give equal bytes: every time is that of the commit, and the archives are sorted.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

ROOT = Path(__file__).resolve().parents[2]
WHEELS = Path(__file__).resolve().parent
SUMS, SIGNATURE, PROVENANCE = "SHA256SUMS", "SHA256SUMS.sig", "provenance.intoto.jsonl"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
# The versions of all that is packed and all that packs, which decide the bytes besides the commit.
_PINS = ("lock.txt", "tools.txt", "site.txt", "sources.sha256", "llama_cpp.cdx.json")
# The units, playbooks and samples that install the rest on boards.
_DEPLOY = ("LICENSE", "ansible", "examples", "systemd")


def main() -> int:
    parser = argparse.ArgumentParser(prog="release.py", description=__doc__)
    parser.add_argument("architectures", nargs="+", metavar="ARCH")
    parser.add_argument("--key", required=True, type=Path, help="Ed25519 private key (PEM) that signs")
    parser.add_argument("--builder", required=True, metavar="URI", help="who builds, for the provenance")
    given = parser.parse_args()
    # The modes of files are in an archive.
    os.umask(0o022)
    key = read_key(given.key)
    commit, time = _git("rev-parse", "HEAD"), int(_git("show", "--no-patch", "--format=%ct", "HEAD"))
    version = _version()
    target, work = ROOT / "dist" / "release" / version, ROOT / "build" / "release"
    for folder in (target, work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    _source_package(work, target, commit, time)
    deploy = work / f"edge_agent-{version}-deploy"
    _unpack_commit(work, deploy, *_DEPLOY)
    archive(deploy, target / f"{deploy.name}.tar.gz", time)
    archive(ROOT / "build" / "site", target / f"edge_agent-{version}-docs.tar.gz", time)
    for arch in given.architectures:
        wheels, name = ROOT / "dist" / "wheelhouse" / arch, f"edge_agent-{version}-wheelhouse-{arch}"
        archive(wheels, target / f"{name}.tar", time)
        _run(sys.executable, WHEELS / "sbom.py", wheels, "--name", name, "--time", time, to=target / f"{name}.cdx.json")
        _copy_agent(wheels, target, commit)
        image, files = f"edge-agent-{version}-{arch}", ROOT / "build" / "image" / arch / "root.tar"
        shutil.copy(ROOT / "dist" / "images" / f"{image}.oci.tar", target)
        _run(
            sys.executable, WHEELS / "sbom.py", files, "--name", image, "--time", time, to=target / f"{image}.cdx.json"
        )
    parameters = {"version": version, "architectures": given.architectures}
    document = json.dumps(statement(target, parameters, commit, given.builder), sort_keys=True).encode()
    (target / PROVENANCE).write_text(json.dumps(envelope(document, key)) + "\n", encoding="utf-8")
    sums = "".join(f"{_sha256(path)}  {path.name}\n" for path in sorted(target.iterdir())).encode()
    (target / SUMS).write_bytes(sums)
    (target / SIGNATURE).write_bytes(key.sign(sums))
    size_mb = sum(path.stat().st_size for path in target.iterdir()) / 1e6
    print(f"{target.relative_to(ROOT)}: {len(list(target.iterdir()))} files, {size_mb:.1f} MB")
    return 0


def _copy_agent(wheels: Path, target: Path, commit: str) -> None:
    """Raises SystemExit unless it was made from this commit, with the same bytes for each architecture."""
    wheel = next(wheels.glob("edge_agent-*.whl"))
    with ZipFile(wheel) as packed:
        made_from = packed.read("edge_agent/COMMIT").decode().strip()
    if made_from != commit:
        raise SystemExit(f"{wheel}: made from {made_from}, not from {commit}: make wheelhouse")
    copy = target / wheel.name
    if copy.exists() and copy.read_bytes() != wheel.read_bytes():
        raise SystemExit(f"{wheel}: differs from that of another architecture")
    shutil.copy(wheel, target)


def read_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise SystemExit(f"{path}: cannot be read as a private key without a passphrase: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SystemExit(f"{path}: no Ed25519 key; openssl genpkey -algorithm ed25519 makes one")
    return key


def _version() -> str:
    found = re.search(r'^__version__ = "(.*)"$', (ROOT / "edge_agent" / "__init__.py").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def _source_package(work: Path, target: Path, commit: str, time: int) -> None:
    """setuptools packs files with the present time, so its archive is packed again."""
    source, built = work / "source", work / "built"
    _unpack_commit(work, source)
    (source / "edge_agent" / "COMMIT").write_text(f"{commit}\n", encoding="utf-8")
    _run(sys.executable, "-m", "build", "--sdist", "--outdir", built, source)
    (package,) = built.iterdir()
    _run("tar", "-C", work, "-xzf", package)
    archive(work / package.name.removesuffix(".tar.gz"), target / package.name, time)


def _unpack_commit(work: Path, target: Path, *names: str) -> None:
    """Unpacks the commit's files, or only those with these names."""
    target.mkdir()
    packed = work / "commit.tar"
    _run("git", "-C", ROOT, "archive", "--output", packed, "HEAD", *names)
    _run("tar", "-C", target, "-xf", packed)


def archive(folder: Path, target: Path, time: int) -> None:
    """Packs the folder into a tar, sorted, and without what another machine or moment would change."""
    options = ["--sort=name", f"--mtime=@{time}", "--owner=0", "--group=0", "--numeric-owner", "--format=posix"]
    options += ["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--mode=u=rwX,go=rX"]
    if target.suffix == ".gz":
        options.append("--use-compress-program=gzip -n")
    _run("tar", *options, "-C", folder.parent, "-cf", target, folder.name)


def statement(folder: Path, parameters: dict[str, Any], commit: str, builder: str) -> dict[str, Any]:
    """SLSA's provenance 1.0 of every file in the folder, as an in-toto statement."""
    pins = [{"name": f"ansible/wheels/{name}", "digest": {"sha256": _sha256(WHEELS / name)}} for name in _PINS]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path.name, "digest": {"sha256": _sha256(path)}} for path in sorted(folder.iterdir())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:edge-agent:make-release:v1",
                "externalParameters": parameters,
                "resolvedDependencies": [{"name": "edge-agent", "digest": {"gitCommit": commit}}, *pins],
            },
            "runDetails": {"builder": {"id": builder}},
        },
    }


def envelope(payload: bytes, key: Ed25519PrivateKey) -> dict[str, Any]:
    """The signed payload as DSSE defines it. `keyid` is the SHA-256 of the public key (DER)."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signed = b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)
    signature = {"keyid": hashlib.sha256(public).hexdigest(), "sig": base64.b64encode(key.sign(signed)).decode()}
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD_TYPE,
        "signatures": [signature],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout.strip()


def _run(*words: object, to: Path | None = None) -> None:
    """Runs a command, whose standard output goes to the file `to`."""
    pins = dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), str(WHEELS / "tools.txt"))
    done = subprocess.run([*map(str, words)], check=True, stdout=subprocess.PIPE, env={**os.environ, **pins})
    if to is not None:
        to.write_bytes(done.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
