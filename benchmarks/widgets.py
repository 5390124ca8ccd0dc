"""Measure the time from an event in the page to the first frame that shows its effect: ``make bench-widgets``.

JupyterLab in headless Chromium with software rendering, the demo, 60 normal images, K = 50. Medians of 15 runs, in
milliseconds; ``results/widgets.md`` is committed. Measure on an idle machine.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from browsing import ARGUMENTS, READY, Notebook, Shown, find_browser, start_lab, write_notebook  # noqa: E402

REPEATS = 15
FIT = "import spade_kit\nparts = spade_kit.load_dataset('demo')\nspade = spade_kit.SPADE().fit(parts.train)"
SHOW = "ex = spade_kit.explore(spade, parts)\nex"
FIT_MANY = """
import numpy as np
import spade_kit
from PIL import Image
photos = [Image.open(sample.path).convert("RGB").resize((80, 80)) for sample in spade_kit.load_dataset("demo").train]
corners = np.random.default_rng(0).integers(0, 16, (5000, 2))
crops = [np.asarray(photos[at % 60])[row : row + 64, col : col + 64] for at, (row, col) in enumerate(corners)]
spade = spade_kit.SPADE(spade_kit.load_backbone(resize=64, crop=64), k=5).fit(crops)
"""
SHOW_MANY = "atlas = spade_kit.map_images(spade)\natlas"
# the time of each frame while a lasso is drawn, with four pointer events in each
DRAG = """async () => {
    const stage = document.querySelector('.sk-atlas'), box = stage.getBoundingClientRect(), times = [];
    stage.setPointerCapture = () => {};
    const send = (kind, turn) => {
        const [right, down] = [Math.cos, Math.sin].map(of => 0.5 + 0.3 * of(2 * Math.PI * turn));
        const where = { clientX: box.left + right * box.width, clientY: box.top + down * box.height, pointerId: 1 };
        stage.dispatchEvent(new PointerEvent(kind, where));
    };
    const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))));
    send('pointerdown', 0);
    let before = await frame();
    for (let i = 0; i < 90; i++) {
        for (let part = 0; part < 4; part++) send('pointermove', (i + part / 4) / 90);
        const now = await frame();
        times.push(now - before);
        before = now;
    }
    send('pointerup', 0);
    return times;
}"""
# the visible state is compared frame by frame, after each frame was painted; a button is held for 80 ms
MEASURE = """async ([act, what, phase, before]) => {
    const root = document.querySelector('.spade-kit');
    const stages = root.querySelectorAll('.sk-stage');
    const [stage, map, layer] = [stages[0], ...[1, 3].map(at => stages[at]?.querySelector('canvas.base'))];
    const pixels = canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
        .filter((_, i) => i % 97 === 0)).join();
    const look = {
        ring: () => stage.querySelector('.sk-ring.hovered').getAttribute('transform'),
        found: () => stages[1].querySelector('.sk-found .ink').getAttribute('d'),
        overlay: () => stage.querySelector('canvas.over').style.opacity,
        map: () => pixels(map), layer: () => pixels(layer),
        photo: () => root.getAttribute('data-shown'),
        near: () => pixels(stages[2].querySelector('canvas.over')),
        gallery: () => root.querySelector('.sk-corrected').textContent,
        rings: () => [...root.querySelectorAll('.sk-ring.hovered')].map(one => one.getAttribute('transform')).join(),
        line: () => root.querySelector('.sk-line').style.left,
    }[what];
    const slide = (name, value) => {
        const input = root.querySelector(`input[aria-label="${name}"]`);
        input.value = value;
        input.dispatchEvent(new Event('input', { bubbles: true }));
    };
    const hover = (x, y) => {
        const box = stage.getBoundingClientRect();
        const [clientX, clientY] = [box.left + x * box.width, box.top + y * box.height];
        stage.dispatchEvent(new PointerEvent('pointermove', { clientX, clientY }));
    };
    const press = name => [...root.querySelectorAll('button')]
        .find(button => (button.getAttribute('aria-label') ?? button.textContent) === name).click();
    const pick = index => {
        const select = root.querySelector('select[aria-label=photo]');
        select.value = index;
        select.dispatchEvent(new Event('change'));
    };
    const dab = (x, y) => {
        const box = stage.getBoundingClientRect();
        const [clientX, clientY] = [box.left + x * box.width, box.top + y * box.height];
        const where = { clientX, clientY, pointerId: 1, isPrimary: true };
        stage.setPointerCapture = () => {};
        for (const kind of ['pointerdown', 'pointerup']) stage.dispatchEvent(new PointerEvent(kind, where));
    };
    const neighbour = rank => root.querySelectorAll('.sk-strip')[1].children[rank].click();
    eval(before);
    await new Promise(done => setTimeout(done, (before ? 80 : 0) + phase)); // users do not act in step with frames
    const seen = look(), start = performance.now();
    eval(act);
    do await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    while (look() === seen && performance.now() - start < 20000);
    return performance.now() - start;
}"""


class Bench:
    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.page = notebook, notebook.page
        self.shown = Shown(self.page)
        self.rows: list[tuple[str, float, list[float]]] = []

    def measure(
        self,
        name: str,
        aim: float,
        what: str,
        acts: list[str],
        *,
        before: Sequence[str] = (),
        pause: int = 0,
        after: str = "",
    ) -> None:
        """Time acts, each after the act ``before`` it: the pointer is at its place when a button is pressed."""
        times = []
        for number, (act, first) in enumerate(zip_longest(acts, before, fillvalue="")):
            self.shown.settle()
            self.page.wait_for_timeout(pause)
            times.append(self.page.evaluate(MEASURE, [act, what, 7 * number % 17, first]))
            if after:
                self.shown.settle()
                self.notebook.execute(after)
        self.rows.append((name, aim, times))
        low, _, high = statistics.quantiles(times, n=4)
        print(f"{name:40} {statistics.median(times):8.1f} ({low:.1f} to {high:.1f}), target {aim:g}", flush=True)


def measure_first_display(browser, lab, fit: str, show: str) -> list[float]:
    times = []
    for number in range(3):
        name = f"first{number}.ipynb"
        write_notebook(lab.folder / name, fit, show)
        page = browser.new_page(viewport={"width": 1280, "height": 1200})
        page.goto(lab.url(f"doc/tree/{name}"))
        page.wait_for_selector(".jp-Notebook")
        page.wait_for_function(READY, timeout=90_000)
        page.evaluate(
            """async () => {
                const content = jupyterapp.shell.currentWidget.content;
                content.activeCellIndex = 0;
                await jupyterapp.commands.execute('notebook:run-cell');
                content.activeCellIndex = 1;
            }"""
        )
        times.append(
            page.evaluate(
                """async () => {
                    const start = performance.now();
                    jupyterapp.commands.execute('notebook:run-cell');
                    do await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
                    while (!document.querySelector('.spade-kit[data-shown]'));
                    return performance.now() - start;
                }"""
            )
        )
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.close()
    return times


def spread(first: float, last: float) -> list[float]:
    return [first + (last - first) * (7 * step % REPEATS) / (REPEATS - 1) for step in range(REPEATS)]


def run(results: Path) -> None:
    load = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp())
    lab = start_lab(folder)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=ARGUMENTS)
        version = browser.version
        first = measure_first_display(browser, lab, FIT + "\nspade.predict(parts.test[1])", SHOW)
        notebook = Notebook(browser, lab, "bench.ipynb", FIT, SHOW, viewport={"width": 1280, "height": 1200})
        notebook.execute("ex.finish()")
        bench = Bench(notebook)
        bench.rows.append(("first display, fitted demo", 1000, first))
        bench.measure("hover", 16, "ring", [f"hover({x:.3f}, {1 - x:.3f})" for x in spread(0.05, 0.95)])
        bench.measure("threshold", 50, "found", [f"slide('threshold', {value:.3f})" for value in spread(20, 60)])
        bench.measure("overlay", 50, "overlay", [f"slide('overlay', {value:.2f})" for value in spread(0, 1)])
        bench.measure("K", 50, "map", [f"slide('K', {round(value)})" for value in spread(1, 49)])
        notebook.execute("ex.k = 50; ex.finish()")
        bench.measure("sigma", 100, "map", [f"slide('sigma', {value:.1f})" for value in spread(0.5, 15.5)])
        notebook.execute("ex.sigma = 4; ex.alone = True")
        bench.shown.settle()
        switch = ["press('shares')", "press('each alone')"] * (REPEATS // 2)
        bench.measure("layer display, after its search", 50, "layer", switch)
        notebook.execute("ex.alone = False; ex.finish()")
        bench.measure("kappa", 300, "map", [f"slide('kappa', {2 + step % 3})" for step in range(REPEATS)])
        notebook.execute("ex.kappa = 1")
        bench.measure("radius", 300, "map", [f"slide('radius', {round(value)})" for value in spread(1, 30)])
        notebook.execute("ex.radius = None")
        weighing = [f"slide('weight of layer2', {value:.2f})" for value in spread(0.2, 2.5)]
        bench.measure("weight of a layer", 300, "map", weighing)
        notebook.execute("ex.weights = None; ex.finish()")
        bench.shown.press("distances")
        points = [f"hover({x:.3f}, {1 - x:.3f})" for x in spread(0.05, 0.95)]
        bench.measure("distances of the pinned pixel", 30, "near", ["stage.click()"] * REPEATS, before=points)
        bench.shown.press("distances")
        out = [f"neighbour({rank}); press('exclude')" for rank in range(REPEATS)]
        bench.measure("excluding a neighbour", 300, "map", out, after="ex.without = ()")
        notebook.close()

        notebook = Notebook(browser, lab, "photos.ipynb", FIT, SHOW, viewport={"width": 1280, "height": 1200})
        bench.notebook, bench.page, bench.shown = notebook, notebook.page, Shown(notebook.page)
        notebook.execute("ex.finish()")
        cold = [f"pick({(5 + 17 * step) % 48})" for step in range(REPEATS)]
        bench.measure("another photo, not cached", 500, "photo", cold)
        ahead = ["press('next photo')"] * REPEATS
        notebook.execute("ex.index = 0")
        bench.measure("next photo, prefetched", 150, "photo", ahead, pause=1200)
        notebook.execute("ex.index = 30; ex.finish()")
        calling = ["press('this is normal')"] * REPEATS
        bench.measure("this is normal", 200, "gallery", calling, after="ex.undo(); ex.finish()")
        calling = [f"neighbour({rank}); press('not normal')" for rank in range(REPEATS)]
        bench.measure("not normal", 200, "gallery", calling, after="ex.undo(); ex.finish()")
        wire = measure_wire(notebook, bench.shown)
        notebook.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        notebook.page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty", timeout=20_000)
        saved = (folder / "photos.ipynb").stat().st_size / 1e6
        notebook.execute("ex.save_html('page.html')")
        page = (folder / "page.html").stat().st_size / 1e6
        notebook.close()
        measure_others(browser, lab, bench)
        browser.close()
    lab.close()
    results.write_text(report(bench.rows, wire, saved, page, version, load), encoding="utf-8")
    print(results.read_text(encoding="utf-8"))


def measure_others(browser, lab, bench: Bench) -> None:
    """Measure the other widgets, each in a separate notebook."""
    acts = {
        "compare_layers(spade, parts)": (
            "probe linked across four views and the photo", 16, "rings",
            [f"hover({x:.3f}, {1 - x:.3f})" for x in spread(0.05, 0.95)],
        ),
        "paint_defect(spade, parts)": (
            "a stroke", 300, "photo", [f"dab({x:.3f}, {1 - x:.3f})" for x in spread(0.05, 0.95)],
        ),
        "choose_threshold(spade, parts)": (
            "threshold line", 50, "line", [f"slide('threshold', {value:.3f})" for value in spread(55, 100)],
        ),
    }  # fmt: skip
    bench.rows.append(
        ("first display, map of 5,000 images", 1000, measure_first_display(browser, lab, FIT_MANY, SHOW_MANY))
    )
    with Notebook(
        browser, lab, "many.ipynb", FIT_MANY, SHOW_MANY, viewport={"width": 1280, "height": 1200}
    ) as notebook:
        Shown(notebook.page).settle()
        bench.rows.append(("a frame while a lasso is drawn around 5,000", 33, notebook.page.evaluate(DRAG)))
    for number, (call, measured) in enumerate(acts.items()):
        show = f"widget = spade_kit.{call}\nwidget"
        notebook = Notebook(browser, lab, f"other{number}.ipynb", FIT, show, viewport={"width": 1280, "height": 1200})
        bench.notebook, bench.page, bench.shown = notebook, notebook.page, Shown(notebook.page)
        notebook.execute("widget.finish()")
        notebook.page.wait_for_timeout(1000)
        bench.measure(*measured)
        notebook.close()


def measure_wire(notebook: Notebook, shown: Shown) -> float:
    """MB received for one photo, without the strip's thumbnails and scores."""
    session = notebook.page.context.new_cdp_session(notebook.page)
    session.send("Network.enable")
    sizes: list[int] = []
    session.on("Network.webSocketFrameReceived", lambda event: sizes.append(len(event["response"]["payloadData"])))
    totals = []
    for index in (3, 21, 40):
        sizes.clear()
        shown.choose("photo", str(index))
        shown.settle()
        # the protocol reports binary frames in base64
        totals.append(sum(sizes) * 3 / 4 / 1e6)
    return statistics.median(totals)


def report(rows, wire: float, saved: float, page: float, version: str, load: float) -> str:
    names = ("jupyterlab", "anywidget", "ipywidgets", "ipykernel", "torch")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    lines = [
        "# Widgets: time from an event to the frame that shows its effect",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores; Chromium {version}, headless, software rendering; {versions}; "
        f"load before: {load:.1f}. The demo: 60 normal images, K = 50, 224 px. Medians; brackets: quartiles.",
        "",
        "| event | ms | target |",
        "| --- | --- | --- |",
    ]
    for name, aim, times in rows:
        low, _, high = statistics.quantiles(times, n=4)
        lines.append(f"| {name} | {statistics.median(times):.0f} ({low:.0f} to {high:.0f}) | {aim:g} |")
    lines += [
        "",
        "| size | MB | limit |",
        "| --- | --- | --- |",
        f"| data transferred per photo | {wire:.2f} | 0.7 |",
        f"| saved notebook | {saved:.2f} | 1.5 |",
        f"| saved page of one photo | {page:.2f} | 1 |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks" / "results" / "widgets.md")
    run(parser.parse_args().to)
