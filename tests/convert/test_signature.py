"""Signed bundles: made by --sign, checked by verify --public-key, and the keys that go with it."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader

from convert.cli import main
from tests.convert.checkpoints import make_checkpoint
from tests.helpers.keys import NO_PRIVATE_KEYS, NO_PUBLIC_KEYS, sign, write_keys
from tests.models.test_signatures import FAULTS

ROOT = Path(__file__).parents[2]
OTHER_KIND = "holds a key of another kind than Ed25519"
NO_PRIVATE = "no private key in PEM can be read from it"
WRONG = "manifest.sig: signed with another key, or the manifest was changed after it was signed"
PRIVATE_FAULTS = {
    "public": "holds a public key",
    "encrypted": "is encrypted",
    **dict.fromkeys(("EC", "X25519", "unknown"), OTHER_KIND),
    **dict.fromkeys(("DER", "OpenSSH", "cut short", "empty", "text"), NO_PRIVATE),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key pair and a bundle `signed` with it; not to be changed."""
    folder = tmp_path_factory.mktemp("signed")
    write_keys(folder)
    checkpoint = make_checkpoint(layers=1).write(folder / "checkpoint")
    arguments = [checkpoint, "--out", folder / "signed", "--type", "q8_0", "--sign", folder / "key.pem"]
    assert main([*map(str, arguments), "--no-canaries"]) == 0
    return folder


@pytest.fixture
def bundle(work: Path, tmp_path: Path) -> Path:
    """A copy of the signed bundle."""
    return Path(shutil.copytree(work / "signed", tmp_path / "b"))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    more = ["--no-canaries"] if "--type" in arguments else []
    code = main([*map(str, arguments), *more])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_bundle_is_signed_and_verified(work: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == ["manifest.json", "manifest.sig", "model.gguf"]
    assert len((bundle / "manifest.sig").read_bytes()) == 64
    code, out, err = run(capsys, "verify", bundle, "--public-key", work / "key.pub.pem")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["files", "1,"], ["template", template_of(bundle)], ["signature", "good:"], ["canaries", "none:"],
    ]  # fmt: skip


def template_of(bundle: Path) -> str:
    """SHA-256 of the chat template in its model."""
    template = GGUFReader(bundle / "model.gguf").fields["tokenizer.chat_template"].contents()
    return hashlib.sha256(template.encode()).hexdigest()


