"""The documents: how-tos that run, pages built without a warning, live and accessible without a network."""

import base64
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from html import unescape
from itertools import pairwise
from math import ceil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from browsing import assert_accessible, open_offline

import spade_kit

WIDGET, CURVES = "application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"
DOCS, NOTEBOOKS = (Path(__file__).parents[1] / name for name in ("docs", "notebooks"))
LESSONS = sorted(NOTEBOOKS.glob("*.ipynb"))
HOW_TOS = sorted(path for path in (DOCS / "howto").glob("*.md") if path.stem != "index")
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folders(tmp_path, demo, monkeypatch) -> None:
    """The folders of the how-tos: normal images in ``good``, others in ``photos``, here."""
    monkeypatch.chdir(tmp_path)
    for name, samples in (("good", demo.train[:20]), ("photos", demo.test[:3])):
        Path(name).mkdir()
        for at, sample in enumerate(samples):
            shutil.copy(sample.path, Path(name, f"{at:03}.jpg"))


@pytest.mark.slow
@pytest.mark.parametrize("path", HOW_TOS, ids=lambda path: path.stem)
def test_a_how_to_runs_as_it_stands(path, folders):
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    names = {"display": lambda shown: None}  # IPython's, which notebooks have
    for reason, code in blocks:
        if not reason:
            exec(compile(code, path.name, "exec"), names)
    plt.close("all")


def test_only_what_needs_more_than_the_package_is_not_run():
    reasons = [reason for path in HOW_TOS for reason, _ in BLOCK.findall(path.read_text(encoding="utf-8")) if reason]
    assert [re.search("downloads|processes|cluster", reason)[0] for reason in reasons] == [
        "processes", "cluster", "downloads", "downloads", "downloads"
    ]  # fmt: skip


# ---- the pages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """All pages, built from nothing; a warning is an error."""
    site = tmp_path_factory.mktemp("site")
    run = subprocess.run([sys.executable, "-m", "sphinx", "-W", "-q", DOCS, site], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return site


def pages(site: Path) -> dict[Path, str]:
    """The text of each page, without what frames hold and without scripts."""
    found = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if "_static" not in path.parts}
    script = re.compile(r"(<script\b[^>]*>).*?(?=</script>)", re.DOTALL)
    return {path: script.sub(r"\1", text) for path, text in found.items()}


def test_a_figure_after_a_prediction_is_folded_with_its_caption_and_description(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    lessons = importlib.import_module("lessons")
    monkeypatch.setattr(lessons, "PAGES", tmp_path)
    code = nbformat.v4.new_code_cell("draw()", execution_count=3, metadata={"alt": 'A "bright" <spot>'})
    png = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(b"picture").decode()})
    code.outputs = [nbformat.v4.new_output("stream", text="1 < "), nbformat.v4.new_output("stream", text="2"), png]
    before = nbformat.v4.new_markdown_cell("# Maps\n\n**Predict before you run:** where?")
    after = nbformat.v4.new_markdown_cell("*The spot is `here`,\nat the rim.*\n\nOn we go.")
    text = lessons.describe_lesson(nbformat.v4.new_notebook(cells=[before, code, after]), "05_maps")
    figure = text[text.index("<details class='predicted'>") : text.index("</details>")]
    assert text.startswith("# 05 · Maps\n")
    assert "<pre class='printed'>1 &lt; 2</pre>" in figure
    assert '<img class="drawn" src="05_maps-3.png" alt="A &quot;bright&quot; &lt;spot&gt;">' in figure
    assert "<figcaption>The spot is <code>here</code>,\nat the rim.</figcaption>" in figure
    assert text.endswith("\n\nOn we go.\n")
    assert (tmp_path / "course/05_maps-3.png").read_bytes() == b"picture"


