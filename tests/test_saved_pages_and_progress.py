"""Saved pages are finished and whole, exported notebooks show pictures, and progress bars end at their end."""

import io
import json
import re
import shlex
import shutil
import sys
import warnings
from pathlib import Path

import matplotlib.style
import nbformat
import numpy as np
import pytest
import tqdm.std
from browsing import Shown, assert_accessible, open_offline, read_saved
from matplotlib.text import Text
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from traitlets.config import Config

import spade_kit
from spade_kit import SPADE, Sample, choose_threshold, compare_layers, evaluate, explore, paint_defect
from spade_kit._files import as_text
from spade_kit._work import track

HOW_TO = Path(__file__).parents[1] / "docs/howto/save_and_share.md"


@pytest.fixture
def opened(spade, demo, tmp_path):
    photos = demo.test[::12]
    return {
        "explorer": explore(spade, photos),
        "chooser": choose_threshold(spade, photos),
        "comparison": compare_layers(spade, photos),
        "painting": paint_defect(spade, photos, folder=tmp_path / "painted"),
        "review": spade_kit.review_suspects(spade),
        "atlas": spade_kit.map_images(spade, photos),
        "stages": spade_kit.show_stages(spade, photos),
    }


# ---- saved pages -----------------------------------------------------------------------------------------------------


def test_a_saved_page_is_finished(opened, tmp_path):
    for name, widget in opened.items():
        widget.save_html(tmp_path / f"{name}.html")
        assert "</html>" in (tmp_path / f"{name}.html").read_text(encoding="utf-8")
    explorer, chooser = opened["explorer"], opened["chooser"]
    assert [fresh for _, fresh in explorer.scores] == [True] * 4
    assert not explorer.normals["stale"]
    assert chooser.study["waiting"] == 0
    assert len(chooser.photos) == 4 + 12
    assert not any(level["stale"] for level in opened["comparison"].levels)
    assert len(opened["painting"].normals["scores"]) == 12
    assert all(fresh for _, _, fresh, _ in opened["review"].suspects)
    assert np.isfinite(np.frombuffer(opened["atlas"].places["pca"], np.float32)).all()


def test_a_saved_page_says_what_it_shows_and_what_works_offline(browser, opened, tmp_path):
    for name, widget in opened.items():
        widget.problem = "a message"
        widget.save_html(tmp_path / "page.html")
        with open_offline(browser, tmp_path / "page.html", color_scheme="dark") as page:
            shown = Shown(page)
            assert shown.root.locator("h1").inner_text() == page.title() != ""
            told = shown.root.locator("header p").inner_text()
            assert {"chooser": "score at least the threshold", "stages": "an image"}.get(name, "photo") in told
            assert "works offline: " in told
            assert shown.root.locator("header").bounding_box()["y"] < shown.root.locator(".sk-head").bounding_box()["y"]
            assert shown.root.get_by_role("alert").count() == 0
            assert not shown.root.locator(".sk-spinner").is_visible()
            if name not in ("comparison", "painting"):  # provenance in words, the hash on hover
                source = shown.root.locator(".sk-source")
                assert source.inner_text().startswith("efficientnet_lite0, weights: ImageNet; ")
                assert "SHA-256 " in source.get_attribute("title")
            assert_accessible(page)
            for width in (700, 1000, 1600):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)


def test_the_page_that_a_page_asks_for_is_finished_too(opened, monkeypatch):
    explorer, sent = opened["explorer"], []
    monkeypatch.setattr(explorer, "send", lambda content, buffers=(): sent.append(content))
    explorer._on_message(None, {"kind": "page"}, [])
    assert [content["kind"] for content in sent][-1] == "file"
    assert [fresh for _, fresh in explorer.scores] == [True] * 4


def test_a_page_that_cannot_be_written_leaves_the_old_one(opened, tmp_path, monkeypatch):
    page, explorer = tmp_path / "new/page.html", opened["explorer"]
    explorer.save_html(page)
    before = page.read_bytes()

    def fill(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match=r"page.html could not be written \(No space left on device\)"):
        explorer.save_html(page)
    assert page.read_bytes() == before
    assert list(page.parent.iterdir()) == [page]


