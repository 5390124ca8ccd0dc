"""Weights from a file on this machine: only tensors are read, and each name and shape is compared with the network."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors.torch import load
from torch import Tensor

from spade_kit._files import as_text, explain_reading

_COUNTERS = torch.int64, torch.int32, torch.bool  # and tables of positions
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, *_COUNTERS)
_PLAIN = "Save the tensors alone: torch.save(network.state_dict(), file)"
_ANOTHER = "Are they those of another network? Name the one that they belong to."
_CUT = "the file is cut or damaged. Copy or download it again."


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file, under the names that they have there, and the SHA-256 of the file."""

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]

    def __str__(self) -> str:
        return f"{as_text(self.path.name)}, SHA-256 {self.sha256[:8]}"


def read_weights(file: str | os.PathLike[str]) -> WeightsFile:
    """Read a .safetensors file or a state dict saved by torch; code in a pickle is refused, not run."""
    if not isinstance(file, (str, os.PathLike)):
        raise ValueError(f"weights must be the name of a file; got {file!r}.")
    path = Path(file).expanduser().absolute()
    if os.path.isdir(path):  # False where that of Path raises, such as for a name that is too long
        raise ValueError(f"weights must be a file; got the folder {as_text(path)}. Name a file in it.")
    if not os.path.isfile(path):  # reading a pipe would wait for ever
        raise FileNotFoundError(f"weights must be a file; there is none at {as_text(path)}.")
    with explain_reading(path, "weights"):
        content = path.read_bytes()
    try:
        return WeightsFile(path, hashlib.sha256(content).hexdigest(), _read_tensors(content))
    except _UnreadableError as reason:
        raise ValueError(f"Cannot read {as_text(path)} as weights: {reason}") from reason.__cause__


def hash_file(file: Path) -> str:
    """The SHA-256 of a file of any size."""
    whole = hashlib.sha256()
    with explain_reading(file, "weights"), open(file, "rb") as opened:
        while part := opened.read(2**20):
            whole.update(part)
    return whole.hexdigest()


class _UnreadableError(ValueError):
    """Why a file holds no weights, and what to do."""


def _read_tensors(content: bytes) -> Mapping[str, Tensor]:
    if not content:
        raise _UnreadableError("the file is empty. Copy or download it again.")
    safe = content[8:9] == b"{"
    try:
        held = load(content) if safe else torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as problem:  # each format, and each version of it, has its own types
        cut = safe or (content[:2] == b"PK" and not is_zipfile(BytesIO(content)))
        told = _CUT if cut else f"it is neither a .safetensors file nor a state dict saved by torch. {_PLAIN}."
        if code := re.search(r"GLOBAL ([\w.]+)", str(problem)):
            told = f"besides tensors it holds Python objects ({code[1]}), which may run any code. {_PLAIN}."
        raise _UnreadableError(told) from (problem if code or cut else None)
    tensors = _find_tensors(held)
    wrong = [name for name, value in tensors.items() if not _is_plain(value)]
    if wrong:
        raise _UnreadableError(
            f"tensors must be plain numbers of 16 bits or more; got {tensors[wrong[0]].dtype} at {_some(wrong)}, as in "
            "quantised networks. Use the file with float32 or float16."
        )
    return tensors


def _is_plain(value: Tensor) -> bool:
    return value.dtype in _DTYPES and value.layout == torch.strided and not value.is_meta


def _find_tensors(held: Any) -> Mapping[str, Tensor]:
    """A state dict, or the only one in a checkpoint that holds other things, too."""
    if _is_state(held):
        return held
    inner = {key: value for key, value in held.items() if _is_state(value)} if isinstance(held, dict) else {}
    if len(inner) > 1:
        raise _UnreadableError(
            f"it holds {len(inner)} state dicts: {', '.join(map(repr, inner))}. Save one of them: "
            f"torch.save(torch.load(file)[{next(iter(inner))!r}], 'one.pth')."
        )
    if not inner:
        raise _UnreadableError(f"it holds a {type(held).__name__} without a state dict. {_PLAIN}.")
    return next(iter(inner.values()))


def _is_state(held: Any) -> bool:
    filled = isinstance(held, dict) and bool(held)
    return filled and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in held.items())


def match_weights(
    network: str, file: WeightsFile, load: Callable[[dict[str, Tensor]], Iterable[str]], heads: Collection[str]
) -> dict[str, Tensor]:
    """The tensors of a file, under the names for which they fit a network; only those of a classifier may be left over.

    ``load`` loads them strictly into the network and raises torch's error, or gives names that are still missing.
    ``heads`` are its parts that only a classifier needs. A prefix of all names is removed if they fit only then.
    """
    first = ""
    for tensors in _without_prefixes(file.tensors):
        differences = _compare(load, tensors, heads)
        if not differences:
            return tensors
        first = first or differences
    adapter = any("lora" in name.lower() for name in file.tensors)
    raise ValueError(
        f"{as_text(file.path)} must hold the weights of {network!r}; {first}. "
        + ("It holds a LoRA adapter: merge it into its network, and save that." if adapter else _ANOTHER)
    )


def _without_prefixes(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    tensors = dict(tensors)
    yield tensors
    while all("." in name for name in tensors) and len({name.partition(".")[0] for name in tensors}) == 1:
        tensors = {name.partition(".")[2]: value for name, value in tensors.items()}
        yield tensors


def _compare(
    load: Callable[[dict[str, Tensor]], Iterable[str]], tensors: dict[str, Tensor], heads: Collection[str]
) -> str:
    """How the tensors differ from those that a network needs, in words; empty if they fit."""
    error, missing = "", list[str]()
    try:
        missing += load(tensors)
    except Exception as problem:  # timm's converters raise anything on the weights of another network
        error = f"{type(problem).__name__}: {problem}"
    lists = {
        "missing": [*missing, *_find_quoted(r"Missing key\(s\)", error)],
        "unknown": _find_quoted(r"Unexpected key\(s\)", error),
        "of another shape": re.findall(r"size mismatch for (\S+): ", error),
    }
    needed = {kind: [name for name in names if name.partition(".")[0] not in heads] for kind, names in lists.items()}
    found = [f"{len(names)} {kind} ({_some(names)})" for kind, names in needed.items() if names]
    if error and not any(lists.values()):
        return f"it cannot be converted ({error.splitlines()[0]})"
    return f"its tensors do not fit: {', '.join(found)}" if found else ""


def _find_quoted(start: str, error: str) -> list[str]:
    """The names in one line of torch's error."""
    line = re.search(start + " in state_dict: (.*)", error)
    return re.findall('"([^"]*)"', line[1]) if line else []


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
