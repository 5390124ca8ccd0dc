"""The report of a run: what it says and shows, that no name in it runs, and what happens if it cannot be written."""

import os
import re
import shutil
from base64 import b64decode
from contextlib import nullcontext
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import open_offline
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from spade_kit import SPADE, Sample, evaluate, shell
from spade_kit._files import as_path
from spade_kit.datasets.images import read_image
from spade_kit.evaluation import page
from spade_kit.evaluation.page import PAGE

HOSTILE = [
    '"><script>alert(1)<',  # a folder: with the next name it ends in </script>
    "' onerror='alert(2)",
    "<img src=x onerror=alert(3)>",
    "<!-- card -->",
    "$headline ${large} &lt;b&gt;",
    os.fsdecode(b"\xe8 undecodable"),
]
VOID = {"meta", "link", "img", "input", "path", "circle"}


class Reader(HTMLParser):
    """The elements of a page: their names, attributes and text, with that of the elements inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = SimpleNamespace(tag=tag, text="", **{"at": dict(attrs)})
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        while tag not in VOID and self.open and self.open.pop().tag != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element.text += data

    def all(self, tag: str, **at: str) -> list[SimpleNamespace]:
        wanted = {name.rstrip("_"): value for name, value in at.items()}
        return [one for one in self.elements if one.tag == tag and wanted.items() <= one.at.items()]


def read(folder: Path) -> Reader:
    return Reader((folder / PAGE).read_text(encoding="utf-8"))


def pixels(image: SimpleNamespace) -> np.ndarray:
    content = b64decode(image.at["src"].removeprefix("data:image/webp;base64,"))
    picture = Image.open(BytesIO(content))
    assert picture.size == (int(image.at["width"]), int(image.at["height"]))  # so that nothing jumps
    return np.array(picture.convert("RGB"))


@pytest.fixture(scope="module")
def line(demo, tmp_path_factory) -> Path:
    """Images with names that would run or break something, and one that is broken."""
    folder = tmp_path_factory.mktemp("line")
    for sample, name in zip(demo.test[::9], HOSTILE):
        path = folder / name / "script>.jpg" if name.startswith('"') else folder / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(sample.path, path)
    (folder / "broken & lost.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def run(spade, line, tmp_path_factory) -> tuple[Path, pandas.DataFrame]:
    out = tmp_path_factory.mktemp("run") / "out"
    return out, spade.predict_folder(line, out, fpr=0.2)


def test_the_report_says_how_many_are_bad_which_is_worst_and_why_the_threshold_lies_there(spade, line, run):
    out, table = run
    shown, judged = read(out), table[table["verdict"] != "not judged"]
    bad, worst = (judged["verdict"] == "anomalous").sum(), judged.sort_values("image_score").iloc[-1]
    assert 0 < bad < len(judged) == 6
    assert [one.text for one in shown.all("h1")] == [f"Anomalous: {bad} of 6 images"]
    (summary,) = shown.all("div", class_="summary")
    threshold = spade.threshold(0.2, of="image")
    assert f"its score reaches the threshold of {threshold:.4g}, as about 20 % of normal images do" in summary.text
    scores = np.array([spade.predict_left_out(index).image_score for index in range(12)])
    reached = int((scores >= threshold).sum())
    at_most = beta.ppf(0.975, reached + 1, 12 - reached)
    assert f"{reached} of 12\nreach it, so of new ones" in summary.text
    assert f"to {100 * at_most:.2g} % do (95 % confidence interval)" in summary.text
    assert "6 of 6 judged images are shown here" in shown.all("section")[0].text
    peak = f"Its peak is at row {worst['row']}, column {worst['col']}."
    times = f"{worst['image_score'] / threshold:.3g} times the threshold"
    assert f"is {worst['path']}: its image score is {worst['image_score']:.4g}, {times}. {peak}" in summary.text
    assert "Not judged: 1; reasons are in the list of images. The first: Cannot read" in summary.text
    assert "77 % of each image was judged" in summary.text
    (settings,) = shown.all("section", class_="settings")
    for value in spade.describe_run().values():
        assert str(value) in settings.text


def test_every_image_is_in_the_list_the_most_anomalous_first(run):
    out, table = run
    shown = read(out)
    listed = [one for one in shown.elements if "data-kind" in one.at]
    names = [one.text for one in shown.all("ul", class_="small")]
    table = table.sort_values("image_score", ascending=False, na_position="last")
    assert [one.at["data-kind"] for one in listed] == table["verdict"].tolist()
    for one, row in zip(listed, table.itertuples()):
        assert row.path in one.text
        assert (f"{row.image_score:.4g}" if row.verdict != "not judged" else row.reason) in one.text
    assert [names[0].count(path) for path in table["path"][:-1]] == [1] * 6
    offered = {one.at["value"] for one in shown.all("input", type="radio")}
    assert offered == {"all", "anomalous", "normal", "not judged"}


def test_names_run_nothing_and_are_shown_as_they_are(run, line):
    out, table = run
    shown = read(out)
    assert len(shown.all("script")) == 1
    assert not [one.at for one in shown.elements if any(name.startswith("on") for name in one.at)]
    assert {one.at["src"][:16] for one in shown.all("img")} == {"data:image/webp;"}
    assert {one.text for one in shown.all("span", class_="name")} == {*table["path"]} - {"broken & lost.png"}
    assert all((line / as_path(path)).is_file() for path in table["path"])


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"])) | st.text("<>\"'&/$-! scriptonl=", min_size=1)


@example("<b>&lt;</b>", "<script>&amp;")
@given(TEXTS, TEXTS)
def test_any_name_and_reason_is_text(name, reason):
    lost = SimpleNamespace(path=name, verdict="not judged", reason=reason, image_score=np.nan)
    judged = SimpleNamespace(path=name, verdict="normal", reason="", image_score=2.5)
    row, caption = Reader(page._write_row(lost)), Reader(page._caption(judged))
    assert [one.tag for one in row.elements] == ["tr", "td", "td", "td"]
    assert [one.tag for one in caption.elements] == ["span", "b", "span"]
    assert row.elements[0].text == f"{name}not judged: {reason}"
    assert [one.text for one in caption.elements] == [name, "2.5", "below the threshold"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(0, 100))
def test_what_is_written_fits_into_its_room(parts, room):
    kept, left = page._fill(iter(parts), room)
    assert parts[: len(kept)] == kept
    assert len("".join(f"{part}\n" for part in kept).encode()) + left == room
    assert left >= 0
    assert len(kept) == len(parts) or len(parts[len(kept)].encode()) + 1 > left


def test_the_report_of_any_number_of_images_is_smaller_than_4_mb(spade, demo, tmp_path, monkeypatch):
    """Names that are long and large pictures of noise, which compresses badly."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8))
    monkeypatch.setattr(page, "_open_small", lambda file: noise.copy())
    rooms = [page._ROOM_OF_LARGE, page._ROOM_OF_SMALL, page._ROOM_OF_ROWS]
    assert sum(rooms) <= 3_900_000  # the rest is the page without images
    for name, value in (("_ROOM_OF_LARGE", 0), ("_ROOM_OF_SMALL", 100_000), ("_SMALL", 50)):
        monkeypatch.setattr(page, name, value)
    count, name = 5000, "ü" * 100
    frame = pandas.DataFrame(
        {
            "path": [f"{name}{at}.png" for at in range(count)],
            "verdict": "normal",
            "image_score": np.linspace(9, 1, count),
            "reason": "",
        }
    )
    told = spade.describe_run() | {"input": "x", "rate": 0.1, "threshold": 10.0, "pixel_rate": 0.01}
    photos = [tmp_path / "gone.png"] * count
    page.write_page(tmp_path, spade, frame, photos, told | {"pixel_threshold": 9.0}, "results.csv", [])
    size, shown = (tmp_path / PAGE).stat().st_size, read(tmp_path)
    assert 0 < size - (100_000 + page._ROOM_OF_ROWS) < 100_000
    assert len(shown.all("img")) == 50
    listed = [one for one in shown.elements if "data-kind" in one.at]
    (left,) = re.findall(r"(\d+) more images are only in the table, results\.csv\.", (tmp_path / PAGE).read_text())
    assert len(listed) + int(left) == count


