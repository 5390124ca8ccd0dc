"""Long work on many images: a progress bar, threads side by side, and workers of Dask."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from socket import gethostname
from typing import Any, TypeVar

from tqdm.auto import tqdm

from spade_kit._arguments import check_count, hold_warnings, warn

CHUNK = 64  # images that a worker gets at once: a second or two of work, so that little is lost with it
_RETRIES = 2  # of a chunk that raised an error: shared storage may falter
_T, _R = TypeVar("_T"), TypeVar("_R")


class _Bar(tqdm):
    """A bar whose text in a saved notebook, too, ends complete: tqdm's own is that of the moment when it appeared."""

    _output: Any = None

    def display(self, *args: Any, **options: Any) -> Any:
        if getattr(self, "displayed", True) is False and options.get("check_delay", True):  # only in notebooks
            from IPython.display import display

            self._output, self.displayed = display(self.container, display_id=True), True
        return super().display(*args, **options)

    def close(self) -> None:
        super().close()
        if self._output is not None:
            self._output.update(self.container)
            self._output = None


def track(items: Iterable | None = None, **options: Any) -> tqdm:
    """A bar that appears after a second, and never with ``TQDM_DISABLE=1``, which tqdm's notebook bars ignore.

    Nor without an open stderr, as in a windowed program or a service. Use it up before you yield anything: a bar whose
    last step is never asked for turns red.
    """
    silent = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    nowhere = sys.stderr is None or getattr(sys.stderr, "closed", False)
    return _Bar(items, unit="image", delay=1, disable=silent or nowhere, **options)


def side_by_side(work: Callable[[_T], Iterable[_R]], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """What ``work`` yields for each item, in order, by so many threads, which share those of torch.

    Warnings are repeated here, and an error is raised here, after what was yielded before it.
    """
    import torch  # slow to import, and progress bars do without

    def do(item: _T) -> tuple[list[_R], list[str], BaseException | None]:
        made = list[_R]()
        with hold_warnings() as held:
            try:
                made.extend(work(item))
            except BaseException as problem:
                return made, held, problem
        return made, held, None

    def take(done: Future[tuple[list[_R], list[str], BaseException | None]]) -> Iterator[_R]:
        made, held, problem = done.result()
        for message in held:
            warn(message)
        yield from made
        if problem is not None:
            raise problem

    usual = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(max(usual // threads, 1),)) as pool:
        waiting: deque[Future] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(do, item))
                if len(waiting) > threads:
                    yield from take(waiting.popleft())
            while waiting:
                yield from take(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(usual)  # of threads that begin later


# ---- workers of Dask -------------------------------------------------------------------------------------------------


class LostImageError(RuntimeError):
    """Every worker that was given this image, or these settings, ended."""


def _check_guard() -> None:
    """Refuse to start workers from a script that they would begin again, as they import it."""
    main, frame = sys.modules["__main__"], inspect.currentframe()
    while frame and frame.f_code.co_filename != getattr(main, "__file__", None):
        frame = frame.f_back
    while frame and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    if frame is None:  # such as in a notebook
        return
    try:
        parts = ast.parse(inspect.getsource(main)).body
    except OSError as problem:  # such as <stdin>
        told = f"With jobs, the script must be a file, because workers import it, too; got {main.__file__}"
        raise RuntimeError(f"{told}. Save it as one, and run that.") from problem
    at = next(part for part in parts if part.lineno <= frame.f_lineno <= (part.end_lineno or 0))
    if not (isinstance(at, ast.If) and "__name__" in ast.unparse(at.test)):
        raise RuntimeError(
            f'With jobs, line {frame.f_lineno} of {main.__file__} must be under if __name__ == "__main__":, because '
            "workers import the script, too. Put it there."
        )


@contextmanager
def crew(jobs: int = 1, client: Any = None) -> Iterator[Any]:
    """The client given, or one of ``jobs`` processes on this machine, of one thread each; None for this process alone.

    Our own listen on localhost only, with certificates made for the occasion.
    """
    check_count("jobs", jobs)
    if client is None and jobs == 1:
        yield None
        return
    if client is not None and jobs != 1:
        raise ValueError(f"jobs must be 1 with a client, which has workers of its own; got {jobs}. Leave it out.")
    try:
        import dask
        import distributed
    except ImportError as problem:
        raise ImportError(f'Workers need Dask ({problem}). Run pip install "spade_kit[cluster]".') from problem
    if client is not None:
        _check_client(client, distributed.Client)
        yield client
        return
    _check_guard()
    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.worker.profile.enabled": False,
        # Dask's own halves the speed: the memory of arrays goes back to the system, and is soon needed again.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**30,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
        **dict.fromkeys(("distributed.scheduler.http.routes", "distributed.worker.http.routes"), ()),  # tell nobody
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            memory_limit=0,
            silence_logs=50,
            host="127.0.0.1",
            security=distributed.Security.temporary(),
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        distributed.Client(cluster) as own,
    ):
        yield own


def _check_client(client: Any, kind: Any) -> None:
    """Refuse a client that is closed, or whose workers have other versions of what computes."""
    is_client = isinstance(client, kind)
    if not is_client or client.asynchronous or client.status != "running":
        state = f"one that is {client.status}" if is_client else f"a value of type {type(client).__name__}"
        raise ValueError(f"client must be a connected dask.distributed.Client; got {state}. Make a new one.")
    try:
        theirs = client.run(_list_versions)
    except ModuleNotFoundError as problem:
        raise ValueError(f"Workers must have spade_kit installed, as here: {problem}.") from problem
    ours = _list_versions()
    for worker, versions in theirs.items():
        if other := {name: version for name, version in versions.items() if version != ours[name]}:
            told = ", ".join(f"{name} {version}, here {ours[name]}" for name, version in other.items())
            raise ValueError(f"Workers must have the versions of this process; {worker} has {told}. Install the same.")


def _list_versions() -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:2]))
    return {"python": python, **{name: version(name) for name in ("spade_kit", "torch", "numpy")}}


