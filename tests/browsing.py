"""A real browser with JupyterLab and a widget: shared code of the browser tests."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
READY = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.connectionStatus === 'connected'"
RUN_ALL = """async () => {
    const notebook = jupyterapp.shell.currentWidget;
    await notebook.context.ready;
    await notebook.sessionContext.ready;
    await jupyterapp.commands.execute('notebook:run-all-cells');
    return notebook.content.widgets.filter(cell => cell.model.type === 'code').flatMap(cell =>
        cell.model.outputs.toJSON().filter(o => o.output_type === 'error').map(e => e.ename + ': ' + e.evalue));
}"""
EXECUTE = """async (code) => {
    const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute({ code, silent: false, store_history: false });
    let text = '';
    future.onIOPub = (message) => {
        const { header: { msg_type: type }, content } = message;
        if (type === 'stream') text += content.text;
        if (type === 'error') text += 'ERROR ' + content.ename + ': ' + content.evalue;
    };
    await future.done;
    return text;
}"""
# for each pixel, whether it is inside the drawn path
INSIDE = """path => {
    const [, , W, H] = path.ownerSVGElement.getAttribute('viewBox').split(' ').map(Number), found = [];
    const drawn = new Path2D(path.getAttribute('d')), context = new OffscreenCanvas(1, 1).getContext('2d');
    for (let i = 0; i < H * W; i++)
        found.push(+context.isPointInPath(drawn, (i % W) + 0.5, Math.floor(i / W) + 0.5, 'evenodd'));
    return found;
}"""


def find_browser() -> str | None:
    named = os.environ.get("CHROMIUM")
    return named or next((path for path in map(shutil.which, BROWSERS) if path), None)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen, seconds: float = 90) -> None:
    """Wait until a server responds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"No response from {url}; exit status {process.poll()}.")


class Jupyter:
    """A private server on localhost with its own folder, settings and token."""

    def __init__(self, folder: Path, app: str = "jupyterlab", *options: str) -> None:
        self.folder, self.port, token = folder, free_port(), "t" * 32
        settings = {"JUPYTER_CONFIG_PATH": str(Path(__file__).parents[1] / ".jupyter")}
        mine = settings | {
            name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
        }
        environment = os.environ | mine | {"JUPYTER_TOKEN": token, "JUPYTER_PREFER_ENV_PATH": "1"}
        self.log = open(folder / f"{app}.log", "wb")  # noqa: SIM115
        common = [f"--port={self.port}", "--no-browser", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", app, *common], env=environment, stdout=self.log, stderr=self.log, cwd=folder
        )
        self.query = f"token={token}"

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}{'&' if '?' in path else '?'}{self.query}"

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def start_lab(folder: Path) -> Jupyter:
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    lab = Jupyter(
        folder,
        "jupyterlab",
        *root,
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
    )
    wait_for(lab.url("api/status"), lab.process)
    return lab


def write_notebook(path: Path, *cells: str) -> None:
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


class Notebook:
    """A notebook in a separate browser page, run from top to bottom."""

    def __init__(self, browser, lab: Jupyter, name: str, *cells: str, run: bool = True, **page) -> None:
        if cells:
            write_notebook(lab.folder / name, *cells)
        self.errors: list[str] = []
        self.page = browser.new_page(**({"viewport": {"width": 1280, "height": 1000}} | page))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(lab.url(f"doc/tree/{name}"))
        self.page.wait_for_selector(".jp-Notebook")
        if run:
            self.page.wait_for_function(READY, timeout=90_000)
            errors = self.page.evaluate(RUN_ALL)
            assert errors == [], errors

    def execute(self, code: str) -> str:
        """Run code in the notebook's kernel and return its output."""
        text = self.page.evaluate(EXECUTE, code)
        assert not text.startswith("ERROR"), text
        return text.strip()

    def ask(self, expression: str):
        """The value of an expression in the kernel, through JSON."""
        return json.loads(self.execute(f"import json; print(json.dumps({expression}))"))

    def until(self, expression: str, value, seconds: float = 10) -> None:
        """Wait until an expression in the kernel has this value."""
        wait_until(self.page, lambda: self.ask(expression), value, seconds)

    def __enter__(self) -> "Notebook":
        return self

    def __exit__(self, *_) -> None:
        assert self.errors == []
        self.close()

    def close(self) -> None:
        self.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()


def wait_until(page, read: Callable, value, seconds: float) -> None:
    """Wait until what is read is this value."""
    end = time.monotonic() + seconds
    while (now := read()) != value and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert now == value


def lay_out(root) -> dict[str, float]:
    """Where each part of a widget ends, in pixels from its top."""
    return root.evaluate(
        """root => Object.fromEntries([...root.children].filter((part) => part.offsetHeight).map((part) =>
            [part.className, part.getBoundingClientRect().bottom - root.getBoundingClientRect().top]))"""
    )


@contextmanager
def resized(shown: "Shown", width: int, height: int = 1000) -> Iterator[None]:
    """A window of another size while the block runs."""
    _resize(shown, width, height)
    try:
        yield
    finally:
        _resize(shown, 1280, 1000)


