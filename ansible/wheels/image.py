"""An OCI image from a wheelhouse: `image.py aarch64|x86_64` → dist/images/edge-agent-<version>-<arch>.oci.tar.

Neither a container engine nor emulation takes part: packages of Debian 13 are unpacked, wheels are installed beside
them, and umoci writes the image. The same commit, wheelhouse and packages give the same bytes.
Needs Python 3.13, mmdebstrap, umoci and git, as root. Debian's packages come by apt.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[2]
# The names that OCI and Debian have for them.
ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
_SUITE, _PYTHON = "trixie", (3, 13)
# The minor version of Debian 13's glibc.
_GLIBC_MINOR = 41
# What they depend on comes with them. base-files has folders, /etc/os-release and the texts of licences.
_PACKAGES = "base-files,ca-certificates,libstdc++6,python3"
# A fixed number, because files that the host mounts belong to it, too.
USER = 65532
_HOME = "/var/lib/edge-agent"
_FILES = {
    "etc/passwd": f"root:x:0:0::/root:/sbin/nologin\nedge-agent:x:{USER}:{USER}::{_HOME}:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nedge-agent:x:{USER}:\n",
    "usr/local/bin/edge-agent": "#!/usr/bin/python3\nimport sys\nfrom edge_agent.cli import main\nsys.exit(main())\n",
}
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Runs when the packages are unpacked; $1 is the root's folder, $2 that of the agent's files.
_FINISH = f"""
# Scanners for known faults read here which packages an image has.
for deb in "$1"/var/cache/apt/archives/*.deb; do
  dpkg-deb --field "$deb"
  printf 'Status: install ok installed\\n\\n'
done > "$1/var/lib/dpkg/status"
# They would be the building machine's.
rm -f "$1/etc/hostname" "$1/etc/resolv.conf"
find "$1/usr/share/doc" -type f ! -name copyright -delete
(cd "$1/usr/share" && rm -rf bash-completion bug info lintian locale man perl5 pixmaps)
mkdir -p "$1/etc/ssl/certs"
cat "$1"/usr/share/ca-certificates/mozilla/*.crt > "$1{_CERTIFICATES}"
tar --directory "$2" --create --owner=0 --group=0 . | tar --directory "$1" --extract --keep-directory-symlink
# Python cannot compile in a read-only root. Modules never change there: it need not look whether they did.
PYTHONHASHSEED=0 {sys.executable} -m compileall -q --invalidation-mode=unchecked-hash -s "$1" -p / \\
  "$1/usr/lib/python3.13" "$1/usr/local/lib/python3.13"
chown {USER}:{USER} "$1{_HOME}/state"
chmod 700 "$1{_HOME}/state"
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="image.py", description=__doc__)
    parser.add_argument("arch", choices=tuple(ARCHITECTURES))
    arch: str = parser.parse_args().arch
    if lacking := [name for name in ("mmdebstrap", "umoci", "git", "dpkg-deb") if shutil.which(name) is None]:
        raise SystemExit(
            f"image.py: not found: {' '.join(lacking)}; on Debian 13: apt-get install git mmdebstrap umoci"
        )
    if os.geteuid() != 0:
        raise SystemExit("image.py: needs root, to write files of other accounts")
    if sys.version_info[:2] != _PYTHON:
        raise SystemExit("image.py: needs the image's Python, 3.13, which compiles its modules: make PYTHON=python3.13")
    wheelhouse = ROOT / "dist" / "wheelhouse" / arch
    agent = next(wheelhouse.glob("edge_agent-*.whl"), None)
    if agent is None:
        raise SystemExit(f"image.py: no wheelhouse for {arch} in dist/: make wheelhouse ARCH={arch}")
    version = str(parse_wheel_filename(agent.name)[1])
    log = subprocess.run(
        ["git", "log", "-1", "--format=%H %ct %cI"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    revision, epoch, created = log.stdout.split()
    with ZipFile(agent) as packed:
        if (made_from := packed.read("edge_agent/COMMIT").decode().strip()).removesuffix("-dirty") != revision:
            raise SystemExit(f"{agent}: made from {made_from}, not from {revision}: make wheelhouse ARCH={arch}")
    os.environ["SOURCE_DATE_EPOCH"] = epoch
    os.umask(0o022)
    work = ROOT / "build" / "image" / arch
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _add_agent(work / "tree", wheelhouse, arch)
    _make_root(work, ARCHITECTURES[arch])
    _make_layout(work, ARCHITECTURES[arch], created, version, revision)
    image = ROOT / "dist" / "images" / f"edge-agent-{version}-{arch}.oci.tar"
    image.parent.mkdir(parents=True, exist_ok=True)
    same = ("--sort=name", f"--mtime=@{epoch}", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX,go=rX")
    _run("tar", *same, "--directory", str(work / "layout"), "--create", "--file", str(image), ".")
    print(f"{image.relative_to(ROOT)}: {image.stat().st_size / 1e6:.1f} MB")
    return 0


def _add_agent(tree: Path, wheelhouse: Path, arch: str) -> None:
    """Puts the files that are in no Debian package into `tree`."""
    packages = tree / "usr/local/lib/python3.13/dist-packages"
    platforms = [f"--platform=manylinux_2_{minor}_{arch}" for minor in range(_GLIBC_MINOR, 16, -1)]
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--no-index", "--no-deps", "--only-binary=:all:", "--python-version=3.13", "--implementation=cp"),
        *(*platforms, f"--platform=manylinux2014_{arch}", f"--target={packages}"),
        *(f"--find-links={wheelhouse}", "--require-hashes", f"--requirement={wheelhouse / 'requirements.txt'}"),
    )
    # Programs for this machine's Python.
    shutil.rmtree(packages / "bin")
    for name, text in _FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if "bin" in path.parts else 0o644)
    for name in ("models", "state"):
        (tree / f".{_HOME}" / name).mkdir(parents=True)


def _make_root(work: Path, architecture: str) -> None:
    """Makes work/root.tar with the image's files, in order, none younger than SOURCE_DATE_EPOCH."""
    finish = shlex.join(["sh", "-euc", _FINISH, "sh"]) + f' "$1" {shlex.quote(str(work / "tree"))}'
    _run(
        *("mmdebstrap", "--quiet", f"--arch={architecture}", "--variant=extract", f"--include={_PACKAGES}"),
        *("--skip=output/dev", f"--extract-hook={finish}", _SUITE, str(work / "root.tar")),
    )


def _make_layout(work: Path, architecture: str, created: str, version: str, revision: str) -> None:
    """Makes work/layout, the OCI layout with the image."""
    layout = work / "layout"
    image = f"--image={layout}:{version}"
    history = f"--history.created={created}"
    labels = {"title": "edge-agent", "version": version, "revision": revision, "licenses": "Apache-2.0"}
    environment = {"PATH": "/usr/local/bin:/usr/bin", "LANG": "C.UTF-8", "SSL_CERT_FILE": _CERTIFICATES}
    _run("umoci", "init", f"--layout={layout}")
    _run("umoci", "new", image)
    _run(
        "umoci",
        "raw",
        "add-layer",
        image,
        history,
        "--history.created_by=ansible/wheels/image.py",
        str(work / "root.tar"),
    )
    _run(
        *("umoci", "config", image, "--no-history", f"--created={created}"),
        *(
            "--os=linux",
            f"--architecture={architecture}",
            f"--config.user={USER}:{USER}",
            f"--config.workingdir={_HOME}",
        ),
        *(f"--config.env={name}={value}" for name, value in environment.items()),
        *("--config.entrypoint=edge-agent", "--config.cmd=run", "--config.cmd=--config"),
        *("--config.cmd=/etc/edge-agent/config.toml", f"--config.volume={_HOME}/state", "--config.stopsignal=SIGTERM"),
        *(f"--config.label=org.opencontainers.image.{name}={value}" for name, value in labels.items()),
    )
    _run("umoci", "gc", f"--layout={layout}")
    # The name under which an engine loads it, which umoci takes for a path.
    index = layout / "index.json"
    document = json.loads(index.read_text(encoding="utf-8"))
    (manifest,) = document["manifests"]
    manifest["annotations"] = {"org.opencontainers.image.ref.name": f"localhost/edge-agent:{version}"}
    index.write_text(json.dumps(document), encoding="utf-8")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    raise SystemExit(main())
