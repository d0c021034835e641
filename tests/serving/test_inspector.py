"""The inspector without a browser: what its pages say, who may see them, and what a change needs."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.serving.inspector.states import CELLS, LEVELS, heat_maps
from tests.serving.conftest import served
from tests.serving.journals import HOSTILE_AGENT, SCRIPT, fill

BROWSER = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeltaMem]:
    """A memory that tests only read."""
    path: Path = tmp_path_factory.mktemp("inspector") / "memory.db"
    with DeltaMem.open(None, url=f"sqlite:///{path}") as mem:
        fill(mem)
        yield mem


@pytest.fixture(scope="module")
def pages(filled: DeltaMem) -> Iterator[httpx.Client]:
    """A browser's requests to a server of it."""
    with served(filled) as url, httpx.Client(base_url=url, headers=BROWSER) as client:
        yield client


def csrf(page: httpx.Response) -> dict[str, str]:
    found = re.search(r'"x-csrf-token": "([0-9a-f]{64})"', unescape(page.text))
    assert found
    return {"x-csrf-token": found.group(1), "hx-request": "true"}


class Tags(HTMLParser):
    """Collects the tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def assert_runs_only_files(text: str) -> None:
    """No script, style, picture or handler but the pages' own files."""
    for tag, attributes in Tags(text).found:
        assert tag not in ("style", "img", "iframe", "object", "embed", "base"), tag
        assert tag != "script" or str(attributes.get("src")).startswith("/static/")
        assert not any(name.startswith(("on", "hx-on")) or name in ("style", "srcdoc") for name in attributes), (
            attributes
        )
        assert not str(attributes.get("href", "")).lower().startswith(("javascript:", "data:", "//", "http"))


def test_every_page_forbids_what_it_does_not_use(pages: httpx.Client) -> None:
    for path in ("/", "/inspect/alice", "/inspect/alice/state", "/inspect/nobody", "/inspect/alice/search?q=release"):
        answer = pages.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "data:" not in policy
        assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
        assert_runs_only_files(answer.text)


def test_the_timeline_tells_edits_erasures_rollbacks_and_forks(pages: httpx.Client) -> None:
    text = pages.get("/inspect/alice").text
    for told in ("edited by #8", "replaces #3", "1 entry erased", "rolled back at #10", "Rolled back to", "alice-2"):
        assert told in text, told
    assert "first school" not in text
    assert text.index("On Friday.") < text.index("The release is cancelled.") < text.index("My name is Alice")
    oldest = pages.get("/inspect/alice?order=oldest").text
    assert oldest.index("My name is Alice") < oldest.index("The release is cancelled.")
    only = pages.get("/inspect/alice?session=onboarding").text
    assert "four spaces" in only and "The release is on Friday" not in only
    assert "first of the family" in pages.get("/inspect/alice-2").text


def test_an_entry_tells_what_its_turn_was_handed(pages: httpx.Client) -> None:
    recorded = pages.get("/inspect/alice/entries/12").text
    assert "As it was recorded" in recorded and "The release is on Friday." in recorded
    assert "#6 is no longer live" in recorded and "handed&#34;" not in recorded
    replayed = pages.get("/inspect/alice/entries/11").text
    assert "Replayed now" in replayed and "The release is on Friday." in replayed and "cancelled" not in replayed
    assert "#8</a> replaced it" in pages.get("/inspect/alice/entries/3").text
    for position in ("6", "99", "0", "x", "9" * 30):
        assert pages.get(f"/inspect/alice/entries/{position}").status_code in (400, 404)


def test_a_search_tells_why_each_record_was_found(pages: httpx.Client) -> None:
    text = pages.get("/inspect/alice/search?q=When+is+the+release%3F").text
    assert "The <mark>release</mark> is on Friday." in text and "BM25" in text and "shares <strong>" in text
    assert "Memory holds nothing about this" in pages.get("/inspect/alice/search?q=xylophone").text
    part = pages.get("/inspect/alice/search?q=release", headers={"hx-request": "true"}).text
    assert "<html" not in part and "<mark>release</mark>" in part


