"""Choosing a threshold in a real browser: moving the line, with the display checked against Python."""

import re
from dataclasses import replace

import numpy as np
import pytest
from browsing import INSIDE, Shown, assert_accessible, lay_out, open_offline, read_canvas, resized
from PIL import Image
from scipy.stats import binomtest

from spade_kit import choose_threshold
from spade_kit.evaluation.metrics import f1_threshold

START = """
from dataclasses import replace
import spade_kit
parts = spade_kit.load_dataset("demo")
parts = replace(parts, test=parts.test[::4])
ch = spade_kit.choose_threshold(spade_kit.SPADE.load("fitted"), parts)
ch.finish()
def reset():
    ch.confidence, ch.of, ch.rule, ch.problem = None, "image", "0.05", ""
"""
CELLS = (START, "ch")
ROWS = {
    "normal": "normal photos (leave-one-out)",
    "good": "test: good",
    "defect": "test: defects",
    "unknown": "test: unknown",
}
OFS = ("whole photos", "pixels")
NOW = """root => ({
    label: root.querySelector('.sk-line span').textContent,
    left: parseFloat(root.querySelector('.sk-line').style.left),
    words: Object.fromEntries([...root.querySelectorAll('.sk-histogram:not([hidden]) .name')].map(
        name => [name.firstChild.textContent, name.lastChild.textContent])),
    facts: [...root.querySelectorAll('.sk-facts strong')].map(fact => fact.textContent),
    stale: root.querySelector('.sk-sentence').classList.contains('stale'),
})"""
MOVE = f"""(root, value) => {{
    const line = root.querySelector('.sk-plot input');
    line.value = value;
    line.dispatchEvent(new Event('input', {{ bubbles: true }}));
    return ({NOW})(root);
}}"""
CUT_OFF = """root => [...root.querySelectorAll('button, label, figcaption, p, li, span, strong')].filter(node => {
    const [inner, outer] = [node.getBoundingClientRect(), document.documentElement.getBoundingClientRect()];
    const cut = inner.left < -1 || inner.right > outer.right + 1 || node.scrollWidth > node.clientWidth + 1;
    return cut && inner.width;
}).map(node => node.outerHTML.slice(0, 90))"""


@pytest.fixture(scope="module")
def results(spade, left_out, demo):
    """The results of all judged photos, by their names in the page."""
    normals = {f"normal {index}": result for index, result in enumerate(left_out)}
    return normals | {f"{sample.label}/{sample.path.stem}": spade.predict(sample) for sample in demo.test[::4]}


@pytest.fixture(scope="module")
def scores(results):
    return {name: float(result.anomaly_map.max()) for name, result in results.items()}


@pytest.fixture
def shown(notebook):
    shown = Shown(notebook.page)
    notebook.execute("reset()")
    notebook.page.wait_for_function("document.querySelector('.spade-kit').dataset.shown === 'image'")
    notebook.page.mouse.move(0, 0)
    settle(notebook, shown)
    return shown


def settle(notebook, shown) -> None:
    """Wait until the page shows Python's current sentence and has no pending request."""
    sentence = shown.root.locator(".sk-sentence:not(.stale)")
    shown.until(lambda: sentence.all_inner_texts() == [notebook.ask("ch.sentence")], True)
    shown.settle()


def kind_of(name: str) -> str:
    return {"normal": "normal", "good/": "good"}.get(name[:6].rstrip("0123456789 "), "defect")


def two_digits(part: float) -> str:
    """Two digits, or three close to 100 %, so that 99.6 % does not read as 100 %."""
    return f"{float(f'{100 * part:.{3 if part > 0.995 else 2}g}'):g} %"


def count_photos(scores, threshold) -> dict[str, tuple[int, int]]:
    """For each kind, the number of photos at or above a threshold, and the total."""
    kinds = {kind: [score for name, score in scores.items() if kind_of(name) == kind] for kind in ROWS}
    return {kind: (sum(score >= threshold for score in some), len(some)) for kind, some in kinds.items() if some}