def test_a_box_of_controls_is_shown_as_the_pictures_in_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    lessons = importlib.import_module("lessons")
    monkeypatch.setattr(lessons, "PAGES", tmp_path)
    drawn = [
        {"output_type": "display_data", "data": {"image/png": base64.b64encode(one).decode()}} for one in (b"a", b"b")
    ]
    state = {
        "box": {"state": {"children": ["IPY_MODEL_menu", "IPY_MODEL_shown"]}},
        "menu": {"state": {"value": 3}},
        "shown": {"state": {"outputs": drawn}},
    }
    view = nbformat.v4.new_output("display_data", {WIDGET: {"model_id": "box"}})
    code = nbformat.v4.new_code_cell("box", outputs=[view], execution_count=4, metadata={"alt": "A menu"})
    title = nbformat.v4.new_markdown_cell("# Maps")
    lesson = nbformat.v4.new_notebook(cells=[title, code])
    lesson.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": state}}
    text = lessons.describe_lesson(lesson, "05_maps")
    files = re.findall('<img class="drawn" src="([^"]+)" alt="A menu">', text)
    assert [(tmp_path / "course" / file).read_bytes() for file in files] == [b"a", b"b"]


def test_the_table_of_the_reference_is_the_public_api():
    table = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    names = re.findall(r"^   (\w+)$", table, flags=re.MULTILINE)
    assert sorted(names) == sorted(spade_kit.__all__)


def test_every_public_function_and_class_has_an_example():
    """The doctests of the package run them."""
    for name in spade_kit.__all__:
        docstring = inspect.getdoc(getattr(spade_kit, name))
        assert ">>>" in docstring or name == "metrics", name
    for name, metric in vars(spade_kit.metrics).items():
        assert ">>>" in (inspect.getdoc(metric) or ">>>") or name.startswith("_"), name


@pytest.mark.slow
def test_every_public_name_has_its_page_and_what_draws_its_picture(site):
    for name in spade_kit.__all__:
        text = (site / "reference" / "api" / f"spade_kit.{name}.html").read_text(encoding="utf-8")
        widget = inspect.getmodule(getattr(spade_kit, name)).__name__.startswith("spade_kit.widgets")
        assert (f"{name}.page.html" in text) == widget
        assert bool(re.search(rf"_images/{name}\.png|plotly-graph-div", text)) == name.startswith("draw_"), name


@pytest.mark.slow
def test_no_signature_shows_a_private_parameter(site):
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").rglob("*.html"))
    assert text.count("sig-param") > 100
    assert not re.findall(r'<em class="sig-param">(?:<[^>]*>)*_\w+', text)


@pytest.mark.slow
def test_every_picture_and_frame_is_described(site):
    for path, text in pages(site).items():
        for tag in re.findall(r"<img\b[^>]*>", text):
            assert re.search(r'alt="[^"]{20,}"', tag), f"{path.name}: {tag[:200]}"
        for tag in re.findall(r"<iframe\b[^>]*>", text):
            assert re.search(r'title="[^"]{10,}"', tag), f"{path.name}: {tag}"
    for path in LESSONS:
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        kinds = [(cell, output.get("data", {}).keys()) for cell in cells for output in cell.outputs]
        shown = [cell.metadata["alt"] for cell, kind in kinds if kind & {"image/png", WIDGET, CURVES} == {"image/png"}]
        boxes = [cell.metadata["alt"] for cell, kind in kinds if WIDGET in kind and "image/png" not in kind]
        text = (site / "course" / f"{path.stem}.html").read_text(encoding="utf-8")
        found = [unescape(alt) for alt in re.findall(r'<img class="drawn"[^>]*alt="([^"]*)"', text)]
        assert [alt for alt in found if alt not in boxes] == shown
        assert {*boxes} <= {*found}  # each of their pictures has the description of the cell


@pytest.mark.slow
def test_nothing_is_fetched_and_every_link_has_a_target(site):
    texts = pages(site)
    anchors = {path: set(re.findall(r'id="([^"]+)"', text)) for path, text in texts.items()}
    for path, text in texts.items():
        assert not re.search(r"<(?:script|img|link|iframe)\b[^>]+(?:src|href)=[\"'](?:https?:)?//", text), path.name
        for target, _, anchor in re.findall(r'(?:href|src)="([^":#?]*)(\?[^"#]*)?(?:#([^"]*))?"', text):
            there = (path.parent / unescape(target)).resolve() if target else path
            assert there.exists(), f"{path.name}: {target}"
            assert there not in anchors or not anchor or unescape(anchor) in anchors[there], f"{path.name}: {anchor}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?:|@import [\"']http", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.slow
