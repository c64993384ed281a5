"""Records to publish, and stores of every kind to publish them in."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import pytest

from aplt.common.artifacts import Checkpoint, Evaluation, FeatureSnapshot, LabelVersion
from aplt.common.manifest import Provenance
from aplt.common.store import ArtifactStore


@pytest.fixture
def unknown_keys(s3_options: dict[str, str]) -> Iterator[None]:
    """The S3 service checks credentials meanwhile, and knows none."""

    def switch(num_free_calls: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        url = f"{s3_options['endpoint']}/moto-api/reset-auth"
        with urllib.request.urlopen(urllib.request.Request(url, num_free_calls, headers, method="POST")) as answer:
            assert answer.status == 200

    switch(b"0")
    yield
    switch(b"inf")


class Faults:
    """A proxy on loopback before the S3 service; `plan(method, path)` names what goes wrong with a request.

    503, 500, 403: answered so; reset: the connection breaks before, lost answer: after the service did what was asked;
    slow: answered after a second.
    """

    def __init__(self, options: dict[str, str]) -> None:
        self.plan: Callable[[str, str], str | None] | None = None
        self.num_injected = 0
        service = urlsplit(options["endpoint"]).netloc
        faults = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                fault = faults.plan(self.command, self.path) if faults.plan else None
                faults.num_injected += fault is not None
                if fault == "reset":
                    return self.cut()
                if fault == "slow":
                    time.sleep(1)
                if fault in ("403", "500", "503"):
                    return self.answer(int(fault), {}, b"")
                connection = http.client.HTTPConnection(service)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if fault == "lost answer":
                    return self.cut()
                return self.answer(answer.status, dict(answer.getheaders()), content)

            def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                length = headers.pop("Content-Length", str(len(content)))
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                try:
                    self.wfile.write(content)
                except OSError:  # the client did not wait for it
                    self.close_connection = True

            def cut(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda request, address: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.options = options | {"endpoint": f"http://127.0.0.1:{self._server.server_port}"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def faults(s3_options: dict[str, str]) -> Iterator[Faults]:
    """The S3 service behind a proxy that can fail."""
    proxy = Faults(s3_options)
    yield proxy
    proxy.close()


@pytest.fixture(params=["file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """The URL and the options of a fresh store of each kind."""
    if request.param == "file":
        return (tmp_path / "not there yet" / "runs").as_uri(), {}
    if request.param == "memory":
        return f"memory://{uuid4().hex}", {}
    return request.getfixturevalue("s3_url"), request.getfixturevalue("s3_options")


@pytest.fixture
def open_store(place: tuple[str, dict[str, str]]) -> Callable[[str], ArtifactStore]:
    """A function from a run name to that run: each call is another client of the same store."""
    url, options = place
    return lambda run: ArtifactStore(url, run, options=options)


@pytest.fixture
def store(open_store: Callable[[str], ArtifactStore]) -> ArtifactStore:
    return open_store("demo")


@pytest.fixture
def provenance() -> Provenance:
    return Provenance(
        role="labeler",
        host="somewhere",
        pid=7,
        config_digest="sha256:00",
        code_version="0.1.0",
        created_at="2026-01-02T03:04:05+00:00",
    )


@pytest.fixture
def records() -> dict[str, Any]:
    """A record of version 3 for each series."""
    rng = np.random.default_rng(0)
    num_clips, num_classes, num_dims = 40, 4, 6
    rows_N = rng.permutation(100)[:num_clips].astype(np.int32)
    checkpoint = Checkpoint(
        epoch=3,
        weights={
            "head.weight": rng.normal(size=(num_classes, num_dims)).astype(np.float32),
            "bn.num_batches_tracked": np.array(12, np.int64),
        },
        state={
            "bank": rng.normal(size=(num_dims, num_clips)).astype(np.float32).T,
            "seen": rng.random(num_clips) < 0.5,
            "best": np.array(np.inf, np.float32),
        },
        online_labels_N=rng.integers(-1, num_classes, num_clips).astype(np.int16),
    )
    features = FeatureSnapshot(
        epoch=14,
        rows_N=rows_N,
        features_ND=rng.normal(size=(num_clips, num_dims)).astype(np.float32),
        labels_N=rng.integers(-1, num_classes, num_clips).astype(np.int16),
    )
    labels = LabelVersion(
        version=3,
        epoch=14,
        rows_N=rows_N,
        labels_N=rng.integers(0, num_classes, num_clips).astype(np.int16),
        distances_N=rng.random(num_clips, dtype=np.float32),
        kept_N=np.zeros(num_clips, bool),
        centroids_KD=rng.normal(size=(num_classes, num_dims)).astype(np.float32),
        prototypes_KD=rng.normal(size=(num_classes, num_dims)).astype(np.float32),
        support_K=np.arange(num_classes),
        local_K=rng.random(num_classes, dtype=np.float32),
        adaptive_K=rng.random(num_classes, dtype=np.float32),
        global_threshold=0.1 + 0.2,
        ratio=0.9,
        num_iterations=5,
        converged=True,
    )
    evaluation = Evaluation(
        epoch=3,
        scalars={"top1": 1 / 3},
        arrays={"predictions": rng.integers(0, num_classes, 17).astype(np.int16), "none": np.zeros((0, 4), np.int16)},
    )
    return {"checkpoints": checkpoint, "features": features, "labels": labels, "evaluations": evaluation}
