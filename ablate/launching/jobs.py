"""Attempts on their GPUs, through Ray: start them, see them end, stop them, find them again. The only file that knows Ray.

One supervisor actor per attempt holds its GPUs and owns its gang of ranks (gang.py). Ray decides where and when; the caller
decides which attempts there are and what becomes of a failed one. Nothing here is retried or restarted. Ray keeps no order among
attempts that wait for GPUs: who wants one starts no more than fit.

A cluster is used from one thread, and embedded Ray dies with the thread that called `connect`: call it from one that lasts.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psutil
import ray
from ray._private import ray_constants, services
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.exceptions import ActorUnavailableError, ActorUnschedulableError, AuthenticationError, RayActorError, RpcError

from ablate.launching.gang import STOP_GRACE_S, Gang, GangCause, GangEnd, Keeper, Stop, run_gang
from ablate.study import UserError

NAMESPACE = "ablate"
AttemptId = tuple[str, int]
"""A job's key and the number of the attempt."""

_OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's minimum is 75 MiB; nothing of ours goes through it."""
_LONGEST_TEMPORARY_FOLDER = 40
"""Characters: a unix socket's path has at most 107, and Ray adds up to 65."""
_LOOPBACK = "127.0.0.1"
"""A network that comes or goes must not end a study. With exactly this address Ray's servers listen to nobody else; with any
other, 127.0.0.2 included, they listen on every interface and only the token keeps others out."""
_CONNECT_S = 5.0
_LINGER_S = 20.0
"""How long a supervisor keeps its answer, and its GPUs, for a launch that may just have died."""
_CALLS_AT_ONCE = 16
"""run() blocks while stop(), where() and the run() of a launch that came later are answered."""
_ASK_AGAIN_S = 1.0
"""Between two questions to a supervisor whose node does not answer."""


@dataclass(frozen=True)
class Attempt:
    """One try of a job, as it is handed to Ray."""

    study: str
    """What tells it from other studies on the cluster."""
    profile: str
    key: str
    number: int
    folder: Path
    """Absolute, holds config.json; on a cluster every node must see it."""
    command: tuple[str, ...]
    """What every rank runs."""
    gpus: int
    ranks: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    """Where the ranks start; "" for where Ray's workers do."""

    @property
    def id(self) -> AttemptId:
        return self.key, self.number

    @property
    def name(self) -> str:
        return actor_name(self.study, self.profile, self.id)


@dataclass(frozen=True)
class Placed:
    """Where an attempt really runs, and since when (seconds since 1970)."""

    host: str
    gpus: tuple[str, ...]
    supervisor: int
    """Its process id."""
    started_at: float


@dataclass(frozen=True)
class AttemptEnd:
    """One attempt is over. What it was worth says result.json in its folder."""

    key: str
    number: int
    cause: GangCause | Literal["lost"]
    """lost: the supervisor or its node died, and every rank with it."""
    exit_codes: tuple[int, ...]
    """Per rank; empty when it never started or was lost."""
    log_tail: str


def actor_name(study: str, profile: str, attempt: AttemptId) -> str:
    key, number = attempt
    return f"ablate/{study}/{profile}/{key}/{number}"


class Supervisor:
    """Owns one gang. Becomes a Ray actor that holds the attempt's GPUs; dies, and its ranks with it, or ends soon after them.

    It needs nobody: the gang starts with it, so that a launch may die, or leave, as soon as Ray has taken the actor.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._stop = Stop()
        self._started_at = time.time()
        self._gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        _when_told_to_end(self._stop)
        self._end = ThreadPoolExecutor(1, "gang").submit(self._work)  # its thread owns the ranks, and lasts as long as we do

    def where(self) -> Placed:
        return Placed(socket.gethostname(), self._gpus, os.getpid(), self._started_at)

    def run(self) -> GangEnd:
        """Wait for the gang's end; whoever asks, and however often, hears of the same end."""
        return self._end.result()

    def stop(self, grace_s: float) -> None:
        self._stop.ask(grace_s)

    def _work(self) -> GangEnd:
        attempt = self._attempt
        try:
            return run_gang(
                Gang(attempt.folder, attempt.command, attempt.ranks, self._gpus, attempt.env, attempt.cwd), self._stop
            )
        finally:
            # A launch that still lives ends us as soon as it has the answer. One that died must not leave us holding GPUs.
            linger = threading.Timer(_LINGER_S, os._exit, args=(0,))
            linger.daemon = True
            linger.start()


def _when_told_to_end(stop: Stop) -> None:
    """SIGTERM, as a machine sends before it is taken away: the ranks write a checkpoint first.

    Ray keeps the main thread busy outside Python, where no handler of ours would run; so the signal wakes a thread by a socket.
    """
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def listen() -> None:
        with ear, mouth:  # as long as this thread lives, that is as long as the process
            while True:
                if signal.SIGTERM in ear.recv(16):
                    stop.ask(STOP_GRACE_S)

    threading.Thread(target=listen, name="ear", daemon=True).start()


