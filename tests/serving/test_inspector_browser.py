"""The inspector in a real Chromium: what a person sees, hears and types. Skipped where there is no Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from deltamem_agents import DeltaMem
from tests.serving.conftest import served
from tests.serving.journals import HOSTILE, HOSTILE_AGENT, HOSTILE_SESSION, fill

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: pip install axe-playwright-python")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

SIZES = ((320, 640), (768, 1024), (1440, 900), (3840, 2160))
ALICE = ["/", "/inspect/alice", "/inspect/alice/entries/12", "/inspect/alice/entries/11", "/inspect/alice/state"]
ALICE += ["/inspect/alice/search?q=When+is+the+release%3F", "/inspect/alice/changes", "/inspect/alice/fork?new=b"]
ALICE += ["/inspect/alice/rollback?to=2", "/inspect/alice/erase?session=planning", "/inspect/nobody"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DeltaMem, str]]:
    """A memory and its server."""
    path: Path = tmp_path_factory.mktemp("browser") / "memory.db"
    with DeltaMem.open(None, url=f"sqlite:///{path}") as mem:
        fill(mem)
        mem.agent("long").write([{"role": "user", "content": f"message {i}", "id": f"m{i}"} for i in range(130)], "s")
        with served(mem, rate=0) as url:
            yield mem, url


class Tab:
    """A page, and what its console says."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(base_url=url, **{"viewport": {"width": 1440, "height": 900}, **options})
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda each: self.said.append(each.text) if each.type == "error" else None)
        self.page.on("pageerror", lambda each: self.said.append(str(each)))
        self.page.on("dialog", lambda each: self.said.append(f"dialog: {each.message}"))

    @property
    def faults(self) -> list[str]:
        """What the console says of scripts and of the content security policy."""
        return [each for each in self.said if "Failed to load resource" not in each]


@pytest.fixture
def tab(browser: Any, filled: tuple[DeltaMem, str]) -> Iterator[Tab]:
    made = Tab(browser, filled[1])
    yield made
    made.context.close()


def test_axe_finds_nothing_and_the_console_is_silent(browser: Any, filled: tuple[DeltaMem, str]) -> None:
    hostile = f"/inspect/{quote(HOSTILE_AGENT, safe='')}"
    contrast = {"runOnly": ["color-contrast"]}
    for scheme, paths, options in (("light", [*ALICE, hostile], None), ("dark", [*ALICE[:3], *ALICE[5:7]], contrast)):
        tab = Tab(browser, filled[1], color_scheme=scheme)
        for path in paths:
            tab.page.goto(path)
            found = axe.Axe().run(tab.page, options=options).response["violations"]
            told = [(each["id"], each["impact"], [node["html"] for node in each["nodes"]][:3]) for each in found]
            assert not told, (scheme, path)
        assert not tab.faults
        tab.context.close()


def test_no_page_is_wider_than_its_window(tab: Tab) -> None:
    hostile = f"/inspect/{quote(HOSTILE_AGENT, safe='')}"
    for path in [*ALICE, hostile, f"{hostile}/entries/9", f"{hostile}/search?q=script"]:
        tab.page.goto(path)
        for width, height in SIZES if path in ALICE[1:6:4] else SIZES[:2]:
            tab.page.set_viewport_size({"width": width, "height": height})
            over = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert over <= 0, (path, width, over)


def test_hostile_text_neither_runs_nor_shapes_a_page(tab: Tab) -> None:
    page, name = tab.page, f"/inspect/{quote(HOSTILE_AGENT, safe='')}"
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.url))
    session = quote(HOSTILE_SESSION, safe="")
    rests = ["", "?order=oldest", "/entries/1", "/entries/5", "/search?q=script+onload+text", "/changes"]
    for path in ["/", *(name + rest for rest in rests), f"{name}?session={session}", f"{name}/erase?session={session}"]:
        page.goto(path)
        page.wait_for_timeout(100)
        assert page.evaluate("window.hacked") is None, path
        strange = "main :is(script, img, iframe, style, base, meta, [onload], [onerror], [style], [hx-trigger])"
        assert page.locator(strange).count() == 0, path
    page.goto(name)
    shown = page.locator(".event .text").all_inner_texts()
    for text in (HOSTILE[0], HOSTILE[3], HOSTILE[4], HOSTILE[7]):
        assert text in shown
    assert any("\ufffdtxt.exe\ufffd" in each for each in shown)
    page.fill("#session", HOSTILE_SESSION)
    page.keyboard.press("Enter")
    page.wait_for_url("**session=**")
    assert page.locator(".event").count() == len(HOSTILE)
    assert all(each.startswith(page.evaluate("location.origin")) for each in asked)
    assert not tab.faults and not any("dialog" in each for each in tab.said)


def test_everything_is_reached_by_keyboard(tab: Tab) -> None:
    page = tab.page
    page.goto("/inspect/long")

    def focused() -> str:
        return str(page.evaluate("document.activeElement.innerText || document.activeElement.id"))

    page.keyboard.press("Tab")
    assert focused() == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    stops = []
    for _ in range(8):
        page.keyboard.press("Tab")
        stops.append(focused())
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", stops
    assert stops[:4] == ["Journal", "Search", "State", "Changes"]
    assert page.locator(".event").count() == 50
    page.locator("#more a").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".event >> nth=99")
    assert focused() == "Further entries"  # goes on from there
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert focused() == "#80"
    page.goto("/inspect/long/search")
    page.locator("#q").focus()
    page.keyboard.type("message 77")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hits li")
    assert "message 77" in page.locator(".hits li").first.inner_text() and "q=message%2077" in page.url
    kept = page.evaluate("[...Object.keys(localStorage), ...Object.keys(sessionStorage)]")
    assert kept == ["htmx-current-path-for-history"]  # no page is kept
    page.go_back()
    page.wait_for_selector("text=Ask as an agent would")


