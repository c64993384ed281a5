"""Named bytes under one URL: local disk, memory, S3, GCS or Azure, over obstore. Every failure is a StoreError."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from aplt.common.errors import StoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Options of the HTTP client, which obstore takes apart from those of the service; everything else is the service's.
CLIENT_OPTIONS = {"allow_http", "allow_invalid_certificates", "connect_timeout", "timeout", "proxy_url"}

PATIENCE_S = 5.0
"""For a command that somebody waits for."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 15.0
SAY_EVERY_S = 60.0

# What a network or a service says that may be well again later.
_PASSING = re.compile(r"HTTP error(?!: builder)|status code: (5\d\d|429)")

_PART_BYTES = 16 * 2**20
_NUM_THREADS = 8
_STAGING_NAME = re.compile(r".+#\d+")
_memory_stores: dict[str, MemoryStore] = {}

# What to do about a reason, by a piece of its text.
_ADVICE = {
    "NoSuchBucket": "create the bucket or correct the URL",
    "169.254.169.254": "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "SignatureDoesNotMatch": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "check that these credentials may list, read, write and delete there",
    "builder error": "an http:// endpoint needs the option allow_http=true",
    "error sending request": "check the endpoint and the network",
    "status code: 403": "check that these credentials may list, read, write and delete there",
    "status code: 5": "the service is overloaded or down: try again later",
    "status code: 429": "the service is overloaded or down: try again later",
    "Permission denied": "choose a directory that this user may write",
    "Read-only file system": "choose a directory that this user may write",
    "Not a directory": "a file is where a directory is needed: move it or choose another directory",
    "No space left": "free some disk space and start again: nothing that was finished is lost",
    "Disk quota exceeded": "free some disk space and start again: nothing that was finished is lost",
    "File too large": "raise the limit on the size of files (ulimit -f), or choose another disk",
    "not valid for store": "correct the store options",
}


class StoredObject(NamedTuple):
    """One object: its key, its size in bytes and when it was last written."""

    key: str
    size: int
    modified: datetime


