"""The pages of the documentation and their samples."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# The pages by name without suffix; "README", "CONTRIBUTING" and "SECURITY" are pages, too.
PAGES = {
    path.stem: path
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
}


def page(name: str) -> str:
    return PAGES[name].read_text("utf-8")


def samples(name: str, language: str, title: str | None = None) -> list[str]:
    """The code blocks of one language, in order, without the indentation of lists; `title` is that of a section."""
    text = page(name) if title is None else section(name, title)
    found = re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", text, flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block[2]) for block in found]


def sample(name: str, language: str, words: str) -> str:
    """The one code block that holds these words."""
    (found,) = (text for text in samples(name, language) if words in text)
    return found


def health_sample() -> Any:
    """The health document of the page, which has the fields of a real one (test_mqtt_api)."""
    return json.loads(sample("mqtt-api", "json", '"governor"'))


def section(name: str, title: str) -> str:
    return page(name).split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(name: str, title: str) -> list[list[str]]:
    """The rows of a section's tables, without their heads; each cell's text."""
    return rows(section(name, title))


def rows(text: str) -> list[list[str]]:
    """The cells of the tables of a text, without their heads."""
    lines = re.findall(r"^\|(.+)\|$", re.sub(r"^.*\n\|---.*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    return [[cell.strip() for cell in re.split(r" \|(?= )", line)] for line in lines]


def commands(name: str) -> list[str]:
    """Every command line of the page, without its comment; a continued line is one command."""
    lines = "".join(samples(name, "sh")).replace("\\\n", "").splitlines()
    return [words for line in lines if (words := re.split(r"(?:^|\s+)#\s", line)[0].strip())]
