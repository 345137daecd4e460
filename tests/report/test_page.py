"""The page in a real browser, where there is one."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from advbench.cli import main

SUITE = """
title = "A page to look at"
question = "Which method moves digits?"
goals = ["degrade", "enhance"]
[defaults]
dataset = "digits"
limit = 20
[targets.small]
target = "quick_targets:plain"
[targets.other]
target = "quick_targets:other"
[budgets."linf 0.3"]
epsilon = 0.3
[methods.noise]
attack = "noise"
[methods.fgsm]
attack = "fgsm"
[methods."fgsm without access"]
attack = "fgsm"
threat = "black-box-labels"
"""


@pytest.fixture(scope="module")
def page(factories: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite's page, with results, an incompatibility and figures."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "look.toml").write_text(SUITE)
    results = ["--results", str(folder / "results")]
    ran = CliRunner().invoke(main, ["suite", "run", str(folder / "look.toml"), "--workers", "1", *results])
    assert ran.exit_code == 0, ran.output
    written = folder / "look.html"
    made = CliRunner().invoke(main, ["report", str(folder / "look.toml"), "--html", str(written), *results])
    assert made.exit_code == 0, made.output
    return written


def test_the_page_is_whole_and_shows_what_failed(page: Path) -> None:
    text = page.read_text()
    assert "A page to look at" in text
    assert "does not grant input-gradients" in text
    assert "advbench run --dataset digits" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text.replace("https://arxiv.org", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, as Debian packages it."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_sorting_filtering_and_flipping(page: Path, browser: Any) -> None:
    said: list[str] = []
    asked: list[str] = []
    tab = browser.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())

    def targets() -> list[str]:
        found: list[str] = tab.locator("#grid-1 tbody tr:visible th").all_inner_texts()
        return found

    assert targets() == ["quick_targets:other", "quick_targets:plain"]
    for _ in range(2):
        tab.locator("#grid-1 thead button").first.click()
    assert targets() == ["quick_targets:plain", "quick_targets:other"]
    assert tab.locator("#grid-1 thead th").first.get_attribute("aria-sort") == "descending"
    tab.locator("input[data-filters=grid-1]").fill("other")
    assert targets() == ["quick_targets:other"]

    card = tab.locator(".flip").first
    assert [image.is_visible() for image in card.locator("img").all()] == [True, False, False]
    card.focus()
    tab.keyboard.press("Enter")
    assert [image.is_visible() for image in card.locator("img").all()] == [False, True, False]

    tab.locator("#grid-1 td a:visible").first.click()
    assert tab.locator("details[open]").count() == 1
    tab.locator("#theme").click()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    tab.set_viewport_size({"width": 360, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