@dataclass
class _Watched:
    """An attempt we wait for: its actor, and the two answers that are on their way."""

    actor: Any
    placed: Any
    end: Any
    withdrawn: bool = False
    """Stopped before it had a place."""
    ask_again_at: float = 0.0


@dataclass(frozen=True)
class _Embedded:
    """A Ray of our own: its folder, and who sees to it that it does not outlive us."""

    temporary: Path
    keeper: Keeper


class Cluster:
    """The GPUs we may use: a Ray of our own that lives as long as we do, or one that outlives us."""

    def __init__(self, embedded: _Embedded | None) -> None:
        """See `connect`. None: we joined a cluster."""
        self._embedded = embedded
        self._watched: dict[AttemptId, _Watched] = {}

    @classmethod
    def connect(cls, address: str = "", gpus: int | None = None) -> Self:
        """Start embedded Ray on this machine, or join the cluster at `address` ("host:port" or "auto").

        gpus: how many embedded Ray believes in; None for those the machine has. More than it has is fine for training on CPU.
        UserError: nobody answers at `address`, or the cluster wants another token.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with _our_signal_handlers():
            if address:
                _join(address)
                return cls(None)
            return cls(_start_embedded(gpus))

    @property
    def outlives_us(self) -> bool:
        """Whether attempts go on when we leave."""
        return self._embedded is None

    @property
    def address(self) -> str:
        """host:port, as another `connect` takes it."""
        return str(ray.get_runtime_context().gcs_address)

    def node_gpus(self) -> list[int]:
        """GPUs of each node that is up, most first. An attempt that needs more than the first would wait for ever."""
        return sorted((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), reverse=True)

    def start(self, attempt: Attempt) -> None:
        """Queue an attempt; it starts once its GPUs are free on one node. One that already runs is watched, not started twice."""
        actor = (
            ray.remote(Supervisor)
            .options(
                name=attempt.name,
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached" if self.outlives_us else None,
                num_gpus=attempt.gpus,
                num_cpus=0,
                max_restarts=0,
                max_concurrency=_CALLS_AT_ONCE,
            )
            .remote(attempt)
        )
        self._watch(attempt.id, actor)

    def reattach(self, study: str, profile: str, attempts: Iterable[AttemptId]) -> list[AttemptId]:
        """Watch again those of `attempts` whose supervisors live, started by whomever; returns them."""
        alive = []
        for attempt in attempts:
            try:
                actor = ray.get_actor(actor_name(study, profile, attempt), namespace=NAMESPACE)
            except ValueError:  # Ray's word for: nobody has this name
                continue
            self._watch(attempt, actor)
            alive.append(attempt)
        return alive

    def poll(self, timeout_s: float) -> list[AttemptEnd]:
        """Wait until an attempt has ended, at most this long; returns all that have. Each end is told once."""
        deadline = time.monotonic() + timeout_s
        while True:
            ends = [end for attempt in self._answered(deadline) if (end := self._collect(attempt)) is not None]
            if ends or time.monotonic() >= deadline:
                return ends

    def placed(self) -> dict[AttemptId, Placed]:
        """Attempts that have their GPUs; those we watch and that are not in it still wait for them."""
        refs = {watched.placed: attempt for attempt, watched in self._watched.items()}
        if not refs:
            return {}
        ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        found = {}
        for ref in ready:
            with contextlib.suppress(RayActorError):  # it is gone: `poll` will say so
                found[refs[ref]] = ray.get(ref)
        return found

    def stop(self, key: str, number: int, grace_s: float) -> None:
        """Have an attempt end: its ranks get SIGTERM and `grace_s` seconds for a checkpoint. `poll` tells the end."""
        watched = self._watched.get((key, number))
        if watched is None:
            return
        if ray.wait([watched.placed], timeout=0)[0]:
            watched.actor.stop.remote(grace_s)
        else:
            watched.withdrawn = True
            ray.kill(watched.actor)

    def stop_all(self, grace_s: float) -> None:
        for key, number in list(self._watched):
            self.stop(key, number, grace_s)

    @property
    def watched(self) -> list[AttemptId]:
        """Started or reattached, end not yet told."""
        return list(self._watched)

    def close(self) -> None:
        """Leave. Attempts on a cluster go on; embedded Ray ends, and what still runs in it is killed (stop it before)."""
        self._watched.clear()
        ray.shutdown()
        if self._embedded is not None:
            self._embedded.keeper.dismiss()
            shutil.rmtree(self._embedded.temporary, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _watch(self, attempt: AttemptId, actor: Any) -> None:
        self._watched[attempt] = _Watched(actor, actor.where.remote(), actor.run.remote())

    def _answered(self, deadline: float) -> Sequence[AttemptId]:
        """Attempts whose supervisor answered or died; waits until `deadline` for the first, less if one must be asked again."""
        now = time.monotonic()
        for watched in self._watched.values():
            if watched.end is None and now >= watched.ask_again_at:
                watched.end = watched.actor.run.remote()
        refs = {watched.end: attempt for attempt, watched in self._watched.items() if watched.end is not None}
        until = min([deadline, *(watched.ask_again_at for watched in self._watched.values() if watched.end is None)])
        if not refs:
            time.sleep(max(0.0, until - now))
            return []
        ray.wait(list(refs), num_returns=1, timeout=max(0.0, until - now))
        ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        return [refs[ref] for ref in ready]

    def _collect(self, attempt: AttemptId) -> AttemptEnd | None:
        """How it ended. None: its node does not answer, which is not death; ask again later."""
        watched = self._watched[attempt]
        try:
            end: GangEnd = ray.get(watched.end)
        except ActorUnavailableError:
            watched.end, watched.ask_again_at = None, time.monotonic() + _ASK_AGAIN_S
            return None
        except (RayActorError, ActorUnschedulableError) as error:
            del self._watched[attempt]
            cause: Literal["stopped", "lost"] = "stopped" if watched.withdrawn else "lost"
            return AttemptEnd(*attempt, cause, (), "" if watched.withdrawn else str(error).strip())
        del self._watched[attempt]
        ray.kill(watched.actor)  # gives its GPUs back at once
        return AttemptEnd(*attempt, end.cause, end.exit_codes, end.log_tail)


@contextlib.contextmanager
def _our_signal_handlers() -> Iterator[None]:
    """ray.init has SIGTERM end the process at once, in Python and below it; whoever is to hear of signals has said so before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in ours.items():
            if handler is not None:  # None: it was not Python that set it
                signal.signal(number, handler)


