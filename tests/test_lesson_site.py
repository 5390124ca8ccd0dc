"""Lessons as offline pages: no network requests, no dead links, and widgets respond to the pointer."""

import re
from html import unescape
from pathlib import Path

import nbformat
import pytest
from make_site import write_site

WIDGET, CURVES = "application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    site = tmp_path_factory.mktemp("site")
    write_site(NOTEBOOKS, site)
    return site


def test_every_lesson_has_its_page_and_the_index_names_them(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert (site / f"{path.stem}.html").is_file()
        assert f'href="{path.stem}.html"' in index


def test_nothing_is_fetched_and_every_link_has_a_target(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        code = re.sub(r'"base64": "[^"]*"', "", text)
        assert not re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']https?:", code), page.name
        assert not re.search(r"import\(|cdnjs|unpkg|jsdelivr", code), page.name
        for target in re.findall(r'(?:href|src)="([^":#]+)(?:#[^"]*)?"', code):
            assert (site / target).exists(), f"{page.name}: {target}"


def test_every_picture_is_described(site):
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        kinds = [(cell, output.get("data", {}).keys()) for cell in cells for output in cell.outputs]
        shown = [cell for cell, kind in kinds if kind & {"image/png", WIDGET, CURVES} == {"image/png"}]
        text = (site / f"{path.stem}.html").read_text(encoding="utf-8")
        pictures = re.findall(r'<img\b[^>]*src="data:image/png[^>]*>', text)
        found = [unescape(re.search(r'alt="([^"]*)"', picture)[1]) for picture in pictures]
        assert found == [cell.metadata["alt"] for cell in shown], path.stem
        assert "No description" not in text


def test_formulas_are_mathml_and_solutions_are_folded(site):
    text = (site / "04_correspondence.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 4
    assert "$$" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert text.count("<summary>Solution</summary>") == 1
    assert "Right. That is all of stage 3" in text


def test_widgets_follow_the_pointer_offline(browser, site):
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 1200})
    page = context.new_page()
    mistakes = []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        page.goto((site / f"{path.stem}.html").as_uri())
        frames = page.locator("iframe")
        assert frames.count() >= 1, path.stem
        for nth in range(frames.count()):
            frames.nth(nth).scroll_into_view_if_needed()
            widget = page.frame_locator("iframe").nth(nth).locator(".spade-kit[data-shown]")
            widget.wait_for(timeout=20_000)
            stage = widget.locator(".sk-stage.pointed").first
            if stage.count():
                stage.hover(position={"x": 60, "y": 40})
                ring = widget.locator(".sk-ring.hovered[visibility=visible]").first
                ring.wait_for(state="attached", timeout=5000)
    page.goto((site / "04_correspondence.html").as_uri())
    frame = page.locator("iframe").first
    frame.scroll_into_view_if_needed()  # the frame loads lazily
    page.wait_for_function("document.querySelector('iframe').offsetHeight !== 760", timeout=10_000)
    inner = page.frame_locator("iframe").first.locator(".spade-kit")
    assert frame.bounding_box()["height"] >= inner.bounding_box()["height"]
    context.close()
    assert mistakes == []


def test_a_review_shows_its_thumbnails_offline(browser, site):
    page = browser.new_page()
    page.goto((site / "12_hand_it_on-5.html").as_uri())
    page.locator(".spade-kit[data-shown='12']").wait_for()
    cards = page.locator(".sk-strip img")
    assert cards.count() == 13
    assert cards.evaluate_all("images => Promise.all(images.map((one) => one.decode()))") == [None] * 13
    page.close()
