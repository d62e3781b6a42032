"""`edge-convert verify BUNDLE`: its files against its manifest, the manifest against its signature."""

import sys
from contextlib import closing
from pathlib import Path

from edge_agent.models.canaries import FILE as CANARIES_FILE

from ..errors import printable
from ..progress import StageLine
from ..read.model_facts import model_facts
from ..write.bundle import verify_bundle
from ..write.manifest import FILE, MODEL_FILE, SIGNATURE_FILE
from ..write.signature import read_public_key
from .arguments import Parser
from .terminal import EXIT_FAILED, EXIT_OK, complain, print_json


def run(words: list[str]) -> int:
    """Verify; see `--help`."""
    parser = Parser(
        "verify", description="Checks a bundle's files against its manifest, and the manifest against its signature."
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
    has_canaries = (given.bundle / CANARIES_FILE).is_file()
    if given.canaries and not has_canaries:
        faults.append(f"{CANARIES_FILE}: there is none, so --canaries has nothing to ask")
    is_asked = given.canaries and not faults
    if is_asked:
        from ..ask.canaries import differences  # noqa: PLC0415 - it needs the agent's engine

        with closing(StageLine(sys.stderr)) as stages:
            faults = differences(given.bundle, stages.show)
    is_signed, is_checked = (given.bundle / SIGNATURE_FILE).is_file(), key is not None
    template = None if faults else model_facts(given.bundle / MODEL_FILE).chat_template_sha256
    if given.json:
        facts = {"bundle": str(given.bundle), "ok": not faults, "faults": faults}
        facts |= {"signed": is_signed, "signature_checked": is_checked}
        print_json(facts | {"has_canaries": has_canaries, "canaries_asked": is_asked, "chat_template_sha256": template})
    for fault in faults:
        complain(f"{printable(str(given.bundle))}: {fault}")
    if not faults and not given.json:
        shown = f"{printable(str(manifest.get('name')))} version {printable(str(manifest.get('version')))}"
        print(f"{printable(str(given.bundle))}: {shown}")
        print(f"files      {len(manifest['files'])}, whole as {FILE} lists them")
        print(f"template   {template or 'none'}")
        print(f"signature  {_signature(is_signed=is_signed, is_checked=is_checked)}")
        print(f"canaries   {_canaries(are_there=has_canaries, are_asked=is_asked)}")
    return EXIT_FAILED if faults else EXIT_OK


def _signature(*, is_signed: bool, is_checked: bool) -> str:
    if is_checked:
        return "good: made with the other half of --public-key"
    if is_signed:
        return "not checked; --public-key KEY.pub.pem checks it"
    return "none: nothing tells whose the bundle is"


def _canaries(*, are_there: bool, are_asked: bool) -> str:
    if are_asked:
        return "asked, all answers as recorded"
    if are_there:
        return "not asked; --canaries asks the model again"
    return "none: no answers are recorded"
