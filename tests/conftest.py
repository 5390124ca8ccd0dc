"""Fixtures and settings shared by all tests: no network, no progress bars, no window; the demo fitted once."""

import contextlib
import os
import runpy
import sys
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
os.environ["TQDM_DISABLE"] = "1"
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # more threads than cores would only wait
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import jaxtyping  # noqa: E402

SHAPES_CHECKED = (  # not the search: its kernels must reach the compiler unchanged
    *(
        "datasets.samples",
        "datasets.synthetic",
        "features.backbones",
        "features.crops",
        "features.levels",
        "features.pyramid",
        "features.transformers",
    ),
    *("retrieval", "correspondence", "scores", "gallery.gallery", "gallery.calibration", "result", "spade"),
    *("evaluation.metrics", "evaluation.map_store", "evaluation.threshold_study", "evaluation.views"),
)
jaxtyping.install_import_hook(
    [f"spade_kit.{module}" for module in SHAPES_CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",  # accept an int for a float
)

import browsing  # noqa: E402
import hypothesis  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import spade_kit  # noqa: E402

matplotlib.use("agg")
fixed = bool(os.environ.get("CI"))  # the same examples in every run; elsewhere new ones each time
hypothesis.settings.register_profile("whole", max_examples=200, deadline=None, derandomize=fixed)
hypothesis.settings.register_profile("quick", max_examples=20, deadline=None, derandomize=fixed)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "whole"))


def pytest_collection_modifyitems(items):
    """Add the markers ``browser`` and ``notebook``; ``slow`` is set in the tests themselves."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        if item.path.suffix == ".ipynb":
            item.add_marker("notebook")


@pytest.fixture(scope="session")
def demo() -> spade_kit.Dataset:
    return spade_kit.load_dataset("demo")


@pytest.fixture(scope="session")
def spade(demo) -> spade_kit.SPADE:
    """Fitted on the first twelve normal images of the demo: small but realistic."""
    return spade_kit.SPADE(k=5).fit(demo.train[:12])


@pytest.fixture(scope="session")
def scratched(demo) -> spade_kit.Sample:
    return next(sample for sample in demo.test if sample.label == "scratch")


@pytest.fixture(scope="session")
def result(spade, scratched) -> spade_kit.Result:
    return spade.predict(scratched)


@pytest.fixture(scope="session")
def left_out(spade) -> list[spade_kit.Result]:
    """The result of each of the twelve images, judged against the other eleven."""
    return [spade.predict_left_out(index) for index in range(len(spade))]


@pytest.fixture(scope="session")
def most_anomalous(left_out) -> list[int]:
    """Indices of the twelve images, the most anomalous first."""
    scores = [result.anomaly_map.max() for result in left_out]
    return sorted(range(len(scores)), key=lambda index: -scores[index])


@pytest.fixture(scope="session")
def refit(demo, most_anomalous) -> tuple[spade_kit.SPADE, list[int]]:
    """A fit without the most anomalous of the twelve images, and the original indices of the others."""
    left = [index for index in range(12) if index != most_anomalous[0]]
    return spade_kit.SPADE(k=5).fit([demo.train[index] for index in left]), left


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Real images in the MVTec AD layout, if the environment variable is set."""
    folder = os.environ.get("SPADE_KIT_MVTEC")
    if not folder:
        pytest.skip("set SPADE_KIT_MVTEC to a folder in the MVTec AD layout to test on real images")
    return Path(folder)


@pytest.fixture
def unchecked():
    """Turn off annotation checks, so that wrong types reach the package's own checks, as they do for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


UNITS = [
    unit
    for unit in (
        torch.backends,
        *(getattr(torch.backends.mkldnn, name, None) for name in ("matmul", "conv")),
        torch.backends.cuda.matmul,
    )
    if hasattr(unit, "fp32_precision")
]  # from torch 2.9 on


@pytest.fixture
def torch_settings():
    """A function that changes one of torch's global settings within a ``with`` block."""

    @contextlib.contextmanager
    def changed(name):
        if name in ("float64", "float16"):
            torch.set_default_dtype(getattr(torch, name))
        elif name == "meta":
            torch.set_default_device("meta")  # tensors without numbers: a mistake raises an error
        elif name == "deterministic":
            torch.set_deterministic_debug_mode("error")
        elif name == "medium":
            torch.set_float32_matmul_precision("medium")
        elif name == "bf16" and UNITS:
            torch.backends.mkldnn.conv.fp32_precision = "bf16"
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
            torch.backends.fp32_precision = "tf32"
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == "autocast"):
                yield
        finally:
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
            torch.set_deterministic_debug_mode("default")
            for unit in UNITS:
                unit.fp32_precision = "none"
            torch.set_float32_matmul_precision("highest")

    return changed


@pytest.fixture
def restless():
    """Switch threads as often as possible, to provoke race conditions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class TinyNet(torch.nn.Module):
    """A small custom network: strides 4, 8 and 16, seeded, fast."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.early = torch.nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.middle = torch.nn.Conv2d(5, 6, 3, stride=2, padding=1)
        self.late = torch.nn.Conv2d(6, 7, 3, stride=2, padding=1)

    def forward(self, x):
        return self.late(self.middle(self.early(self.stem(x).relu()).relu()).relu())


@pytest.fixture
def tiny() -> spade_kit.Backbone:
    return spade_kit.load_backbone(TinyNet(), layers=("early", "middle", "late"), pooled="late", resize=72, crop=64)


# ---- a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium, headless."""
    path = browsing.find_browser()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium was found; with CI set browser tests must run (Debian: apt install chromium)")
        pytest.skip("browser tests need Chromium (Debian: apt install chromium, or CHROMIUM=path)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=browsing.ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory, browser, spade):
    """A JupyterLab with a saved SPADE in its folder; notebooks load it from ``fitted``."""
    lab = browsing.start_lab(tmp_path_factory.mktemp("lab"))
    spade.save(lab.folder / "fitted")
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def notebook(request, browser, lab):
    """A notebook with the ``CELLS`` of the test module, run from top to bottom."""
    module = request.module
    with browsing.Notebook(browser, lab, f"{module.__name__}.ipynb", *module.CELLS) as notebook:
        yield notebook
