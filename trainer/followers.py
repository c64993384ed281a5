"""The processes of the other ranks: started, kept in step, and never left over.

The service's own process is rank 0. It alone knows the store; the others are its children on the same machine. They
begin every epoch with the state that it sends them, train it together with it, and wait for the next.

Whatever ends rank 0, the kernel ends its children. If one of them ends, all of them do, and rank 0 says which it was.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch
import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from aplt.common.artifacts import Checkpoint
from aplt.common.config import BaseRunConfig
from aplt.common.device import pick_device
from aplt.common.errors import ApltError, ConfigError, RunError

POLL_S = 0.5
LOST_S = 1.0
"""A failed exchange is explained by a rank that ends within so long."""
STUCK_S = 30.0
"""A GPU that waits for a rank that is gone may never come back: after so long the process ends."""
PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)
Work = Callable[[BaseRunConfig, torch.device, Iterator[Checkpoint]], None]
"""What another rank does: prepare, and train one epoch from each checkpoint that comes."""


class RankLostError(RunError):
    """The process of another rank was killed."""


def device_of(config: BaseRunConfig, rank: int) -> torch.device:
    """Return where a rank computes: each has a GPU of its own, in the order in which they are visible.

    Raises:
        ConfigError: there is no such device, or there are fewer GPUs than ranks.
    """
    device, ranks = pick_device(config.trainer.device), config.trainer.ranks
    if device.type != "cuda" or ranks == 1:
        return device
    if torch.cuda.device_count() < ranks:
        raise ConfigError(
            f"trainer.ranks: {ranks} needs a GPU for each, and {torch.cuda.device_count()} are visible; lower it, "
            "raise cluster.trainer.gpus, which are for all ranks together, or use trainer.device: cpu"
        )
    return torch.device("cuda", rank)


def threads_of(config: BaseRunConfig) -> int | None:
    """Return the CPU threads of each rank: as set, or its part of the cores; None means all of them."""
    threads, ranks = config.trainer.threads, config.trainer.ranks
    return threads if threads or ranks == 1 else max(1, len(os.sched_getaffinity(0)) // ranks)


def join_ranks(rank: int, ranks: int, meeting: Store, device: torch.device) -> None:
    """Become one of `ranks` processes that exchange tensors; returns when all are there."""
    # All of them are on this machine: nothing listens elsewhere.
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=meeting, rank=rank, world_size=ranks)


@contextmanager
def followers(config: BaseRunConfig, device: torch.device, work: Work) -> Iterator[Followers]:
    """Have the other ranks, which do `work`, at hand in this block; none is left when it ends.

    Raises:
        RankLostError: one of them was killed.
        ApltError: what one of them cannot do, as this process would say it, naming the rank.
        RuntimeError: one of them failed for another reason.
    """
    others = Followers(config, device, work)
    try:
        yield others
    except (RuntimeError, OSError, EOFError) as error:
        loss = None if isinstance(error, ApltError) else others.loss()
        if loss is None:
            raise
        raise loss from error
    finally:
        others.end()


@dataclass
class Follower:
    """The process of another rank. It says None when it is ready, and what went wrong if something does."""

    rank: int
    process: SpawnProcess
    channel: Connection
    failure: ApltError | str | None = None

    def hear(self) -> bool:
        """Wait for its next word; returns whether that is a failure. EOFError if it has ended."""
        self.failure = self.channel.recv()
        return self.failure is not None


class Followers:
    """The other ranks as rank 0 sees them. With `trainer.ranks: 1` there are none, and nothing here does anything."""

    def __init__(self, config: BaseRunConfig, device: torch.device, work: Work) -> None:
        self._ranks = config.trainer.ranks
        self._device = device
        self._all: list[Follower] = []
        if self._ranks > 1:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                self._meeting = TCPStore(
                    "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
                )
            self._all = [_start(rank, port, config, work) for rank in range(1, self._ranks)]

    @contextmanager
    def epoch(self, state: Callable[[], Checkpoint]) -> Iterator[None]:
        """Let the others train one epoch from `state`, together with this process in this block."""
        if not self._all:
            yield
            return
        lost, over = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, args=(lost, over), name="ranks", daemon=True).start()
        try:
            if not dist.is_initialized():
                self._meet()
            message = pickle.dumps(state())
            for follower in self._all:
                follower.channel.send_bytes(message)
            yield
            if lost.is_set():  # what was exchanged since may be anything
                raise ConnectionError("a rank ended in the middle of an epoch")
        finally:
            over.set()

    def loss(self) -> Exception | None:
        """Return what happened to the other ranks, None if they are all there."""
        gone: list[Follower] = []
        left = list(self._all)
        # Those that only miss another one end too, a little later.
        while left and (ended := wait([follower.process.sentinel for follower in left], timeout=LOST_S)):
            gone += [follower for follower in left if follower.process.sentinel in ended]
            left = [follower for follower in left if follower.process.sentinel not in ended]
        fates = [self._fate(follower) for follower in gone]
        return min(fates, key=lambda fate: not isinstance(fate, ApltError), default=None)

    def end(self) -> None:
        """Leave no process behind."""
        for follower in self._all:
            follower.process.kill()
        for follower in self._all:
            follower.process.join()
            follower.channel.close()
        if self._all and dist.is_initialized():
            dist.destroy_process_group()

    def _meet(self) -> None:
        for follower in self._all:
            if follower.hear():
                raise ConnectionError("a rank failed before it was ready")
        join_ranks(0, self._ranks, self._meeting, self._device)

    def _fate(self, follower: Follower) -> Exception:
        follower.process.join()
        try:
            while follower.failure is None:
                follower.hear()
        except (EOFError, OSError):
            code = follower.process.exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return RankLostError(f"{self._name(follower)} was {how}")
        failure = follower.failure
        if isinstance(failure, ApltError):
            return type(failure)(f"{self._name(follower)}: {failure}")
        error = RuntimeError(f"{self._name(follower)} failed: {failure.splitlines()[-1]}")
        error.add_note(failure)
        return error

    def _name(self, follower: Follower) -> str:
        return f"rank {follower.rank} of {self._ranks} of the trainer (pid {follower.process.pid})"

    def _watch(self, lost: threading.Event, over: threading.Event) -> None:
        """Break off an epoch when a rank has ended. On CPUs the exchange fails by itself; on GPUs it waits."""
        while not wait([follower.process.sentinel for follower in self._all], timeout=POLL_S):
            if over.is_set():
                return
        lost.set()
        if self._device.type == "cuda" and dist.group.WORLD is not None:
            dist.group.WORLD.abort()
        if not over.wait(STUCK_S):
            logger.error("%s, and this rank waits for it without end; start the trainer again", self.loss())
            os._exit(1)


def _start(rank: int, port: int, config: BaseRunConfig, work: Work) -> Follower:
    processes = multiprocessing.get_context("spawn")
    here, there = processes.Pipe()
    process = processes.Process(
        target=_follow, args=(rank, port, os.getpid(), there, config, work), name=f"rank {rank}"
    )
    # Ctrl-C reaches all processes of a terminal; what is to happen then is for rank 0 to say.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    there.close()
    return Follower(rank, process, here)


def _follow(rank: int, port: int, parent: int, channel: Connection, config: BaseRunConfig, work: Work) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the line above
        os._exit(1)
    try:
        device = device_of(config, rank)
        meeting = TCPStore("127.0.0.1", port)
        work(config, device, _epochs(channel, lambda: join_ranks(rank, config.trainer.ranks, meeting, device)))
    except ApltError as error:
        channel.send(error)
        raise SystemExit(1) from None
    except Exception:
        channel.send(traceback.format_exc())
        raise SystemExit(1) from None


def _epochs(channel: Connection, join: Callable[[], None]) -> Iterator[Checkpoint]:
    """Say that this rank is ready, and yield the state before each epoch that rank 0 begins; it ends this process."""
    channel.send(None)
    join()
    while True:
        yield channel.recv()
