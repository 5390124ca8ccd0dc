"""Weights that are downloaded: found where they were kept before, checked, and refused at once without a network."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, getproxies, proxy_bypass, urlopen

import timm
import torch
import torchvision
from huggingface_hub import constants, try_to_load_from_cache
from torchvision.models import get_model_weights

from spade_kit.features.weights import hash_file

_PATIENCE = 1.5  # s: to connect
_SILENCE = 6.0  # s: from a question to its answer, or between two pieces of a download
_NO_ENTRY = (401, 403)  # HTTP: log in, and accept the licence


class Origin(NamedTuple):
    """Where the weights of a network are published, and the file in which an earlier download is kept."""

    url: str | None
    cached: Path | None
    on_hub: bool = False


def torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def find_origin(name: str) -> Origin:
    """The origin of the weights of a network of torchvision or timm."""
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
    limit = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(limit or _SILENCE)  # torch sets none
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
    finally:
        socket.setdefaulttimeout(limit)


def _failed(name: str, problem: Exception) -> ConnectionError:
    return ConnectionError(
        f"The weights of {name!r} are not on this machine and could not be downloaded ({problem}). "
        "Use backbone='efficientnet_lite0', which is installed with the package, pass the name of a file as "
        "weights=..., or connect to the internet once."
    )


def _reach(origin: Origin) -> None:
    """Connect to the host of a URL, or to the proxy in between, and ask it; ConnectionError after a few seconds."""
    if origin.on_hub and constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    place, proxies = urlsplit(origin.url or ""), getproxies()
    proxy = proxies.get(place.scheme, proxies.get("all"))
    if proxy and not proxy_bypass(place.hostname or ""):
        place = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = place.hostname, place.port or (443 if place.scheme == "https" else 80)
    _within(_PATIENCE, place.hostname, lambda: socket.create_connection(address, _PATIENCE).close())
    if not place.scheme.startswith("socks"):  # which urllib does not speak
        _within(_SILENCE, place.hostname, partial(_ask, origin))


def _within(seconds: float, host: str | None, step: Callable[[], Any]) -> None:
    """Do a step in a thread, since looking up a name has no time limit of its own; ConnectionError if it fails."""
    failures = [f"{host} does not answer"]

    def attempt() -> None:
        try:
            step()
            failures.clear()
        except Exception as problem:  # each client raises its own type
            untrusted = re.search(r"\[SSL: (\w+)\]", str(problem))
            failures[:] = [f"{host}: {f'TLS fails with {untrusted[1]}' if untrusted else problem}"]

    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise ConnectionError(failures[0])


def _ask(origin: Origin) -> None:
    """Ask for the head of a URL with the client that will download it; whatever the host answers, it can be reached."""
    from huggingface_hub.utils import get_session

    if origin.on_hub:
        get_session().head(str(origin.url), timeout=_SILENCE)
        return
    with suppress(HTTPError):
        urlopen(Request(str(origin.url), method="HEAD"), timeout=_SILENCE).close()


def _check_hash(name: str, file: Path) -> None:
    """Compare a downloaded file with the hash in its name: torchvision's and timm's begin with it, the hub's is one."""
    named = re.fullmatch(r"(?:.*-)?([0-9a-f]{8,64})(?:\.\w+)?", file.resolve().name)
    if named and not (digest := hash_file(file)).startswith(named[1]):
        raise _damaged(name, file, f"its SHA-256 is {digest[:8]}... instead of {named[1][:8]}...")


def _damaged(name: str, file: Path, reason: str) -> ValueError:
    return ValueError(
        f"The downloaded weights of {name!r} are damaged ({reason}): {file.resolve()}. "
        "Delete this file, then load them again."
    )
