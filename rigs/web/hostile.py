"""Hostile requests, and boards whose every text is markup: no crash, no leak into markup, no write without a right.

Own requests, drawn from a seed, then those of schemathesis (PyPI, in an environment below build/). A client on the bus
counts what the page publishes; a rightful request at the end shows that this count can rise.
"""

import argparse
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from rigs.llama_sources import make_environment
from rigs.machine import ROOT, parser_of, require
from rigs.web.measuring import Target, none_of, verdict
from rigs.web.site import LABELS, TRIAGE, SimulatedSite
from tests.helpers.browser import chromium, complaints_of, tab
from tests.helpers.client import Client
from tests.helpers.page import PageProcess, users_file
from tests.helpers.processes import Mosquitto, free_port, wait_until

MARKUP = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
DEVICE = "press-01"
READS = ("session", "changes", f"boards/{DEVICE}", "journal", "checks", "answers", "tasks")
WRITES = (
    "login",
    "logout",
    "seen",
    "feedback",
    "feedback/undo",
    "feedback/reveal",
    f"ask/{DEVICE}/{TRIAGE}",
    f"ask/pool/presses/{TRIAGE}",
)
SCREENS = ("boards", f"board/{DEVICE}", "alarms", "check", "answers", "try")
SCHEMATHESIS = ("schemathesis>=4,<5",)
# What a service may say when it cannot reach a board in time.
BUS_STATUSES = (502, 503, 504)
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW")


def main(words: list[str]) -> int:
    parser = parser_of("rigs.web hostile", __doc__)
    parser.add_argument("--count", type=int, default=10_000, help="own requests (default: %(default)s)")
    parser.add_argument(
        "--examples", type=int, default=50, help="schemathesis' examples an operation (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-schemathesis", action="store_true")
    options: argparse.Namespace = parser.parse_args(words)
    require({"mosquitto": "mosquitto", "chromium": "chromium"})
    faults: list[str] = []
    with (
        tempfile.TemporaryDirectory() as name,
        Mosquitto(Path(name), free_port()) as broker,
        closing(SimulatedSite(broker.port, [DEVICE])) as site,
        closing(Client(broker.port, "5")) as heard,
    ):
        folder = Path(name)
        users = users_file(folder / "users.json", ana=("feedback", "try"), bob=())
        heard.subscribe(
            "edgeai/v1/hall1/+/infer/+/feedback", "edgeai/v1/hall1/+/infer/+/request", "edgeai/v1/hall1/pool/#"
        )
        hostile_board(site, heard)
        with PageProcess(folder, broker.port, "--users", str(users)) as page:
            wait_until(lambda: page.login("ana").get("changes")["order"], "the hostile board is known")
            constant = plain_get(page.port, "/")[1]
            statuses = Counter[int]()
            for number, found in enumerate(attack(page, options.count, options.seed, constant, statuses)):
                faults.append(found)
                if number > 100:
                    break
            examined = 0 if options.without_schemathesis else run_schemathesis(page, options.examples, faults)
            written = [message.topic for message in heard.messages if message.topic != "the/end"]
            leaks = open_all_screens(page)
            is_alive = page.process is not None and page.process.poll() is None
            faults += [line for line in page.log.splitlines() if "Traceback" in line or line.startswith("ERROR")]
            ana = page.login("ana")
            site.state(DEVICE)
            site.health(DEVICE)
            wait_until(
                lambda: ana.get(f"boards/{DEVICE}")["board"]["level"] not in ("stale", "offline"), "it speaks again"
            )
            answered = ana.post(f"ask/{DEVICE}/{TRIAGE}", {"input": {"vibration_mm_s": 7.9}}).status_code
            rightful = len([message for message in heard.messages if message.topic.endswith("/request")])
    print("statuses: " + ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items())))
    return verdict(
        [
            Target(
                "own requests", str(sum(statuses.values())), str(options.count), sum(statuses.values()) >= options.count
            ),
            Target(
                "schemathesis' requests", str(examined), "more than 0", examined > 0 or options.without_schemathesis
            ),
            none_of("crashes and wrong answers", faults),
            none_of("writes without a right", written),
            none_of("leaks into markup", leaks),
            Target("the process lives", str(is_alive), "True", is_alive),
            Target(
                "a rightful request",
                f"{answered}, {rightful} on the bus",
                "200, 1 on the bus",
                (answered, rightful) == (200, 1),
            ),
        ]
    )


