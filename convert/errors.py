"""The two ways a conversion fails, and how text from outside is printed in their messages."""


class ConvertError(Exception):
    """The conversion failed although the checkpoint may be fine. The exit code is 1."""


class CheckpointError(ConvertError):
    """The checkpoint is damaged, inconsistent or of an unsupported kind. The exit code is 65.

    The message is one line with the file or field, the value found and what is allowed.
    """


def escaped(text: str, limit: int = 200) -> str:
    r"""Text from outside made safe for a terminal and a log, cut to `limit` characters.

    Control, format and surrogate characters are escaped (`\x1b`), so that no name can rewrite what the operator sees.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "…"
