"""The licence that a checkpoint's README.md states."""

import re

from .checkpoint import Checkpoint

FILE = "README.md"
_LICENCE = re.compile(r"license:\s*(?P<quote>[\"']?)(?P<licence>[A-Za-z0-9][A-Za-z0-9._+\-]{0,63})(?P=quote)\s*(#.*)?")


def read_licence(checkpoint: Checkpoint) -> str | None:
    """The `license:` line of the front matter (a Hub identifier such as `apache-2.0`), None if there is none.

    Lists and prose are not taken: what the manifest says about a licence should be one that somebody stated.
    """
    text = checkpoint.read_text(FILE)
    lines = [] if text is None else text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return None
    for line in lines[1:]:
        if line.rstrip() == "---":
            break
        if match := _LICENCE.fullmatch(line.rstrip()):
            return match["licence"]
    return None