def facts_of_photos(scores, threshold) -> list[str]:
    count = {kind: reached for kind, (reached, _) in count_photos(scores, threshold).items()}
    interval = binomtest(count["normal"], 12).proportion_ci(0.95, "exact")
    flagged = count["defect"] + count["good"]
    return [
        f"{two_digits(count['normal'] / 12)}  (95 % CI: {two_digits(interval.low)} to {two_digits(interval.high)})",
        two_digits(count["defect"] / 9),
        two_digits(count["defect"] / flagged) if flagged else "nothing flagged",
    ]


def assert_tells(now: dict, scores, threshold: float) -> None:
    expected = {ROWS[kind]: f"{reached} of {all_}" for kind, (reached, all_) in count_photos(scores, threshold).items()}
    assert now["words"] == {name: f"{count} at or above" for name, count in expected.items()}
    assert now["facts"] == facts_of_photos(scores, threshold)
    assert now["label"] == f"{threshold:.2f}"


def between(scores, low: int) -> float:
    """A threshold halfway between the photo of this rank, from 0, and the next one."""
    ranked = sorted(scores.values())
    return (ranked[low] + ranked[low + 1]) / 2


def names_near(scores, threshold: float) -> tuple[list[str], list[str]]:
    """The photos below, nearest first, and those at or above."""
    ranked = sorted(scores, key=scores.get)
    below = [name for name in ranked if scores[name] < threshold]
    return below[-4:][::-1], ranked[len(below) : len(below) + 4]


def cards_of(shown, side: str) -> list:
    cards = shown.root.locator(f".sk-side.{side} .sk-beside").all()
    return [card for card in cards if card.evaluate("card => getComputedStyle(card).visibility") == "visible"]


def luminance(colour: np.ndarray) -> float:
    """Relative luminance of sRGB, by the definition of WCAG 2."""
    part = colour / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def wait_for_pictures(shown) -> None:
    shown.page.wait_for_function(
        """() => [...document.querySelectorAll('.sk-beside')].every(card =>
            card.style.visibility === 'hidden' || card.querySelector('canvas.base').style.visibility !== 'hidden')"""
    )


def assert_near(shown, results, scores, threshold: float) -> None:
    """Check names, scores, order and segmentation of the photos next to the line."""
    wait_for_pictures(shown)
    for side, names in zip(("below", "above"), names_near(scores, threshold)):
        cards = cards_of(shown, side)
        told = [card.locator("figcaption").inner_text().replace("\u200b", "").split("\n") for card in cards]
        assert told == [[name, f"{scores[name]:.2f}"] for name in names]
        places = [card.bounding_box()["x"] for card in cards]
        assert places == sorted(places, reverse=side == "below")
        for card, name in zip(cards, names):
            inside = np.array(card.locator(".sk-found .ink").evaluate(INSIDE), bool).reshape(224, 224)
            segmentation = results[name].anomaly_map >= threshold
            clear = np.abs(results[name].anomaly_map - threshold) > 0.5  # outlines are rounded to a tenth of a pixel
            np.testing.assert_array_equal(inside[clear], segmentation[clear])
            assert (inside != segmentation).mean() < 0.002


# ---- the line --------------------------------------------------------------------------------------------------------


def test_the_line_updates_counts_at_once_and_python_confirms_them(notebook, shown, scores):
    for threshold in (between(scores, 3), between(scores, 11), between(scores, 20)):
        now = shown.root.evaluate(MOVE, threshold)  # in one call, without a round trip to Python
        assert_tells(now, scores, threshold)
        assert now["stale"]
        settle(notebook, shown)
        assert notebook.ask("[ch.threshold, ch.rule]") == [pytest.approx(threshold, rel=1e-6), "hand"]
        assert shown.root.evaluate(NOW) == now | {"stale": False}
        assert shown.root.locator(".sk-remarks li").all_inner_texts() == notebook.ask(
            "[*ch.told['remarks'], *ch.told['images']]"
        )
        assert shown.root.get_by_label("threshold rule").input_value() == "hand"