@pytest.mark.parametrize("name", ["<!--<script>a", "z<script b", "<!--", "a]]>b", "<\u2028&amp;'\"`${x}"])
def test_no_name_of_an_image_can_end_or_open_a_script(spade, demo, tmp_path, name):
    """Inside a script, an HTML parser reacts only to a less-than sign."""
    photos = [tmp_path / f"{name}{at}.png" for at in (0, 1)]
    for at, photo in enumerate(photos):
        shutil.copy(demo.test[at * 12].path, photo)
    spade = spade.with_options().add([Sample(photos[0], "good")])
    widgets = [explore(spade, photos), choose_threshold(spade, photos), compare_layers(spade, photos)]
    widgets += [paint_defect(spade, photos, folder=tmp_path / name), spade_kit.review_suspects(spade)]
    widgets.append(spade_kit.map_images(spade, photos))
    for widget in widgets:
        widget.save_html(tmp_path / "page.html")
        page, shown = (tmp_path / "page.html").read_text(encoding="utf-8"), json.dumps(as_text(photos[0].stem))[1:-1]
        assert "<" not in page[page.index("await openSaved(") : page.index("</script>")]
        assert shown in read_saved(tmp_path / "page.html")


@pytest.mark.parametrize("wrong", [None, 5, "", ".", Path()])
def test_a_page_needs_the_name_of_a_file(opened, wrong):
    for widget in opened.values():
        with pytest.raises(ValueError, match=r"path must be the name of a file; got"):
            widget.save_html(wrong)


def test_a_page_never_replaces_a_photo(opened, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"mine")
    for widget in opened.values():
        with pytest.raises(ValueError, match=r"The name of a page must end in \.html; got 'photo\.png'\."):
            widget.save_html(photo)
    assert photo.read_bytes() == b"mine"


def test_every_page_says_how_much_was_judged(demo, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (400, 100), "grey").save(wide)
    with pytest.warns(UserWarning, match="squashed"):
        spade = SPADE(k=2).fit([sample.image[60:140] for sample in demo.train[:4]])
    explorer, comparison = explore(spade, [wide]), compare_layers(spade, [wide])
    painting, chooser = paint_defect(spade, [wide], folder=tmp_path), choose_threshold(spade, [wide])
    for widget in (explorer, comparison, painting):
        assert widget.photo["judged"] == "77 % of the image judged, squashed by 4 : 1"
    (told,) = chooser.told["images"]
    assert told.startswith(
        "77 % of each image was judged; load_backbone(..., crop=None) judges all of it. 5 of 5 images"
    )
    for widget in (explorer, comparison, painting):
        assert "77 % of the image judged, squashed by 4 : 1" in _texts(widget.draw())
    assert told in _texts(chooser.draw()).replace("\n", " ")


