"""Video files to frames, in worker processes that can be killed: a native decoder may hang, crash or print."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from aplt.common.data.frames import Failure, Fit, Frames, FrameSpec, Job, Uint8, decode_clip
from aplt.common.errors import DataError

START_S = 300.0  # importing the decoder over a busy network disk; no clip is judged by it
SPARE_S = 10.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Not by multiprocessing, whose workers import the main module anew: in a script without `if __name__ == "__main__":`
# they would do all over again what the script does, and wait for the lock that it holds.
START = "import sys; sys.path[:] = sys.argv[3:]; from aplt.common.data.decode import serve; serve(*sys.argv[1:3])"

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

    Args:
        jobs: Taken one by one, as workers become free.
        spec: Frames to keep.
        workers: Processes.
        timeout_s: A worker that needs longer for one clip is killed and replaced.
        decoder: Importable function that the workers run, `decode_clip` if not given.

    Raises:
        DataError: the processes cannot start.
    """
    waiting = iter(jobs)
    pool = [_Worker(spec, timeout_s, decoder or decode_clip) for _ in range(workers)]
    try:
        while True:
            for worker in [worker for worker in pool if worker.idle]:
                job = next(waiting, None)
                if job is None:
                    pool.remove(worker)
                    worker.kill()
                else:
                    worker.give(job)
            if not pool:
                return
            first_deadline = min(worker.deadline for worker in pool)
            wait([worker.pipe for worker in pool], max(0.0, first_deadline - time.monotonic()))
            for place, worker in enumerate(pool):
                sent = worker.pipe.poll()
                if not sent and time.monotonic() < worker.deadline:
                    continue
                job = worker.job
                outcome = worker.receive() if sent else worker.overrun()
                if worker.dead:
                    pool[place] = _Worker(spec, timeout_s, decoder or decode_clip)
                if job is not None and outcome is not None:
                    yield job, outcome
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


def serve(pipe_number: str, parent: str) -> None:
    """Decode what comes through the pipe until it closes. What a worker process runs.

    The first message says what to run; the answer is None, or why the decoder cannot be loaded.
    """
    # What ends the parent (strictly, the thread that started this) ends this process, even if it hangs in native code.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before that
        return
    pipe: Connection = Connection(int(pipe_number))
    try:
        decoder, spec = pipe.recv()
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        pipe.send(_load() if decoder is decode_clip else None)
        while True:
            job = pipe.recv()
            try:
                outcome: Frames | Failure = decoder(job, spec)
            except Exception as error:
                outcome = Failure(_reason(error))
            pipe.send(outcome)
    except (EOFError, OSError):
        return


class _Worker:
    """The parent's side of one worker process."""

    def __init__(self, spec: FrameSpec, timeout_s: float, decoder: Decoder) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.job: Job | None = None
        self.dead = False
        self._started = False
        self._timeout_s = timeout_s
        number = theirs.fileno()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", START, str(number), str(os.getpid()), *sys.path],
                    pass_fds=[number],
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C is the parent's business
                )
            except OSError as error:
                raise DataError(f"no decoding process can be started: {error.strerror}") from None
        self.deadline = time.monotonic() + START_S
        self._send((decoder, spec))

    @property
    def idle(self) -> bool:
        return self._started and self.job is None

    def give(self, job: Job) -> None:
        self.job = job
        self.deadline = time.monotonic() + self._timeout_s
        self._send(job)

    def receive(self) -> Frames | Failure | None:
        """Return what the worker sent, a failure if it died, None if it only said that it is ready."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SPARE_S)  # its own exit code tells more than that of kill()
            self.kill()
            code = self._process.returncode or 0
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if not self._started:
                raise DataError(
                    f"a decoding process ended before it was ready ({how}); what it said stands above this line"
                ) from None
            return Failure(f"the decoder crashed ({how})", retry_above_s=0.0)
        if not self._started:
            self._started = True
            if message is not None:
                raise DataError(f"decord cannot be imported ({message}): install decord2")
            return None
        self.job = None
        outcome: Frames | Failure = message
        return outcome

    def overrun(self) -> Failure:
        self.kill()
        if not self._started:
            raise DataError(f"a decoding process was not ready after {START_S:g} s: is the machine overloaded?")
        return Failure(f"decoding took longer than {self._timeout_s:g} s", retry_above_s=self._timeout_s)

    def kill(self) -> None:
        self.dead = True
        self.pipe.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # one that the kernel cannot end (a dead network disk) is left behind
            self._process.wait(SPARE_S)

    def _send(self, message: object) -> None:
        with suppress(OSError):  # it died meanwhile: receive() finds out
            self.pipe.send(message)


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
    if "video stream" in text:
        return "the file has no video stream"
    if text.startswith("Error reading"):
        return "the file is no video, or its index is cut off"
    if "Check failed" in text:
        return "the video is damaged: " + text.rsplit(") ", 1)[-1][:150]
    return text[:200] or type(error).__name__
