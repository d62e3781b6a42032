"""The SBOM of a wheelhouse or an image, as CycloneDX 1.6: `sbom.py SOURCE --name NAME --time SECONDS > NAME.cdx.json`.

Of the files of an image, in a tar, it lists Debian's and Python's packages, and every native file with its hash.
Of a wheelhouse it lists every wheel with its hash, licence and package URL, and in each wheel every native file with
its hash. What a wheel says itself of its parts (`.dist-info/sboms`, PEP 770) stands below it; build_llama.sh writes
that of llama.cpp. Equal sources give equal bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.metadata import RawMetadata, parse_email
from packaging.utils import canonicalize_name

_ELF = b"\x7fELF"
_CLASSIFIER = "License :: OSI Approved :: "


def main() -> int:
    parser = argparse.ArgumentParser(prog="sbom.py", description=__doc__)
    parser.add_argument("source", type=Path, help="a wheelhouse, or the files of an image in a tar")
    parser.add_argument("--name", required=True, help="of the whole")
    parser.add_argument("--time", required=True, type=int, help="seconds since 1970")
    given = parser.parse_args()
    if given.source.is_dir():
        components = [component_of(wheel) for wheel in sorted(given.source.rglob("*.whl"))]
    else:
        components = list(image_components(given.source))
    print(sbom(components, given.name, given.time))
    return 0


def sbom(components: list[Component], name: str, time: int) -> str:
    version = next((one.version for one in components if one.name == "edge-agent"), None)
    whole = Component(type=ComponentType.APPLICATION, name=name, version=version, bom_ref=name)
    parts = sorted(f"{one.name} {one.version} {[str(hash_.content) for hash_ in one.hashes]}" for one in components)
    document = Bom(
        metadata=BomMetaData(component=whole, timestamp=datetime.fromtimestamp(time, UTC)),
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, "\n".join((name, *parts))),
        components=components,
    )
    document.register_dependency(whole, components)
    return JsonV1Dot6(document).output_as_string(indent=1)


def image_components(files: Path) -> Iterator[Component]:
    """Debian's and Python's packages by their own metadata, then native files."""
    natives = []
    with tarfile.open(files) as archive:
        for member in sorted(archive.getmembers(), key=lambda one: one.name):
            opened = archive.extractfile(member) if member.isreg() else None
            if opened is None:
                continue
            data, name = opened.read(), member.name.removeprefix("./")
            if name == "var/lib/dpkg/status":
                yield from map(_debian_package, filter(None, data.decode().split("\n\n")))
            elif name.endswith(".dist-info/METADATA"):
                yield _python_package(parse_email(data)[0])
            elif data.startswith(_ELF):
                natives.append(Component(type=ComponentType.FILE, name=name, bom_ref=name, hashes=[_sha256(data)]))
    yield from natives


def _debian_package(paragraph: str) -> Component:
    fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
    name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
    purl = PackageURL("deb", "debian", name, version, {"arch": architecture})
    return Component(type=ComponentType.LIBRARY, name=name, version=version, bom_ref=str(purl), purl=purl)


def _python_package(metadata: RawMetadata) -> Component:
    name, version = canonicalize_name(metadata["name"]), metadata["version"]
    purl = PackageURL("pypi", name=name, version=version)
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=str(purl),
        purl=purl,
        licenses=_licences(metadata),
    )


def component_of(wheel: Path) -> Component:
    with ZipFile(wheel) as archive:
        names = sorted(archive.namelist())
        metadata, _ = parse_email(archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))))
        natives = [_native(wheel, name, data) for name in names if (data := archive.read(name)).startswith(_ELF)]
        own = [
            json.loads(archive.read(name)) for name in names if ".dist-info/sboms/" in name and name.endswith(".json")
        ]
    name, version = canonicalize_name(metadata["name"]), metadata["version"]
    listed = [part for document in own for part in document.get("components", [])]
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=wheel.name,
        purl=PackageURL("pypi", name=name, version=version, qualifiers={"file_name": wheel.name}),
        hashes=[_sha256(wheel.read_bytes())],
        licenses=_licences(metadata),
        components=[*natives, *_parts(listed, wheel.name)],
    )


def _native(wheel: Path, name: str, data: bytes) -> Component:
    return Component(type=ComponentType.FILE, name=name, bom_ref=f"{wheel.name}/{name}", hashes=[_sha256(data)])


def _parts(listed: Iterable[Mapping[str, Any]], within: str) -> Iterator[Component]:
    """Components of another SBOM, by what names them, and their own components."""
    for number, part in enumerate(listed):
        reference = f"{within}#{number}"
        licences = [entry.get("expression") or entry.get("license", {}) for entry in part.get("licenses", [])]
        texts = [entry if isinstance(entry, str) else entry.get("id") or entry.get("name") for entry in licences]
        yield Component(
            type=ComponentType.LIBRARY,
            name=part["name"],
            version=part.get("version"),
            bom_ref=reference,
            purl=PackageURL.from_string(part["purl"]) if "purl" in part else None,
            licenses=[LicenseFactory().make_from_string(text) for text in texts if text],
            components=_parts(part.get("components", []), reference),
        )


def _licences(metadata: RawMetadata) -> list[License]:
    """The SPDX expression of newer metadata, else the classifiers, else the first line of what may be a whole text."""
    make = LicenseFactory().make_from_string
    if expression := metadata.get("license_expression"):
        return [make(expression)]
    names = [text.removeprefix(_CLASSIFIER) for text in metadata.get("classifiers", []) if text.startswith(_CLASSIFIER)]
    return [make(text) for text in names or metadata.get("license", "").splitlines()[:1]]


def _sha256(data: bytes) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    raise SystemExit(main())
