"""What the locker of several processes promises beyond the contract of all lockers."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest
import uvloop

from aiotus_server.locks import Declined, FileLocker, Purpose, lockfile
from aiotus_server.locks.lockfile import LockFile
from aiotus_server.protocol.errors import UploadLocked

from .counter import UPLOADS, ZERO
from .neighbour import REPOSITORY, Neighbour, Neighbourhood
from .requests import LONG, SOON, Request, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

APPEND, INSPECT, TERMINATE = Purpose.APPEND, Purpose.INSPECT, Purpose.TERMINATE
PROMPT = 5.0  # seconds in which a waiter must be served; a lost wake-up would take LONG


@pytest.fixture
async def others(tmp_path: Path) -> AsyncIterator[Neighbourhood]:
    neighbourhood = Neighbourhood(tmp_path)
    yield neighbourhood
    await neighbourhood.close()


@pytest.fixture
def locker(tmp_path: Path) -> FileLocker:
    return FileLocker(tmp_path)


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def free(locker: FileLocker, upload_id: str = "a") -> bool:
    with suppress(UploadLocked):
        async with locker.lock(upload_id, APPEND, wait=0):
            return True
    return False


# Exclusion


async def test_another_process_is_excluded(locker: FileLocker, others: Neighbourhood) -> None:
    (other,) = await others.start("asyncio")
    name = await other.hold("a")
    assert [await free(locker, upload_id) for upload_id in "ab"] == [False, True]
    other.let_go(name)
    await other.until(f"{name} free")
    assert await free(locker)


async def test_nothing_is_made_until_a_lock_is_taken(tmp_path: Path) -> None:
    locker = FileLocker(str(tmp_path / "made" / "later"))
    assert list(tmp_path.iterdir()) == []
    assert await free(locker)
    assert os.listdir(tmp_path / "made" / "later") == [".locks"]


async def test_two_lockers_of_one_loop(tmp_path: Path) -> None:
    first, second = Request(FileLocker(tmp_path)), Request(FileLocker(tmp_path), TERMINATE)
    await first.held.wait()
    assert await first.until_asked() == [TERMINATE]
    assert not second.held.is_set()
    await first.finish()
    await asyncio.wait_for(second.held.wait(), PROMPT)
    await second.finish()


def test_two_lockers_in_two_threads(tmp_path: Path) -> None:
    inside, most = 0, 0

    async def use(locker: FileLocker) -> None:
        nonlocal inside, most
        for _ in range(50):
            async with locker.lock("a", APPEND, wait=LONG):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.0005)
                inside -= 1

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(use(FileLocker(tmp_path)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, failures) == (1, [])


class Colliding(FileLocker):
    """All uploads have the same offset."""

    @staticmethod
    def offset_of(upload_id: str) -> int:
        return 42


async def test_uploads_that_share_an_offset(tmp_path: Path) -> None:
    """A concatenation holds several at once: none may wait for another that it holds itself."""
    mine, yours = Colliding(tmp_path), Colliding(tmp_path)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(mine.lock("a", APPEND, wait=0))
        second = Request(mine, upload_id="b")
        third = Request(yours, TERMINATE, upload_id="c")
        assert await second.until_asked() == [TERMINATE]
        third.task.cancel()
        await second.finish()
        assert not await free(yours, "a")  # "a" is still held
        waiter = Request(yours, upload_id="d")
        await turns()
        assert not await free(mine, "a")
        assert not waiter.held.is_set()
    await asyncio.wait_for(waiter.held.wait(), PROMPT)
    await waiter.finish()
    assert await free(mine, "b")


# Release requests


async def test_the_holder_hears_what_for(locker: FileLocker, others: Neighbourhood) -> None:
    (other,) = await others.start("uvloop")
    name = await other.hold()
    for purpose in Purpose:
        with pytest.raises(UploadLocked):
            await Request(locker, purpose, wait=SOON).task
        await other.until(f"{name} asked {purpose.value}")


async def test_a_process_hears_from_another(locker: FileLocker, others: Neighbourhood) -> None:
    (other,) = await others.start("asyncio")
    mine = Request(locker)
    await mine.held.wait()
    name = other.ask(purpose="terminate")
    assert await mine.until_asked() == [TERMINATE]
    assert mine.lock is not None
    assert mine.lock.release_requested is TERMINATE
    assert not other.said(f"{name} held")
    await mine.finish()
    await other.until(f"{name} held", seconds=PROMPT)


async def test_a_late_callback_hears_of_a_remote_request(
    locker: FileLocker, others: Neighbourhood
) -> None:
    (other,) = await others.start("asyncio")
    async with locker.lock("a", APPEND, wait=0) as lock:
        name = other.ask(purpose="inspect")
        async with asyncio.timeout(LONG):
            while lock.release_requested is None:
                await asyncio.sleep(0.001)
        lock.on_release_requested(lambda purpose: purpose is not INSPECT)
        await other.until(f"{name} declined")


async def test_declining_is_answered_at_once(locker: FileLocker, others: Neighbourhood) -> None:
    (other,) = await others.start("asyncio")
    name = await other.hold(declines=["inspect"])
    with pytest.raises(Declined):
        await asyncio.wait_for(Request(locker, INSPECT).task, PROMPT)
    waiter = Request(locker)
    await other.until(f"{name} asked append")
    other.let_go(name)
    await asyncio.wait_for(waiter.held.wait(), PROMPT)
    await waiter.finish()


async def test_whoever_waits_behind_another_is_declined_too(
    locker: FileLocker, others: Neighbourhood
) -> None:
    (other,) = await others.start("asyncio")
    name = await other.hold(declines=["inspect"])
    first = Request(locker)
    await other.until(f"{name} asked append")
    with pytest.raises(Declined):
        await asyncio.wait_for(Request(locker, INSPECT).task, PROMPT)
    assert not first.held.is_set()
    other.let_go(name)
    await asyncio.wait_for(first.held.wait(), PROMPT)
    await first.finish()


async def test_the_next_holder_hears_of_those_who_wait_elsewhere(
    locker: FileLocker, others: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_GRACE", str(LONG))  # whoever came first comes first, however slow
    second, third = await others.start("asyncio", "uvloop")
    # Who has just joined does not know yet who came before him, and might be the next.
    another = await third.hold("another")
    second.ask(upload_id="another")
    await third.until(f"{another} asked")
    first = Request(locker)
    await first.held.wait()
    one = second.ask(declines=["terminate"])
    await first.until_asked(1)
    two = third.ask(purpose="terminate")
    assert await first.until_asked(2) == [APPEND, TERMINATE]
    await first.finish()
    await second.until(f"{one} held", seconds=PROMPT)
    await second.until(f"{one} asked terminate")
    await third.until(f"{two} declined", seconds=PROMPT)


async def test_who_gave_up_is_heard_of_no_more(locker: FileLocker, others: Neighbourhood) -> None:
    (other,) = await others.start("asyncio")
    name = await other.hold()
    for purpose in (INSPECT, TERMINATE):
        waiter = Request(locker, purpose)
        await other.until(f"{name} asked {purpose.value}")
        waiter.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter.task
    last = other.ask(purpose="append")
    await other.until(f"{name} asked append")
    other.let_go(name)
    await other.until(f"{last} held", seconds=PROMPT)
    assert other.said(f"{last} asked") == []
    other.let_go(last)
    await other.until(f"{last} free")
    assert await free(locker)


# Waiting


async def test_the_eldest_is_served_first(locker: FileLocker, others: Neighbourhood) -> None:
    processes = await others.start("asyncio", "uvloop", "asyncio")
    for other in processes:
        await other.hold(f"another-{other.pid}")  # now it is known to the others
    first = Request(locker)
    await first.held.wait()
    waiting: list[tuple[Neighbour, str]] = []
    for turn in range(6):
        other = processes[turn % 3]
        waiting.append((other, other.ask()))
        await first.until_asked(turn + 1)
    await first.finish()
    while waiting:
        other, name = waiting.pop(0)
        await other.until(f"{name} held", seconds=PROMPT)
        assert not any(later.said(f"{request} held") for later, request in waiting)
        other.let_go(name)


@pytest.mark.parametrize("many_are_remote", [False, True])
async def test_nobody_starves_behind_an_endless_series_of_others(
    locker: FileLocker, tmp_path: Path, many_are_remote: bool
) -> None:
    other = FileLocker(tmp_path)  # as good as one in another process
    over = asyncio.Event()

    async def use(of: FileLocker) -> None:
        async with of.lock("a", APPEND, wait=LONG):
            await asyncio.sleep(0.0002)

    async def endless() -> None:
        while not over.is_set():
            await use(other if many_are_remote else locker)

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(endless())
        async with asyncio.timeout(LONG):
            for _ in range(20):
                await use(locker if many_are_remote else other)
        over.set()


async def test_who_joined_in_the_meantime_wakes_the_waiters_too(
    locker: FileLocker, others: Neighbourhood, tmp_path: Path
) -> None:
    """One that nobody had met takes the lock before the waiter's turn."""
    (other,) = await others.start("asyncio")
    mine = Request(locker)
    await mine.held.wait()
    name = other.ask()
    await mine.until_asked()
    newcomer = Request(FileLocker(tmp_path))
    other.signal(signal.SIGSTOP)
    await mine.finish()
    await asyncio.wait_for(newcomer.held.wait(), LONG)
    other.signal(signal.SIGCONT)
    assert await newcomer.until_asked() == [APPEND]
    await newcomer.finish()
    await other.until(f"{name} held", seconds=PROMPT)


