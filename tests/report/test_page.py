"""The page in a real browser, where there is one."""

import gc
import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from advbench.cli import main
from advbench.report.compare import compare
from advbench.report.page import render_page
from advbench.report.run import Run
from advbench.results import CellRecord, ResultStore
from advbench.threat import Budget

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
[targets.rounded]
target = "quick_targets:rounded"
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
    assert gc.isenabled()


def test_confusion_is_a_table_of_shares_in_colours(tab: Any) -> None:
    for figure in tab.locator("figure.confusion").all():
        told = re.findall(r"([\d.]+)%", figure.locator("figcaption").inner_text())
        tables = figure.locator("table").all()
        assert [table.locator("caption").inner_text() for table in tables] == ["clean", "perturbed (valid)"]
        for table, share in zip(tables, told, strict=True):
            rows = [
                [int(text) for text in row.locator("td").all_inner_texts()] for row in table.locator("tbody tr").all()
            ]
            assert len(rows) == 10
            assert all(sum(row) in (0, *range(97, 104)) for row in rows)  # no image of a class, or rounded shares
            assert (share == "0.0") == (not any(row[place] for place, row in enumerate(rows)))
    assert tab.locator("figure.confusion").count() == 2  # degrade and enhance


def test_confusion_among_many_classes_is_a_picture(store: ResultStore, add: Any) -> None:
    found: CellRecord = add("fgsm", [True, False] * 100)
    found = found.model_copy(update={"classes": [f"class {number}" for number in range(30)]})
    run = Run(names={"method": "fgsm"}, command="advbench run", state="stored", record=found)
    text = render_page("Many", "", [run], compare([found], store), {}, store)
    assert text.count('alt="clean: 100.0% lie on the diagonal before, 50.0% after."') == 1
    assert '<table class="squares">' not in text


def test_classes_named_by_numbers_are_shown_in_words(store: ResultStore, add: Any) -> None:
    found: CellRecord = add("fgsm", [True, False] * 100)
    found = found.model_copy(update={"classes": ["n01440764", "n02102040", *"23456789"]})
    run = Run(names={"method": "fgsm"}, command="advbench run", state="stored", record=found)
    text = render_page("Words", "", [run], compare([found], store), {}, store)
    assert text.count('<th scope="row">tench</th><td') == 2
    assert "n01440764" not in text


@pytest.mark.parametrize("epsilon", [None, 0.3])
def test_the_gallery_says_what_it_shows_whatever_classes_are_called(
    store: ResultStore, add: Any, epsilon: float | None
) -> None:
    images = torch.zeros(1, 3, 32, 32)
    found: CellRecord = add("fgsm", [False] * 200, budget=Budget(epsilon=epsilon))
    examples = {"rows": torch.tensor([0]), "clean": images, "perturbed": images.clone()}
    found = store.save(
        found.model_copy(update={"key": "quoted", "classes": ['a 12" disc', "dog's \\", *"23456789"]}),
        store.samples(found),
        {"examples": examples},
    )
    run = Run(names={"method": "fgsm"}, command="advbench run", state="stored", record=found)
    text = render_page("Quotes", "", [run], compare([found], store), {}, store)
    (words,) = re.findall(r"data-words='(.*)'>", text)
    seen = "dog's \\ (valid pixels)" if epsilon is None else "dog's \\"
    assert json.loads(html.unescape(words)) == [
        'clean image of a 12" disc, seen as a 12" disc',
        "perturbation, amplified 100 times",
        f'perturbed image of a 12" disc, seen as {seen}',
    ]
    assert f"then {seen}</p>" in html.unescape(text)


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


@pytest.fixture
def tab(page: Path, browser: Any) -> Iterator[Any]:
    """The page, opened; at the end, it must have said nothing and asked for nothing."""
    said: list[str] = []
    asked: list[str] = []
    opened = browser.new_page(color_scheme="light")
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(page.as_uri())
    yield opened
    opened.close()
    assert said == []
    assert asked
    assert all(url.startswith(("file:", "data:")) for url in asked)


def column(tab: Any, number: int) -> list[str]:
    found: list[str] = tab.locator(f"#grid-1 tbody tr:visible > :nth-child({number})").all_inner_texts()
    return [text.split()[0] for text in found]