def test_a_photo_exactly_at_the_threshold_counts_as_flagged(notebook, shown, scores):
    for name in ("normal 3", "scratch/000"):
        notebook.execute(f"ch.threshold = {scores[name]!r}")
        settle(notebook, shown)
        assert_tells(shown.root.evaluate(NOW), scores, scores[name])
        assert name in cards_of(shown, "above")[0].inner_text().replace("\u200b", "")


def test_the_line_is_where_the_mouse_drags_it(notebook, shown, scores):
    plot = shown.root.locator(".sk-plot").bounding_box()
    least, most = shown.root.locator(".sk-plot input").evaluate("line => [+line.min, +line.max]")
    assert most == pytest.approx(max(scores.values()), rel=1e-6)
    assert least <= min(scores.values())
    start = shown.root.locator(".sk-line").bounding_box()
    shown.page.mouse.move(start["x"] + 1, plot["y"] + 100)
    shown.page.mouse.down()
    for part in (0.8, 0.35, 0.5):
        x = plot["x"] + part * plot["width"]
        shown.page.mouse.move(x, plot["y"] + 30, steps=4)
        shown.page.wait_for_timeout(30)
        line = shown.root.locator(".sk-line").bounding_box()
        assert line["x"] + line["width"] / 2 == pytest.approx(x, abs=2.5)
    shown.page.mouse.up()
    threshold = least + 0.5 * (most - least)
    pixel = (most - least) / plot["width"]
    settle(notebook, shown)
    assert notebook.ask("ch.threshold") == pytest.approx(threshold, abs=3 * pixel)
    assert_tells(shown.root.evaluate(NOW), scores, notebook.ask("ch.threshold"))


def test_bars_are_a_histogram_split_at_the_line(notebook, shown, scores):
    least, most = shown.root.locator(".sk-plot input").evaluate("line => [+line.min, +line.max]")
    edges = np.linspace(0, most, 65)  # a bar covers four of 256 bins
    first = round(least / most * 64)
    for kind in ("normal", "defect"):
        some = np.sort([score for name, score in scores.items() if kind_of(name) == kind])
        gap = int(np.diff(some).argmax())
        assert some[gap + 1] - some[gap] > 2 * edges[1]  # the line is between two bars
        shown.root.evaluate(MOVE, (some[gap] + some[gap + 1]) / 2)
        drawn = shown.root.locator(f".bars.{kind}").evaluate(
            "svg => [...svg.children].map(path => [...path.getAttribute('d').matchAll(/M(\\S+) 64V(\\S+)H/g)]"
            ".map(bar => [+bar[1], 64 - bar[2]]))"
        )
        for bars, part in zip(drawn, (some[: gap + 1], some[gap + 1 :])):
            counts = np.histogram(part, edges)[0][first:]
            most_of_kind = np.histogram(some, edges)[0].max()
            places, heights = zip(*bars)
            np.testing.assert_allclose(places, np.flatnonzero(counts) * 512 / (64 - first))
            np.testing.assert_allclose(heights, counts[counts > 0] / most_of_kind * 64)


def test_keys_move_the_line(notebook, shown, scores):
    line = shown.root.get_by_label("threshold", exact=True)
    before = notebook.ask("ch.threshold")
    line.focus()
    shown.page.keyboard.press("ArrowLeft")
    shown.page.keyboard.press("ArrowLeft")
    settle(notebook, shown)
    moved = notebook.ask("ch.threshold")
    least, most = line.evaluate("line => [+line.min, +line.max]")
    assert before - 0.1 * (most - least) < moved < before
    assert line.get_attribute("aria-valuetext") == f"{moved:.2f}"
    assert_tells(shown.root.evaluate(NOW), scores, moved)
    shown.page.keyboard.press("ArrowRight")
    settle(notebook, shown)
    assert moved < notebook.ask("ch.threshold") < before
    for key, end in (("Home", least), ("End", most)):
        shown.page.keyboard.press(key)
        settle(notebook, shown)
        assert notebook.ask("ch.threshold") == pytest.approx(end)
    assert shown.page.evaluate("jupyterapp.shell.currentWidget.content.widgets.length") == 2


