"""What a release lists of itself is true, others can check it, and equal contents give equal bytes."""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from tests.conftest import NEEDS_OPENSSL
from tests.helpers.keys import write_keys
from tests.helpers.support import loaded

FOLDER = Path(__file__).parents[1] / "ansible" / "wheels"
NATIVE = b"\x7fELF native"
release = loaded(FOLDER / "release.py")
sbom = loaded(FOLDER / "sbom.py")
vulnerabilities = loaded(FOLDER / "vulnerabilities.py")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(folder: Path, name: str, head: str = "", files: dict[str, bytes] | None = None) -> Path:
    """A wheel with these lines of metadata and these files."""
    project, version, *_ = name.split("-")
    with ZipFile(folder / name, "w") as archive:
        metadata = f"Metadata-Version: 2.4\nName: {project}\nVersion: {version}\n{head}"
        archive.writestr(f"{project}-{version}.dist-info/METADATA", metadata)
        for path, data in (files or {}).items():
            archive.writestr(path, data)
    return folder / name


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    (tmp_path / "wheels").mkdir()
    llama = (FOLDER / "llama_cpp.cdx.json").read_text("utf-8").replace("@LIBOMP@", "1:19.1.4-1~deb12u1")
    natives = {"llama_cpp/lib/libllama.so": NATIVE, "llama_cpp/lib/libomp.so.5": NATIVE + b"2", "llama_cpp/x.py": b"x"}
    own = {"llama_cpp_python-0.3.36.dist-info/sboms/llama_cpp.cdx.json": llama.encode()}
    crates = {
        "components": [{"type": "library", "name": "a_crate", "version": "1.2.0", "purl": "pkg:cargo/a_crate@1.2.0"}]
    }
    rust = {"o_ld-2.0.dist-info/sboms/o_ld.cyclonedx.json": json.dumps(crates).encode()}
    return [
        wheel(tmp_path / "wheels", "edge_agent-1.0-py3-none-any.whl", "License-Expression: Apache-2.0\n"),
        wheel(
            tmp_path / "wheels", "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl", "License: MIT\n", natives | own
        ),
        wheel(
            tmp_path / "wheels",
            "o_ld-2.0-cp311-abi3-any.whl",
            "Classifier: License :: OSI Approved :: BSD License\n",
            rust,
        ),
    ]


def everything(components: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for one in components for part in (one, *everything(one.get("components", [])))]


