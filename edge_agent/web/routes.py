"""The routes of answers: the lists of them, what people say about them, and requests to boards."""

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_agent.core.topics import is_name
from edge_agent.tools.watch.site import BoardLevel, Document, text_at
from edge_agent.web.answer import Mark, Wanted
from edge_agent.web.answers import Answers
from edge_agent.web.ask import Requests
from edge_agent.web.boards import escaped, labels_of
from edge_agent.web.checks import MAX_CHECKS
from edge_agent.web.feedback import Feedback
from edge_agent.web.live import Live
from edge_agent.web.problem import count_in_query, json_object_of, json_response, text_of
from edge_agent.web.sessions import author_of

_DEFAULT_CHECKS = 20


def answer_routes(live: Live) -> list[Route]:
    """Adds the parts that send feedback and requests, and returns all routes that have to do with answers."""
    answers, requests = live.answers, Requests(live)
    marks = answers.marks
    live.add(Feedback(live))
    live.add(requests)

    def checks(request: Request) -> Document:
        limit = count_in_query(request, "limit")
        limit = _DEFAULT_CHECKS if limit is None else min(limit, MAX_CHECKS)
        shown = request.query_params.get("shown")
        document = answers.checks.document(_wanted(request), limit, shown=shown, otherwise=answers.silence())
        return {
            **document,
            "listening_since": live.listening_since,
            "names": marks.names(),
            "marks": marks.newest(author_of(request, request.query_params.get("by"))),
        }

    def rows(request: Request) -> Document:
        return {**answers.rows(_wanted(request), count_in_query(request, "before")), "names": marks.names()}

    def tasks(_request: Request) -> Document:
        return {"targets": _targets_of(live, answers)}

    async def feedback(request: Request) -> Response:
        body = await json_object_of(request)
        by, key = author_of(request, body.get("by")), text_of(body, "key")
        said = {name: body[name] for name in ("answer", "correct") if body.get(name) is not None}
        with live.lock:
            mark = marks.add(answers.find(key), said, by, round(time.time(), 3), time.monotonic())
            return json_response(marks.document(mark), 202)

    async def undo(request: Request) -> Response:
        return await change(request, marks.undo)

    async def reveal(request: Request) -> Response:
        return await change(request, marks.reveal)

    async def change(request: Request, act: Callable[[str, str | None], Mark]) -> Response:
        body = await json_object_of(request)
        name, by = text_of(body, "mark"), author_of(request, body.get("by"))
        with live.lock:
            return json_response(marks.document(act(name, by)))

    return [
        Route("/api/v1/checks", _reading(live, checks)),
        Route("/api/v1/answers", _reading(live, rows)),
        Route("/api/v1/tasks", _reading(live, tasks)),
        Route("/api/v1/feedback", feedback, methods=["POST"]),
        Route("/api/v1/feedback/undo", undo, methods=["POST"]),
        Route("/api/v1/feedback/reveal", reveal, methods=["POST"]),
        *requests.routes,
    ]


def _reading(live: Live, turn: Callable[[Request], Document]) -> Callable[[Request], object]:
    async def answer(request: Request) -> Response:
        with live.lock:
            return json_response({"now": round(time.time(), 3), **turn(request)})

    return answer


def _targets_of(live: Live, answers: Answers) -> list[Document]:
    """Who can be asked: boards, and pools with the tasks of their boards."""
    boards: dict[str, dict[str, Document]] = {device: {} for device in live.rows}
    pools: dict[str, dict[str, Document]] = {}
    levels = {device: row.level for device, row in live.rows.items()}
    for (device, name), task in answers.tasks.by_name.items():
        if device in boards:
            boards[device][name] = task
            pool = text_at(live.rows[device].health, "pool.name")
            if pool is not None and is_name(pool):
                pools.setdefault(f"pool/{pool}", {})[name] = task
                level = levels.get(f"pool/{pool}", BoardLevel.OFFLINE)
                levels[f"pool/{pool}"] = BoardLevel.OK if live.rows[device].level is BoardLevel.OK else level
    return [
        {
            "target": target,
            "level": levels[target].name.lower(),
            "tasks": [
                {
                    "name": name,
                    "kind": escaped(text_at(task, "kind")),
                    "labels": escaped(labels_of(task)),
                    "input": answers.last_input(target, name),
                }
                for name, task in tasks.items()
            ],
        }
        for target, tasks in sorted({**boards, **pools}.items())
    ]


def _wanted(request: Request) -> Wanted:
    query = request.query_params
    return Wanted(**{name: query.get(name) or None for name in ("device", "task", "machine")})