def test_at_the_far_end_of_the_line_no_photo_is_flagged(notebook, shown):
    shown.root.get_by_label("threshold", exact=True).focus()
    shown.page.keyboard.press("End")
    settle(notebook, shown)
    assert shown.root.evaluate(NOW)["words"][ROWS["defect"]] == "0 of 9 at or above"
    assert notebook.ask("[ch.judgement.reached, ch.judgement.found, ch.judgement.alarms]") == [0, 0, 0]


# ---- unit and rule ---------------------------------------------------------------------------------------------------


def test_a_threshold_for_pixels_counts_pixels_within_a_bin(notebook, shown, spade, results):
    shown.press("pixels")
    shown.root.locator(":scope[data-shown=pixel]").wait_for()
    settle(notebook, shown)
    assert notebook.ask("[ch.of, ch.rule]") == ["pixel", "0.01"]
    assert notebook.ask("ch.threshold") == pytest.approx(spade.threshold(0.01), rel=1e-6)
    pressed = [shown.root.get_by_role("button", name=name).get_attribute("aria-pressed") for name in OFS]
    assert pressed == ["false", "true"]
    width = shown.root.locator(".sk-plot input").evaluate("line => +line.max") / 256
    maps = {
        kind: [(result.anomaly_map, result.mask) for name, result in results.items() if kind_of(name) == kind]
        for kind in ("normal", "good", "defect")
    }
    normal = np.concatenate([values.ravel() for values, _ in maps["normal"]])
    tested = [pair for kind in ("good", "defect") for pair in maps[kind]]
    values, truth = (np.concatenate([pair[at].ravel() for pair in tested]) for at in (0, 1))
    by_kind = {"normal": normal, "good": values[~truth], "defect": values[truth]}
    for threshold in (25.0, 67.6, 80.0):
        now = shown.root.evaluate(MOVE, threshold)
        for kind, some in by_kind.items():
            told = re.fullmatch(r"about (\S+) of (\S+) at or above", now["words"][ROWS[kind]].replace(",", ""))
            reached, of = map(int, told.groups())
            assert of == len(some)
            assert (some >= threshold + width).sum() <= reached <= (some >= threshold - width).sum()
        settle(notebook, shown)
        exact = shown.root.evaluate(NOW)["words"]
        for kind, some in by_kind.items():  # the same as in the sentence
            assert exact[ROWS[kind]] == f"{(some >= threshold).sum():,} of {len(some):,} at or above"
        recall = float(now["facts"][1].removesuffix(" %")) / 100
        assert recall == pytest.approx(notebook.ask("ch.judgement.recall"), rel=0.02, abs=0.002)
        precision = float(now["facts"][2].removesuffix(" %")) / 100
        assert precision == pytest.approx(notebook.ask("ch.judgement.precision"), rel=0.02, abs=0.002)
        rate, low, high = re.fullmatch(r"(\S+) %  \(95 % CI: (\S+) % to (\S+) %\)", now["facts"][0]).groups()
        told = [float(number) / 100 for number in (rate, low, high)]
        judged = notebook.ask("[ch.judgement.rate, ch.judgement.low, ch.judgement.high]")
        assert told == pytest.approx(judged, rel=0.08, abs=1e-4)
    shown.press("whole photos")
    shown.root.locator(":scope[data-shown=image]").wait_for()
    settle(notebook, shown)
    assert notebook.ask("[ch.of, ch.rule]") == ["image", "0.05"]


