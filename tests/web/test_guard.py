"""What a request has to pass before anything reads it."""

import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.web.users import Users, write_users
from tests.web.pages import HOST, WRITE, Browser, Page

ANY = ipaddress.ip_address("0.0.0.0")
PROXY = (ipaddress.ip_network("10.0.0.7"),)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8780", "127.0.0.1", "127.1.2.3:1", "[::1]:8780", "hall1.example"]
)
def test_names_of_the_page_are_answered(host: str) -> None:
    page = Page(names=frozenset({"hall1.example"}))
    assert page.client.get("/api/v1/session", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "hall1.example.evil",
        "192.168.1.5",
        "localhost:x",
        "[::1",
        "",
        "a@localhost",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/v1/session", "/api/v1/changes", "/nowhere"])
def test_a_name_that_was_not_given_is_misdirected(host: str, path: str) -> None:
    response = Page(names=frozenset({"hall1.example"})).client.get(path, headers={"Host": host})
    assert response.status_code == 421
    assert response.json()["error"]["code"] == "unknown_host"


def test_a_page_for_other_machines_is_reached_by_any_address_but_by_no_other_name() -> None:
    page = Page(listens_on=ANY)
    assert page.client.get("/", headers={"Host": "192.168.1.5:8780"}).status_code == 200
    assert page.client.get("/", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("path", ["/", "/api/v1/session", "/nowhere"])
def test_every_response_forbids_foreign_scripts_frames_and_guesses_of_types(path: str) -> None:
    for headers in ({}, {"Host": "evil.example"}):
        response = Page().client.get(path, headers=headers)
        policy = response.headers["Content-Security-Policy"]
        for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for"):
            assert rule in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "Server" not in response.headers


def test_answers_of_the_api_are_not_kept_and_files_are_asked_for_again() -> None:
    client = Page().client
    assert client.get("/api/v1/changes").headers["Cache-Control"] == "no-store"
    page = client.get("/")
    assert page.headers["Cache-Control"] == "no-cache"
    assert client.get("/", headers={"If-None-Match": page.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "header"),
        ({"X-Edge-Agent": "0"}, "header"),
        ({**WRITE, "Origin": "http://evil.example"}, "origin"),
        ({**WRITE, "Origin": "http://127.0.0.1:3000"}, "origin"),
        ({**WRITE, "Origin": f"https://{HOST}"}, "origin"),
        ({**WRITE, "Origin": "null"}, "origin"),
        ({**WRITE, "Content-Type": "text/plain"}, "content_type"),
        ({**WRITE, "Content-Type": "application/x-www-form-urlencoded"}, "content_type"),
    ],
)
def test_a_write_that_another_page_could_send_is_refused(headers: dict[str, str], code: str) -> None:
    response = Page().client.post("/api/v1/seen", content="{}", headers={"Content-Type": "application/json", **headers})
    assert response.json()["error"]["code"] == code
    assert response.status_code in (403, 415)


@pytest.mark.parametrize(
    ("path", "types"), [("seen", "application/json"), ("ask/board1/triage", "application/json or text/plain")]
)
def test_a_refused_content_type_is_told_which_ones_are_taken(path: str, types: str) -> None:
    response = Page().client.post(f"/api/v1/{path}", content="1", headers={**WRITE, "Content-Type": "text/csv"})
    assert response.status_code == 415
    assert response.json()["error"]["message"] == f'Content-Type should be {types} (got "text/csv")'


def test_other_methods_are_refused() -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert Page().client.request(method, "/api/v1/session", headers=WRITE).status_code == 405


def test_nothing_is_written_where_no_role_is_named() -> None:
    response = Page().client.post("/api/v1/changes", {})
    assert response.status_code == 405


def test_a_body_is_bounded_whatever_it_says_of_its_length() -> None:
    page = Page()
    headers = {**WRITE, "Content-Type": "application/json"}
    assert page.client.post("/api/v1/seen", content=b"x" * 100_000, headers=headers).status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 10_000

    assert page.client.post("/api/v1/seen", content=chunks(), headers=headers).status_code == 413


@pytest.mark.expects_warning
def test_a_fault_of_ours_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    page = Page()
    page.live.boards = None  # type: ignore[assignment]
    response = page.client.get("/api/v1/changes")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "NoneType" not in response.text
    assert "Content-Security-Policy" in response.headers
    assert "NoneType" in caplog.text


def test_headers_and_queries_are_bounded() -> None:
    client = Page().client
    assert client.get("/", headers={"X-Padding": "x" * 20_000}).status_code == 431
    assert client.get("/?" + "x" * 20_000).status_code == 431


def test_behind_a_proxy_no_other_machine_may_connect() -> None:
    page = Page(listens_on=ANY, names=frozenset({"hall1.example"}), proxies=PROXY)
    response = page.client.get("/", headers={"Host": "hall1.example", "X-Forwarded-For": "10.0.0.7"})
    assert response.json()["error"]["code"] == "not_the_proxy"
    through_it = Browser(page.app, "10.0.0.7")
    assert through_it.get("/", headers={"Host": "hall1.example"}).status_code == 200
    mapped = Browser(page.app, "::ffff:10.0.0.7")
    assert mapped.get("/", headers={"Host": "hall1.example"}).status_code == 200


def test_behind_a_proxy_a_failed_login_counts_for_the_address_that_the_proxy_saw(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    write_users(file, [])
    page = Page(Users(file), names=frozenset({"hall1.example"}), proxies=PROXY)
    client = Browser(page.app, "10.0.0.7")
    body = {"user": "ana", "password": "wrong horse"}

    def login(*forwarded: str) -> int:
        headers = [*WRITE.items(), ("Host", "hall1.example"), *(("X-Forwarded-For", line) for line in forwarded)]
        return client.post("/api/v1/login", body, headers=headers).status_code

    assert {login(f"192.0.2.{number}, 198.51.100.1") for number in range(10)} == {401}
    assert login("192.0.2.99, 198.51.100.1") == 429
    assert login("192.0.2.99", "198.51.100.1") == 429
    assert login("198.51.100.1:40213") == 429
    assert login("198.51.100.2") == 401


def test_behind_a_proxy_the_origin_is_its_public_name_over_https(tmp_path: Path) -> None:
    file = tmp_path / "users.json"
    write_users(file, [])
    page = Page(Users(file), names=frozenset({"hall1.example"}), proxies=PROXY)
    client = Browser(page.app, "10.0.0.7")

    def status(origin: str) -> int:
        headers = {**WRITE, "Host": HOST, "Origin": origin}
        return client.post("/api/v1/logout", {}, headers=headers).status_code

    assert status("https://hall1.example") == 200
    assert status("http://hall1.example") == 403
    assert status("https://hall1.example:444") == 403
