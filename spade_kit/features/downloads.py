"""Weights that are downloaded: found where they were kept before, checked, and refused at once without a network."""

from __future__ import annotations

import hashlib
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch

_PATIENCE = 1.5  # s
_NO_ENTRY = (401, 403)  # HTTP: log in, and accept the licence


class Origin(NamedTuple):
    """Where the weights of a network are published, and the file in which an earlier download is kept."""

    url: str | None
    cached: Path | None
    on_hub: bool = False


def torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def find_origin(name: str) -> Origin:
    """The origin of the weights of a network of torchvision or timm."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache
    from torchvision.models import get_model_weights

    hub, found = None, []
    if name in torchvision_names():
        offered = get_model_weights(name)
        url = getattr(offered, "IMAGENET1K_V1", offered.DEFAULT).url
    else:
        config: Any = timm.get_pretrained_cfg(name)
        url, hub = config.url, config.hf_hub_id
    if hub:
        file = config.hf_hub_filename or "pytorch_model.bin"
        names = (file.replace("pytorch_model.bin", "model.safetensors"), f"{Path(file).stem}.safetensors", file)
        found = [try_to_load_from_cache(hub, name) for name in names]  # timm prefers safetensors
    if url:
        found.append(str(Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name))
    cached = next((Path(file) for file in found if isinstance(file, str) and Path(file).is_file()), None)
    return Origin(f"{constants.ENDPOINT}/{hub}" if hub else url, cached, bool(hub))


def check_origin(name: str) -> Origin:
    """Find the origin; check a cached file, or that the host can be reached: hubs' clients try for most of a minute."""
    origin = find_origin(name)
    if origin.cached:
        _check_hash(name, origin.cached)
    elif origin.url:
        try:
            _reach(origin)
        except Exception as problem:  # also a setting of a proxy that cannot be understood
            raise _failed(name, problem) from problem
    return origin


def fetch(name: str, origin: Origin, get: Callable[[], Any], values: int = 0) -> Any:
    """Get weights, from a file or a download. A failure raises an error that names the cure; no random weights."""
    if not origin.cached and origin.url:
        about = f" (about {4 * values / 1e6:.0f} MB)" if values else ""
        print(f"Downloading the weights of {name!r}{about} from {origin.url}", file=sys.stderr)
    try:
        return get()
    except Exception as problem:  # every hub raises its own type
        if origin.cached:
            raise _damaged(name, origin.cached, type(problem).__name__) from problem
        replies = [getattr(error, "response", None) for error in (problem, problem.__cause__)]
        if origin.on_hub and any(getattr(reply, "status_code", None) in _NO_ENTRY for reply in replies):
            raise ConnectionError(
                f"The weights of {name!r} are not on this machine, and the hub sends them only to those who accepted "
                f"their licence ({type(problem).__name__}). Accept it at {origin.url} and run 'hf auth login', or "
                "download the file there and pass weights='model.safetensors'."
            ) from problem
        raise _failed(name, problem) from problem


def _failed(name: str, problem: Exception) -> ConnectionError:
    return ConnectionError(
        f"The weights of {name!r} are not on this machine and could not be downloaded ({problem}). "
        "Use backbone='efficientnet_lite0', which is installed with the package, pass the name of a file as "
        "weights=..., or connect to the internet once."
    )


def _reach(origin: Origin) -> None:
    """Connect to the host of a URL, or to the proxy in between; raise ConnectionError after a second and a half."""
    from huggingface_hub import constants

    if origin.on_hub and constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    place, proxies = urlsplit(origin.url or ""), getproxies()
    proxy = proxies.get(place.scheme, proxies.get("all"))
    if proxy and not proxy_bypass(place.hostname or ""):
        place = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = place.hostname, place.port or (443 if place.scheme == "https" else 80)
    failures = [f"{place.hostname} does not answer"]

    def connect() -> None:
        try:
            socket.create_connection(address, _PATIENCE).close()
            failures.clear()
        except OSError as problem:
            failures[:] = [f"{place.hostname}: {problem}"]

    attempt = Thread(target=connect, daemon=True)  # looking up a name has no timeout of its own
    attempt.start()
    attempt.join(_PATIENCE)
    if failures:
        raise ConnectionError(failures[0])


def _check_hash(name: str, file: Path) -> None:
    """Compare a downloaded file with the hash in its name: torchvision's and timm's begin with it, the hub's is one."""
    named = re.fullmatch(r"(?:.*-)?([0-9a-f]{8,64})(?:\.\w+)?", file.resolve().name)
    if named:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if not digest.startswith(named[1]):
            raise _damaged(name, file, f"its SHA-256 is {digest[:8]}... instead of {named[1][:8]}...")


def _damaged(name: str, file: Path, reason: str) -> ValueError:
    return ValueError(
        f"The downloaded weights of {name!r} are damaged ({reason}): {file.resolve()}. "
        "Delete this file, then load them again."
    )