def _resize(shown: "Shown", width: int, height: int) -> None:
    """Set the size of the window and wait until the widget is laid out to its end."""
    shown.page.set_viewport_size({"width": width, "height": height})
    before = None
    while before != (before := lay_out(shown.root)):
        shown.page.wait_for_timeout(200)


def read_canvas(canvas) -> np.ndarray:
    """(H, W, 4) uint8."""
    url = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def read_saved(path: Path) -> str:
    """The text of a saved page, with its data as JSON."""
    page = path.read_text(encoding="utf-8")
    (packed,) = re.findall(r'await openSaved\("([^"]*)"\)', page)
    return page.replace(packed, zlib.decompress(base64.b64decode(packed)).decode())


@contextmanager
def open_offline(browser, path: Path, **options) -> Iterator:
    """A saved page without a network; checks that it makes no external requests and raises no errors."""
    context = browser.new_context(**({"viewport": {"width": 1200, "height": 1000}} | options), offline=True)
    page = context.new_page()
    page.asked, page.errors = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(path.as_uri())
    yield page
    assert page.errors == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def assert_accessible(page, part: str | None = None) -> None:
    """No serious violation of accessibility on a page, or in a part of it."""
    results = Axe().run(page, **({"context": [[part]]} if part else {}))
    grave = [found for found in results.response["violations"] if found["impact"] in ("serious", "critical")]
    assert not grave, results.generate_report()


def settle_on(notebook: Notebook, shown: "Shown", name: str, answer: str) -> None:
    """Wait until the page shows Python's current photo, named by a trait, and has no pending request."""
    notebook.until(f"{name}.{answer}['index'] == {name}.index", True)  # replies are sent from another thread
    index = notebook.ask(f"{name}.index")
    shown.root.locator(f":scope[data-shown='{index}']").wait_for(timeout=10_000)
    shown.settle()


def run_beside(page, code: str) -> None:
    """Run code in the kernel of a notebook without waiting for it."""
    page.evaluate(
        "code => void jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({ code })", code
    )


@contextmanager
def page_hurries(page, *, status: str = "") -> Iterator[None]:
    """Pages wait 0.2 s for a reply, not 5. Where a ``status`` is given, Jupyter says that it is the kernel's."""
    page.evaluate(
        """status => {
            const later = window.patient = window.setTimeout;
            const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
            window.setTimeout = (act, ms, ...more) => later(act, ms === 5000 ? 200 : ms, ...more);
            if (status) Object.defineProperty(kernel, 'status', { get: () => status, configurable: true });
        }""",
        status,
    )
    yield
    page.evaluate(
        """() => {
            delete jupyterapp.shell.currentWidget.sessionContext.session.kernel.status;
            window.setTimeout = window.patient;
        }"""
    )


class Shown:
    """A user's access to a widget."""

    def __init__(self, page, nth: int = 0) -> None:
        self.page = page
        self.root = page.locator(".spade-kit").nth(nth)
        self.root.locator(":scope[data-shown]").wait_for(timeout=60_000)
        self.stages = self.root.locator(".sk-stage")
        self.photo, self.map, self.normal, *self.layers = (self.stages.nth(at) for at in range(6))  # of an explorer

    def settle(self) -> None:
        """Wait until all replies are drawn."""
        self.root.locator(":scope[aria-busy=false]").wait_for(timeout=30_000)
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")

    def until(self, read: Callable, value, seconds: float = 20) -> None:
        """Wait for an update from Python."""
        wait_until(self.page, read, value, seconds)

    def at(self, stage, row: int, col: int) -> dict:
        """The screen position of a map pixel."""
        stage.scroll_into_view_if_needed()
        box, (height, width) = stage.bounding_box(), self.size
        return {
            "x": box["x"] + (col + 0.5) * box["width"] / width,
            "y": box["y"] + (row + 0.5) * box["height"] / height,
        }

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.map.locator("canvas.base").evaluate("canvas => [canvas.height, canvas.width]"))

    def hover(self, stage, row: int, col: int) -> None:
        self.page.mouse.move(**self.at(stage, row, col))

    def click(self, stage, row: int, col: int) -> None:
        self.page.mouse.click(**self.at(stage, row, col))

    def ring(self, stage, kind: str = "hovered") -> tuple[int, int] | None:
        mark = stage.locator(f".sk-ring.{kind}")
        if mark.get_attribute("visibility") == "hidden":
            return None
        return int(mark.get_attribute("data-row")), int(mark.get_attribute("data-col"))

    def pixels(self, stage, canvas: str = "base") -> np.ndarray:
        """(H, W, 4) uint8, as drawn."""
        return read_canvas(stage.locator(f"canvas.{canvas}"))

    def slide(self, name: str, value: float) -> None:
        """Move a slider and fire its input event, as a user does."""
        script = (
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }"
        )
        self.root.get_by_label(name, exact=True).evaluate(script, value)

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name, exact=True).click()

    def choose(self, name: str, value: str) -> None:
        self.root.get_by_label(name, exact=True).select_option(value)