def test_without_a_key_the_signature_is_unchecked(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "signature  not checked; --public-key" in run(capsys, "verify", bundle)[1]
    assert json.loads(run(capsys, "verify", bundle, "--json")[1]) == {
        "bundle": str(bundle), "ok": True, "faults": [], "signed": True, "signature_checked": False,
        "has_canaries": False, "canaries_asked": False, "chat_template_sha256": template_of(bundle),
    }  # fmt: skip
    (bundle / "manifest.sig").unlink()
    assert "signature  none:" in run(capsys, "verify", bundle)[1]


def test_canaries_that_are_not_there_cannot_be_asked(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "verify", bundle, "--canaries")
    assert (code, err) == (
        1,
        f"edge-convert: {bundle}: canaries.json: there is none, so --canaries has nothing to ask\n",
    )


def test_the_summary_says_whether_it_is_signed(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (work / "checkpoint", "--type", "q8_0", "--json", "--out")
    signed = json.loads(run(capsys, *arguments, tmp_path / "a", "--sign", work / "key.pem")[1])
    plain = json.loads(run(capsys, *arguments, tmp_path / "b")[1])
    assert (signed["signed"], plain["signed"]) == (True, False)
    # The same manifest, signed or not; and the same signature each time.
    assert signed["manifest_sha256"] == plain["manifest_sha256"]
    assert (tmp_path / "a" / "manifest.sig").read_bytes() == (work / "signed" / "manifest.sig").read_bytes()


def flip_in_manifest(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":3'))


def take_from_another_bundle(bundle: Path) -> None:
    manifest = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.json").write_bytes(manifest.replace(b'"version":1', b'"version":2'))
    sign(bundle, bundle.parent / "key.pem")
    (bundle / "manifest.json").write_bytes(manifest)


def move_and_link(bundle: Path) -> None:
    (bundle / "manifest.sig").rename(bundle.parent / "elsewhere")
    (bundle / "manifest.sig").symlink_to(bundle.parent / "elsewhere")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the manifest": (flip_in_manifest, WRONG),
    "of another bundle": (take_from_another_bundle, WRONG),
    "by another key": (lambda b: sign(b, write_keys(b.parent, "other")[0]), WRONG),
    "zeros": (lambda b: (b / "manifest.sig").write_bytes(bytes(64)), WRONG),
    "missing": (lambda b: (b / "manifest.sig").unlink(), "manifest.sig: not there as a file"),
    "a link": (move_and_link, "manifest.sig: not there as a file"),
    "cut short": (
        lambda b: (b / "manifest.sig").write_bytes((b / "manifest.sig").read_bytes()[:63]),
        "manifest.sig: should have 64 bytes (got 63)",
    ),
    "longer": (
        lambda b: (b / "manifest.sig").write_bytes((b / "manifest.sig").read_bytes() + b"\n"),
        "manifest.sig: should have 64 bytes (got 65)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_signature_that_is_not_good_is_a_fault(
    damage: str, work: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(work / "key.pem", bundle.parent)
    change, expected = DAMAGE[damage]
    change(bundle)
    code, out, err = run(capsys, "verify", bundle, "--public-key", work / "key.pub.pem", "--json")
    assert (code, err) == (1, f"edge-convert: {bundle}: {expected}\n")
    assert json.loads(out)["faults"] == [expected]


def test_a_good_signature_does_not_hide_a_changed_file(
    work: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "model.gguf").write_bytes(b"")
    code, _, err = run(capsys, "verify", bundle, "--public-key", work / "key.pub.pem")
    assert (code, "model.gguf: 0 bytes" in err) == (1, True)


@pytest.mark.parametrize("kind", NO_PRIVATE_KEYS)
def test_a_bad_private_key_is_refused_before_anything_is_read_or_written(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "k.pem"
    key.write_bytes(NO_PRIVATE_KEYS[kind])
    # There is no checkpoint: that would be told, too, and with another exit code.
    code, out, err = run(capsys, tmp_path / "none", "--out", tmp_path / "b", "--type", "q8_0", "--sign", key)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"edge-convert: --sign: {key}: {PRIVATE_FAULTS[kind]}")
    assert list(tmp_path.iterdir()) == [key]


def test_a_dry_run_finds_a_bad_private_key_too(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "\x1bnone.pem"
    code, _, err = run(capsys, work / "checkpoint", "--type", "q8_0", "--dry-run", "--sign", missing)
    expected = f"edge-convert: --sign: {tmp_path}/\\x1bnone.pem: cannot be read: No such file or directory\n"
    assert (code, err) == (1, expected)


@pytest.mark.parametrize("kind", NO_PUBLIC_KEYS)
def test_a_bad_public_key_is_refused(
    kind: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "k.pem"
    key.write_bytes(NO_PUBLIC_KEYS[kind])
    code, out, err = run(capsys, "verify", bundle, "--public-key", key)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"edge-convert: --public-key: {key}: {FAULTS[kind]}")
    code, _, err = run(capsys, "verify", bundle, "--public-key", tmp_path)
    assert (code, err) == (1, f"edge-convert: --public-key: {tmp_path}: cannot be read: Is a directory\n")


def test_a_bundle_that_cannot_be_signed_does_not_appear(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: bytes) -> bytes:
        raise OSError(5, "Input/output error", "manifest.sig")

    key = type("Key", (), {"sign": staticmethod(fail)})
    monkeypatch.setattr("convert.cli.read_private_key", lambda *_: key)
    code, _, _ = run(capsys, work / "checkpoint", "--out", tmp_path / "b", "--type", "q8_0", "--sign", work / "key.pem")
    assert code == 1
    assert list(tmp_path.iterdir()) == []


def test_the_library_is_imported_only_where_a_key_is_given(work: Path) -> None:
    program = "import sys; from convert.cli import main; print(main(sys.argv[1:]), 'cryptography' in sys.modules)"
    plain = [sys.executable, "-c", program, "verify", str(work / "signed")]
    keyed = [*plain, "--public-key", str(work / "key.pub.pem")]
    ends = [subprocess.run(one, cwd=ROOT, capture_output=True, text=True, check=True).stdout for one in (plain, keyed)]
    assert [end.splitlines()[-1] for end in ends] == ["0 False", "0 True"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl: apt-get install openssl")
def test_openssl_and_the_converter_verify_each_other(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    openssl("pkey", "-in", "key.pem", "-pubout", "-out", "key.pub.pem")
    bundle = tmp_path / "b"
    assert run(capsys, work / "checkpoint", "--out", bundle, "--type", "q8_0", "--sign", tmp_path / "key.pem")[0] == 0
    files = ("-sigfile", "b/manifest.sig", "-in", "b/manifest.json")
    openssl("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pub.pem", *files)
    assert run(capsys, "verify", bundle, "--public-key", tmp_path / "key.pub.pem")[0] == 0
    # And the other way round: what openssl signs, we verify.
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", "key.pem", "-in", "b/manifest.json", "-out", "b/manifest.sig")
    assert run(capsys, "verify", bundle, "--public-key", tmp_path / "key.pub.pem")[0] == 0
