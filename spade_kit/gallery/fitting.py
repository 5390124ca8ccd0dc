"""A fit that writes its features to files: for more images than memory holds, and for several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from spade_kit._files import check_shared
from spade_kit._work import LostImageError, crew, hand_out, share, track
from spade_kit.datasets.samples import Photo, absolute, name_of
from spade_kit.features.backbones import Backbone
from spade_kit.features.crops import Cropping
from spade_kit.features.pyramid import fit_cropping, pass_batches, tell_skipped
from spade_kit.gallery import checkpoint
from spade_kit.gallery.gallery import NO_IMAGES, Gallery, gather
from spade_kit.options import Options

CHUNK = 256  # images per file: some seconds of work, and 130 MB with the embedded network
Outcome: TypeAlias = "tuple[checkpoint.Shard | None, list[Exception]]"  # and why images were left out


def fit_into(
    folder: Path, images: Sequence[Photo], backbone: Backbone, options: Options, jobs: int, client: Any, roi: Any
) -> Gallery:
    """The gallery of `build_gallery`, in a folder: written file by file, listed when complete, then loaded."""
    checkpoint.check_replaceable(folder)
    if not images:
        raise ValueError(NO_IMAGES)
    cropping = fit_cropping(images, backbone, roi)
    with (
        crew(jobs, client) as workers,
        checkpoint.unfinished(folder.resolve(), ".fitting") as place,
        track(total=len(images), desc="features") as progress,
    ):
        if workers is None:
            chunks = ([images[at] for at in places] for places in share(len(images), CHUNK))
            outcomes = [_fit_chunk(backbone, cropping, place, some, progress.update) for some in chunks]
        else:
            work = partial(_work, *checkpoint.tell_backbone(backbone), cropping, place)
            outcomes = _fit_on(workers, work, images, progress.update)
        tell_skipped([problem for _, skipped in outcomes for problem in skipped], len(images))
        checkpoint.publish(folder, [shard for shard, _ in outcomes if shard], backbone, options, [])
        return replace(checkpoint.load_gallery(folder, backbone, None).gallery, cropping=cropping)


def _fit_on(workers: Any, work: Callable, images: Sequence[Photo], count: Callable[[int], object]) -> list[Outcome]:
    """By the workers of a client."""
    found: dict[int, Outcome] = {}
    for at, outcome in hand_out(workers, work, list(map(absolute, images)), CHUNK):
        count(1)
        if isinstance(outcome, LostImageError):
            found[at] = None, [LostImageError(f"{name_of(images[at]) or f'image {at}'}: {outcome}.")]
        elif outcome is not None:
            found[at] = outcome
    return [found[at] for at in sorted(found)]


def _work(told: str, device: str, cropping: Cropping, place: Path, images: Sequence[Photo]) -> list[Outcome | None]:
    """On a worker: one outcome for all images, as that of the first."""
    check_shared(place)
    backbone = checkpoint.open_backbone(told, device)
    return [_fit_chunk(backbone, cropping, place, images, lambda count: None), *[None] * (len(images) - 1)]


def _fit_chunk(
    backbone: Backbone, cropping: Cropping, place: Path, images: Sequence[Photo], count: Callable[[int], object]
) -> Outcome:
    skipped: list[Exception] = []
    gallery = gather(pass_batches(images, backbone, cropping, skipped, count), len(images), cropping, "fit")
    return None if gallery is None else checkpoint.write_shard(place, gallery), skipped