def test_tables_are_sorted_and_filtered(tab: Any) -> None:
    assert column(tab, 1) == [f"quick_targets:{name}" for name in ("other", "plain", "rounded")]
    for order in ("ascending", "descending"):
        tab.locator("#grid-1 thead button").first.press("Enter")
        assert tab.locator("#grid-1 thead th").first.get_attribute("aria-sort") == order
    assert column(tab, 1) == [f"quick_targets:{name}" for name in ("rounded", "plain", "other")]
    tab.locator("#grid-1 thead button").nth(2).click()
    figures = [float(text) for text in column(tab, 3)]
    assert figures == sorted(figures)
    tab.locator("input[data-filters=grid-1]").fill("other")
    assert column(tab, 1) == ["quick_targets:other"]
    for place, items in (("cards", ".card"), ("runs", "#runs details")):
        before = tab.locator(f"{items}:visible").count()
        tab.locator(f"input[data-filters={place}]").fill("noise")
        assert 0 < tab.locator(f"{items}:visible").count() < before


def test_filters_know_methods_goals_and_budgets(tab: Any) -> None:
    tab.locator("input[data-filters=grid-1]").fill("NOISE")
    assert column(tab, 1) == [f"quick_targets:{name}" for name in ("other", "plain", "rounded")]
    assert tab.locator("#grid-1 th:visible button").all_inner_texts() == ["target", "clean", "noise", "worst case"]
    tab.locator("input[data-filters=grid-1]").fill("nothing")
    assert column(tab, 1) == []
    tab.locator("input[data-filters=grid-1]").fill("")
    assert tab.locator("#grid-1 th:visible button").count() == 5
    for place, items in (("tables", "#tables > section"), ("cards", ".card"), ("runs", "#runs details")):
        everything = tab.locator(items).count()
        for words, found in (("linf 0.3", everything), ("enhance", everything // 2), ("linf 0.4", 0)):
            tab.locator(f"input[data-filters={place}]").fill(words)
            assert tab.locator(f"{items}:visible").count() == found


def test_the_gallery_flips_by_keyboard(tab: Any) -> None:
    card = tab.locator(".flip").first
    card.focus()
    for shown, words in enumerate(("clean image", "perturbation", "perturbed image", "clean image")):
        assert [image.is_visible() for image in card.locator("img").all()] == [each == shown % 3 for each in range(3)]
        assert card.get_attribute("aria-label").startswith(words)
        tab.keyboard.press("Enter")


def test_a_number_leads_to_its_run_and_a_flag_to_what_it_means(tab: Any) -> None:
    tab.locator("#grid-1 td a:not(.flag)").first.click()
    run = tab.locator("details[open]")
    run.wait_for()  # it opens when the address has changed
    assert run.count() == 1
    for words in ("advbench run", '"fingerprint"', '"torch"', '"status": "ok"'):
        assert words in run.inner_text()
    assert tab.locator("#grid-1 a.flag").first.get_attribute("aria-label").startswith("flags: ")
    assert "zero-gradients" in tab.locator("a.flag").evaluate_all("all => all.map(each => each.title).join()")
    assert "Remedy: take the masking step" in tab.locator("section[aria-labelledby=flags]").text_content()
    missing = "all => all.filter(each => !document.getElementById(each.getAttribute('href').slice(1))).length"
    assert tab.locator("a[href^='#']").evaluate_all(missing) == 0


def test_light_dark_phone_and_paper(tab: Any) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(back)
    tab.locator("#theme").click()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert tab.evaluate(back) != light
    tab.emulate_media(media="print")
    assert tab.evaluate(back) == light  # dark paper is of no use
    assert not tab.locator("#theme").is_visible()
    assert not tab.locator("input[type=search]").first.is_visible()
    tab.emulate_media(media="screen")
    tab.set_viewport_size({"width": 360, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360


CONTRAST = """() => {
  const light = colour => {
    const part = colour.match(/[\\d.]+/g).slice(0, 3).map(value => value / 255)
      .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = each => {
    for (; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!colour.startsWith("rgba(0, 0, 0, 0")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return Math.min(...[...document.querySelectorAll("p, a, td, th, small, button, summary, pre, label, figcaption")]
    .filter(each => each.offsetParent && each.textContent.trim()).map(each => {
      const [one, other] = [light(getComputedStyle(each).color), light(behind(each))].sort((a, b) => b - a);
      return (one + 0.05) / (other + 0.05);
    }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_and_images_have_words(scheme: str, tab: Any) -> None:
    tab.emulate_media(color_scheme=scheme)
    assert tab.evaluate(CONTRAST) >= 4.5  # WCAG 2.1 AA
    assert tab.locator("img:not([alt])").count() == 0
    assert all(tab.locator("figure img").evaluate_all("all => all.map(each => each.alt)"))
    assert tab.locator("button.flip:not([aria-label])").count() == 0