class Objects:
    """The objects under `url`, which is made absolute; a local directory is created. StoreError if out of reach.

    `options` go to obstore (endpoint, region, allow_http, ...); credentials come from the environment. A network or a
    service that fails is asked again for `patience_s` seconds, with a line in the log.
    """

    def __init__(self, url: str, options: Mapping[str, str] | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self.local_path = self.local_path_of(url)
        self.url = str(self.local_path or (url if url.endswith("://") else url.rstrip("/")))
        self._options = dict(options or {})
        self._patience_s = patience_s
        self._store: ObjectStore
        if self.local_path is not None:
            with self._explained("open"):
                self._store = LocalStore(self.local_path, mkdir=True, automatic_cleanup=True)
        elif url.startswith("memory://"):
            self._store = _memory_stores.setdefault(self.url, MemoryStore())
        else:
            self._store = self._open_remote(self._options)
            # A read of a missing bucket looks like a missing object, so ask once for what must always work.
            self.children("")

    @staticmethod
    def local_path_of(url: str) -> Path | None:
        """The absolute directory that `url` names, None if it is not on local disk."""
        if "://" not in url:
            return Path(url).expanduser().absolute()
        parts = urlsplit(url)
        if parts.scheme != "file":
            return None
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise StoreError(f"The store URL {url} names no absolute path; write file:///path, or the path alone.")
        return Path(unquote(parts.path))

    def run_argument(self, run: str) -> str:
        """What names `run` on the command line; where options are needed, only its configuration file does."""
        return "CFG" if self._options else f"{self.url.rstrip('/')}/{run}"

    def with_patience(self, patience_s: float) -> Self:
        """The same objects, with another patience."""
        other = copy(self)
        other._patience_s = patience_s
        return other

    def get(self, key: str) -> bytes | None:
        """The bytes at `key`, or None if nothing is there."""

        def read() -> bytes | None:
            try:
                if self.local_path is not None:
                    return (self.local_path / key).read_bytes()
                return bytes(obstore.get(self._store, key).bytes())
            except (FileNotFoundError, IsADirectoryError):
                return None

        return self._do("read", key, read)

    def exists(self, key: str) -> bool:
        """Whether something is at `key`."""

        def look() -> bool:
            try:
                obstore.head(self._store, key)
            except FileNotFoundError:
                return False
            return True

        return self._do("look up", key, look)

    def put(self, key: str, data: bytes) -> None:
        """Write `data` at `key`, at once and over anything that was there."""
        self._do("write", key, lambda: obstore.put(self._store, key, data, chunk_size=_PART_BYTES))

    def create(self, key: str, data: bytes) -> bool:
        """Write `data` at `key` unless something is there; whether `data` is there now. Of several racing, one wins."""

        def write() -> bool:
            try:
                obstore.put(self._store, key, data, mode="create")
            except AlreadyExistsError:
                return self.get(key) == data  # a first try, whose answer was lost, may have written it
            return True

        return self._do("write", key, write)

    def delete(self, key: str) -> None:
        """Remove what is at `key`, if anything is."""

        def remove() -> None:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, key)

        self._do("delete", key, remove)

    def walk(self, prefix: str) -> list[StoredObject]:
        """Everything in the folder `prefix` and below it, by key."""

        def find() -> list[StoredObject]:
            pages = obstore.list(self._store, prefix or None, chunk_size=1000)
            return [StoredObject(meta["path"], meta["size"], meta["last_modified"]) for page in pages for meta in page]

        return sorted(self._do("list", prefix, find))

    def children(self, prefix: str) -> list[str]:
        """The names of the folders directly in the folder `prefix`."""
        found = self._do("list", prefix, lambda: obstore.list_with_delimiter(self._store, prefix or None))
        return sorted(path.rpartition("/")[2] for path in found["common_prefixes"])

    def get_all(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        """`get` of every key, several at a time."""
        keys = list(keys)
        return dict(zip(keys, self._map(Objects.get, keys), strict=True))

    def exist_all(self, keys: Iterable[str]) -> dict[str, bool]:
        """`exists` of every key, several at a time."""
        keys = list(keys)
        return dict(zip(keys, self._map(Objects.exists, keys), strict=True))

    def put_all(self, objects: Mapping[str, bytes]) -> None:
        """`put` of every object, several at a time; on local disk they outlive a power cut once this returns."""
        self._map(lambda one, key: one.put(key, objects[key]), objects)
        self._map(Objects.flush, objects)

    def delete_all(self, keys: Iterable[str]) -> None:
        """`delete` of every key, several at a time."""
        self._map(Objects.delete, keys)

    def flush(self, key: str) -> None:
        """Make sure that an object on local disk outlives a power cut; elsewhere a write already does."""
        if self.local_path is None:
            return
        with self._explained("flush", key):
            for path in (self.local_path / key, (self.local_path / key).parent):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def walk_staging(self, prefix: str) -> list[StoredObject]:
        """What a killed writer left on local disk and `walk` does not show: files half-written, folders still empty."""
        found: list[StoredObject] = []
        if self.local_path is None:
            return found
        for path in (self.local_path / prefix).rglob("*"):
            with suppress(FileNotFoundError):  # its writer has finished
                if _STAGING_NAME.fullmatch(path.name) or (path.is_dir() and not any(path.iterdir())):
                    status = path.stat()
                    modified = datetime.fromtimestamp(status.st_mtime, UTC)
                    found.append(StoredObject(str(path.relative_to(self.local_path)), status.st_size, modified))
        return found

    def delete_staging(self, key: str) -> None:
        """Remove what `walk_staging` found, and the folders that are empty then."""
        if self.local_path is None:
            return
        path = self.local_path / key
        folders = list(path.parents[: len(Path(key).parents) - 1])
        if path.is_dir():
            folders.insert(0, path)
        else:
            with self._explained("delete", key):
                path.unlink(missing_ok=True)
        for folder in folders:
            try:
                folder.rmdir()
            except OSError:
                return

    def _open_remote(self, options: Mapping[str, str]) -> ObjectStore:
        client: Any = {key: value for key, value in options.items() if key in CLIENT_OPTIONS}
        config: Any = {key: value for key, value in options.items() if key not in CLIENT_OPTIONS}
        # obstore repeats reads and plain writes by itself. It does not repeat what creates or deletes, and its patience
        # is one for all; so the patience is ours.
        retry: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=PATIENCE_S)}
        with self._explained("open"):
            return from_url(self.url, config=config, client_options=client, retry_config=retry)

    def _map(self, one: Callable[[Objects, str], T], keys: Iterable[str]) -> list[T]:
        """What `one` returns for each key, several at a time."""
        keys = list(keys)
        # The threads are not patient, or an interruption would have to wait for them.
        hasty = self.with_patience(min(self._patience_s, PATIENCE_S))

        def ask() -> list[T]:
            with ThreadPoolExecutor(_NUM_THREADS) as pool:
                return list(pool.map(lambda key: one(hasty, key), keys))

        return self._patiently(ask)

    def _do(self, action: str, key: str, ask: Callable[[], T]) -> T:
        """The answer of `ask`, which does `action` with `key`."""

        def explained() -> T:
            with self._explained(action, key):
                return ask()

        return self._patiently(explained)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """The answer of `ask`, asked again while it fails for a reason that may pass."""
        start, pause_s, said_s = time.monotonic(), FIRST_PAUSE_S, -SAY_EVERY_S
        while True:
            try:
                answer = ask()
            except StoreError as error:
                waited_s = time.monotonic() - start
                left_s = self._patience_s - waited_s
                if left_s <= 0 or not _PASSING.search(str(error)):
                    raise
                if left_s > PATIENCE_S and pause_s >= 1 and waited_s - said_s >= SAY_EVERY_S:
                    logger.warning("%s Trying again for up to %.0f min.", error, left_s / 60)
                    said_s = waited_s
                time.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                if said_s >= 0:
                    logger.warning("the store %s answers again after %.0f s", self.url, time.monotonic() - start)
                return answer

    @contextmanager
    def _explained(self, action: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except (BaseError, OSError, ValueError) as error:
            reason, text = _reason(str(error)), str(error)
            advice = next((advice for piece, advice in _ADVICE.items() if piece in text), "check the store URL")
            what = f"{key} in the store {self.url}" if key else f"the store {self.url}"
            raise StoreError(f"Cannot {action} {what}: {reason}; {advice}.") from None


def _reason(text: str) -> str:
    """One short line out of an obstore message, which may hold a dump of its source or a service's XML."""
    if answer := re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text, re.DOTALL):
        return f"{answer[1]}: {answer[2].rstrip('.')}"
    if request := re.search(r"Error performing \w+ (https?://[^/\s]+)\S* in .*? - (.*)", text):
        return (
            f"{request[1]} says {request[2].rstrip(': ')}" if "status code" in text else f"{request[1]}: {request[2]}"
        )
    lines = text.split("Debug source:")[0].strip().splitlines() or ["unknown reason"]
    return lines[0][:300].rstrip(". ")