async def test_who_waits_sleeps(locker: FileLocker, others: Neighbourhood) -> None:
    (other,) = await others.start("asyncio")
    mine = Request(locker)
    await mine.held.wait()
    for _ in range(10):
        other.ask()
    await mine.until_asked(10)
    before = other.wakings()
    await asyncio.sleep(0.5)
    assert other.wakings() - before < 10
    await mine.finish()


async def test_timeouts_and_cancellations_leave_nothing(
    locker: FileLocker, others: Neighbourhood
) -> None:
    (other,) = await others.start("asyncio")
    name = await other.hold()
    assert not await free(locker)
    before = (descriptors(), other.descriptors())
    for number in range(50):
        waiter = Request(locker, wait=SOON if number % 2 else LONG)
        await turns(number % 5)
        if number % 2 == 0:
            waiter.task.cancel()
        with suppress(UploadLocked, asyncio.CancelledError):
            await waiter.task
    assert (descriptors(), other.descriptors()) == before
    other.let_go(name)
    await other.until(f"{name} free")
    last = await other.hold()
    assert other.said(f"{last} asked") == []


# Processes that die or hang


@pytest.mark.parametrize("busy", [0, 200])
async def test_the_death_of_the_holder_wakes_who_waits(
    locker: FileLocker, others: Neighbourhood, busy: int
) -> None:
    for _ in range(4):
        (other,) = await others.start("asyncio")
        await asyncio.gather(*(other.hold(f"more-{number}") for number in range(busy)))
        name = await other.hold()
        waiters = [Request(locker), Request(locker)]
        await other.until(f"{name} asked append")
        await other.kill()
        for waiter in waiters:
            await asyncio.wait_for(waiter.held.wait(), PROMPT)
            await waiter.finish()