def hostile_board(site: SimulatedSite, client: Client) -> None:
    """Every text that a board may choose is markup; some messages are no documents at all."""
    labels = [*LABELS[:3], MARKUP]
    task = {
        "kind": "classify",
        "labels": labels,
        "audit_rate": 0.5,
        "min_accuracy": 0.9,
        "publish": None,
        "echo_input": "all",
    }
    site.state(DEVICE)
    site.info(DEVICE, **{TRIAGE: task, MARKUP: task})
    site.health(DEVICE, overall="critical", reasons=[MARKUP, "overheating"], sensor_errors={MARKUP: MARKUP})
    site.alarm(DEVICE, "overheating", message=MARKUP)
    site.alarm(DEVICE, "x" + MARKUP.replace("/", ""), severity=MARKUP, message=MARKUP)
    for is_audit in (True, False):
        site.answer(
            DEVICE,
            is_audit=is_audit,
            input={MARKUP: MARKUP, "deep": nested(30)},
            output=MARKUP,
            id=f"{MARKUP}{is_audit}",
        )
    site.answer(DEVICE, is_audit=True, input=MARKUP, output=MARKUP, machine=MARKUP, scores={MARKUP: 1.0})
    site.unusual(
        DEVICE,
        output={"unusual": True, "rarity": 0.1, "because": [{"field": MARKUP, "value": MARKUP, "usual": [MARKUP, 1]}]},
    )
    site.event(DEVICE, "x<script>")
    base = site.base(DEVICE)
    for device in (MARKUP.replace("/", "").replace("#", ""), "\u202egnp.exe"):
        for end in (
            "state",
            "health",
            "info",
            "alarm/a",
            f"infer/{TRIAGE}/response",
            f"infer/{TRIAGE}/feedback/result",
        ):
            client.publish(
                f"edgeai/v1/hall1/{device}/{end}",
                {"state": "online", "session": MARKUP, "id": MARKUP, "message": MARKUP},
            )
    for payload in (
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"a":NaN}',
        b"[" * 100_000,
        json.dumps(nested(500)).encode(),
        b"1" * 900_000,
    ):
        for end in (
            "health",
            "info",
            "event/a",
            f"infer/{TRIAGE}/response",
            f"infer/{TRIAGE}/feedback/result",
            "signals/pump",
        ):
            client.publish(f"{base.replace(DEVICE, 'broken')}/{end}", payload)


def nested(depth: int) -> Any:
    value: Any = MARKUP
    for _ in range(depth):
        value = {MARKUP: [value]}
    return value


def attack(page: PageProcess, count: int, seed: int, constant: bytes, statuses: Counter[int]) -> Iterator[str]:
    """Sends the requests; yields what is wrong with an answer."""
    draw = random.Random(seed)
    for number in range(count):
        method, path, headers, body = drawn_request(draw, page.port)
        what = f"{number}: {method} {path[:80]!r} {headers}"
        try:
            status, kind, text = sent(page.port, method, path, headers, body)
        except (OSError, http.client.HTTPException) as error:
            if page.process is None or page.process.poll() is not None:
                yield f"{what}: {error!r}: the process has ended:\n{page.log[-2000:]}"
                return
            status, kind, text = 0, "", b""  # uvicorn closes what is no HTTP
        statuses[status] += 1
        if status >= 500 and not ("/ask/" in path and status in BUS_STATUSES):
            yield f"{what}: {status} {text[:200]!r}"
        if "html" in kind and text and text != constant:
            yield f"{what}: HTML of its own: {text[:200]!r}"
        if b"<script>document" in text and "json" not in kind and "text/plain" not in kind and "csv" not in kind:
            yield f"{what}: a board's text as {kind}"


