"""The pages of the documentation and their samples."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# By name without suffix; "README" and "CONTRIBUTING" are pages, too.
PAGES = {
    path.stem: path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}


def page(name: str) -> str:
    return PAGES[name].read_text("utf-8")


def samples(name: str, language: str) -> list[str]:
    """The code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), flags=re.MULTILINE | re.DOTALL)


def sample(name: str, language: str, words: str) -> str:
    """The one code block that holds these words."""
    (found,) = (text for text in samples(name, language) if words in text)
    return found


def section(name: str, title: str) -> str:
    return page(name).split(f"\n## {title}\n")[1].split("\n## ")[0]


def commands(name: str) -> list[str]:
    """Every command line of the page, without its comment; a continued line is one command."""
    lines = "".join(samples(name, "sh")).replace("\\\n", "").splitlines()
    return [words for line in lines if (words := re.split(r"(?:^|\s+)#\s", line)[0].strip())]