async def test_the_dead_leave_no_entries(locker: FileLocker, others: Neighbourhood) -> None:
    processes = await others.start("asyncio", "asyncio", "asyncio")
    for other in processes:
        await other.hold(str(other.pid))
    assert not await free(locker, str(processes[0].pid))
    file = LockFile(others.directory / ".locks")
    assert len(list(file.other_slots())) == 4
    for other in processes[:2]:
        await other.kill()
    assert len(list(file.other_slots())) == 2
    file.close()
    assert [await free(locker, str(other.pid)) for other in processes] == [True, True, False]


async def test_a_frozen_holder_is_waited_for_no_longer_than_wait(
    locker: FileLocker, others: Neighbourhood
) -> None:
    frozen, other = await others.start("asyncio", "asyncio")
    name = await frozen.hold()
    frozen.signal(signal.SIGSTOP)
    started = asyncio.get_running_loop().time()
    for _ in range(3):
        with pytest.raises(UploadLocked):
            await Request(locker, wait=0.1).task
    assert asyncio.get_running_loop().time() - started < 3
    held = await other.hold("b")
    waiter = Request(locker, upload_id="b")
    await other.until(f"{held} asked append")
    other.let_go(held)
    await asyncio.wait_for(waiter.held.wait(), PROMPT)
    await waiter.finish()
    frozen.signal(signal.SIGCONT)
    await frozen.until(f"{name} asked append")
    frozen.let_go(name)
    await frozen.until(f"{name} free")
    assert await free(locker)


