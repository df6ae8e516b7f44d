"""The parts of the load test that need no server: bytes, sizes, times, leaks."""

from __future__ import annotations

import random
from statistics import median

import pytest

from scripts.load.content import STRIPE, Content
from scripts.load.plan import Dice, Plan
from scripts.load.sizes import parse_sizes
from scripts.load.tally import Tally, Times
from scripts.soaking.findings import MIB, leaks, slope, summary, table
from scripts.soaking.process import Sample

LENGTH = 3 * STRIPE + 17


def data_of(index: int, *, seed: int = 1) -> bytes:
    return b"".join(Content(seed, index).pieces(0, LENGTH))


def test_any_range_of_a_content_is_the_same_bytes() -> None:
    data = data_of(1)
    assert len(data) == LENGTH
    chance = random.Random(1)
    for _ in range(50):
        begin, end = sorted(chance.randrange(LENGTH + 1) for _ in range(2))
        pieces = list(Content(1, 1).pieces(begin, end, chance.choice([STRIPE, 99_991])))
        assert b"".join(pieces) == data[begin:end]


def test_a_content_that_starts_later_is_the_rest_of_the_same_bytes() -> None:
    assert (
        b"".join(Content(1, 1, start=STRIPE - 5).pieces(3, 900)) == data_of(1)[STRIPE - 2 :][:897]
    )


def test_no_byte_is_zero() -> None:
    assert 0 not in data_of(1)


def test_uploads_and_seeds_have_bytes_of_their_own() -> None:
    assert len({data_of(1), data_of(2), data_of(1, seed=2), data_of(2, seed=2)}) == 4


@pytest.mark.parametrize("at", [0, 1, STRIPE - 1, STRIPE, LENGTH - 1])
def test_one_wrong_byte_is_found(at: int) -> None:
    data = bytearray(data_of(1))
    data[at] ^= 1
    assert Content(1, 1).difference(0, bytes(data)) == at
    assert Content(1, 1).difference(at + 1, bytes(data[at + 1 :])) is None


@pytest.mark.parametrize(
    ("begin", "size"), [(0, 1000), (4096, 4096), (0, STRIPE), (STRIPE, 2 * STRIPE)]
)
def test_what_is_doubled_or_missing_is_found(begin: int, size: int) -> None:
    data = data_of(1)
    doubled = data[: begin + size] + data[begin:]
    missing = data[:begin] + data[begin + size :]
    for wrong in (doubled, missing):
        assert Content(1, 1).difference(0, wrong) is not None


def test_sizes() -> None:
    quantiles = [(n + 0.5) / 1000 for n in range(1000)]
    assert {parse_sizes("10MiB").of(u) for u in quantiles} == {10 * MIB}
    uniform = [parse_sizes("uniform:1KiB-2KiB").of(u) for u in quantiles]
    assert (min(uniform), max(uniform)) == (1024, 2047 + 1)
    lognormal = [parse_sizes("lognormal:5MiB,1.5,50MiB").of(u) for u in quantiles]
    assert median(lognormal) == pytest.approx(5 * MIB, rel=0.01)
    assert max(lognormal) == 50 * MIB
    zipf = [parse_sizes("zipf:1KiB-1MiB,1").of(u) for u in quantiles]
    assert min(zipf) == 1024
    assert sum(size > 10 * 1024 for size in zipf) == pytest.approx(100, abs=5)
    assert max(zipf) <= MIB


@pytest.mark.parametrize(
    "text",
    [
        "",
        "huge",
        "-1",
        "uniform:2MiB-1MiB",
        "uniform:1MiB",
        "lognormal:5MiB",
        "lognormal:5MiB,0",
        "zipf:1-2,x",
        "zipf:1-2,nan",
        "normal:1,2",
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse_sizes(text)


def test_percentiles_are_exact_to_a_percent() -> None:
    times = Times()
    for n in range(1, 1001):
        times.add(n / 1000)
    for percent in (50, 90, 99):
        assert times.percentile(percent) == pytest.approx(percent / 100, rel=0.02)
    assert times.percentile(100) == times.longest == 1.0
    assert Times().percentile(50) == 0


def test_errors_are_counted_and_only_some_are_kept() -> None:
    tally = Tally()
    for number in range(100):
        tally.counts["failed"] += 1
        tally.error(f"upload {number}")
    assert tally.failed
    assert tally.as_json()["uploads"]["failed"] == 100
    assert tally.as_text().endswith("upload 19\n… and 80 more")


def test_chance_follows_from_the_seed() -> None:
    plan = Plan("http://x/", kill_rate=0.5, checksum="sha1", wrong_checksums=0.2)
    fates = [[Dice(plan, 7).fate_of(99) for _ in range(2)] for _ in range(2)]
    assert fates[0] == fates[1]
    many = Dice(plan, 1)
    found = [many.fate_of(99) for _ in range(2000)]
    assert sum(fate.cut is not None for fate in found) == pytest.approx(1000, abs=100)
    assert sum(fate.wrong for fate in found) == pytest.approx(200, abs=60)
    assert {fate.cut_at for fate in found} == set(range(100))


def sample(
    at: float, rss: float = 60, descriptors: int = 16, threads: int = 12, locks: int = 1
) -> Sample:
    return Sample(at, 1, int(rss * MIB), descriptors, threads, locks)


def test_a_server_that_gives_everything_back_has_no_leak() -> None:
    assert leaks([sample(10), sample(20, 80, 20, 18), sample(30, 62, 17, 14)]) == []


@pytest.mark.parametrize(
    ("last", "word"),
    [
        (sample(90, rss=95), "RSS"),
        (sample(90, descriptors=30), "descriptors"),
        (sample(90, threads=25), "threads"),
        (sample(90, locks=4), "locks"),
        (Sample(90, 2, 60 * MIB, 16, 12), "processes"),
    ],
)
def test_what_is_not_given_back_is_a_leak(last: Sample, word: str) -> None:
    (found,) = leaks([sample(30), sample(60), last])
    assert found.startswith(word)


def test_one_sample_tells_nothing() -> None:
    assert leaks([sample(1)]) == ["the run was too short to tell of leaks"]


def test_a_summary_has_both_ends_the_most_and_the_slope() -> None:
    samples = [sample(0, rss=50), sample(30, rss=70), sample(60, rss=60)]
    found = summary(samples)["RSS, MiB"]
    assert found == {"first": 50, "last": 60, "most": 70, "a minute": pytest.approx(10)}
    assert summary([]) == {}
    assert [row.split()[:2] for row in table(samples)[-3:]] == [
        ["last", "1.0"],
        ["most", "1.0"],
        ["a", "minute"],
    ]


def test_slope_is_per_minute() -> None:
    samples = [sample(30 * n, rss=50 + n) for n in range(5)]
    assert slope(samples, lambda s: s.rss / MIB) == pytest.approx(2)
    assert slope(samples[:1], lambda s: s.rss) == 0
