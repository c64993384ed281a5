"""The only file that knows Ray: the two services of a run as actors, and the runs of a grid as tasks.

The actors are named, detached, and restarted when their process dies. An actor starts its service by itself when it is
created, so a restart by Ray goes on without anybody asking for it. When the service is over, however it ended, the
actor takes itself away for good.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from aplt.common.errors import ApltError, RunError
from aplt.common.service import ROLES, Role, read_status, request_stop
from aplt.deploy.config import RunConfig
from aplt.deploy.local import die_with_parent
from aplt.deploy.runs import open_store, records_folder

# A cluster that Ray starts asks for the token in this file; whoever joins must say so before Ray is imported.
if (Path.home() / ".ray" / "auth_token").exists():
    os.environ.setdefault("RAY_AUTH_MODE", "token")
# Ray starts workers at nice 15 unless told otherwise: on a busy machine a service would starve.
os.environ.setdefault("RAY_worker_niceness", "0")
# On Linux, Ray replaces 127.0.0.1 by the host's address and listens there and on 0.0.0.0. With its switch for systems
# on which it does not, a cluster that this process starts listens on loopback alone.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray

MAX_RESTARTS = 100
"""A service that dies more often than this is not helped by starting it again."""

logger = logging.getLogger(__name__)


class NoClusterError(RunError):
    """No Ray cluster answers at an address."""


class ServiceActor:
    """Runs one service in a thread of an actor process."""

    def __init__(self, role: Role, config_json: str) -> None:
        # A service whose raylet is gone can neither be found nor restarted: it must not stand in the way of the next.
        die_with_parent()
        self._thread = threading.Thread(target=self._run, args=(role, config_json), name=role)
        self._thread.start()

    def pid(self) -> int:
        """Return the process id: answers as soon as the actor is up."""
        return os.getpid()

    def _run(self, role: Role, config_json: str) -> None:
        config = RunConfig.model_validate_json(config_json)
        log = records_folder(config) / f"{role}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        layout = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        logging.basicConfig(level=logging.INFO, format=layout, filename=log, force=True)
        try:
            _serve(role, config)
            _end_the_other_if_failed(config, role)
        finally:
            # Anything but a crash of the process is final: Ray must not start the service again.
            ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def _serve(role: Role, config: RunConfig) -> None:
    try:
        from aplt.deploy.services import run_service  # torch takes seconds; the actor answers before that

        run_service(role, config)
    except ApltError as error:
        logger.error("%s", error)
    except BaseException:
        logger.exception("the %s failed", role)


def _end_the_other_if_failed(config: RunConfig, role: Role) -> None:
    """Ask the other service to stop if this one failed: alone it would only wait until its deadline."""
    store = open_store(config)
    mine = read_status(store, role)
    if mine is None or mine.state != "failed" or mine.pid != os.getpid():
        return
    others = tuple(other for other in ROLES if other != role)
    deadline = time.monotonic() + 60
    while (left := present_services(config, others)) and time.monotonic() < deadline:
        for other in left:
            request_stop(store, other)
        time.sleep(0.5)  # it may only just be starting


def namespace_of(config: RunConfig) -> str:
    """Return the Ray namespace of a run: runs of one name in two stores do not meet."""
    digest = hashlib.sha256(config.store.url.encode()).hexdigest()[:8]
    return f"aplt-{config.run}-{digest}"


def start_services(config: RunConfig, roles: tuple[Role, ...]) -> dict[Role, int]:
    """Start the services as actors of the connected cluster; returns their process ids.

    Raises:
        RunError: the cluster has not the resources, or an actor of that name is still there.
    """
    remote: Any = ray.remote(ServiceActor)
    actors = {}
    for role in roles:
        resources = getattr(config.cluster, role)
        try:
            actors[role] = remote.options(
                name=role,
                namespace=namespace_of(config),
                lifetime="detached",
                max_restarts=MAX_RESTARTS,
                num_cpus=resources.cpus,
                num_gpus=resources.gpus,
            ).remote(role, config.model_dump_json())
        except ValueError as error:
            raise RunError(
                f"the {role} of run {config.run} is still on the cluster ({error}); `aplt stop {role}` first"
            ) from None
    pids: dict[Role, int] = {}
    for role, actor in actors.items():
        ready, _ = ray.wait([actor.pid.remote()], timeout=120)
        if not ready:
            wanted, free = getattr(config.cluster, role), ray.available_resources()  # type: ignore[no-untyped-call]
            for started in actors.values():
                ray.kill(started, no_restart=True)
            raise RunError(
                f"the cluster did not start the {role} within 120 s: it asks for {wanted.cpus:g} CPUs and "
                f"{wanted.gpus:g} GPUs, free are {free}. Lower cluster.{role} or free resources"
            )
        pids[role] = ray.get(ready[0])
    return pids


def kill_service(config: RunConfig, role: Role) -> bool:
    """End the actor of a service that does not end by itself; returns whether there was one."""
    try:
        actor = ray.get_actor(role, namespace=namespace_of(config))
    except ValueError:
        return False
    ray.kill(actor, no_restart=True)
    return True


def present_services(config: RunConfig, roles: tuple[Role, ...]) -> list[Role]:
    """Return the services whose actor is on the cluster, restarting ones included."""
    present = []
    for role in roles:
        try:
            ray.get_actor(role, namespace=namespace_of(config))
        except ValueError:
            continue
        present.append(role)
    return present


def run_side_by_side(
    function: Callable[[Any], dict[str, Any]], jobs: Mapping[str, Any], *, cpus: float, gpus: float
) -> Iterator[tuple[Literal["started", "ended"], str, dict[str, Any]]]:
    """Run `function` of every job as a task, as many side by side as the connected cluster has resources for.

    Yields ("started", name, {}), and ("ended", name, result) in the order in which they end. The result is
    {"error": ...} where the process of a task died more often than Ray tries again, or failed itself.

    Raises:
        RunError: the whole cluster has not what one task asks for.
    """
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    asked = {"CPU": cpus, "GPU": gpus}
    rooms = [int(there.get(name, 0.0) / amount + 1e-6) for name, amount in asked.items() if amount > 0]
    if not rooms or min(rooms) < 1:
        raise RunError(
            f"a run asks for {cpus:g} CPUs and {gpus:g} GPUs (cluster.trainer and cluster.labeler together), the "
            f"cluster has {there.get('CPU', 0):g} and {there.get('GPU', 0):g}: lower cluster.trainer or cluster.labeler"
        )
    task: Any = ray.remote(function).options(num_cpus=cpus, num_gpus=gpus)
    waiting = list(jobs.items())
    running: dict[Any, str] = {}
    while waiting or running:
        while waiting and len(running) < min(rooms):
            name, job = waiting.pop(0)
            running[task.remote(job)] = name
            yield "started", name, {}
        for reference in ray.wait(list(running))[0]:
            try:
                result = ray.get(reference)
            except ray.exceptions.RayError as error:
                result = {"error": str(error).strip().splitlines()[-1]}
            yield "ended", running.pop(reference), result


@contextmanager
def connected(address: str) -> Iterator[str]:
    """Connect to the cluster at `address` (`local` starts one that ends with the block); yields its address.

    Raises:
        NoClusterError: nothing answers there, or the local one did not start.
    """
    host_port = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)
    try:
        if host_port is not None:  # Ray itself would try for minutes
            socket.create_connection((host_port[1], int(host_port[2])), timeout=5).close()
        context: Any = ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except Exception as error:  # a start that times out is nothing narrower in Ray
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if address == "local":
            raise NoClusterError(
                f"a local Ray cluster did not start: {reason.rstrip('.')}. Try again when the machine is less busy"
            ) from None
        raise NoClusterError(
            f"no Ray cluster answers at {address}: {reason}. "
            "Start one with `ray start --head`, or use cluster.address: local"
        ) from None
    try:
        yield str(context.address_info["address"] or address)
    finally:
        ray.shutdown()


def fallen_part() -> str | None:
    """Return the name of a process of the cluster that this process started and that is gone; None if there is none."""
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # leaves it to Ray to reap it
    return None if ended is None else Path(f"/proc/{ended.si_pid}/comm").read_text().strip()


def wait_until_gone(config: RunConfig, roles: tuple[Role, ...], *, timeout_s: float) -> list[Role]:
    """Wait until the actors of `roles` are gone; returns those that are still there after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (left := present_services(config, roles)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
