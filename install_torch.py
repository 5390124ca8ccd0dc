"""Install the build of PyTorch that suits this machine: ``python install_torch.py [auto|cpu|cuda|as-is]``.

On Linux, PyPI's build brings CUDA, which is most of the environment. ``auto`` takes the CPU build instead where no
NVIDIA GPU is found and the index of CPU builds answers. Only torch and torchvision come from there; pip's own settings
hold for everything else, and in continuous integration nothing is asked.
"""

import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from threading import Thread
from urllib.request import urlopen

CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
SECONDS = 3
WISHES = ("auto", "cpu", "cuda", "as-is")
CPU_SIZE, CUDA_SIZE = "about 2 GB", "6.7 GB"  # of the environment


def main(wish: str = "auto") -> int:
    """Install torch and torchvision from the index of CPU builds, or leave it to pip; return pip's exit status."""
    if wish not in WISHES:
        sys.exit(f"TORCH must be one of {', '.join(WISHES)}; got {wish}.")
    from_index, told = choose(wish)
    print(told, flush=True)
    if not from_index:
        return 0
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--index-url", CPU_BUILDS, "torch", "torchvision"]
    status = subprocess.run(pip, check=False).returncode
    if status and wish == "auto":
        print(f"That failed. PyTorch comes from PyPI instead: {CUDA_SIZE} with everything else.")
        return 0
    return status


def choose(wish: str) -> tuple[bool, str]:
    """Whether to take the CPU build, and the sentence that says so."""
    cuda = f"PyTorch comes from PyPI, with CUDA: {CUDA_SIZE} with everything else"
    if find_spec("torch"):
        return False, "PyTorch is installed, and stays."
    if wish == "cpu":
        return True, f"PyTorch comes without CUDA: {CPU_SIZE} with everything else."
    if wish == "cuda":
        return False, f"{cuda}."
    if wish == "as-is" or os.environ.get("CI") or sys.platform != "linux":
        return False, "PyTorch comes from where pip finds it."
    if has_gpu():
        return False, f"{cuda}, for the NVIDIA GPU of this machine (TORCH=cpu: {CPU_SIZE})."
    if not answers(CPU_BUILDS):
        return False, f"{cuda}, since {CPU_BUILDS} does not answer."
    return (
        True,
        f"No NVIDIA GPU: PyTorch comes without CUDA, {CPU_SIZE} with everything else (TORCH=cuda: {CUDA_SIZE}).",
    )


def has_gpu() -> bool:
    with suppress(OSError, subprocess.TimeoutExpired):
        return "GPU" in subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10).stdout
    return False


def answers(index: str, seconds: float = SECONDS) -> bool:
    """Whether the index lists torch within so many seconds, those for finding its address included."""
    found = []

    def ask() -> None:
        with suppress(OSError), urlopen(f"{index}/torch/", timeout=seconds):
            found.append(index)

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