def test_hostile_text_is_text_on_every_page(pages: httpx.Client) -> None:
    name = quote(HOSTILE_AGENT, safe="")
    rests = ["", "?order=oldest", "/entries/1", "/entries/6", "/search?q=script+text", "/state", "/changes"]
    rests += ["/fork?new=%3Cimg%3E", "/rollback?to=2", f"/erase?session={quote(SCRIPT)}", "/erase?since=%3Cscript%3E"]
    paths = ["/", f"/?find={quote(SCRIPT)}", *(f"/inspect/{name}{rest}" for rest in rests)]
    for path in paths:
        text = pages.get(path).text
        assert_runs_only_files(text)
        assert "\u202e" not in text and "\u2066" not in text
    assert "{{ 7 * 7 }}" in pages.get(f"/inspect/{name}").text


def test_bad_addresses_get_a_page_with_the_reason(pages: httpx.Client) -> None:
    for path, status in (
        ("/inspect/nobody", 404),
        ("/inspect/%FF", 400),
        ("/inspect/alice?before=x", 400),
        ("/inspect/alice?before=-1", 400),
        ("/inspect/alice?order=sideways", 400),
        ("/inspect/alice/search?q=a&k=0", 400),
        ("/inspect/alice/rollback?to=99999", 400),
        ("/inspect/alice/erase", 400),
        ("/inspect/alice/fork?new=", 400),
        ("/inspect/alice/erase?since=yesterday", 400),
    ):
        answer = pages.get(path)
        assert answer.status_code == status and "text/html" in answer.headers["content-type"], path
        assert 'role="alert"' in answer.text
    plain = pages.get("/inspect/nobody", headers={"accept": "application/json"})
    assert plain.headers["content-type"] == "application/problem+json"


def test_pages_of_a_long_journal_join_without_gap_or_repetition(tmp_path: Path) -> None:
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'long.db'}") as mem:
        mem.agent("alice").write([{"role": "user", "content": f"message {i}"} for i in range(230)], "s")
        mem.agent("alice").rollback(200)
        with served(mem) as url, httpx.Client(base_url=url, headers=BROWSER) as client:
            for order in ("newest", "oldest"):
                path, seen = f"/inspect/alice?order={order}", list[int]()
                while path:
                    page = client.get(path, headers={"hx-request": "true"}).text
                    seen += [int(each) for each in re.findall(r'id="p(\d+)"', page)]
                    following = re.search(r'hx-get="([^"]+)"', page)
                    path = following.group(1).replace("&amp;", "&") if following else ""
                assert seen == sorted(range(1, 232), reverse=order == "newest")


def test_a_login_gives_a_cookie_and_no_more(words: DeltaMem) -> None:
    fill(words)
    secret, made = words.store.tokens.create(["alice*"], "write")
    with served(words) as url, httpx.Client(base_url=url, headers=BROWSER) as client:
        away = client.get("/inspect/alice?order=oldest")
        assert away.status_code == 303 and away.headers["location"].startswith("/login?next=%2Finspect%2Falice")
        assert client.get("/v1/agents").status_code == 401
        door = client.get("/login?next=//evil.example/")
        assert door.status_code == 200 and "evil.example" not in door.text
        guarded = csrf(door)
        assert client.post("/login", data={"token": secret}).status_code == 415
        assert client.post("/login", data={"token": "dm_wrong"}, headers=guarded).status_code == 401
        entered = client.post("/login", data={"token": secret, "next": "/inspect/alice"}, headers=guarded)
        assert entered.headers["hx-redirect"] == "/inspect/alice"
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and secret not in cookie
        first = client.get("/")
        assert "alice-2" in first.text and "img src" not in first.text
        assert secret not in first.text
        inside = csrf(first)
        assert client.get(f"/inspect/{quote(HOSTILE_AGENT, safe='')}").status_code == 403
        assert client.get("/inspect/alice/erase?session=planning").status_code == 403
        assert client.post("/inspect/alice/rollback", data={"to": "1"}, headers=inside).status_code == 403
        assert client.post("/inspect/alice/fork", data={"new": "bob"}, headers=inside).status_code == 403
        assert client.post("/inspect/alice/fork", data={"new": "alice-3"}, headers=guarded).status_code == 415
        assert client.post("/inspect/alice/fork", data={"new": "alice-3"}, headers=inside).status_code == 204
        assert words.store.knows("alice-3") and not words.store.knows("bob")
        assert client.post("/logout", headers=inside).headers["hx-redirect"] == "/login"
        assert client.get("/").status_code == 303
    assert words.store.tokens.find(secret) == made