TICKS = """() => {
    const plot = document.querySelector(".sk-plot").getBoundingClientRect();
    const number = (text) => parseFloat(text) * ({ K: 1e3, M: 1e6 }[text.at(-1)] ?? 1);
    const on = ([...marks], place) => marks.map((mark) => [number(mark.textContent), place(mark)]);
    const middle = (mark) => {
        const box = mark.getBoundingClientRect();
        return (box.left + box.width / 2 - plot.left) / plot.width;
    };
    const bars = [...document.querySelectorAll(".sk-histogram")].filter((row) => row.offsetHeight).map((row) => {
      const whole = row.querySelector(".bars").getBoundingClientRect();
      const up = (mark) => (whole.bottom - mark.getBoundingClientRect().top) / whole.height;
      const marks = row.querySelectorAll(".sk-heights span"), words = document.createRange();
      const beside = (mark) => words.selectNodeContents(mark) ?? words.getBoundingClientRect().right < whole.left;
      return [on(marks, up), [...marks].every(beside)];
    });
    const axes = document.querySelector(".sk-axis").textContent;
    return { across: on(document.querySelectorAll(".sk-ticks span"), middle), bars, axes };
}"""


@pytest.mark.parametrize("of", ["image", "pixel"])
def test_axes_have_ticks_where_their_values_are(notebook, shown, of):
    if of == "pixel":
        shown.press("pixels")
        shown.root.locator(":scope[data-shown=pixel]").wait_for()
        settle(notebook, shown)
    least, most = shown.root.locator(".sk-plot input").evaluate("line => [+line.min, +line.max]")
    drawn = shown.page.evaluate(TICKS)
    assert 3 <= len(drawn["across"]) <= 7
    for value, place in drawn["across"]:
        assert place == pytest.approx((value - least) / (most - least), abs=0.01)
    assert drawn["axes"].endswith({"image": "up: photos", "pixel": "up: pixels, log scale"}[of])
    for row, (heights, beside) in zip(("normal", "good", "defect"), drawn["bars"]):
        assert heights
        assert beside  # the numbers do not cover the bars
        counts = notebook.ask(f"ch.study['counts']['{row}']")
        first = round(least / most * 256)
        highest = max(sum(counts[at : at + 4]) for at in range(first, 256, 4))
        scale = (lambda count: np.log10(1 + count)) if of == "pixel" else float
        for value, place in heights:
            assert place == pytest.approx(scale(value) / scale(highest), abs=0.04)
    if of == "pixel":
        shown.press("whole photos")
        shown.root.locator(":scope[data-shown=image]").wait_for()
        settle(notebook, shown)


def test_the_line_follows_its_rule(notebook, shown, spade, scores):
    offered = shown.root.get_by_label("threshold rule").locator("option").all_inner_texts()
    assert offered == [
        "5 %",
        *(f"{rate} % of normal photos" for rate in (20, 10)),
        "best F1 (uses test labels)",
        "manual",
    ]
    tested = {name: score for name, score in scores.items() if kind_of(name) != "normal"}
    truth = np.array([kind_of(name) == "defect" for name in tested])
    rules = {rate: spade.threshold(float(rate), of="image") for rate in ("0.2", "0.1")}
    rules["f1"] = f1_threshold(np.array(list(tested.values())), truth)
    for rule, threshold in rules.items():
        shown.choose("threshold rule", rule)
        notebook.until("ch.rule", rule)
        settle(notebook, shown)
        assert notebook.ask("ch.threshold") == pytest.approx(threshold, rel=1e-6)
        assert_tells(shown.root.evaluate(NOW), scores, notebook.ask("ch.threshold"))
    shown.choose("threshold rule", "hand")
    settle(notebook, shown)
    assert notebook.ask("ch.threshold") == pytest.approx(threshold, rel=1e-6)


