"""All widgets in a notebook that is opened without its kernel, and after the kernel was restarted."""

import shutil

import pytest
from browsing import Notebook, Shown, assert_accessible

START = """
import spade_kit
parts, spade = spade_kit.load_dataset("demo"), spade_kit.SPADE.load("fitted")
photos = parts.test[:6]
explorer, comparison = spade_kit.explore(spade, photos), spade_kit.compare_layers(spade, photos)
chooser, painting = spade_kit.choose_threshold(spade, photos), spade_kit.paint_defect(spade, photos, folder="kept")
review, atlas = spade_kit.review_suspects(spade), spade_kit.map_images(spade, photos)
for widget in (explorer, comparison, chooser, painting, review, atlas):
    widget.finish()
"""
NAMES = ("explorer", "comparison", "chooser", "painting", "review", "atlas")
TALL = {"width": 1280, "height": 5600}  # all cells are in view: Lab takes others off the page
MESSAGE = "No kernel connected: run this cell to recompute."


@pytest.fixture(scope="module")
def kept(browser, lab):
    """A saved notebook with all widgets."""
    with Notebook(browser, lab, "all.ipynb", START, *NAMES) as notebook:
        for nth in range(len(NAMES)):
            Shown(notebook.page, nth).settle()
        notebook.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        notebook.page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty", timeout=20_000)
    return "all.ipynb"


@pytest.fixture(scope="module")
def reopened(browser, lab, kept):
    shutil.copy(lab.folder / kept, lab.folder / "reopened.ipynb")  # another name: another kernel
    with Notebook(browser, lab, "reopened.ipynb", run=False, viewport=TALL) as notebook:
        for nth in range(len(NAMES)):
            Shown(notebook.page, nth).root.get_by_role("alert").filter(has_text=MESSAGE).wait_for(timeout=20_000)
        yield notebook


def until_menu_agrees(shown: Shown) -> None:
    """The menu names the photo that is shown, and nothing spins."""
    index = shown.root.get_attribute("data-shown").split()[0]
    menu = shown.root.get_by_label("photo", exact=True)
    shown.page.wait_for_function(
        "([menu, index]) => menu.value === index", arg=[menu.element_handle(), index], timeout=2000
    )
    assert shown.root.locator(".sk-spinner").evaluate("node => getComputedStyle(node).visibility") == "hidden"


@pytest.mark.parametrize("name", NAMES)
def test_the_message_has_a_calm_row_of_its_own(reopened, name):
    shown = Shown(reopened.page, NAMES.index(name))
    message = shown.root.get_by_role("alert")
    above, box, below = (
        message.locator(f"xpath=.{step}").bounding_box()
        for step in ("/preceding-sibling::*[1]", "", "/following-sibling::*[1]")
    )
    assert above["y"] + above["height"] <= box["y"]
    assert box["y"] + box["height"] <= below["y"]
    edges = message.evaluate("node => ['Left', 'Right'].map(side => getComputedStyle(node)[`border${side}Color`])")
    assert edges[0] == edges[1]
    assert shown.root.locator(".sk-spinner").evaluate("node => getComputedStyle(node).visibility") == "hidden"


def test_without_a_kernel_there_are_no_serious_accessibility_violations(reopened):
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        reopened.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{ theme: '{theme}' }})")
        reopened.page.wait_for_timeout(800)
        assert_accessible(reopened.page, ".spade-kit")


@pytest.mark.parametrize(("name", "pictures"), [("explorer", 6), ("review", 12)])
def test_thumbnails_are_kept_in_the_notebook(reopened, name, pictures):
    strip = Shown(reopened.page, NAMES.index(name)).root.locator(".sk-strip").first
    widths = strip.locator(".sk-card img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) == pictures
    assert all(width >= 48 for width in widths)


def test_the_photos_nearest_to_the_threshold_are_kept_in_the_notebook(reopened):
    near = Shown(reopened.page, NAMES.index("chooser")).root.locator(".sk-beside canvas.base")
    seen = near.evaluate_all("all => all.map(one => getComputedStyle(one).visibility)")  # hidden until drawn
    assert seen.count("visible") >= 5


def test_what_needs_python_says_so(reopened):
    shown = Shown(reopened.page, NAMES.index("explorer"))
    shown.press("ratio")
    shown.map.locator("xpath=..").get_by_text("ratios need Python").wait_for(timeout=2000)
    shown.press("map")


def test_points_of_a_map_have_pictures_and_neighbours_in_the_notebook(reopened):
    root = Shown(reopened.page, NAMES.index("atlas")).root
    root.locator(".sk-atlas").focus()
    reopened.page.keyboard.press("ArrowRight")
    root.locator(".sk-live", has_text="its neighbours: normal ").wait_for(timeout=2000)
    picture = root.locator(".sk-thumb")
    picture.wait_for(timeout=2000)
    assert picture.evaluate("image => image.naturalWidth") == 72
    reopened.page.keyboard.press("Escape")


@pytest.mark.parametrize("name", ["explorer", "comparison"])
def test_without_a_kernel_a_menu_goes_back_to_the_picture(reopened, name):
    shown = Shown(reopened.page, NAMES.index(name))
    shown.choose("photo", "3")
    until_menu_agrees(shown)
    assert shown.root.get_by_role("alert").count() == 1


def test_after_a_restart_menus_go_back_to_the_picture(browser, lab, kept):
    with Notebook(browser, lab, kept) as notebook:
        shown = [Shown(notebook.page, NAMES.index(name)) for name in ("explorer", "comparison")]
        for one in shown:
            one.settle()
        notebook.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        for one in shown:
            one.root.get_by_role("alert").filter(has_text=MESSAGE).wait_for(timeout=20_000)
            one.choose("photo", "3")
            until_menu_agrees(one)


def test_a_menu_that_was_used_while_the_kernel_died_goes_back_to_the_picture(browser, lab, kept):
    with Notebook(browser, lab, kept) as notebook:
        shown = Shown(notebook.page, NAMES.index("comparison"))
        shown.settle()
        notebook.execute("comparison._refresh = lambda: __import__('time').sleep(60)")
        shown.choose("photo", "3")
        notebook.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        shown.root.get_by_role("alert").filter(has_text=MESSAGE).wait_for(timeout=20_000)
        until_menu_agrees(shown)