async def test_a_frozen_waiter_is_passed_over(locker: FileLocker, others: Neighbourhood) -> None:
    frozen, other = await others.start("asyncio", "asyncio")
    first = Request(locker)
    await first.held.wait()
    name = frozen.ask()
    await first.until_asked()
    frozen.signal(signal.SIGSTOP)
    behind = other.ask()
    await first.until_asked(2)
    second = Request(locker)
    await first.finish()
    await other.until(f"{behind} held")
    other.let_go(behind)
    await asyncio.wait_for(second.held.wait(), LONG)
    frozen.signal(signal.SIGCONT)
    await second.finish()
    await frozen.until(f"{name} held")


async def test_a_frozen_process_is_asked_any_number_of_times(
    locker: FileLocker, others: Neighbourhood
) -> None:
    """More than its queue in the kernel takes; and it still hears the last of them."""
    (frozen,) = await others.start("asyncio")
    name = await frozen.hold()
    frozen.signal(signal.SIGSTOP)
    for _ in range(4):
        requests = [Request(locker, wait=0) for _ in range(500)]
        assert len(await asyncio.gather(*(r.task for r in requests), return_exceptions=True))
    last = Request(locker, TERMINATE)
    await turns()
    frozen.signal(signal.SIGCONT)
    await frozen.until(f"{name} asked terminate")
    frozen.let_go(name)
    await asyncio.wait_for(last.held.wait(), LONG)
    await last.finish()


async def test_a_forked_child_does_not_keep_what_its_parent_held(
    locker: FileLocker, others: Neighbourhood
) -> None:
    (other,) = await others.start("asyncio")
    name = await other.hold()
    child = await other.fork()
    try:
        assert not await free(locker)
        waiter = Request(locker)
        await other.until(f"{name} asked append")
        other.signal(signal.SIGKILL)
        await asyncio.wait_for(waiter.held.wait(), PROMPT)
        await waiter.finish()
    finally:
        os.kill(child, signal.SIGKILL)


FORK = """
import asyncio, os, sys
from aiotus_server import FileLocker
from aiotus_server.locks import Purpose

async def use(reader, writer):
    async with locker.lock("a", Purpose.APPEND, wait=30) as lock:
        if writer is not None:
            os.write(writer, b".")
            while lock.release_requested is None:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        print("parent" if writer else "child", flush=True)

locker = FileLocker(sys.argv[1])
if sys.argv[2] == "used":
    asyncio.run(use(None, None))
reader, writer = os.pipe()
if os.fork():
    asyncio.run(use(None, writer))
    os.wait()
else:
    os.read(reader, 1)
    asyncio.run(use(reader, None))
"""


@pytest.mark.parametrize(("before", "said"), [("unused", []), ("used", ["child"])])
def test_made_before_a_fork(tmp_path: Path, before: str, said: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path), before],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert run.stdout.split() == [*said, "parent", "child"]
    assert run.stderr == ""


# Strangers


def entrances(directory: Path) -> list[str]:
    file = LockFile(directory / ".locks")
    names = [f"\0aiotus-lock-{slot:016x}" for slot in file.other_slots()]
    file.close()
    return names


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"W", b"W" + bytes(24) + b"steal", b"\xff" * 64, b"F" + bytes(100), bytes(100_000)],
    ids=["x", "short", "purpose", "binary", "long", "huge"],
)
async def test_garbage_ends_the_connection_only(
    locker: FileLocker, others: Neighbourhood, garbage: bytes
) -> None:
    (other,) = await others.start("asyncio")
    name = await other.hold()
    waiter = Request(locker)
    await other.until(f"{name} asked append")
    for entrance in entrances(others.directory):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(entrance)
            stranger.setblocking(False)
            stranger.send(garbage)
            async with asyncio.timeout(LONG):
                while True:
                    with suppress(BlockingIOError):
                        assert stranger.recv(100) == b""
                        break
                    await asyncio.sleep(0.001)
    assert not waiter.held.is_set()
    other.let_go(name)
    await asyncio.wait_for(waiter.held.wait(), PROMPT)
    await waiter.finish()