def test_a_confidence_is_chosen_with_the_keyboard_and_ends_with_the_rate(notebook, shown, spade, scores):
    shown.choose("threshold rule", "0.2")
    settle(notebook, shown)
    choice = shown.root.get_by_label("confidence", exact=True)
    assert choice.locator("option").all_inner_texts() == [
        "none",
        "90 %",
        "95 %: needs 2 more normal photos",
        "99 %: needs 9 more normal photos",
    ]
    shown.root.get_by_label("threshold rule").focus()
    for _ in range(2):  # over the typed threshold
        shown.page.keyboard.press("Tab")
    assert choice.evaluate("select => select === document.activeElement")
    shown.page.keyboard.press("ArrowDown")
    notebook.until("ch.confidence", 0.9)
    settle(notebook, shown)
    assert_tells(shown.root.evaluate(NOW), scores, spade.threshold(0.2, of="image", confidence=0.9))
    assert "With 90 % confidence (one-sided), at most 20 %" in shown.root.locator(".sk-sentence").inner_text()
    shown.page.keyboard.press("ArrowDown")  # too few normal photos
    shown.root.get_by_role("alert").filter(has_text="needs at least 14 different normal images").wait_for()
    shown.page.wait_for_function("select => select.value === '0.9'", arg=choice.element_handle())
    assert notebook.ask("ch.confidence") == 0.9
    shown.press("close this message")
    shown.root.evaluate(MOVE, between(scores, 3))
    settle(notebook, shown)
    assert notebook.ask("[ch.rule, ch.confidence]") == ["hand", None]
    assert not choice.is_visible()
    shown.choose("threshold rule", "0.2")
    settle(notebook, shown)
    assert choice.is_visible()
    assert choice.input_value() == ""
    shown.press("pixels")
    shown.root.locator(":scope[data-shown=pixel]").wait_for()
    assert not choice.is_visible()


@pytest.mark.parametrize("width", [700, 1000, 1600])
def test_nothing_moves_when_the_line_does_or_pixels_are_shown(notebook, shown, width):
    with resized(shown, width):
        before = lay_out(shown.root)
        field = shown.root.get_by_label("threshold, typed", exact=True)
        for value in ("3", "67.5", "500"):
            field.fill(value)
            notebook.page.keyboard.press("Enter")
            settle(notebook, shown)
            assert lay_out(shown.root) == pytest.approx(before, abs=1), value
        for name in reversed(OFS):
            shown.press(name)
            shown.settle()
            settle(notebook, shown)
            assert lay_out(shown.root) == pytest.approx(before, abs=1), name
            shown.root.evaluate(MOVE, 30)  # "about" so many
            assert lay_out(shown.root) == pytest.approx(before, abs=1), name
            field.fill("500")  # above all normal photos, which has the longest remark
            notebook.page.keyboard.press("Enter")
            settle(notebook, shown)
            assert lay_out(shown.root) == pytest.approx(before, abs=1), name


def test_the_threshold_can_be_typed(notebook, shown, scores):
    field = shown.root.get_by_label("threshold, typed", exact=True)
    threshold = round(between(scores, 8), 2)
    field.fill(f"{threshold}")
    shown.page.keyboard.press("Enter")
    notebook.until("[ch.threshold, ch.rule]", [threshold, "hand"])
    field.fill("")  # is no threshold
    shown.page.keyboard.press("Enter")
    assert field.input_value() == f"{threshold:.2f}"
    assert_tells(shown.root.evaluate(NOW), scores, threshold)


def test_values_set_from_python_are_shown(notebook, shown, scores):
    notebook.execute("ch.threshold = 70.25")
    settle(notebook, shown)
    assert_tells(shown.root.evaluate(NOW), scores, 70.25)
    assert float(shown.root.get_by_label("threshold", exact=True).input_value()) == pytest.approx(70.25)
    notebook.execute("ch.rule = 0.3")
    settle(notebook, shown)
    chosen = shown.root.get_by_label("threshold rule").evaluate("select => select.selectedOptions[0]?.textContent")
    assert chosen == "30 %"