def test_changes_do_what_their_preview_showed_or_show_another(words: DeltaMem) -> None:
    fill(words)
    alice = words.agent("alice")
    with served(words) as url, httpx.Client(base_url=url, headers=BROWSER) as client:
        headers = csrf(client.get("/inspect/alice"))

        def version(page: httpx.Response) -> str:
            found = re.search(r'name="version" value="([^"]+)"', page.text)
            assert found
            return found.group(1)

        back = client.get("/inspect/alice/rollback?to=8")
        assert "2 messages would leave memory" in back.text and len(alice.log()) == 8
        seen = version(back)
        alice.write([{"role": "user", "content": "Just written."}], "planning")
        again = client.post("/inspect/alice/rollback", data={"to": "8", "version": seen}, headers=headers)
        assert "has changed since the preview" in again.text and "3 messages would leave" in again.text
        assert len(alice.log()) == 9
        done = client.post("/inspect/alice/rollback", data={"to": "8", "version": version(again)}, headers=headers)
        assert done.headers["hx-redirect"] == "/inspect/alice" and len(alice.log()) == 6

        preview = client.get("/inspect/alice/erase?session=onboarding")
        assert "Erase 4 messages?" in preview.text and "alice-2" in preview.text
        given = {"session": "onboarding", "version": version(preview)}
        assert client.post("/inspect/alice/erase", data=given, headers=headers).status_code == 400
        assert "onboarding" in alice.sessions()
        receipt = client.post("/inspect/alice/erase", data=given | {"sure": "true"}, headers=headers)
        assert "Erased 4 messages" in receipt.text and "onboarding" not in alice.sessions()
        assert "four spaces" not in receipt.text


def test_a_stream_tells_changes_and_ends_with_the_server(words: DeltaMem) -> None:
    fill(words)
    lines: list[str] = []
    with served(words) as url:
        assert httpx.get(f"{url}/inspect/alice/events").status_code == 406

        def listen() -> None:
            accept = {"accept": "text/event-stream"}
            with httpx.stream("GET", f"{url}/inspect/alice/events", headers=accept, timeout=20) as stream:
                lines.extend(stream.iter_lines())

        listener = threading.Thread(target=listen)
        listener.start()
        until = time.monotonic() + 10
        while "event: hello" not in lines and time.monotonic() < until:
            time.sleep(0.05)
        words.agent("alice").write([{"role": "user", "content": "Not in the stream."}], "s")
        while "event: change" not in lines and time.monotonic() < until:
            time.sleep(0.05)
        stopped = time.monotonic()
    listener.join(5)
    assert not listener.is_alive() and time.monotonic() - stopped < 5
    assert "event: change" in lines and not any("Not in" in each for each in lines)


def test_heat_maps_cover_each_cell_once_and_stay_small() -> None:
    state = {"model.layers.3.self_attn": np.linspace(-1, 1, 2 * 8 * 8).reshape(2, 8, 8), "wide": np.ones((90, 90))}
    maps, most = heat_maps(state)
    assert most == pytest.approx(1.0) and (maps[0].name, maps[0].width, maps[0].height) == ("3", 16, 8)
    covered = np.zeros((8, 16), int)
    for level, path in maps[0].paths:
        assert 0 < abs(level) <= LEVELS
        for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path):
            covered[int(y), int(x) : int(x) + int(width)] += 1
    assert covered.max() == 1 and covered.sum() > 100
    assert maps[1].width * maps[1].height <= CELLS and maps[1].largest == 1.0
    assert heat_maps({}) == ([], 0.0)


def test_the_state_page_shows_what_is_stored(tmp_path: Path) -> None:
    with DeltaMem.open("tiny", url=f"sqlite:///{tmp_path / 'state.db'}", embedder=False) as mem:
        alice = mem.agent("alice")
        for text in ("My dog is Rex.", "I live in Oslo.", "Mara plays the cello."):
            alice.write([{"role": "user", "content": text}])
        points = asyncio.run(alice.atrend())
        assert [each.position for each in points] == [1, 2, 3] and all(0 < each.saturation <= 1 for each in points)
        assert [each.position for each in alice.trend(points=2)] == [1, 3]
        with served(mem) as url, httpx.Client(base_url=url, headers=BROWSER) as client:
            now, then = client.get("/inspect/alice/state").text, client.get("/inspect/alice/state?at=2").text
        assert "The state now" in now and now.count("<figure>") == len(points[0].layers)
        assert "The state at #2" in then and then != now