def test_an_sbom_lists_every_wheel_and_every_native_file(wheels: list[Path]) -> None:
    text = sbom.sbom([*map(sbom.component_of, wheels)], "wheelhouse", 1_000_000_000)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["timestamp"] == "2001-09-09T01:46:40+00:00"
    assert document["metadata"]["component"]["version"] == "1.0"
    found = {one["name"]: one for one in document["components"]}
    assert {(name, one["version"]) for name, one in found.items()} == {
        ("edge-agent", "1.0"), ("llama-cpp-python", "0.3.36"), ("o-ld", "2.0")
    }  # fmt: skip
    for path, one in zip(wheels, (found["edge-agent"], found["llama-cpp-python"], found["o-ld"]), strict=True):
        assert one["hashes"] == [{"alg": "SHA-256", "content": sha256(path.read_bytes())}]
        assert one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}?file_name={path.name}"
    assert found["edge-agent"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert found["llama-cpp-python"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert found["o-ld"]["licenses"] == [{"license": {"name": "BSD License"}}]
    parts = everything(found["llama-cpp-python"]["components"])
    assert {one["name"]: one["hashes"][0]["content"] for one in parts if one["type"] == "file"} == {
        "llama_cpp/lib/libllama.so": sha256(NATIVE),
        "llama_cpp/lib/libomp.so.5": sha256(NATIVE + b"2"),
    }


def test_an_sbom_names_the_parts_of_llama_cpp(wheels: list[Path]) -> None:
    (llama,) = json.loads(sbom.sbom([sbom.component_of(wheels[1])], "wheelhouse", 0))["components"]
    parts = {one["name"]: one for one in everything(llama["components"])}
    assert parts["llama.cpp"]["purl"] == "pkg:github/ggml-org/llama.cpp@0c1e57098"
    assert {one["name"] for one in parts["llama.cpp"]["components"]} == {"ggml", "ggllm.cpp"}
    assert parts["libomp5-19"]["version"] == "1:19.1.4-1~deb12u1"
    assert all("licenses" in one for one in parts.values() if one["type"] == "library")


def test_equal_wheels_give_equal_sboms(wheels: list[Path]) -> None:
    components = [*map(sbom.component_of, wheels)]
    assert sbom.sbom(components, "wheelhouse", 7) == sbom.sbom(components[::-1], "wheelhouse", 7)


def test_an_sbom_of_an_image_lists_debians_and_pythons_packages_and_native_files(tmp_path: Path) -> None:
    status = (
        "Package: libc6\nArchitecture: amd64\nVersion: 2.41-12\nDescription: C\n a: b\nStatus: install ok installed\n\n"
        "Package: zlib1g\nArchitecture: amd64\nVersion: 1:1.3\nStatus: install ok installed\n\n"
    )
    files = {
        "./var/lib/dpkg/status": status.encode(),
        "./usr/local/lib/edge_agent-1.0.dist-info/METADATA": b"Name: edge-agent\nVersion: 1.0\nLicense: MIT\n",
        "./usr/lib/libc.so.6": NATIVE,
        "./etc/passwd": b"root",
    }
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    text = sbom.sbom([*sbom.image_components(tmp_path / "root.tar")], "image", 0)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert document["metadata"]["component"]["version"] == "1.0"
    found = {one["name"]: one for one in document["components"]}
    assert {one.get("purl") for one in found.values()} == {
        *("pkg:deb/debian/libc6@2.41-12?arch=amd64", "pkg:deb/debian/zlib1g@1:1.3?arch=amd64"),
        *("pkg:pypi/edge-agent@1.0", None),
    }
    assert found["usr/lib/libc.so.6"]["hashes"] == [{"alg": "SHA-256", "content": sha256(NATIVE)}]
    assert len(found) == 4


RECORD: dict[str, Any] = {
    "id": "GHSA-1", "aliases": ["CVE-1"], "summary": "reads too far", "modified": "2026-01-02T00:00:00Z",
    "affected": [{
        "package": {"ecosystem": "PyPI", "name": "O.ld"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0.1"}]}],
    }],
}  # fmt: skip


def looked_up(
    tmp_path: Path, wheels: list[Path], record: dict[str, Any] | bytes, name: str = "record.json"
) -> subprocess.CompletedProcess[str]:
    """Looks the wheels up in a record; `name` is that of the export."""
    (tmp_path / "sbom.json").write_text(sbom.sbom([*map(sbom.component_of, wheels)], "wheelhouse", 0))
    (tmp_path / name).write_bytes(record if isinstance(record, bytes) else json.dumps(record).encode())
    command = [FOLDER / "vulnerabilities.py", tmp_path / "sbom.json", tmp_path / name]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


def test_a_known_vulnerability_of_a_listed_package_is_named(tmp_path: Path, wheels: list[Path]) -> None:
    done = looked_up(tmp_path, wheels, RECORD)
    assert (done.returncode, done.stdout) == (1, "PyPI o-ld 2.0: GHSA-1, CVE-1: reads too far; fixed in 2.0.1\n")
    assert done.stderr.splitlines() == [
        "PyPI: 3 packages; 1 records, the newest of 2026-01-02T00:00:00Z",
        "crates.io: 1 packages; not looked up",
        "others: 5 components; not looked up",
    ]
    done = looked_up(tmp_path, wheels, RECORD | {"withdrawn": "2026-01-03T00:00:00Z"})
    # No record of a crate was looked up, which is not good news.
    assert (done.returncode, done.stdout) == (2, "")


def test_a_known_vulnerability_of_a_crate_in_a_wheel_is_named(tmp_path: Path, wheels: list[Path]) -> None:
    events = [{"introduced": "0.0.0-0"}, {"fixed": "1.2.1"}]
    package = {"ecosystem": "crates.io", "name": "a_crate"}
    record = {"id": "RUSTSEC-1", "affected": [{"package": package, "ranges": [{"type": "SEMVER", "events": events}]}]}
    done = looked_up(tmp_path, wheels, record)
    expected = "crates.io a-crate 1.2.0: RUSTSEC-1: no summary; fixed in 1.2.1\n"
    assert (done.returncode, done.stdout) == (1, expected)
    assert "PyPI: 3 packages; not looked up\n" in done.stderr


def ranges(*events: dict[str, str], of: str = "ECOSYSTEM") -> dict[str, Any]:
    return {"ranges": [{"type": of, "events": [*events]}]}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"versions": ["1.9", "2.0.0"]}, True),
        ({"versions": ["2.0.post1", "legacy-2"]}, False),
        (ranges({"fixed": "2.0"}, {"introduced": "0"}), False),
        (ranges({"introduced": "1"}, {"last_affected": "2.0"}), True),
        (ranges({"introduced": "1"}, {"last_affected": "1.9"}), False),
        (ranges({"introduced": "2.1"}), False),
        (ranges({"introduced": "0"}, {"fixed": "1.5"}, {"introduced": "2"}, {"fixed": "3"}), True),
        (ranges({"introduced": "legacy-2"}), True),
        (ranges({"introduced": "0"}, of="GIT"), False),
    ],
)
def test_versions_are_compared_as_osv_says(entry: dict[str, Any], expected: bool) -> None:  # noqa: FBT001
    assert vulnerabilities.is_affected("2.0", entry) is expected