def test_an_error_is_shown_and_can_be_closed(notebook, shown, scores):
    before = shown.root.evaluate(NOW)
    notebook.execute("ch.set_state({'rule': '2'})")
    shown.root.get_by_role("alert").filter(has_text="between 0 and 1, like '0.05'; got '2'").wait_for()
    assert shown.root.evaluate(NOW) == before
    shown.press("close this message")
    assert shown.root.get_by_role("alert").count() == 0


# ---- photos next to the line -----------------------------------------------------------------------------------------


def test_the_photos_nearest_to_the_line_are_shown_segmented_at_it(notebook, shown, results, scores):
    for threshold in (between(scores, 15), between(scores, 16) + 0.2, between(scores, 2)):
        shown.root.evaluate(MOVE, threshold)
        assert_near(shown, results, scores, threshold)


def test_an_empty_side_of_the_line_has_a_note(notebook, shown, results, scores):
    for side, threshold, words in (
        ("below", 20.0, "None: all photos score at least this."),
        ("above", 300.0, "None: all photos score below this."),
    ):
        notebook.execute(f"ch.threshold = {threshold}")
        settle(notebook, shown)
        assert cards_of(shown, side) == []
        assert shown.root.locator(f".sk-side.{side}").get_by_text(words).is_visible()
        assert len(cards_of(shown, {"below": "above", "above": "below"}[side])) == 4


def test_the_legend_names_the_outlines_and_switches_them(notebook, shown, scores):
    shown.root.evaluate(MOVE, between(scores, 19))
    wait_for_pictures(shown)
    card = cards_of(shown, "above")[-1]
    for text, name in (("at or above the threshold", "sk-found"), ("ground truth", "sk-truth")):
        seen = [mark for one in cards_of(shown, "above") for mark in one.locator(f".{name}").all() if mark.is_visible()]
        assert seen
        shown.press(text)
        assert not any(mark.is_visible() for mark in seen)
        shown.press(text)
        assert all(mark.is_visible() for mark in seen)
    shown.page.keyboard.down("h")
    assert not card.locator(".marks").is_visible()
    assert card.locator("canvas.base").is_visible()
    shown.page.keyboard.up("h")
    assert card.locator(".marks").is_visible()


def test_cards_show_their_photo_and_where_its_defect_is(notebook, shown, results, scores):
    threshold = between(scores, 19)
    shown.root.evaluate(MOVE, threshold)
    wait_for_pictures(shown)
    for side, names in zip(("below", "above"), names_near(scores, threshold)):
        for card, name in zip(cards_of(shown, side), names):
            drawn = Image.fromarray(read_canvas(card.locator("canvas.base"))[..., :3]).resize((224, 224))
            off = {other: np.abs(np.asarray(drawn, int) - result.image).mean() for other, result in results.items()}
            assert min(off, key=off.get) == name
            mask = results[name].mask
            inside = np.array(card.locator(".sk-truth .ink").evaluate(INSIDE), bool).reshape(224, 224)
            truth = np.zeros((224, 224), bool) if kind_of(name) == "normal" else mask
            np.testing.assert_array_equal(inside, truth)


# ---- export ----------------------------------------------------------------------------------------------------------


def test_the_justification_a_picture_and_a_page_can_be_exported(notebook, shown, tmp_path):
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.press("copy justification")
    shown.root.get_by_role("button", name="copied").wait_for()
    assert shown.page.evaluate("navigator.clipboard.readText()") == notebook.execute("print(ch.sentence)")
    with shown.page.expect_download() as png:
        shown.press("PNG")
    png.value.save_as(tmp_path / "slide.png")
    with Image.open(tmp_path / "slide.png") as slide:
        assert slide.width > 1000
    with shown.page.expect_download() as page:
        shown.press("save page")
    assert page.value.suggested_filename == "threshold-image.html"
    page.value.save_as(tmp_path / "page.html")
    assert "<main" in (tmp_path / "page.html").read_text()


