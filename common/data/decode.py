"""Video files to frames, in worker processes that can be killed: a native decoder may hang, crash or print."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from aplt.common.data.frames import ClipDecoder, Failure, Fit, Frames, FrameSpec, Job, Uint8
from aplt.common.errors import DataError

START_S = 300.0  # importing the decoder over a busy network disk; no clip is judged by it
SPARE_S = 10.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
DEPTH = 2  # jobs that a worker has at a time: it decodes the next one while the frames of the last one are fetched
# Not by multiprocessing, whose workers import the main module anew: in a script without `if __name__ == "__main__":`
# they would do all over again what the script does, and wait for the lock that it holds.
START = "import sys; sys.path[:] = sys.argv[4:]; from aplt.common.data.decode import serve; serve(*sys.argv[1:4])"

NOTHING = np.empty(0, dtype=np.uint8)

MEANINGS = {
    "video stream": "the file has no video stream",
    "Error reading": "the file is no video, or its index is cut off",
    "Error sending packet": "the video is damaged: a part of it cannot be decoded",
    "duplicate frames": "the video is damaged: it holds fewer frames than it says",
    "Cannot create buffer source": "the video is damaged: none of it can be decoded",
}
"""What decord says, in part, and what we say."""

Decoder = Callable[[Job, FrameSpec], Frames]


def decode_clips(
    jobs: Iterable[Job],
    *,
    spec: FrameSpec,
    workers: int,
    timeout_s: float,
    decoder: Decoder | None = None,
) -> Generator[tuple[Job, Frames | Failure]]:
    """Yield every job with its frames or the reason why there are none, in the order in which they finish.

    Jobs of one video go to one worker, in the order of their starts, as long as there are other videos for the others.

    Args:
        jobs: Clips.
        spec: Frames to keep.
        workers: Processes.
        timeout_s: A worker that needs longer for one clip is killed and replaced.
        decoder: Importable, picklable, called in the workers; a `ClipDecoder` if not given. Its frames have the
            shape that `spec` says.

    Raises:
        DataError: the processes cannot start.
    """
    queue, decoder = _Queue(jobs), decoder or ClipDecoder()
    pool = [_Worker(spec, timeout_s, decoder) for _ in range(workers)]
    try:
        while True:
            for depth in range(DEPTH):
                for worker in pool:
                    if worker.started and len(worker.jobs) == depth and queue.num_jobs > depth * len(pool):
                        worker.give(queue.take(worker.video))
            for worker in [worker for worker in pool if worker.started and not worker.jobs]:
                pool.remove(worker)
                worker.kill()
            if not pool:
                return
            first_deadline = min(worker.deadline for worker in pool)
            ready = wait([worker.pipe for worker in pool], max(0.0, first_deadline - time.monotonic()))
            for place, worker in enumerate(pool):
                sent = worker.pipe in ready or worker.pipe.poll()
                if not sent and time.monotonic() < worker.deadline:
                    continue
                done = worker.receive() if sent else worker.overrun()
                if worker.dead:
                    queue.put_back(worker.jobs)
                    pool[place] = _Worker(spec, timeout_s, decoder)
                if done is not None:
                    yield done
    finally:
        for worker in pool:
            worker.kill()


def decode_files(
    paths: Sequence[Path],
    *,
    num_segments: int,
    frames_per_segment: int,
    size: int,
    fit: Fit,
    workers: int,
    timeout_s: float,
) -> Iterator[tuple[Path, Uint8 | str]]:
    """Yield each path with its frames [F, S, S, 3] or the reason why it has none, in the order in which they finish."""
    spec = FrameSpec(num_frames=num_segments * frames_per_segment, size=size, fit=fit)
    jobs = (Job(index, os.path.abspath(path)) for index, path in enumerate(paths))
    with closing(decode_clips(jobs, spec=spec, workers=min(workers, len(paths)), timeout_s=timeout_s)) as results:
        for job, outcome in results:
            yield paths[job.index], outcome.frames_FHWC if isinstance(outcome, Frames) else outcome.reason


def serve(pipe_number: str, memory_number: str, parent: str) -> None:
    """Decode what comes through the pipe until it closes. What a worker process runs.

    The first message says what to run; the answer is None, or why the decoder cannot be loaded. Frames go through the
    shared memory, into one place after the other, and all else through the pipe.
    """
    # What ends the parent (strictly, the thread that started this) ends this process, even if it hangs in native code.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before that
        return
    sys.modules["nvidia"] = None  # type: ignore[assignment]  # else decord loads all of CUDA: 620 MB, for nothing
    pipe: Connection = Connection(int(pipe_number))
    try:
        decoder, spec = pipe.recv()
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        pipe.send(_load() if isinstance(decoder, ClipDecoder) else None)
        places = _places(int(memory_number), spec)
        while True:
            job = pipe.recv()
            try:
                outcome: Frames | Failure = decoder(job, spec)
                if isinstance(outcome, Frames):
                    places[0][...] = outcome.frames_FHWC
                    outcome = replace(outcome, frames_FHWC=NOTHING)
            except Exception as error:
                outcome = Failure(_reason(error))
            places.rotate(-1)
            pipe.send(outcome)
    except (EOFError, OSError):
        return


class _Queue:
    """Jobs by video."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs: dict[str, deque[Job]] = {}
        for job in sorted(jobs, key=lambda job: job.start or 0):
            self._jobs.setdefault(job.path, deque()).append(job)
        self._untouched = deque(self._jobs)
        self.num_jobs = sum(map(len, self._jobs.values()))

    def take(self, video: str | None) -> Job:
        """Return the next job: of this video, else of one that nobody has, else of the one with most of them left."""
        if video not in self._jobs:
            video = self._untouched.popleft() if self._untouched else max(self._jobs, key=lambda v: len(self._jobs[v]))
        job = self._jobs[video].popleft()
        if not self._jobs[video]:
            del self._jobs[video]
        self.num_jobs -= 1
        return job

    def put_back(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._jobs.setdefault(job.path, deque()).appendleft(job)
            self.num_jobs += 1


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, spec: FrameSpec, timeout_s: float, decoder: Decoder) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.jobs: deque[Job] = deque()
        """Those that it has been given, the one that it decodes first."""
        self.video: str | None = None
        """The file of the last of them."""
        self.dead = self.started = False
        self._timeout_s = timeout_s
        number, memory = theirs.fileno(), os.memfd_create("clips")
        try:
            os.ftruncate(memory, DEPTH * spec.num_bytes)
            self._places = _places(memory, spec)
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(number), str(memory), str(os.getpid()), *sys.path],
                pass_fds=[number, memory],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is the parent's business
            )
        except OSError as error:
            raise DataError(f"no decoding process can be started: {error.strerror}") from None
        finally:
            theirs.close()
            os.close(memory)
        self.deadline = time.monotonic() + START_S
        self._send((decoder, spec))

    def give(self, job: Job) -> None:
        if not self.jobs:
            self.deadline = time.monotonic() + self._timeout_s
        self.jobs.append(job)
        self.video = job.path
        self._send(job)

    def receive(self) -> tuple[Job, Frames | Failure] | None:
        """Return a job and what the worker sent, or a failure if it died; None if it only said that it is ready."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SPARE_S)  # its own exit code tells more than that of kill()
            self.kill()
            code = self._process.returncode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if not self.started:
                raise DataError(
                    f"a decoding process ended before it was ready ({how}); what it said stands above this line"
                ) from None
            return self._finished(Failure(f"the decoder crashed ({how})", retry_above_s=0.0))
        if not self.started:
            self.started = True
            if message is not None:
                raise DataError(f"decord cannot be imported ({message}): install decord2")
            return None
        if isinstance(message, Frames):
            message = replace(message, frames_FHWC=self._places[0].copy())
        self._places.rotate(-1)
        return self._finished(message)

    def overrun(self) -> tuple[Job, Frames | Failure] | None:
        self.kill()
        if not self.started:
            raise DataError(f"a decoding process was not ready after {START_S:g} s: is the machine overloaded?")
        return self._finished(
            Failure(f"decoding took longer than {self._timeout_s:g} s", retry_above_s=self._timeout_s)
        )

    def _finished(self, outcome: Frames | Failure) -> tuple[Job, Frames | Failure] | None:
        self.deadline = time.monotonic() + self._timeout_s
        return (self.jobs.popleft(), outcome) if self.jobs else None

    def kill(self) -> None:
        self.dead = True
        self.pipe.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # one that the kernel cannot end (a dead network disk) is left behind
            self._process.wait(SPARE_S)

    def _send(self, message: object) -> None:
        with suppress(OSError):  # it died meanwhile: receive() finds out
            self.pipe.send(message)


def _places(memory: int, spec: FrameSpec) -> deque[Uint8]:
    """Return the frames of `DEPTH` clips in shared memory, which stays as long as they do."""
    shape = (DEPTH, spec.num_frames, spec.size, spec.size, 3)
    return deque(np.frombuffer(mmap.mmap(memory, DEPTH * spec.num_bytes), dtype=np.uint8).reshape(shape))


def _load() -> str | None:
    try:
        import decord
    except (ImportError, OSError, RuntimeError) as error:
        return str(error)
    decord.logging.set_level(decord.logging.QUIET)
    return None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        return error.strerror or text
    for said, meant in MEANINGS.items():
        if said in text:
            return meant
    if "Check failed" in text:
        return "the video is damaged: " + text.rsplit(") ", 1)[-1][:150]
    return text[:200] or type(error).__name__
