"""Prepared data on an object store: pushed once, fetched by every node into a folder of its own.

`prepared.json` is the only object with a name. It is written last and names all others by their SHA-256; so a push
replaces another in one step, what a killed push or fetch left is found again, and equal data costs one small request.
The clip cache is pushed in parts: memory is bounded however large it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from aplt.common.data.cache import ABOUT, CLIPS, STATUS
from aplt.common.data.prepare import locked
from aplt.common.data.prepared import PREPARED, SPLITS, read_about
from aplt.common.errors import DataError
from aplt.common.objects import Objects

PART_BYTES = 32 * 2**20
NUM_THREADS = 4
"""Parts that are on the way at once; each is in memory twice."""
PUSHED = "pushed"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Tick = Callable[[int, int], object]
"""Called with the bytes of the clip cache that are done, and all of them."""


class _Clips(BaseModel):
    """The clip cache: its file in parts of equal length, but for the last."""

    num_bytes: Annotated[int, Field(ge=0)]
    part_bytes: Annotated[int, Field(gt=0)]
    parts: list[Digest]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.parts) != -(-self.num_bytes // self.part_bytes):
            raise ValueError(f"{len(self.parts)} parts do not make {self.num_bytes} bytes")
        return self

    def span(self, part: int) -> tuple[int, int]:
        """The first byte of a part and its length."""
        start = part * self.part_bytes
        return start, min(self.part_bytes, self.num_bytes - start)


class _Pushed(BaseModel):
    """What prepared.json says beyond what `prepare` wrote."""

    files: dict[str, Digest]
    clips: _Clips

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, str]) -> dict[str, str]:
        for path in map(PurePosixPath, files):
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{path} lies outside the folder")
        return files

    def objects(self) -> set[str]:
        return {_key(digest) for digest in [*self.files.values(), *self.clips.parts]}


def push(prepared: Path, url: str, options: Mapping[str, str] | None = None, *, tick: Tick = lambda *_: None) -> None:
    """Make the data prepared in this directory, with all its splits, those at `url`.

    What is there already is not sent again. A fetch meanwhile gets the data that were there before. Two pushes of
    different data to one place at the same time are not for it.

    Raises:
        DataError: nothing is prepared in the directory.
        StoreError: the store is out of reach, or does not take what is written.
    """
    about = read_about(prepared)
    if about is None:
        raise DataError(f"{prepared} holds no prepared data: run `aplt data prepare` first")
    about.pop(PUSHED, None)
    store = Objects(url, options)
    with locked(prepared, lambda: None):
        before = _pushed(store.get(PREPARED))
        cache = f"cache/{about['cache']}"
        names = [*about["files"], *_split_files(prepared), f"{cache}/{ABOUT}", f"{cache}/{STATUS}"]
        files = {name: _file_digest(prepared / name) for name in names}
        # status.npy holds a checksum of every clip: if it is the same, so are the clips.
        unchanged = before is not None and before.files.get(f"{cache}/{STATUS}") == files[f"{cache}/{STATUS}"]
        if before is not None and unchanged and before.files == files:
            return
        there = {found.key for found in store.walk("objects")}
        clips = before.clips if before and unchanged else _push_clips(prepared / cache / CLIPS, store, there, tick)
        for name, digest in files.items():
            if _key(digest) not in there:
                store.put(_key(digest), (prepared / name).read_bytes())
        pushed = _Pushed(files=files, clips=clips)
        store.put(PREPARED, json.dumps({**about, PUSHED: pushed.model_dump()}).encode())
        store.delete_all((before.objects() if before else set()) - pushed.objects())


def fetch(
    url: str,
    local: Path,
    options: Mapping[str, str] | None = None,
    *,
    split: str | None = None,
    tick: Tick = lambda *_: None,
) -> Path:
    """Bring `local` up to date with the data at `url` and return it: a prepared directory like any other.

    One process waits for another that fetches into the same directory. What is there and intact is not fetched again.

    Args:
        url: Where the data were pushed to.
        local: The directory on this machine.
        options: Of the store.
        split: Lists of this split alone are needed; None: of all.
        tick: Follows the progress.

    Raises:
        DataError: nothing was pushed there, it is damaged, or it does not fit on the disk.
        StoreError: the store is out of reach.
    """
    store = Objects(url, options)
    with locked(local, lambda: None):
        found = store.get(PREPARED)
        pushed, about = _pushed(found), _json(found)
        if found is None:
            raise DataError(f"{url} holds no prepared data: push them there, or wait until that has finished")
        if pushed is None or about is None or not str(about.get("cache")).isalnum():
            raise DataError(f"{url}/{PREPARED} is damaged or was not made by a push: push the data again")
        here = read_about(local)
        if here is not None and PUSHED not in here:
            if here == {name: value for name, value in about.items() if name != PUSHED}:
                return local  # where they were prepared and pushed from
            raise DataError(
                f"data.local {local} holds data prepared there that are not those at {url}: push them (`aplt data "
                "prepare` does so), or name another directory"
            )
        wanted = {name: digest for name, digest in pushed.files.items() if _is_wanted(name, split)}
        try:
            if here != about:
                (local / PREPARED).unlink(missing_ok=True)  # nobody reads a mixture
                _fetch_clips(store, pushed.clips, local / "cache" / about["cache"], here, tick)
                for other in (local / "cache").iterdir():
                    if other.name != about["cache"]:
                        shutil.rmtree(other)
            for name, digest in wanted.items():
                if not (local / name).is_file() or (here != about and _file_digest(local / name) != digest):
                    _write(local / name, _object(store, digest))
            if here != about:
                _write(local / PREPARED, found)
        except OSError as error:
            raise DataError(f"data.local {local} cannot be written: {error.strerror}") from None
    return local


def _push_clips(path: Path, store: Objects, there: set[str], tick: Tick) -> _Clips:
    num_bytes = path.stat().st_size
    parts = [hashlib.sha256().hexdigest()] * -(-num_bytes // PART_BYTES)
    clips = _Clips(num_bytes=num_bytes, part_bytes=PART_BYTES, parts=parts)
    with path.open("rb") as file:

        def send(part: int) -> int:
            start, length = clips.span(part)
            data = os.pread(file.fileno(), length, start)
            if len(data) < length:
                raise DataError(f"{path} was cut off meanwhile: run `aplt data prepare`, which mends it")
            parts[part] = hashlib.sha256(data).hexdigest()
            if _key(parts[part]) not in there:
                store.put(_key(parts[part]), data)
            return length

        _in_threads(send, len(parts), num_bytes, tick)
    return clips.model_copy(update={"parts": parts})


def _fetch_clips(store: Objects, clips: _Clips, folder: Path, here: dict[str, Any] | None, tick: Tick) -> None:
    whole, unfinished = folder / CLIPS, folder / f"{CLIPS}.partial"
    if whole.is_file():
        if here is not None and here["cache"] == folder.name and _Pushed(**here[PUSHED]).clips == clips:
            return
        whole.replace(unfinished)
    folder.mkdir(parents=True, exist_ok=True)
    with unfinished.open("a+b") as file:
        missing, free = clips.num_bytes - os.fstat(file.fileno()).st_blocks * 512, shutil.disk_usage(folder).free
        if missing > free:
            raise DataError(
                f"the clip cache needs {missing / 1e9:.1f} GB more in {folder}, but {free / 1e9:.1f} GB are free: "
                "free some, or move data.local"
            )
        file.truncate(clips.num_bytes)
    with unfinished.open("r+b") as file:

        def receive(part: int) -> int:
            start, length = clips.span(part)
            if hashlib.sha256(os.pread(file.fileno(), length, start)).hexdigest() != clips.parts[part]:
                data = memoryview(_object(store, clips.parts[part]))
                while data:
                    written = os.pwrite(file.fileno(), data, start)
                    start, data = start + written, data[written:]
            return length

        _in_threads(receive, len(clips.parts), clips.num_bytes, tick)
        os.fsync(file.fileno())
    unfinished.replace(whole)


def _in_threads(one: Callable[[int], int], count: int, total: int, tick: Tick) -> None:
    """Do `one` for each number below `count`, several at a time; what it returns are bytes that are done."""
    done = 0
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        try:
            for length in pool.map(one, range(count)):
                done += length
                tick(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for all that was to come
            raise


def _object(store: Objects, digest: str) -> bytes:
    data = store.get(_key(digest))
    if data is None:
        raise DataError(f"{_key(digest)} is gone from {store.url}: other data were pushed meanwhile; fetch again")
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"{_key(digest)} in {store.url} is damaged: delete it and push the data again")
    return data


def _pushed(data: bytes | None) -> _Pushed | None:
    about = _json(data)
    try:
        return None if about is None else _Pushed(**about[PUSHED])
    except (KeyError, TypeError, ValidationError):
        return None


def _json(data: bytes | None) -> dict[str, Any] | None:
    try:
        about = json.loads(data or b"")
    except ValueError:
        return None
    return about if isinstance(about, dict) else None


def _split_files(prepared: Path) -> Iterable[str]:
    return sorted(str(path.relative_to(prepared)) for path in (prepared / SPLITS).glob("*/*.[cj]s*"))


def _is_wanted(name: str, split: str | None) -> bool:
    folder, *rest = PurePosixPath(name).parts
    return folder != SPLITS or split is None or rest[0] == split


def _key(digest: str) -> str:
    return f"objects/{digest}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_bytes(data)
    unfinished.replace(path)