def hand_out(
    client: Any, work: Callable[[Sequence[_T]], Sequence[_R]], items: Sequence[_T], chunk: int | None = None
) -> Iterator[tuple[int, _R | LostImageError]]:
    """Give items to workers, some at a time; yield the index and the result of each, in the order they finish.

    What a worker leaves when it ends is given to others. Where that happens again and again, items are tried one by
    one, and in the end alone; one that still ends its worker gets a `LostImageError`.
    """
    from distributed import CancelledError, KilledWorker, as_completed

    def submit(places: Sequence[int]) -> Any:
        return client.submit(_work_on, work, [items[at] for at in places], retries=_RETRIES, pure=False)

    def take(future: Any, places: Sequence[int]) -> Iterator[tuple[int, _R]]:
        found, held = future.result()
        for message in held:
            warn(message)
        return zip(places, found)

    chunks = {submit(places): places for places in share(len(items), chunk or CHUNK)}
    finished, last = as_completed(chunks), list[int]()
    try:
        for future in finished:
            places = chunks.pop(future)
            try:
                yield from take(future, places)
            except KilledWorker:
                if len(places) == 1:
                    last += places
                else:
                    ones = {submit([at]): [at] for at in places}
                    chunks |= ones
                    finished.update(ones)
        for at in last:
            try:
                yield from take(submit([at]), [at])
            except KilledWorker:
                yield at, LostImageError("every worker that was given it ended: it may need too much memory")
    except (CancelledError, OSError) as problem:
        if client.status == "running" and not isinstance(problem, CancelledError):
            raise
        raise ConnectionError(
            "The scheduler is gone. What was done is whole: connect again, and repeat the call."
        ) from problem
    finally:
        if client.status == "running":
            client.cancel([*chunks])


def share(count: int, chunk: int) -> list[range]:
    """Successive indices, so many at a time."""
    return [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]


def _work_on(work: Callable[[Sequence[_T]], Sequence[_R]], items: Sequence[_T]) -> tuple[Sequence[_R], list[str]]:
    """On a worker: one thread for torch, and so for the search; errors name the machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with hold_warnings() as held:
            return work(items), held
    except (OSError, ValueError) as problem:
        kind = OSError if isinstance(problem, OSError) else ValueError
        raise kind(f"{problem} This is what {gethostname()} says.") from problem
    finally:
        torch.set_num_threads(threads)