def test_an_export_without_python_packages_is_no_good_news(tmp_path: Path, wheels: list[Path]) -> None:
    done = looked_up(tmp_path, wheels, {**RECORD, "affected": []})
    assert done.returncode == 2
    assert "the exports have no record of" in done.stderr


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"[]", b"\xff"])
@pytest.mark.parametrize("name", ["all.zip", "record.json"])
def test_a_file_that_is_no_export_is_named_and_not_taken_for_a_hit(
    tmp_path: Path, wheels: list[Path], content: bytes, name: str
) -> None:
    done = looked_up(tmp_path, wheels, content, name)
    assert done.returncode == 2
    assert f"{tmp_path / name}: should be an export of OSV: " in done.stderr


def test_a_file_that_is_no_sbom_is_named(tmp_path: Path) -> None:
    command = [FOLDER / "vulnerabilities.py", tmp_path / "sbom.json", tmp_path / "record.json"]
    for path in (tmp_path / "sbom.json", tmp_path / "record.json"):
        path.write_bytes(b"<html>")
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{tmp_path / 'sbom.json'}: should be a CycloneDX SBOM: " in done.stderr


def test_an_export_is_a_zip_a_folder_or_a_record(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "a.json").write_text(json.dumps(RECORD))
    with ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a.json", json.dumps(RECORD))
    for export in (tmp_path / "records", tmp_path / "all.zip", tmp_path / "records" / "a.json"):
        assert list(vulnerabilities.records(export)) == [RECORD]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_archives_of_equal_files_have_equal_bytes(tmp_path: Path, suffix: str) -> None:
    for number, names in enumerate((("b", "a", "ü" * 120), ("ü" * 120, "a", "b"))):
        folder = tmp_path / str(number) / "folder"
        folder.mkdir(parents=True, mode=0o755 if number else 0o700)
        for name in names:
            (folder / name).write_text(name)
            (folder / name).chmod(0o644 if number else 0o600)
            os.utime(folder / name, (number, number + 0.5))
        release.archive(folder, tmp_path / f"{number}{suffix}", 1_000_000_000)
    first, second = ((tmp_path / f"{number}{suffix}").read_bytes() for number in range(2))
    assert first == second
    with tarfile.open(tmp_path / f"0{suffix}") as tar:
        assert [member.name for member in tar] == ["folder", "folder/a", "folder/b", "folder/" + "ü" * 120]
        assert {(member.mtime, member.uid, member.uname) for member in tar.getmembers()} == {(1_000_000_000, 0, "")}


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Ed25519PrivateKey]:
    """A folder with a file and its provenance."""
    key = Ed25519PrivateKey.generate()
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "a.whl").write_bytes(b"wheel")
    statement = release.statement(folder, {"version": "1.0"}, "0" * 40, "urn:builder")
    (folder / release.PROVENANCE).write_text(json.dumps(release.envelope(json.dumps(statement).encode(), key)))
    return folder, key


def test_provenance_is_verified_by_securesystemslib(signed: tuple[Path, Ed25519PrivateKey]) -> None:
    folder, key = signed
    envelope = json.loads((folder / release.PROVENANCE).read_text("utf-8"))
    (signature,) = envelope["signatures"]
    public = SSlibKey.from_crypto(key.public_key(), signature["keyid"])
    assert list(Envelope.from_dict(json.loads(json.dumps(envelope))).verify([public], 1)) == [signature["keyid"]]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["subject"] == [{"name": "a.whl", "digest": {"sha256": sha256(b"wheel")}}]
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    source, *pins = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source["digest"] == {"gitCommit": "0" * 40}
    assert {"name": "ansible/wheels/lock.txt", "digest": {"sha256": sha256((FOLDER / "lock.txt").read_bytes())}} in pins

    envelope["payload"] = base64.b64encode(base64.b64decode(envelope["payload"]) + b" ").decode()
    with pytest.raises(VerificationError):
        Envelope.from_dict(envelope).verify([public], 1)


@NEEDS_OPENSSL
def test_openssl_verifies_the_checksums(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path)
    (tmp_path / "SHA256SUMS").write_bytes(b"sums\n")
    (tmp_path / "SHA256SUMS.sig").write_bytes(release.read_key(private).sign(b"sums\n"))
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(public), "-in", "SHA256SUMS"]
    command += ["-sigfile", "SHA256SUMS.sig"]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    (tmp_path / "SHA256SUMS").write_bytes(b"sums!\n")
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 1


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(SystemExit, match="cannot be read as a private key"):
        release.read_key(tmp_path / "key.pem")