def test_the_large_pictures_show_the_map_its_regions_and_what_explains_the_peak(spade, line, run):
    out, table = run
    shown = read(out)
    cards, figures = shown.all("article"), shown.all("svg", viewbox="0 0 224 224")
    pictures = [one for one in shown.all("img") if one.at["alt"]]
    ranked = table.dropna(subset="image_score").sort_values("image_score", ascending=False)
    assert [one.at["id"] for one in cards] == [f"image-{rank}" for rank in range(1, 7)]
    rings = [one.at for one in shown.all("circle")]
    level, outline = spade.normal_level, spade.threshold()
    for at, (row, card) in enumerate(zip(ranked.itertuples(), cards)):
        result = spade.predict(line / as_path(row.path))
        peak = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
        match = result.match(*peak)
        places = [(float(one["cy"]) - 0.5, float(one["cx"]) - 0.5) for one in rings[3 * at : 3 * at + 3]]
        assert places == [peak, peak, (match.row, match.col)]
        name = spade.gallery.normals[match.image].sample.path.name
        assert f"at row {row.row}, column {row.col} of the image (ring)" in card.text
        assert f"is in {name} (ring),\nat a distance of {match.distance:.3g} before" in card.text
        regions = result.regions(outline)
        assert figures[3 * at].text == "".join(str(number) for number in regions.index[:20])
        for region in regions[:5].itertuples():
            box = [region.top, region.left, region.bottom, region.right]
            assert re.search(rf"{region.area:.0f}\s*{'.*'.join(map(str, box))}", card.text, re.DOTALL)
        photo, heat, normal = map(pixels, pictures[3 * at : 3 * at + 3])
        assert abs(photo.astype(int) - result.image).mean() < 8
        assert abs(normal.astype(int) - result.normal_image(match.image)).mean() < 8
        colours = page._COLOURS(result.anomaly_map / (2 * level), bytes=True)[..., :3]
        assert abs(heat.astype(int) - colours).mean() < 4
        assert f"normal level {level:.3g}" in card.text


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_an_outline_encloses_the_pixels_of_a_mask(height, width, random):
    """A pixel is inside if a way to it from the left crosses an odd number of edges."""
    mask = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    path = re.search('d="(.*)"', page._outline(mask, "found"))[1]
    across, down = np.zeros((height + 1, width), bool), np.zeros((height, width + 1), bool)
    for col, row, way in re.findall(r"M(\d+) (\d+)([hv])1", path):
        (across if way == "h" else down)[int(row), int(col)] ^= True
    assert (np.cumsum(down[:, :-1], 1) % 2 == mask).all()
    assert (np.cumsum(across[:-1], 0) % 2 == mask).all()


