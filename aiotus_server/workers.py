"""The bundled server's processes: one alone, or several workers and their supervisor.

The supervisor has no event loop and no threads, so that it can fork at any time. It imports
everything first, so that workers share that memory, and keeps the port. A worker that ends is
replaced. Signals go to the supervisor; when it is gone, its workers end too.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import __version__
from .listening import Failure, Listening, Sockets
from .serving import make_directory, serve, stop_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .app import Settings

_log = logging.getLogger("aiotus_server")

READY = b"+"
# A worker that ends by itself needs no more than the grace time; then it is killed.
MARGIN = 0.5  # seconds
# Before a worker is tried again that could not start, or again and again did not live so long:
# doubled each time.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds
SHORT_LIFE = 1.0  # seconds


def run(settings: Settings, listening: Listening) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP. Raises Failure if that cannot be begun."""
    make_directory(settings.directory)
    sockets = Sockets(listening)
    cores = _cores() if listening.affinity else []

    def announce() -> None:
        address = sockets.address(settings.prefix)
        where = f"uploads to {address} are stored in {settings.directory}"
        sys.stdout.write(f"aiotus-server {__version__}: {where}\n")
        sys.stdout.flush()

    def work(place: int, ready: Callable[[], None], supervisor: int | None) -> None:
        core = cores[place % len(cores)] if cores else None
        serve(settings, listening, sockets, ready=ready, core=core, supervisor=supervisor)

    pid = os.getpid()
    try:
        if listening.workers == 1:
            work(0, announce, None)
        else:
            Supervisor(listening, work, announce, sockets.remove_file).run()
    finally:
        if os.getpid() == pid:
            sockets.remove_file()
        sockets.close()