def test_pages_are_live_without_losing_the_place(browser: Any, tmp_path: Path) -> None:
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'live.db'}") as mem:
        alice = mem.agent("alice")
        alice.write([{"role": "user", "content": f"message {i}"} for i in range(60)], "s")
        with served(mem, rate=0) as url:
            tab = Tab(browser, url)
            page = tab.page
            page.goto("/inspect/alice")
            page.wait_for_selector("#live[data-state=on]")
            alice.write([{"role": "user", "content": "written just now"}], "s")
            page.wait_for_selector("text=written just now", timeout=10_000)
            assert "#61" in page.locator("#figures").inner_text()
            page.mouse.wheel(0, 1500)
            while page.evaluate("scrollY") < 500:
                page.wait_for_timeout(50)
            alice.write([{"role": "user", "content": "written while reading"}], "s")
            page.wait_for_selector("#stale:not([hidden])", state="attached", timeout=15_000)
            assert page.locator("text=written while reading").count() == 0
            page.goto("/")
            page.wait_for_selector("#live[data-state=on]")
            mem.agent("bob").write([{"role": "user", "content": "hello"}], "s")
            page.wait_for_selector("text=bob", timeout=15_000)
            assert not tab.faults
            tab.context.close()


def test_a_person_logs_in_changes_memory_and_logs_out(browser: Any, tmp_path: Path) -> None:
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'people.db'}") as mem:
        fill(mem)
        secret, _ = mem.store.tokens.create(["alice*"], "admin")
        with served(mem) as url:
            tab = Tab(browser, url)
            page = tab.page
            page.goto("/inspect/alice/changes")
            assert page.url.endswith("/login?next=%2Finspect%2Falice%2Fchanges")
            page.fill("#token", "dm_wrong")
            page.keyboard.press("Enter")
            page.wait_for_selector("#wrong")
            assert page.evaluate("document.activeElement.id") == "token"
            page.fill("#token", secret)
            page.keyboard.press("Enter")
            page.wait_for_url("**/inspect/alice/changes")
            assert page.evaluate("document.cookie") == ""
            page.fill("#new", "alice/2")
            page.click("text=Preview the fork")
            page.click("#change button")
            page.wait_for_url("**/inspect/alice%2F2")
            page.goto("/inspect/alice/rollback?to=8")
            page.click("#change button")
            page.wait_for_url("**/inspect/alice")
            page.wait_for_selector(".mark.rollback >> nth=0")
            page.goto("/inspect/alice/entries/1")
            page.click("text=Erase this message")
            page.click("text=Erase for good")
            assert page.locator("text=Erased 1 message").count() == 0  # the box is not ticked
            page.check("[name=sure]")
            page.click("text=Erase for good")
            page.wait_for_selector("text=Erased 1 message")
            assert page.evaluate("document.activeElement.tagName") == "H2"
            assert all(each.id != "name" for each in mem.agent("alice").log())
            page.click("text=Log out")
            page.wait_for_url("**/login")
            page.goto("/")
            assert "/login" in page.url
            assert not tab.faults
            tab.context.close()


def test_the_theme_stays_chosen_and_text_is_readable_without_scripts(
    browser: Any, filled: tuple[DeltaMem, str]
) -> None:
    tab = Tab(browser, filled[1], color_scheme="light")
    tab.page.goto("/")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.page.evaluate(ground)
    tab.page.click("[data-theme-button]")
    tab.page.click("[data-theme-button]")
    dark = tab.page.evaluate(ground)
    assert dark != light
    tab.page.reload()
    assert tab.page.evaluate(ground) == dark
    tab.context.close()
    plain = Tab(browser, filled[1], java_script_enabled=False)
    plain.page.goto("/inspect/long")
    plain.page.click("#more a")
    assert plain.page.locator("#p80").count() == 1
    plain.page.goto("/inspect/alice/search?q=release")
    assert plain.page.locator(".hits mark").count() > 0
    plain.context.close()


@pytest.mark.slow
def test_charts_and_maps_are_drawn(browser: Any, tmp_path: Path) -> None:
    with DeltaMem.open("tiny", url=f"sqlite:///{tmp_path / 'state.db'}", embedder=False) as mem:
        for text in ("My dog is Rex.", "I live in Oslo.", "Mara plays the cello."):
            mem.agent("alice").write([{"role": "user", "content": text}])
        with served(mem, rate=0) as url:
            for scheme in ("light", "dark"):
                tab = Tab(browser, url, color_scheme=scheme)
                tab.page.goto("/inspect/alice/state")
                tab.page.wait_for_selector(".chart canvas")
                drawn = "(c) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
                assert tab.page.locator(".chart canvas").evaluate(drawn) > 20
                fills = "(all) => new Set(all.map((each) => getComputedStyle(each).fill)).size"
                assert tab.page.locator(".maps path").evaluate_all(fills) > 4
                found = axe.Axe().run(tab.page).response["violations"]
                assert not [(each["id"], each["nodes"][0]["html"]) for each in found]
                assert not tab.faults
                tab.context.close()
