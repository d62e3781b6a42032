"""Who may see and do what: users, cookies, tokens, roles, and the limit on failed logins."""

import json
import stat
import time
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from edge_agent.web import sessions
from edge_agent.web.sessions import LoginLimit
from edge_agent.web.users import User, Users, hashed_password, hashed_token, write_users
from tests.web.pages import HOST, ORIGIN, WRITE, Browser, Page

PASSWORD = "correct horse"
TOKEN = "a-token-of-a-program"


@cache
def secret() -> str:
    """Hashed only when needed, as that takes a third of a second, and every process of pytest-xdist imports this."""
    return hashed_password(PASSWORD)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users.json"
    write_users(
        path,
        [
            User(name="ana", roles=frozenset({"feedback"}), secret=secret()),
            User(name="bob", roles=frozenset(), secret=secret()),
            User(name="node-red", roles=frozenset({"try"}), secret=hashed_token(TOKEN)),
        ],
    )
    return path


@pytest.fixture
def page(file: Path) -> Page:
    return Page(Users(file))


def login(page: Page | Browser, user: str = "ana", password: str = PASSWORD) -> httpx.Response:
    client = page.client if isinstance(page, Page) else page
    return client.post("/api/v1/login", {"user": user, "password": password}, headers=ORIGIN)


def code(response: httpx.Response) -> Any:
    return response.status_code, response.json()["error"]["code"]


def seen(page: Page, **headers: str) -> httpx.Response:
    return page.client.post("/api/v1/seen", {}, headers={**ORIGIN, **headers})


def test_without_users_everybody_may_do_everything() -> None:
    document = Page().client.get("/api/v1/session").json()
    assert document["user"] is None
    assert document["has_users"] is False
    assert document["roles"] == ["feedback", "try", "view"]
    assert code(login(Page())) == (404, "not_found")


@pytest.mark.parametrize("path", ["/api/v1/changes", "/boards.txt", "/api/v1/nowhere"])
def test_with_users_nothing_of_the_boards_is_shown_before_a_login(page: Page, path: str) -> None:
    assert code(page.client.get(path)) == (401, "login")
    assert page.client.get("/").status_code == 200
    assert page.client.get("/api/v1/session").json()["roles"] == []


def test_a_public_view_shows_boards_but_writes_need_a_login(file: Path) -> None:
    page = Page(Users(file), is_public=True)
    assert page.client.get("/api/v1/changes").status_code == 200
    assert code(seen(page)) == (401, "login")


def test_a_login_shows_the_boards_and_lets_the_role_write(page: Page) -> None:
    document = login(page).json()
    assert document["user"] == "ana"
    assert document["roles"] == ["feedback", "view"]
    assert document["writes_until"] == pytest.approx(time.time() + 3600, abs=60)
    assert page.client.get("/api/v1/changes").status_code == 200
    assert seen(page).status_code not in (401, 403)
    assert code(page.client.post("/api/v1/ask/press-04/triage", {}, headers=ORIGIN)) == (403, "role")


def test_a_user_without_a_role_only_looks(page: Page) -> None:
    login(page, "bob")
    assert page.client.get("/api/v1/changes").status_code == 200
    assert code(seen(page)) == (403, "role")