def test_a_lesson_folds_what_answers_a_prediction_and_shows_formulas(site):
    text = (site / "course" / f"{LESSONS[4].stem}.html").read_text(encoding="utf-8")
    cells = nbformat.read(LESSONS[4], 4).cells
    asked = [after for cell, after in pairwise(cells) if "**Predict before you run:**" in cell.source and after.outputs]
    assert text.count("<summary>Show the output</summary>") == len(asked) > 3
    assert text.count("<math") >= 4
    assert "$$" not in text
    assert text.count("<summary>Solution</summary>") >= 1
    assert text.count("<details") == text.count("</details>")


@pytest.mark.slow
def test_the_course_fits_into_a_mail(site):
    assert sum(path.stat().st_size for path in (site / "course").rglob("*")) < 27e6


@pytest.mark.slow
def test_the_misses_are_those_that_normal_images_say(site, demo):
    """The threshold by hand: of 60 left-out scores, ceil(61 * 0.95) are at most as high."""
    spade = spade_kit.SPADE().fit(demo.train)
    scores = sorted(spade.predict_left_out(at).image_score for at in range(len(spade)))
    limit = scores[ceil((len(scores) + 1) * 0.95) - 1]
    missed = [
        f"{sample.label}/{sample.path.stem}"
        for sample in demo.test
        if sample.label != "good" and spade.predict(sample).image_score < limit
    ]
    text = (site / "misses.html").read_text(encoding="utf-8")
    assert re.findall(r"<h3>([^<]+)<", text) == missed


@pytest.mark.slow
def test_widgets_follow_the_pointer_offline(browser, site):
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 1200})
    page, mistakes = context.new_page(), []
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    for path in [site / "explorers.html", *(site / "course" / f"{path.stem}.html" for path in LESSONS)]:
        page.goto(path.as_uri())
        if page.locator(".show-all").count() and page.locator(".show-all").is_visible():
            page.locator(".show-all").press("Enter")
            assert page.locator("article details:not([open])").count() == 0
        for nth in range(page.locator("iframe.widget").count()):
            page.locator("iframe.widget").nth(nth).scroll_into_view_if_needed()
            widget = page.frame_locator("iframe.widget").nth(nth).locator(".spade-kit[data-shown]")
            widget.wait_for(timeout=20_000)
            stage = widget.locator(".sk-stage.pointed").first
            if stage.count():
                stage.hover(position={"x": 60, "y": 40})
                ring = widget.locator(".sk-ring.hovered[visibility=visible]").first
                ring.wait_for(state="attached", timeout=5000)
    page.goto((site / "explorers.html").as_uri())
    page.wait_for_function("document.querySelector('iframe').offsetHeight !== 760", timeout=10_000)
    inner = page.frame_locator("iframe").locator(".spade-kit")
    assert page.locator("iframe").bounding_box()["height"] >= inner.bounding_box()["height"]
    for theme in ("dark", "light"):  # a frame takes the theme of its page
        page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        inner.locator(f":root[style*='color-scheme: {theme}']").or_(inner).first.wait_for()
        shade = page.frames[1].evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert shade == {"dark": "rgb(22, 22, 22)", "light": "rgb(255, 255, 255)"}[theme]
    context.close()
    assert mistakes == []


@pytest.mark.slow
def test_the_search_finds_without_a_network(browser, site):
    with open_offline(browser, site / "search.html") as page:
        page.goto(f"{(site / 'search.html').as_uri()}?q=radius")
        page.locator('#search-results li a[href*="match_pixels"]').first.wait_for(timeout=20_000)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_are_accessible_in_both_themes(browser, site, theme):
    for name in ("index", f"course/{LESSONS[4].stem}", "reference/api/spade_kit.match_pixels"):
        path = site / f"{name}.html"
        with open_offline(browser, path, color_scheme=theme) as page:
            page.locator("article").wait_for()
            assert page.evaluate("document.documentElement.dataset.theme") == theme
            assert_accessible(page)