def _texts(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_the_home_directory_is_understood(opened, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    opened["painting"].save_html("~/page.html")
    assert (tmp_path / "page.html").is_file()


def test_a_notebook_that_runs_without_a_page_keeps_thumbnails(opened):
    for widget in opened.values():
        widget.finish()
    assert sorted(opened["explorer"].thumbs) == list(range(4))
    assert sorted(opened["review"].thumbs) == list(range(12))
    assert len(opened["chooser"].pictures) == 8
    for jpeg in (*opened["explorer"].thumbs.values(), *opened["review"].thumbs.values()):
        assert Image.open(io.BytesIO(jpeg)).size == (72, 72)


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_dark_on_opaque_white_with_a_margin_whatever_the_style(opened, monkeypatch):
    for name, widget in opened.items():
        sent, drawn = [], []
        monkeypatch.setattr(widget, "send", lambda content, buffers=(), sent=sent: sent.append(buffers[0]))
        monkeypatch.setattr(widget, "draw", lambda draw=widget.draw, drawn=drawn: drawn.append(draw()) or drawn[-1])
        with matplotlib.style.context("dark_background"), matplotlib.rc_context({"savefig.transparent": True}):
            widget._on_png()
            assert drawn[0].get_suptitle() == widget._title_and_stem()[0] != ""
            pictures = [sent[0]] if name == "explorer" else [sent[0], widget._preview()]  # pictures edge to edge
        for content in pictures:
            pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
            inner = np.zeros(pixels.shape[:2], bool)
            inner[14:-14, 14:-14] = True
            assert (pixels[~inner] == 255).all()
            assert (pixels[..., 3] == 255).all()
            assert (pixels[inner][:, :3].max(-1) < 60).any()  # letters


# ---- exported notebooks ----------------------------------------------------------------------------------------------


def test_the_documented_export_shows_each_widget_as_a_picture(opened):
    """An executed notebook holds the state of its widgets, which a page can show only with files from the network."""
    data, _ = opened["explorer"]._repr_mimebundle_()
    view = {"application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 1, "model_id": "one"}}
    state = {"one": {"model_name": "AnyModel", "model_module": "anywidget", "state": {}}}
    whole = {"version_major": 2, "version_minor": 0, "state": state}
    notebook = nbformat.v4.new_notebook(metadata={"widgets": {"application/vnd.jupyter.widget-state+json": whole}})
    pictures = {"text/plain": data["text/plain"], "image/png": "iVBORw0KGgoAAAA"}
    output = nbformat.v4.new_output("display_data", view | pictures)
    notebook.cells = [nbformat.v4.new_code_cell("spade_kit.explore(spade)", outputs=[output])]
    assert len(data["image/png"]) > 1000

    (call,) = re.findall(r"`(jupyter nbconvert --to html [^`]*)`", HOW_TO.read_text(encoding="utf-8"))
    (given,) = (word for word in shlex.split(call) if word.startswith("--Clear"))
    name, value = given.removeprefix("--").split("=")
    kind, trait = name.split(".")
    page, _ = HTMLExporter(config=Config({kind: {trait: value == "True"}})).from_notebook_node(notebook)
    assert "data:image/png;base64,iVBORw0KGgoAAAA" in page
    assert 'type="application/vnd.jupyter.widget-view+json">' not in page


# ---- progress bars ---------------------------------------------------------------------------------------------------


@pytest.fixture
def bars(monkeypatch):
    """The bars that were closed, as (n, total)."""
    closed = []

    class Bar(tqdm.std.tqdm):
        def close(self):
            if not self.disable:
                closed.append((self.n, self.total))
            super().close()

    monkeypatch.setenv("TQDM_DISABLE", "0")
    monkeypatch.setattr("spade_kit._work._Bar", Bar)
    return closed


def test_every_bar_ends_at_its_end(bars, demo, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(demo.test[0].image).save(tmp_path / "in/a.png")
    (tmp_path / "in/broken.png").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spade = SPADE(k=2).fit([*demo.train[:5], tmp_path / "in/broken.png"])
        spade.suspects()
        spade.threshold(0.3)
        spade.threshold(0.3, groups=[0, 0, 1, 1, 2])
        next(SPADE(k=1).fit(demo.train[:5]).calibration.maps(spade.options))
        spade.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.3)
        evaluate(spade, demo.test[:3])
    assert len(bars) >= 7
    assert {total for _, total in bars} >= {2, 3, 5, 6}
    assert all(n == total for n, total in bars)


def test_the_text_of_a_bar_in_a_notebook_ends_complete(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    code = "import time\nfrom spade_kit._work import track\nfor _ in track(range(5), desc='images'): time.sleep(0.4)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter, about its own connection
        NotebookClient(notebook, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"].startswith("images: 100%")
    assert "5/5" in output.data["text/plain"]


def test_there_is_no_bar_without_stderr(monkeypatch, demo):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    assert not track(total=1).disable
    closed = io.StringIO()
    closed.close()
    for nowhere in (None, closed):
        monkeypatch.setattr(sys, "stderr", nowhere)
        assert track(total=1).disable
        assert list(track(range(3))) == [0, 1, 2]
        SPADE(k=1).fit(demo.train[:3]).suspects()