def drawn_request(draw: random.Random, port: int) -> tuple[str, str, dict[str, str], bytes | None]:
    """A request without a session, or with a broken one; mostly well formed apart from one thing."""
    is_write = draw.random() < 0.6
    path = "/api/v1/" + draw.choice(WRITES if is_write else READS)
    method = draw.choice(_METHODS) if draw.random() < 0.15 else "POST" if is_write else "GET"
    headers = {"Host": f"127.0.0.1:{port}"}
    if draw.random() < 0.25:
        headers["Host"] = draw.choice(
            ("evil.example", "localhost:1", "", "127.0.0.1.evil.example", "[::1", "a" * 5000, "user@127.0.0.1")
        )
    if draw.random() < 0.6:
        headers["Content-Type"] = draw.choice(
            ("application/json", "text/plain", "text/html", "application/x-www-form-urlencoded", MARKUP)
        )
    if draw.random() < 0.7:
        headers["X-Edge-Agent"] = draw.choice(("1", "0", MARKUP))
    if draw.random() < 0.4:
        headers["Origin"] = draw.choice(
            ("http://evil.example", "null", f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}.evil.example")
        )
    if draw.random() < 0.3:
        headers["Cookie"] = draw.choice(
            ("session=1", "edge_agent=" + "A" * 4000, "session=" + MARKUP, ";;;=", "edge-agent-session=\x01")
        )
    if draw.random() < 0.2:
        headers["Authorization"] = draw.choice(("Bearer x", "Bearer ", "Basic YTpi", "Bearer " + "A" * 9000))
    if draw.random() < 0.05:
        headers["Accept-Encoding"], headers["Range"] = "gzip;q=NaN", "bytes=-99999999999999999999"
    body = None
    if method not in ("GET", "HEAD"):
        body = drawn_body(draw)
        if draw.random() < 0.05:
            headers["Content-Length"] = draw.choice(("-1", "99999999999", "x", "0"))
    choice = draw.random()
    if choice < 0.15:
        path += "?" + "&".join(f"{name}={draw.choice(QUERY)}" for name in draw.sample(QUERY_NAMES, 3))
    elif choice < 0.3:
        path = draw.choice(PATHS)
    return method, path, headers, body


QUERY_NAMES = ("after", "limit", "from", "to", "device", "task", "what", "format")
QUERY = (
    "-1", "1e999", "NaN", "99999999999999999999999", "%00", "%ff", "..%2f..%2fetc", "csv", "<script>", "x" * 3000, "",
    "0x10", "1;2", "%E2%80%AE",
)  # fmt: skip
PATHS = (
    "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/..%2f..%2fweb.py", "//evil.example/", "/..;/",
    "/words/../../users.json", "/words/%2e%2e%2f%2e%2e%2fusers.py", "/" + "a" * 8000, "/\x7f", "/%00", "*",
    "/api/v1/boards/%3Cscript%3E", "/api/v1/boards/..%2f..", "/api/v1/boards/" + "%F0" * 200, "/api/v1/ask/pool//x",
    "/api/v1/ask/+/%23", f"/api/v1/ask/{DEVICE}/%23", f"/api/v1/ask/%2B/{TRIAGE}", "http://evil.example/",
    "/api/v2/changes", "/boards.txt?<script>", "/favicon.ico", "/index.html/", "/app.js/../index.html",
    "/API/V1/CHANGES",
)  # fmt: skip
NO_DOCUMENTS = (
    b"", b"{", b"null", b"NaN", b'{"a":1,"a":2}', b"\xff\xfe\x00", b"[" * 20_000,
    b'{"key":"\\ud800","answer":"\\udfff"}', b"1" * 5000, b"x" * 70_000, b'{"input":' + b"9" * 5000 + b"}",
)  # fmt: skip


def drawn_body(draw: random.Random) -> bytes:
    """A document whose values are of any kind, or none at all."""
    key: Any = draw.choice((f"{DEVICE}/{TRIAGE}/1", MARKUP, "", None, 1, [], {"a": 1}, "x" * 100_000))
    document: Any = {
        "key": key,
        "answer": LABELS[0],
        "by": draw.choice(("Ana", MARKUP, "", 7, "x" * 70)),
        "device": DEVICE,
        "alarm": MARKUP,
        "mark": draw.choice((1, -1, "1", None, 2**70)),
        "user": draw.choice(("ana", MARKUP, 1)),
        "password": draw.choice(("a", "x" * 5000, None)),
        "input": draw.choice((MARKUP, {"a": 1}, nested(40))),
        "reply_to": f"edgeai/v1/hall1/{DEVICE}/cmd/drain",
    }
    documents = (json.dumps(document).encode(), json.dumps([document]).encode(), json.dumps(nested(200)).encode())
    return draw.choice((*documents, *NO_DOCUMENTS))


