"""The templates of pages. `frame.html.jinja` is what they extend, `macros.html.jinja` what they are made of."""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from edge_agent.core.wording import printable


def environment(folder: Path) -> jinja2.Environment:
    """A Jinja environment for a folder's templates. It escapes text from outside and shows its control characters."""
    own = Path(__file__).parent
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, own]),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["style"] = Markup((own / "style.css").read_text("utf-8"))  # noqa: S704 - our own file
    return made


def _visible(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