@given(
    st.lists(st.floats(-5, 50, width=32), min_size=1, max_size=40),
    st.lists(st.floats(-5, 50, width=32), min_size=1, max_size=40),
    st.floats(-5, 50, width=32),
)
def test_a_histogram_counts_all_scores(normal, judged, threshold):
    groups = {"normal": np.array(normal), "judged": np.array(judged)}
    shown = Reader(page._draw_histogram(groups, threshold))
    every = [*normal, *judged, threshold]
    low, high = min(every), min(max(every), 4 * threshold if threshold > 0 else np.inf)
    high = high if high > low else low + 1
    place = {tick.text: float(tick.at["x"]) for tick in shown.all("text", class_="tick")}
    for text, x in place.items():
        assert low <= float(text) + 1e-4 * max(abs(low), abs(high), 1)
        assert x == pytest.approx(660 * (float(text) - low) / (high - low), abs=0.2)
    (limit,) = shown.all("path", class_="limit")
    assert float(re.match(r"M(.*) ", limit.at["d"])[1]) == pytest.approx(
        660 * (threshold - low) / (high - low), abs=0.1
    )
    for kind, scores in groups.items():
        (bars,) = shown.all("path", class_=kind)
        tops = [(float(x), float(up)) for x, up in re.findall(r"M([\d.]+) \d+v-([\d.]+)h", bars.at["d"])]
        edges = np.linspace(low, high, 61)
        counts, _ = np.histogram(np.clip(scores, None, high), edges)
        assert [x for x, _ in tops] == pytest.approx(660 * np.flatnonzero(counts) / 60, abs=0.1)
        assert [up for _, up in tops] == pytest.approx(40 * counts[counts > 0] / counts.max(), abs=0.06)
        assert counts.sum() == len(scores)