def sent(port: int, method: str, path: str, headers: dict[str, str], body: bytes | None) -> tuple[int, str, bytes]:
    """Status, type and content of the answer; the request goes out as it is."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None and "Content-Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    lines.append("Connection: close")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        head = "\r\n".join(lines) + "\r\n\r\n"
        # It may refuse before all is there; the answer tells.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head.encode("utf-8", "replace") + (body or b""))
        if headers.get("Content-Length") == "99999999999":
            connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection, method=method)
        answer.begin()
        return answer.status, answer.getheader("Content-Type", ""), answer.read()


def plain_get(port: int, path: str) -> tuple[int, bytes]:
    status, _, text = sent(port, "GET", path, {"Host": f"127.0.0.1:{port}"}, None)
    return status, text


def open_all_screens(page: PageProcess) -> list[str]:
    """What became of the markup in the tab of a person who is logged in."""
    found = []
    with chromium() as browser, tab(browser) as shown:
        shown.context.add_cookies(page.login("ana").cookies)
        for screen in SCREENS:
            shown.goto(f"{page.url}/#/{screen}")
            shown.wait_for_timeout(1500)
            made = shown.evaluate(
                "() => document.querySelectorAll('body script, img, iframe, [onerror], [onclick]').length"
            )
            if made or shown.title().startswith("owned"):
                found.append(f"{screen}: {made} elements of a board's making, title {shown.title()!r}")
            if screen.startswith("board/") and "<script>" not in shown.locator("body").inner_text():
                found.append(f"{screen}: the markup is not shown as text, so this run shows nothing")
        found += complaints_of(shown)
    return found


def run_schemathesis(page: PageProcess, examples: int, faults: list[str]) -> int:
    """How many cases it has tried without a right; failures are added to the faults."""
    program = make_environment(ROOT / "build" / "schemathesis", SCHEMATHESIS).with_name("schemathesis")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "openapi.json"
        path.write_text(json.dumps(openapi()), encoding="utf-8")
        command = [str(program), "run", str(path), "--url", page.url, "--checks", "not_a_server_error", "--no-color"]
        command += [
            "--max-examples",
            str(examples),
            "--seed",
            "1",
            "--header",
            "X-Edge-Agent: 1",
            "--phases",
            "examples,fuzzing",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=name)
    report = Path(ROOT / "build" / "schemathesis" / "report.txt")
    report.write_text(done.stdout + done.stderr, encoding="utf-8")
    print(f"schemathesis: exit code {done.returncode}, report: {report}", flush=True)
    if done.returncode:
        faults.append(f"schemathesis: {done.stdout[-1500:]}{done.stderr[-500:]}")
    counted = re.search(r"(\d[\d,]*) generated", done.stdout)
    return int(counted[1].replace(",", "")) if counted else 0


def openapi() -> dict[str, Any]:
    """The operations, for schemathesis alone; the page's own description is docs/page.md."""
    text, number = {"type": "string"}, {"type": "number"}
    anything: dict[str, Any] = {}

    def query(**parameters: Any) -> list[dict[str, Any]]:
        return [{"name": name, "in": "query", "schema": schema} for name, schema in parameters.items()]

    def operation(parameters: list[dict[str, Any]], **properties: Any) -> dict[str, Any]:
        made: dict[str, Any] = {"parameters": parameters, "responses": {"default": {"description": "any"}}}
        if properties:
            schema = {"type": "object", "properties": properties}
            made["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        return made

    device = {"name": "device", "in": "path", "required": True, "schema": text}
    task = {"name": "task", "in": "path", "required": True, "schema": text}
    paths = {
        "/session": {"get": operation([])},
        "/changes": {"get": operation(query(after=text))},
        "/boards/{device}": {"get": operation([device])},
        "/journal": {
            "get": operation(query(**{"from": text}, to=number, device=text, what=text, limit=text, format=text))
        },
        "/checks": {"get": operation(query(task=text, device=text, machine=text, by=text, limit=number))},
        "/answers": {"get": operation(query(before=text, task=text, device=text, machine=text))},
        "/tasks": {"get": operation([])},
        "/login": {"post": operation([], user=text, password=anything)},
        "/logout": {"post": operation([], any=anything)},
        "/seen": {"post": operation([], device=text, alarm=text, by=anything)},
        "/feedback": {"post": operation([], key=text, answer=anything, correct={"type": "boolean"}, by=anything)},
        "/feedback/undo": {"post": operation([], mark=anything, by=anything)},
        "/feedback/reveal": {"post": operation([], mark=anything, by=anything)},
        "/ask/{device}/{task}": {"post": operation([device, task], input=anything, options=anything, id=anything)},
        "/ask/pool/{device}/{task}": {"post": operation([device, task], input=anything, options=anything, id=anything)},
    }
    return {
        "openapi": "3.0.3",
        "info": {"title": "page", "version": "1"},
        "servers": [{"url": "/"}],
        "paths": {f"/api/v1{path}": item for path, item in paths.items()},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