@contextlib.contextmanager
def _loopback_is_meant() -> Iterator[None]:
    """Have Ray take 127.0.0.1 as it is said; on Linux it would put an address of the outside in its place."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _only_on_loopback(host: str, port: str) -> bool:
    """Whether the Ray of this machine at that port is an embedded one, that the outside cannot reach."""
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        return False
    try:
        socket.create_connection((ray.util.get_node_ip_address(), int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return True
    return False


@contextlib.contextmanager
def _in_groups_of_their_own() -> Iterator[None]:
    """Have Ray start its processes in process groups of their own.

    A terminal that is closed, `timeout` or a batch system signals a whole group: Ray would be gone before the jobs have saved.
    """
    inherits = services.ConsolePopen
    services.ConsolePopen = functools.partial(inherits, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = inherits


def _start_embedded(gpus: int | None) -> _Embedded:
    """Ray's processes as our children; it keeps other users out with a token of its own accord."""
    temporary = _temporary_folder()
    others = {child.pid for child in psutil.Process().children()}
    # On a full machine Ray would kill its largest worker. Ours are small; what fills it are the ranks, which it cannot see.
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 otherwise, also for the ranks: they would wait for everybody else
    with _loopback_is_meant(), _in_groups_of_their_own():
        ray.init(
            address="local",  # whatever RAY_ADDRESS says
            num_gpus=gpus,
            num_cpus=max(1, min(gpus or 1, os.cpu_count() or 1)),  # supervisors ask for none; so many workers start in advance
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            namespace=NAMESPACE,
            _temp_dir=str(temporary),
            _node_ip_address=_LOOPBACK,
        )
    # When we are killed Ray's main processes go at once, but its agents would linger for a minute.
    keeper = Keeper()
    for child in psutil.Process().children():
        if child.pid not in others | {keeper.pid}:
            for process in (child, *child.children(recursive=True)):
                keeper.add(process.pid)
    return _Embedded(temporary, keeper)


def _join(address: str) -> None:
    if "@" in address:  # not repeated: it would stay in logs and in the database
        raise UserError(
            "--address holds a user name or password, and Ray knows neither; give host:port, and the cluster's token as "
            "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
        )
    place = f"--address {address!r}"
    if address.startswith("ray://"):
        raise UserError(f"{place}: Ray's client port is not enough; give host:port of the head node, as `ray start` prints it")
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # Ray would try for long
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
            GcsClient(address=address)  # told at once that the token is another one; ray.init would try for 20 s
        with _loopback_is_meant() if _only_on_loopback(host, port) else contextlib.nullcontext():
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except (AuthenticationError, RpcError, ConnectionError, TimeoutError, OSError) as error:
        if isinstance(error, AuthenticationError) or "AuthenticationError" in str(
            error.__cause__
        ):  # as text: Ray chains no further
            raise UserError(
                f"{place}: the cluster wants a token and ours is missing or another one; set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the one it was started with"
            ) from error
        raise UserError(
            f"{place}: no Ray cluster answers there ({error}); `ray status` on its head node shows the address"
        ) from error


def _temporary_folder() -> Path:
    """A new folder for embedded Ray, named by our process; removes those of dead processes (who is killed cleans nothing)."""
    parent = Path(tempfile.gettempdir()) / f"ablate-{os.getuid()}"
    if len(str(parent)) > _LONGEST_TEMPORARY_FOLDER - 8:
        parent = Path("/tmp") / parent.name
    parent.mkdir(mode=0o700, exist_ok=True)
    for old in parent.iterdir():
        if old.name.isdigit() and not Path(f"/proc/{old.name}").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = parent / str(os.getpid())
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