def test_an_axis_has_three_to_seven_round_ticks(rng):
    for low, span in zip(rng.uniform(-10, 100, 50), 10 ** rng.uniform(-1, 3, 50)):
        shown = Reader(page._draw_histogram({"normal": np.array([low, low + span])}, low))
        ticks = [float(tick.text) for tick in shown.all("text", class_="tick")]
        assert 3 <= len(ticks) <= 7
        assert np.ptp(steps := np.diff(ticks)) < 1e-3 * steps.max()


def test_thumbnails_show_whole_images_also_of_cameras_that_were_turned(demo, tmp_path):
    picture = Image.open(demo.test[0].path).convert("RGB").resize((1200, 900))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=turned, quality=95)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    Image.fromarray(np.array(picture.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name, size in {"turned.jpg": (96, 128), "cmyk.jpg": (128, 96), "deep.png": (128, 96)}.items():
        with pytest.warns(UserWarning, match="more than 8 bits") if name == "deep.png" else nullcontext():
            expected, small = Image.fromarray(read_image(tmp_path / name)), page._open_small(tmp_path / name)
        embedded = pixels(Reader(page._embed(small, 128, 50_000)).elements[0])
        assert embedded.shape == (size[1], size[0], 3)
        assert abs(embedded.astype(int) - np.array(expected.resize(size))).mean() < 8


# ---- a run and its report --------------------------------------------------------------------------------------------


@pytest.fixture
def few(demo, tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for at, sample in enumerate(demo.test[::16]):
        shutil.copy(sample.path, tmp_path / "in" / f"{at}.jpg")
    return tmp_path / "in"


def test_a_resumed_run_writes_the_report_again(spade, demo, few, tmp_path):
    spade.predict_folder(few, tmp_path / "out", fpr=0.2)
    shutil.copy(demo.test[5].path, few / "new.jpg")
    spade.predict_folder(few, tmp_path / "out", fpr=0.2)
    assert len(read(tmp_path / "out").all("li")) == 4
    assert "new.jpg" in (tmp_path / "out" / PAGE).read_text(encoding="utf-8")


def test_without_a_report_there_is_none_of_earlier_results(spade, few, tmp_path):
    spade.predict_folder(few, tmp_path / "out", fpr=0.2)
    table = spade.predict_folder(few, tmp_path / "out", fpr=0.2, report=False)
    assert len(table) == 3
    assert not (tmp_path / "out" / PAGE).exists()


@pytest.mark.usefixtures("unchecked")
def test_report_is_a_switch(spade, few, tmp_path):
    with pytest.raises(ValueError, match="report must be True or False; got 'no'"):
        spade.predict_folder(few, tmp_path / "out", report="no")
    assert not (tmp_path / "out").exists()


def test_a_report_that_is_not_ours_is_not_replaced(spade, few, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / PAGE).write_text("mine")
    with pytest.raises(ValueError, match=r"holds a report\.html but no run\.json"):
        spade.predict_folder(few, tmp_path / "out", fpr=0.2)
    assert (tmp_path / "out" / PAGE).read_text() == "mine"


def test_a_report_that_cannot_be_written_is_a_remark(spade, few, tmp_path):
    whole = spade.predict_folder(few, tmp_path / "out", fpr=0.2)
    (tmp_path / "out" / PAGE).unlink()
    (tmp_path / "out" / PAGE / "a folder").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"There is no new report\.html: .*could not be written"):
        table = spade.predict_folder(few, tmp_path / "out", fpr=0.2)
    pandas.testing.assert_frame_equal(table, whole)


def test_images_that_vanished_or_changed_are_remarks(spade, demo, few, tmp_path, monkeypatch):
    """Between being judged and being shown."""
    write = page.write_page

    def vanish(*given):
        (few / "0.jpg").unlink()
        shutil.copy(demo.test[3].path, few / "1.jpg")
        write(*given)

    monkeypatch.setattr("spade_kit.batch.write_page", vanish)
    table = spade.predict_folder(few, tmp_path / "out", fpr=0.2)
    assert len(table) == 3
    shown = read(tmp_path / "out")
    (summary,) = shown.all("div", class_="summary")
    assert "0.jpg was judged, and is not shown large: " in summary.text
    assert "0.jpg was judged, and cannot be shown any more: " in summary.text
    assert re.search(
        r"1\.jpg was judged, and is not shown large: its score is .* now, so it has changed\.", summary.text
    )
    assert len(shown.all("article")) == 1
    assert [one.text for one in shown.all("span", class_="none")] == ["no picture"]
    assert len(shown.all("li")) == 3


def test_a_folder_of_which_nothing_can_be_judged_has_a_report(spade, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"broken")
    spade.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.2)
    shown = read(tmp_path / "out")
    assert [one.text for one in shown.all("h1")] == ["Anomalous: 0 of 0 images"]
    assert [one.at["data-kind"] for one in shown.elements if "data-kind" in one.at] == ["not judged"]


def test_the_command_writes_no_report_if_told_so(spade, few, tmp_path, capsys):
    spade.save(tmp_path / "fit")
    call = ["predict", str(tmp_path / "fit"), str(few), str(tmp_path / "out"), "--fpr", "0.2"]
    assert shell.main([*call, "--no-report"]) == 0
    assert not (tmp_path / "out" / PAGE).exists()
    assert shell.main(call) == 0
    assert f"{tmp_path / 'fit'}" in (tmp_path / "out" / PAGE).read_text(encoding="utf-8")


# ---- with the truth --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(demo, spade, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    return folder, evaluate(spade, demo.test[::2], folder)


def test_an_evaluation_compares_its_verdicts_with_the_labels(spade, evaluated):
    folder, report = evaluated
    shown, table = read(folder), report.to_frame()
    alarm, bad = table["image_score"] >= spade.threshold(1 / 13, of="image"), table["label"] != "good"
    counts = {
        "found": (alarm & bad).sum(),
        "missed": (~alarm & bad).sum(),
        "false alarm": (alarm & ~bad).sum(),
        "normal": (~alarm & ~bad).sum(),
    }
    kinds = [one.at["data-kind"] for one in shown.elements if "data-kind" in one.at]
    assert {kind: kinds.count(kind) for kind in counts} == counts
    assert len(kinds) == len(table)
    (summary,) = shown.all("div", class_="summary")
    area = roc_auc_score(bad, table["image_score"])
    assert (
        f"{counts['found']} of {bad.sum()} defective images are found and {counts['false alarm']} of {(~bad).sum()} "
        f"good images are false alarms. The area under the ROC curve of the image scores (AUROC) is {area:.3f}."
    ) in summary.text
    panels = [one.text for one in shown.all("text") if "images: " in one.text]
    assert panels == ["normal images: 12", f"defective images: {bad.sum()}", f"good images: {(~bad).sum()}"]
    assert [one.text for one in shown.all("h1")] == [f"Anomalous: {alarm.sum()} of {len(table)} images"]
    assert len(shown.all("article")) == 12, summary.text
    assert "white: the labelled defect" in shown.all("article")[0].text


def test_large_pictures_are_dark_outside_the_roi_and_say_so(demo, line, tmp_path):
    spade = SPADE(k=3).fit(demo.train[:4], roi=[(40, 40), (40, 170), (280, 170), (280, 40)])
    spade.predict_folder(line, tmp_path)
    shown, result = read(tmp_path), spade.predict(demo.test[0])
    wanted = np.array(result.image)
    wanted[~result.roi] //= 2
    distances = [abs(pixels(one).astype(int) - wanted).mean() for one in shown.all("img", alt="the image")]
    assert len(distances) == 6
    assert min(distances) < 5 < abs(wanted.astype(int) - result.image).mean()
    assert "numbered regions; dark: outside the roi" in shown.all("article")[0].text
    assert "roi polygon" in shown.all("section", class_="settings")[0].text


def test_images_of_one_label_or_of_none_have_no_roc_curve(spade, demo, tmp_path):
    good = [sample for sample in demo.test if sample.label == "good"][:2]
    evaluate(spade, good, tmp_path / "good")
    text = read(tmp_path / "good").all("div", class_="summary")[0].text
    assert re.search(r"By their labels, \d of 2 good images are false alarms\.\s", text)
    assert "AUROC" not in text
    evaluate(spade, [Sample(sample.path) for sample in good], tmp_path / "unknown")
    shown = read(tmp_path / "unknown")
    assert "labels" not in shown.all("div", class_="summary")[0].text
    assert {one.at["data-kind"] for one in shown.all("li")} <= {"normal", "anomalous"}


def test_one_normal_image_gives_no_threshold_and_no_report(demo, tmp_path):
    evaluate(SPADE().fit(demo.train[:1]), demo.test[:2], tmp_path / "out")
    assert (tmp_path / "out/photos.parquet").is_file()
    assert not (tmp_path / "out" / PAGE).exists()


# ---- in a browser ----------------------------------------------------------------------------------------------------


def test_nothing_runs_and_nothing_is_loaded(browser, run):
    with open_offline(browser, run[0] / PAGE) as shown:
        shown.on("dialog", lambda dialog: shown.errors.append(dialog.message))
        shown.wait_for_timeout(300)
        assert shown.locator("h1").text_content() == "Anomalous: 3 of 6 images"
        assert shown.evaluate("document.querySelectorAll('script').length") == 1
        added = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')"
        shown.evaluate(
            f"{added}; document.head.append(Object.assign(document.createElement('script'), {{text: 'ran = 1'}}))"
        )
        shown.wait_for_timeout(300)
        assert shown.evaluate("window.ran") is None  # the policy of the page forbids it


def test_the_list_is_filtered_by_kind_and_name_with_the_keyboard(browser, run):
    out, table = run
    with open_offline(browser, out / PAGE) as shown:
        listed = shown.locator("[data-kind]:visible")
        counts = {"all": len(table), **table["verdict"].value_counts()}
        assert listed.count() == 7
        shown.get_by_role("radio", name="all").focus()
        kinds = shown.get_by_role("radio").evaluate_all("all => all.map(one => one.value)")
        for kind in [*kinds[1:], "all"]:
            shown.keyboard.press("ArrowDown")
            assert listed.count() == counts[kind]
            told = "" if kind == "all" else f"{counts[kind]} shown"
            assert shown.locator("output").text_content() == told
        shown.keyboard.press("Tab")
        shown.keyboard.type("SCRIPT>")
        assert listed.count() == 1
        assert "script>.jpg" in listed.first.text_content()
        shown.keyboard.press("Enter")  # submits nothing
        assert shown.url == (out / PAGE).as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("folder", ["run", "evaluated"])
def test_reports_are_accessible_in_both_themes(browser, request, folder, scheme):
    page = browser.new_page(color_scheme=scheme, bypass_csp=True)
    page.goto((request.getfixturevalue(folder)[0] / PAGE).as_uri())
    results = Axe().run(page)
    assert not results.response["violations"], results.generate_report()
    page.close()


@pytest.mark.parametrize("width", [390, 900, 1600])
def test_nothing_is_cut_off_at_any_width(browser, evaluated, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((evaluated[0] / PAGE).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    beyond = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.className)"
    assert page.locator("figure, .words, .ends, h3, li, .summary").evaluate_all(beyond) == []
    boxes = page.locator("article .pic").evaluate_all("all => all.map(one => [one.offsetWidth, one.offsetHeight])")
    assert {width == pytest.approx(height, abs=2) for width, height in boxes} == {True}  # these images are square
    page.close()


def test_it_prints_on_a4(browser, evaluated):
    page = browser.new_page(color_scheme="dark")
    page.goto((evaluated[0] / PAGE).as_uri())
    page.emulate_media(media="print")
    assert not page.locator("form").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    boxes = re.findall(rb"/MediaBox ?\[0 0 ([0-9.]+) ([0-9.]+)\]", page.pdf(prefer_css_page_size=True))
    assert {(round(float(width)), round(float(height))) for width, height in boxes} == {(595, 842)}
    page.close()