# ---- a saved page ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(spade, demo, tmp_path_factory):
    chooser = choose_threshold(spade, replace(demo, test=demo.test[::4]))
    chooser.finish()
    chooser.rule = "0.2"
    chooser.confidence = 0.9
    path = tmp_path_factory.mktemp("saved") / "page.html"
    chooser.save_html(path)
    return path


def test_a_saved_page_still_moves_the_line_offline(browser, saved, spade, results, scores):
    with open_offline(browser, saved) as page:
        shown = Shown(page)
        saved_at = spade.threshold(0.2, of="image", confidence=0.9)
        assert_tells(shown.root.evaluate(NOW), scores, saved_at)
        sentence = shown.root.locator(".sk-sentence").inner_text()
        assert f"Threshold {saved_at:.4g} for whole images" in sentence
        assert "With 90 % confidence (one-sided)" in sentence
        choice = shown.root.get_by_label("confidence", exact=True)
        assert (choice.input_value(), choice.is_disabled()) == ("0.9", True)
        assert_near(shown, results, scores, saved_at)
        threshold = between(scores, 8)
        now = shown.root.evaluate(MOVE, threshold)
        assert_tells(now, scores, threshold)
        assert now["stale"]  # the sentence belongs to another threshold, and no kernel updates it
        assert_near(shown, results, scores, threshold)
        for name in (*OFS, "save page", "PNG"):
            assert shown.root.get_by_role("button", name=name).is_disabled()
        assert shown.root.get_by_label("threshold rule").is_disabled()
        assert not choice.is_visible()
        assert shown.root.get_by_role("alert").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_are_no_serious_accessibility_violations(browser, saved, scores, scheme):
    with open_offline(browser, saved, color_scheme=scheme) as page:
        shown = Shown(page)
        for threshold in (None, between(scores, 8)):  # as saved, and with a stale sentence
            if threshold is not None:
                shown.root.evaluate(MOVE, threshold)
            wait_for_pictures(shown)
            assert_accessible(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_bars_below_the_line_are_seen_on_their_ground(browser, saved, scheme):
    with open_offline(browser, saved, color_scheme=scheme) as page:
        Shown(page)
        look = """kind => {
            const [bars, root] = [`.bars.${kind} .below`, '.spade-kit'].map(
                one => getComputedStyle(document.querySelector(one)));
            const numbers = [bars.fill, root.backgroundColor].map(colour => colour.match(/[0-9]+/g).map(Number));
            return [...numbers, Number(bars.opacity)];
        }"""
        for kind in ("normal", "good", "defect"):
            ink, ground, opacity = page.evaluate(look, kind)
            drawn = opacity * np.array(ink) + (1 - opacity) * np.array(ground)
            light, dark = sorted((luminance(drawn), luminance(np.array(ground))), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 2


@pytest.mark.parametrize("width", [600, 900, 1600])
@pytest.mark.parametrize("place", ["as saved", "at the near end", "at the far end"])
def test_nothing_is_cut_off_at_any_width_wherever_the_line_is(browser, saved, width, place):
    with open_offline(browser, saved, viewport={"width": width, "height": 900}) as page:
        shown = Shown(page)
        wait_for_pictures(shown)
        if place != "as saved":
            shown.root.evaluate(MOVE, {"at the near end": 0, "at the far end": 1000}[place])
        assert shown.root.evaluate(CUT_OFF) == []
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        for card in (card for side in ("below", "above") for card in cards_of(shown, side)):
            whole, photo, name = (
                card.locator(part).bounding_box() for part in (":scope", ".sk-stage", "figcaption .sk-title")
            )
            assert photo["width"] == whole["width"]
            assert name["y"] >= photo["y"] + photo["height"]
            assert name["height"] < 36  # two lines
