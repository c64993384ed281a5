"""Named bytes under one URL: local disk, memory, S3, GCS or Azure, over obstore. Every failure is a StoreError."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from aplt.common.errors import StoreError

# Options of the HTTP client, which obstore takes apart from those of the service; everything else is the service's.
CLIENT_OPTIONS = {"allow_http", "allow_invalid_certificates", "connect_timeout", "timeout", "proxy_url"}

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
    "Permission denied": "choose a directory that this user may write",
    "Read-only file system": "choose a directory that this user may write",
    "Not a directory": "a file is where a directory is needed: move it or choose another directory",
    "No space left": "free some disk space",
    "not valid for store": "correct the store options",
}


class StoredObject(NamedTuple):
    """One object: its key, its size in bytes and when it was last written."""

    key: str
    size: int
    modified: datetime


class Objects:
    """The objects under `url`, which is made absolute; a local directory is created. StoreError if out of reach.

    `options` go to obstore (endpoint, region, allow_http, ...); credentials come from the environment.
    """

    def __init__(self, url: str, options: Mapping[str, str] | None = None) -> None:
        self.local_path = self.local_path_of(url)
        self.url = str(self.local_path or (url if url.endswith("://") else url.rstrip("/")))
        self._store: ObjectStore
        if self.local_path is not None:
            with self._explained("open"):
                self._store = LocalStore(self.local_path, mkdir=True, automatic_cleanup=True)
        elif url.startswith("memory://"):
            self._store = _memory_stores.setdefault(self.url, MemoryStore())
        else:
            self._store = self._open_remote(options or {})
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

    def get(self, key: str) -> bytes | None:
        """The bytes at `key`, or None if nothing is there."""
        with self._explained("read", key):
            try:
                if self.local_path is not None:
                    return (self.local_path / key).read_bytes()
                return bytes(obstore.get(self._store, key).bytes())
            except (FileNotFoundError, IsADirectoryError):
                return None

    def exists(self, key: str) -> bool:
        """Whether something is at `key`."""
        with self._explained("look up", key):
            try:
                obstore.head(self._store, key)
            except FileNotFoundError:
                return False
            return True

    def put(self, key: str, data: bytes) -> None:
        """Write `data` at `key`, at once and over anything that was there."""
        with self._explained("write", key):
            obstore.put(self._store, key, data, chunk_size=_PART_BYTES)

    def create(self, key: str, data: bytes) -> bool:
        """Write `data` at `key` unless something is there; whether it was written. Of several racing, one wins."""
        with self._explained("write", key):
            try:
                obstore.put(self._store, key, data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def delete(self, key: str) -> None:
        """Remove what is at `key`, if anything is."""
        with self._explained("delete", key), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def walk(self, prefix: str) -> list[StoredObject]:
        """Everything in the folder `prefix` and below it, by key."""
        with self._explained("list", prefix):
            pages = obstore.list(self._store, prefix or None, chunk_size=1000)
            found = [StoredObject(meta["path"], meta["size"], meta["last_modified"]) for page in pages for meta in page]
        return sorted(found)

    def children(self, prefix: str) -> list[str]:
        """The names of the folders directly in the folder `prefix`."""
        with self._explained("list", prefix):
            found = obstore.list_with_delimiter(self._store, prefix or None)["common_prefixes"]
        return sorted(path.rpartition("/")[2] for path in found)

    def get_all(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        """`get` of every key, several at a time."""
        keys = list(keys)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            return dict(zip(keys, pool.map(self.get, keys), strict=True))

    def exist_all(self, keys: Iterable[str]) -> dict[str, bool]:
        """`exists` of every key, several at a time."""
        keys = list(keys)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            return dict(zip(keys, pool.map(self.exists, keys), strict=True))

    def put_all(self, objects: Mapping[str, bytes]) -> None:
        """`put` of every object, several at a time; on local disk they outlive a power cut once this returns."""
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            for _ in pool.map(self.put, objects.keys(), objects.values()):
                pass
            for _ in pool.map(self.flush, objects.keys()):
                pass

    def delete_all(self, keys: Iterable[str]) -> None:
        """`delete` of every key, several at a time."""
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            for _ in pool.map(self.delete, keys):
                pass

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
        """Files that a killed writer left half-written on local disk, which `walk` does not show."""
        found: list[StoredObject] = []
        if self.local_path is None:
            return found
        for path in (self.local_path / prefix).rglob("*#*"):
            if _STAGING_NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):  # its writer has finished
                    status = path.stat()
                    modified = datetime.fromtimestamp(status.st_mtime, UTC)
                    found.append(StoredObject(str(path.relative_to(self.local_path)), status.st_size, modified))
        return found

    def delete_staging(self, key: str) -> None:
        """Remove a file that `walk_staging` found, and the folders that are empty then."""
        if self.local_path is None:
            return
        path = self.local_path / key
        with self._explained("delete", key):
            path.unlink(missing_ok=True)
        for folder in path.parents[: len(Path(key).parents) - 1]:
            try:
                folder.rmdir()
            except OSError:
                return

    def _open_remote(self, options: Mapping[str, str]) -> ObjectStore:
        client: Any = {key: value for key, value in options.items() if key in CLIENT_OPTIONS}
        config: Any = {key: value for key, value in options.items() if key not in CLIENT_OPTIONS}
        # obstore's own limit is 3 minutes, long for somebody who mistyped an address.
        retry: Any = {"max_retries": 6, "retry_timeout": timedelta(seconds=30)}
        with self._explained("open"):
            return from_url(self.url, config=config, client_options=client, retry_config=retry)

    @contextmanager
    def _explained(self, action: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            reason = _reason(str(error))
            advice = next((advice for text, advice in _ADVICE.items() if text in reason), "check the store URL")
            what = f"{key} in the store {self.url}" if key else f"the store {self.url}"
            raise StoreError(f"Cannot {action} {what}: {reason}; {advice}.") from None


def _reason(text: str) -> str:
    """One short line out of an obstore message, which may hold a dump of its source or a service's XML."""
    if answer := re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text, re.DOTALL):
        return f"{answer[1]}: {answer[2].rstrip('.')}"
    lines = text.split("Debug source:")[0].strip().splitlines() or ["unknown reason"]
    return lines[0][:300].rstrip(". ")
