"""Which build of PyTorch a new environment is given: decided before a fake index, a silent one and none."""

import importlib.util
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class Index(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/whl/cpu/torch/" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def index():
    """A server that lists torch, as the index of CPU builds does."""
    with HTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/whl/cpu"
        server.shutdown()
        thread.join()


@pytest.fixture
def silent():
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/whl/cpu"


@pytest.fixture
def nobody():
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}/whl/cpu"


@pytest.fixture
def script(monkeypatch, index):
    """The script on a Linux without torch, GPU and CI; ``script.calls`` are the commands that it ran."""
    spec = importlib.util.spec_from_file_location("install_torch", ROOT / "install_torch.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.calls, script.status = [], 0

    def run(command, **_):
        if command[0] == "nvidia-smi":
            raise FileNotFoundError(command[0])
        script.calls.append(command)
        return subprocess.CompletedProcess(command, script.status)

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    monkeypatch.setattr(script, "CPU_BUILDS", index)
    monkeypatch.setattr(script.subprocess, "run", run)
    return script


def test_without_a_gpu_two_packages_come_from_the_index_and_nothing_else(script, index, capsys):
    assert script.main("auto") == 0
    (command,) = script.calls
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[4:] == ["--no-deps", "--index-url", index, "torch", "torchvision"]
    assert f"without CUDA, {script.CPU_SIZE}" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["nobody", "silent"])
def test_an_index_that_does_not_answer_is_left_after_seconds(place, script, request, monkeypatch, capsys):
    monkeypatch.setattr(script, "CPU_BUILDS", request.getfixturevalue(place))
    monkeypatch.setattr(script.answers, "__defaults__", (0.3,))
    begun = time.monotonic()
    assert script.main("auto") == 0
    assert time.monotonic() - begun < 3
    assert script.calls == []
    assert f"with CUDA: {script.CUDA_SIZE} with everything else, since" in capsys.readouterr().out


def test_an_index_without_torch_does_not_answer(script, index):
    assert script.answers(index)
    assert not script.answers(f"{index}/elsewhere")


def test_a_gpu_a_ci_and_another_system_never_ask(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "urlopen", lambda *_, **__: pytest.fail("the index was asked"))
    with monkeypatch.context() as patched:
        patched.setattr(script, "has_gpu", lambda: True)
        assert script.main("auto") == 0
        assert "for the NVIDIA GPU" in capsys.readouterr().out
    for patch in (
        lambda patched: patched.setenv("CI", "true"),
        lambda patched: patched.setattr(sys, "platform", "darwin"),
        lambda patched: patched.setattr(script, "find_spec", lambda name: name == "torch"),
    ):
        with monkeypatch.context() as patched:
            patch(patched)
            assert script.main("auto") == 0
    assert script.calls == []


@pytest.mark.parametrize(
    ("listed", "found"), [("GPU 0: NVIDIA H200 (UUID: ...)\n", True), ("No devices found\n", False)]
)
def test_a_gpu_is_one_that_the_driver_lists(listed, found, script, monkeypatch):
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, listed))
    assert script.has_gpu() == found


def test_a_wish_is_followed_without_asking(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "urlopen", lambda *_, **__: pytest.fail("the index was asked"))
    for wish in ("cuda", "as-is"):
        assert script.main(wish) == 0
    assert script.calls == []
    monkeypatch.setenv("CI", "true")
    assert script.main("cpu") == 0
    assert len(script.calls) == 1
    with pytest.raises(SystemExit, match="TORCH must be one of auto, cpu, cuda, as-is; got rocm"):
        script.main("rocm")


def test_a_failure_is_passed_on_only_if_the_cpu_build_was_asked_for(script, capsys):
    script.status = 1
    assert script.main("auto") == 0
    assert "from PyPI instead" in capsys.readouterr().out
    assert script.main("cpu") == 1


def test_no_other_host_is_named():
    named = {
        host
        for name in ("Makefile", "install_torch.py", "environment.yml", "pyproject.toml")
        for host in re.findall(r"https?://([^/\s\"'`)]+)", (ROOT / name).read_text(encoding="utf-8"))
    }
    assert named == {"download.pytorch.org", "arxiv.org"}


def test_make_asks_once_for_a_new_environment_and_passes_the_wish_on():
    """What make would run; nothing is run."""
    call = ["make", "--dry-run", "--always-make", "lab", "TORCH=cpu", "HOME_OF_ENV=/nowhere"]
    lines = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    asked = [index for index, line in enumerate(lines) if "install_torch.py cpu" in line]
    installed = [index for index, line in enumerate(lines) if 'pip install -e ".[lab]"' in line]
    assert len(asked) == len(installed) == 1
    assert asked < installed
