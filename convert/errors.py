"""The two ways a conversion can fail, and how foreign text is shown in their messages."""


class ConvertError(Exception):
    """The conversion could not be done although the checkpoint may be fine: exit code 1."""


class CheckpointError(ConvertError):
    """The checkpoint is damaged, inconsistent or of a kind that is not supported: exit code 65.

    The message is one line and names the file or field, the value found and what is allowed.
    """


def printable(text: str, limit: int = 200) -> str:
    r"""Text from outside made safe for a terminal and a log, cut to `limit` characters.

    Control, format and surrogate characters come out escaped. A tensor or file name may carry escape sequences that
    rewrite what the operator sees; they come out as `\x1b`.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "…"
