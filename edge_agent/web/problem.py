"""What handlers share: errors, JSON responses, and reading JSON bodies."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edge_agent.core.strict_json import NotJsonError, encode, parse_json
from edge_agent.core.wording import shown

JSON_TYPE = "application/json"


class ProblemError(Exception):
    """Any handler may raise it. The response then has this status and `{"error": {"code", "message"}}`."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers

    def response(self) -> Response:
        content = encode({"error": {"code": self.code, "message": str(self)}})
        return Response(content, self.status, self.headers, JSON_TYPE)


def json_response(content: dict[str, Any] | bytes, status: int = 200) -> Response:
    """A response with `content`, which is JSON already if it is bytes."""
    return Response(content if isinstance(content, bytes) else encode(content), status, media_type=JSON_TYPE)


def count_in_query(request: Request, name: str) -> int | None:
    """A whole number in the query; None if it is missing or no number."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None


async def json_object_of(request: Request) -> dict[str, Any]:
    """Reads the JSON object in the body, whose length `guard` has bounded. Raises ProblemError."""
    try:
        value = parse_json((await request.body()).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ProblemError(400, "invalid", "the body should be UTF-8") from error
    except NotJsonError as error:
        raise ProblemError(400, "invalid", f"the body should be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise ProblemError(400, "invalid", f"the body should be a JSON object (got {shown(value)})")
    return value


def text_of(document: dict[str, Any], name: str, max_chars: int = 256) -> str:
    """A required text. Raises ProblemError."""
    value = document.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= max_chars:
        raise ProblemError(
            400, "invalid", f"{name}: should be a text of 1 to {max_chars} characters (got {shown(value)})"
        )
    return value