def _cores() -> list[int]:
    """Those that this process may use, beginning with any: two servers on a machine should not
    both begin with its first. None where there is no choice."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    begin = random.randrange(len(cores))
    return cores[begin:] + cores[:begin] if len(cores) > 1 else []


@dataclass(slots=True)
class _Worker:
    """A child, as far as the supervisor knows it. ``says``: the end of a pipe to read what it
    reports, READY or why it could not start."""

    place: int
    says: int
    said: bytes = b""
    begun: float = field(default_factory=time.monotonic)

    @property
    def ready(self) -> bool:
        return self.said == READY

    def listen(self) -> None:
        with suppress(BlockingIOError):
            self.said += os.read(self.says, 4096)


class Supervisor:
    """Keeps ``listening.workers`` processes at ``work``: a function of a worker's place, what it
    calls when it is ready, and the descriptor that tells it of the supervisor's end.

    ``announce`` is called once, when all accept connections; ``retire`` when they are to stop.
    """

    def __init__(
        self,
        listening: Listening,
        work: Callable[[int, Callable[[], None], int], None],
        announce: Callable[[], None],
        retire: Callable[[], None],
    ) -> None:
        self._count = listening.workers
        self._grace = listening.grace
        self._work = work
        self._announce = announce
        self._retire = retire
        self._workers: dict[int, _Worker] = {}  # by process id
        self._due: dict[int, float] = {}  # places to be filled, and when
        self._failed: dict[int, int] = {}  # starts that failed in a row, by place
        self._announced = False
        self._deadline: float | None = None  # of the stop under way
        self._failure: str | None = None

    def run(self) -> None:
        """Until all workers have ended. Raises Failure if one could not start at the outset,
        SystemExit in each worker when it has done its work."""
        self._life = os.pipe()
        self._due = dict.fromkeys(range(self._count), 0.0)
        with self._signals():
            while self._due or self._workers:
                self._fill_places()
                self._wait()
                self._reap()
                self._enforce()
        if self._failure is not None:
            raise Failure(self._failure)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals only wake ``_wait``, which reads their numbers from a pipe."""
        self._heard, hearing = os.pipe()
        self._own = [self._heard, hearing, self._life[1]]
        for fd in (self._heard, hearing):
            os.set_blocking(fd, False)
        self._heeded = [*stop_signals(), signal.SIGCHLD]
        signal.set_wakeup_fd(hearing)
        for number in self._heeded:
            signal.signal(number, _ignore)
        yield
        signal.set_wakeup_fd(-1)

    # Workers come

    def _fill_places(self) -> None:
        for place, when in list(self._due.items()):
            if when <= time.monotonic():
                del self._due[place]
                self._fork(place)

    def _fork(self, place: int) -> None:
        says, reports = os.pipe()
        os.set_blocking(says, False)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or both would write what waits there
        # A signal that comes before the child is its own master would be heard twice.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._heeded)
        pid = os.fork()
        if pid == 0:
            os.close(says)
            self._become_worker()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._heeded)
            sys.exit(self._worker(place, reports))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._heeded)
        os.close(reports)
        self._workers[pid] = _Worker(place, says)

    def _become_worker(self) -> None:
        """Forget what is the supervisor's."""
        signal.set_wakeup_fd(-1)
        for number in self._heeded:
            # Those of the terminal reach all processes: the supervisor judges them.
            own = number in (signal.SIGTERM, signal.SIGCHLD)
            signal.signal(number, signal.SIG_DFL if own else _ignore)
        for fd in (*self._own, *(worker.says for worker in self._workers.values())):
            os.close(fd)

    def _worker(self, place: int, reports: int) -> int:
        """A worker's whole life, and its exit code."""
        try:
            self._work(place, lambda: _report(reports, READY), self._life[0])
        except Failure as failure:
            _report(reports, str(failure).encode())
            return 1
        return 0

    # The supervisor waits

    def _wait(self) -> None:
        """Until a signal comes, a worker reports, or something is due."""
        poll = select.poll()
        by_fd = {worker.says: worker for worker in self._workers.values() if not worker.said}
        for fd in (self._heard, *by_fd):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(self._milliseconds()):
            if fd in by_fd:
                by_fd[fd].listen()
        with suppress(BlockingIOError):
            for number in os.read(self._heard, 4096):
                self._heed(number)
        if not self._announced and self._all_ready():
            self._announced = True
            self._announce()

    def _milliseconds(self) -> float | None:
        times = list(self._due.values())
        if self._deadline is not None:
            times.append(self._deadline)
        return max(min(times) - time.monotonic(), 0) * 1000 + 1 if times else None

    def _all_ready(self) -> bool:
        ready = [worker for worker in self._workers.values() if worker.ready]
        return len(ready) == self._count and self._deadline is None

    def _heed(self, number: int) -> None:
        if number == signal.SIGINT and self._deadline is not None:
            self._signal_all(signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        elif number != signal.SIGCHLD:
            self._stop()

    # Workers go

    def _stop(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self._grace + MARGIN
            self._due.clear()
            self._retire()
            self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._workers:
            os.kill(pid, number)  # not reaped, so it is still that child's

    def _enforce(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._deadline += LONGEST_PAUSE
            _log.warning("Killing the workers that did not end within the grace time")
            self._signal_all(signal.SIGKILL)

    def _reap(self) -> None:
        """Also what others left, if this is the first process of a container."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self._workers:
                    self._ended(pid, os.waitstatus_to_exitcode(status))

    def _ended(self, pid: int, code: int) -> None:
        worker = self._workers.pop(pid)
        if not worker.said:
            worker.listen()
        os.close(worker.says)
        if self._deadline is not None:
            return
        how = _how(code) if worker.ready or not worker.said else worker.said.decode()
        if not self._announced:
            self._failure = how if worker.said else f"a worker ended before it could serve: {how}"
            self._stop()
            return
        pause = self._pause(worker)
        self._due[worker.place] = time.monotonic() + pause
        when = f"in {pause:.1f} s" if pause else "now"
        _log.error("Worker %d ended: %s; another takes its place %s", pid, how, when)

    def _pause(self, worker: _Worker) -> float:
        """Seconds: none but for a worker that could not even start, or whose like die young. What
        ends them may be told to each at its start, by a hook that crashes say."""
        if worker.ready and time.monotonic() - worker.begun >= SHORT_LIFE:
            self._failed[worker.place] = 0
            return 0
        failed = self._failed[worker.place] = self._failed.get(worker.place, 0) + 1
        if worker.ready and failed == 1:
            return 0
        return min(FIRST_PAUSE * (1 << min(failed, 10)), LONGEST_PAUSE)


def _report(fd: int, text: bytes) -> None:
    with suppress(BrokenPipeError):  # the supervisor is gone, and has its own way to tell
        os.write(fd, text)
    os.close(fd)


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _ignore(number: int, frame: object) -> None:
    """Unlike SIG_IGN this is not passed on to the programs that hooks start."""