def test_the_cookie_goes_to_no_script_and_to_no_other_site(page: Page, file: Path) -> None:
    cookie = login(page).headers["Set-Cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    assert "secure" not in cookie
    secure = Page(Users(file), has_tls=True)
    origin = {**WRITE, "Origin": f"https://{HOST}"}
    response = secure.client.post("/api/v1/login", {"user": "ana", "password": PASSWORD}, headers=origin)
    assert response.headers["Set-Cookie"].startswith("__Host-")
    assert "secure" in response.headers["Set-Cookie"].lower()


def test_a_write_by_cookie_needs_an_origin(page: Page) -> None:
    login(page)
    assert code(page.client.post("/api/v1/seen", {})) == (403, "origin")


def test_after_an_hour_writes_need_the_password_again_but_the_view_stays(page: Page) -> None:
    login(page)
    page.now += 3601
    assert page.client.get("/api/v1/changes").status_code == 200
    assert code(seen(page)) == (403, "login_again")
    login(page)
    assert seen(page).status_code not in (401, 403)


def test_a_logout_ends_the_session(page: Page) -> None:
    login(page)
    cookies = dict(page.client.cookies)
    page.client.post("/api/v1/logout", {}, headers=ORIGIN)
    page.client.cookies.update(cookies)
    assert code(page.client.get("/api/v1/changes")) == (401, "login")


def test_another_login_ends_the_session_before(page: Page) -> None:
    login(page)
    cookies = dict(page.client.cookies)
    login(page)
    assert dict(page.client.cookies) != cookies
    page.client.cookies.update(cookies)
    assert code(page.client.get("/api/v1/changes")) == (401, "login")


def test_a_cookie_that_was_made_up_is_nobodys(page: Page) -> None:
    page.client.cookies.set("edge-agent", "x" * 43)
    assert code(page.client.get("/api/v1/changes")) == (401, "login")


@pytest.mark.parametrize("change", ["removed", "password"])
def test_a_user_who_is_changed_in_the_file_is_logged_out_at_once(page: Page, file: Path, change: str) -> None:
    login(page)
    document = json.loads(file.read_text("utf-8"))
    if change == "removed":
        del document["users"]["ana"]
    else:
        document["users"]["ana"]["secret"] = hashed_password("another one")
    file.write_text(json.dumps(document), "utf-8")
    assert code(page.client.get("/api/v1/changes")) == (401, "login")


@pytest.mark.expects_warning
@pytest.mark.parametrize("text", ["", "{", '{"users": {"ana": {"roles": ["root"], "secret": "scrypt:a:b"}}}'])
def test_a_file_that_cannot_be_read_gives_nobody_a_right_but_ends_no_login(page: Page, file: Path, text: str) -> None:
    login(page)
    whole = file.read_text("utf-8")
    file.write_text(text, "utf-8")
    assert code(page.client.get("/api/v1/changes")) == (401, "login")
    assert code(login(page)) == (503, "users_unreadable")
    assert code(seen(page, Authorization=f"Bearer {TOKEN}")) == (503, "users_unreadable")
    file.write_text(whole, "utf-8")
    assert page.client.get("/api/v1/changes").status_code == 200


@pytest.mark.expects_warning
def test_a_file_that_may_be_read_again_counts_at_once(page: Page, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert login(page).status_code == 200
    with monkeypatch.context() as denied:
        denied.setattr("edge_agent.web.users.read_bounded", Mock(side_effect=PermissionError(13, "Permission denied")))
        file.chmod(0o000)
        assert login(page).status_code == 503
    file.chmod(0o600)
    assert login(page).status_code == 200


@pytest.mark.parametrize(("user", "password"), [("ana", "wrong horse"), ("nobody", PASSWORD), ("node-red", TOKEN)])
def test_a_wrong_name_and_a_wrong_password_are_refused_alike(page: Page, user: str, password: str) -> None:
    response = login(page, user, password)
    assert code(response) == (401, "login")
    assert response.json() == login(page, "nobody-else", "also wrong").json()
    assert "Set-Cookie" not in response.headers


def test_ten_failures_block_an_address_even_with_the_right_password(page: Page) -> None:
    for _ in range(10):
        assert code(login(page, password="wrong horse")) == (401, "login")
    blocked = login(page)
    assert code(blocked) == (429, "too_many_logins")
    assert 0 < int(blocked.headers["Retry-After"]) <= 300
    assert login(Browser(page.app, "10.0.0.9")).status_code == 200
    page.now += 301
    assert login(page).status_code == 200


def test_logins_that_succeed_count_as_no_failures(page: Page) -> None:
    for _ in range(12):
        assert login(page).status_code == 200


def test_the_memory_of_failures_is_bounded_and_counts_networks_of_ipv6_together() -> None:
    failures = LoginLimit(lambda: 0.0)
    for number in range(10):
        assert failures.count(f"2001:db8:1:2::{number}") is None
    assert failures.count("2001:db8:1:2::ffff") is not None
    assert failures.count("2001:db8:1:3::1") is None
    for number in range(3000):
        failures.count(f"10.0.{number // 250}.{number % 250}")
    assert len(failures._failed) <= 1000


def test_sessions_are_bounded(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    browsers = [Browser(page.app) for _ in range(3)]
    for browser in browsers:
        login(browser)
    shown = [browser.get("/api/v1/changes").status_code for browser in browsers]
    assert shown == [401, 200, 200]


def test_a_program_writes_with_its_token_but_still_needs_the_header(page: Page) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert page.client.get("/api/v1/session", headers=bearer).json()["user"] == "node-red"
    asked = page.client.post("/api/v1/ask/press-04/triage", {}, headers={**WRITE, **bearer})
    assert asked.status_code not in (401, 403)
    assert code(page.client.post("/api/v1/ask/press-04/triage", {}, headers=bearer)) == (403, "header")
    assert code(seen(page, **bearer)) == (403, "role")
    assert code(page.client.get("/api/v1/changes", headers={"Authorization": "Bearer x"})) == (401, "login")


@pytest.mark.parametrize(
    "body", ["[]", "{}", '{"user": "ana"}', '{"user": 1, "password": "x"}', "{", "\xff", "1" * 9000]
)
def test_a_login_that_is_none_is_refused_in_words(page: Page, body: str) -> None:
    content = {"content": body.encode("latin-1"), "headers": {**ORIGIN, "Content-Type": "application/json"}}
    assert code(page.client.post("/api/v1/login", **content)) == (400, "invalid")


def test_a_login_outlives_the_process_but_neither_thirty_days_nor_another_password(file: Path, tmp_path: Path) -> None:
    first = Page(Users(file), folder=tmp_path)
    assert login(first).status_code == 200
    first.now += sessions.WRITES_S / 2
    (kept,) = tmp_path.glob("logins.json")
    cookie = first.client.cookies["edge-agent"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert cookie not in kept.read_text("utf-8")
    assert secret() not in kept.read_text("utf-8")

    def user(page: Page) -> Any:
        page.client.cookies.set("edge-agent", cookie)
        return page.client.get("/api/v1/session").json()["user"]

    second = Page(Users(file), folder=tmp_path)
    assert user(second) == "ana"
    assert user(Page(Users(file), folder=tmp_path)) == "ana"
    write_users(file, [User(name="ana", roles=frozenset(), secret=hashed_password("another horse"))])
    assert user(Page(Users(file), folder=tmp_path)) is None
    write_users(file, [User(name="ana", roles=frozenset(), secret=secret())])
    assert login(first).status_code == 200
    cookie = first.client.cookies["edge-agent"]
    third = Page(Users(file), folder=tmp_path)
    assert user(third) == "ana"
    third.now += sessions.MAX_AGE_S + 1
    assert user(third) is None
    assert user(Page(Users(file), folder=tmp_path)) is None