async def test_messages_that_nobody_expects(locker: FileLocker, tmp_path: Path) -> None:
    mine = Request(locker)
    await mine.held.wait()
    want = b"W" + (7).to_bytes(8, "big") + (1 << 63).to_bytes(8, "big") + bytes(8) + b"append"
    number = secrets.token_bytes(8)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(entrances(tmp_path)[0])
        for message in (want, want, b"D" + number, b"F" + number, b"R" + number, want):
            stranger.send(message)
        stranger.setblocking(False)
        async with asyncio.timeout(LONG):
            answers = 0
            while answers < 1:
                with suppress(BlockingIOError):
                    assert stranger.recv(100)[:1] == b"R"
                    answers += 1
                await asyncio.sleep(0.001)
    await mine.finish()
    assert await free(locker)


STRANGER = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
    stranger.connect("\\0" + sys.argv[1])
    stranger.settimeout(20)
    try:
        print(stranger.recv(100))
    except ConnectionResetError:
        print(b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_is_turned_away(locker: FileLocker, tmp_path: Path) -> None:
    mine = Request(locker)
    await mine.held.wait()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STRANGER, entrances(tmp_path)[0][1:], stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.strip() == b"b''"
    await mine.finish()


@pytest.mark.skipif(
    subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode != 0,
    reason="no network namespace can be made here",
)
async def test_another_network_namespace_is_excluded(
    locker: FileLocker, others: Neighbourhood
) -> None:
    (far,) = await others.start("asyncio", prefix=["unshare", "-n"])
    name = await far.hold()
    with pytest.raises(UploadLocked):
        await Request(locker, wait=0.2).task
    assert far.said(f"{name} asked") == []
    far.let_go(name)
    await far.until(f"{name} free")
    assert await free(locker)


# Event loops and descriptors


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_one_loop_after_another(
    locker: FileLocker, tmp_path: Path, run: Callable[..., None]
) -> None:
    async def use() -> None:
        mine, yours = Request(locker), Request(FileLocker(tmp_path))
        await mine.until_asked()
        await mine.finish()
        await yours.finish()

    run(use())
    before = descriptors()
    for _ in range(3):
        run(use())
    assert descriptors() <= before


async def test_few_descriptors(locker: FileLocker, others: Neighbourhood) -> None:
    before = descriptors()
    async with AsyncExitStack() as stack:
        for number in range(300):
            await stack.enter_async_context(locker.lock(f"mine-{number}", APPEND, wait=0))
        assert descriptors() - before == 2
    (other,) = await others.start("asyncio")
    for number in range(100):
        await other.hold(f"theirs-{number}")
    started = descriptors()
    requests = [Request(locker, upload_id=f"theirs-{number}") for number in range(100)]
    await other.until("request-100 asked")
    assert descriptors() - started == 1
    for number, request in enumerate(requests):
        other.let_go(f"request-{number + 1}")
        await request.finish()


def test_a_system_without_these_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockfile, "_SETLK", None)
    with pytest.raises(NotImplementedError, match="Linux"):
        FileLocker(tmp_path)


# All at once


@pytest.mark.timeout(120)
async def test_no_update_is_lost_though_processes_are_killed(tmp_path: Path) -> None:
    for upload_id in UPLOADS:
        (tmp_path / f"number-{upload_id}").write_text(ZERO)
        (tmp_path / f"log-{upload_id}").touch()

    async def start(number: int) -> asyncio.subprocess.Process:
        loop = ("asyncio", "uvloop")[number % 2]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.locks.counter", str(tmp_path), loop, "20"),
            cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def progress(process: asyncio.subprocess.Process, count: int) -> None:
        assert process.stdout is not None
        await process.stdout.readexactly(count)

    processes = [await start(number) for number in range(4)]
    kills = 6
    try:
        for kill in range(kills):
            async with asyncio.timeout(40):
                await asyncio.gather(*(progress(process, 60) for process in processes))
            processes[kill % 4].kill()
            await processes[kill % 4].communicate()
            processes[kill % 4] = await start(kill)
        async with asyncio.timeout(40):
            await asyncio.gather(*(progress(process, 60) for process in processes))
            ended = await asyncio.gather(*(process.communicate(b"") for process in processes))
        assert len(ended) == 4
        assert [process.returncode for process in processes] == [0] * 4
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
    numbers = [int((tmp_path / f"number-{upload_id}").read_text()) for upload_id in UPLOADS]
    logs = [(tmp_path / f"log-{upload_id}").stat().st_size for upload_id in UPLOADS]
    assert all(log <= number <= log + kills for number, log in zip(numbers, logs, strict=True))
    assert sum(logs) >= (kills + 1) * 4 * 60 - kills * 20
