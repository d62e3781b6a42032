"""`edge-convert verify BUNDLE`: its files against its manifest, the manifest against its signature."""

import argparse
import sys
from contextlib import closing
from pathlib import Path

from ..errors import printable
from ..progress import StageLine
from ..write.bundle import verify_bundle
from ..write.manifest import SIGNATURE_FILE
from ..write.signature import read_public_key
from .terminal import EXIT_FAILED, EXIT_OK, PROGRAM, complain, print_json


def run(words: list[str]) -> int:
    """Verify; see `--help`."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} verify",
        description="Checks a bundle's files against its manifest, and the manifest against its signature.",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument(
        "--public-key",
        metavar="KEY.pub.pem",
        type=Path,
        help="Ed25519 public key (PEM) of who must have signed the bundle; without it no signature is checked",
    )
    parser.add_argument(
        "--canaries", action="store_true", help="also ask the model again, and compare with the answers recorded"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    given = parser.parse_args(words)
    key = None if given.public_key is None else read_public_key(given.public_key, "--public-key")
    manifest, faults = verify_bundle(given.bundle, key)
    if given.canaries and not faults:
        from ..ask.canaries import differences  # noqa: PLC0415 - it needs the agent's engine

        with closing(StageLine(sys.stderr)) as stages:
            faults = differences(given.bundle, stages.show)
    is_signed, is_checked = (given.bundle / SIGNATURE_FILE).is_file(), key is not None
    if given.json:
        facts = {"bundle": str(given.bundle), "ok": not faults, "faults": faults}
        print_json(facts | {"signed": is_signed, "signature_checked": is_checked})
    for fault in faults:
        complain(f"{printable(str(given.bundle))}: {fault}")
    if not faults and not given.json:
        signed = "signed" if is_checked else "signed, not checked" if is_signed else "not signed"
        shown = f"{printable(str(manifest.get('name')))} version {printable(str(manifest.get('version')))}"
        asked = ", answers as recorded" if given.canaries else ""
        print(f"{printable(str(given.bundle))}: {shown}, {len(manifest['files'])} files as listed, {signed}{asked}")
    return EXIT_FAILED if faults else EXIT_OK
