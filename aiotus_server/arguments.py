"""Command line and environment, turned into values.

Every option is a flag and a variable: ``--max-size`` is ``AIOTUS_MAX_SIZE``. The flag wins; an
empty variable counts as none. What is wrong is said on one line, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from .cors import is_origin
from .protocol.sendable import is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

PREFIX = "AIOTUS_"
# Longer ones would carry dates beyond the end of the calendar.
LONGEST = timedelta(days=100 * 365)


@dataclass(frozen=True, slots=True)
class Option:
    """``--name VALUE``. ``parse`` raises ValueError with a sentence.

    With ``many`` it gives a list, and the flag may be repeated.
    """

    name: str
    metavar: str
    help: str
    parse: Callable[[str], Any] = str
    default: Any = None
    many: bool = False
    shown: str = ""  # the default, as help tells it

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        default = f"; default: {self.shown}" if self.shown else ""
        group.add_argument(
            f"--{self.name}",
            metavar=self.metavar,
            type=converted(self.parse),
            action="extend" if self.many else "store",
            default=argparse.SUPPRESS,
            help=f"{self.help} [{variable_of(self.name)}{default}]",
        )


@dataclass(frozen=True, slots=True)
class Switch:
    """``--name``, and ``--inverse`` for those whose environment has it on."""

    name: str
    help: str
    default: bool = False

    @property
    def inverse(self) -> str:
        return self.name[3:] if self.name.startswith("no-") else f"no-{self.name}"

    def parse(self, text: str) -> bool:
        return parse_switch(text)

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        dest = dest_of(self.name)
        variable = variable_of(self.name)
        group.add_argument(
            f"--{self.name}",
            dest=dest,
            action="store_true",
            default=argparse.SUPPRESS,
            help=f"{self.help} [{variable}]",
        )
        group.add_argument(
            f"--{self.inverse}",
            dest=dest,
            action="store_false",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    options: Sequence[Option | Switch]


def dest_of(name: str) -> str:
    return name.replace("-", "_")


def variable_of(name: str) -> str:
    return PREFIX + dest_of(name).upper()


class Parser(argparse.ArgumentParser):
    """argparse, with a variable for each option."""

    def __init__(self, groups: Sequence[Group], **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs
        )
        self._options = [option for group in groups for option in group.options]
        for group in groups:
            section = self.add_argument_group(group.title)
            for option in group.options:
                option.add_to(section)

    def read(self, arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
        """A value for every option: from its flag, else its variable, else its default."""
        values = self.parse_args(arguments)
        for option in self._options:
            dest = dest_of(option.name)
            if not hasattr(values, dest):
                setattr(values, dest, self._from_environment(option, environment))
        return values

    def _from_environment(self, option: Option | Switch, environment: Mapping[str, str]) -> Any:
        variable = variable_of(option.name)
        text = environment.get(variable)
        if not text:
            return option.default
        try:
            return option.parse(text)
        except ValueError as error:
            self.error(f"{variable}: {error}")

    def unknown_in(self, environment: Mapping[str, str], others: Sequence[Group]) -> set[str]:
        """Variables that look like one of an option, of ``others`` too, and are none."""
        options = [*self._options, *(option for group in others for option in group.options)]
        known = {variable_of(option.name) for option in options}
        return {name for name in environment if name.startswith(PREFIX)} - known

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help tells more)\n")


def converted(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """For argparse, which shows the sentence of its own error only."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


# From text to values. Each raises ValueError.


def parse_text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def parse_name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text!r} cannot be the name of a header")
    return text


def parse_switch(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither yes nor no")


def parse_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port: 0 to 65535")
    return int(text)


_size = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(?:([KMGTP]?)(I?)B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes: ``1048576``, ``500MB`` (millions), ``10GiB`` (1024 times 1024 times 1024)."""
    match = _size.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is not a size such as 500MB, 10GiB or 1048576 (bytes)")
    power = " KMGTP".index(match[2].upper()) if match[2] else 0
    size = Decimal(match[1]) * (1024 if match[3] else 1000) ** power
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def parse_limit(text: str) -> int | None:
    return None if text.lower() == "none" else parse_size(text)


_SECONDS = {"ms": "0.001", "s": "1", "": "1", "m": "60", "h": "3600", "d": "86400", "w": "604800"}
_duration_part = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhdw])", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """``90`` (seconds), ``500ms``, ``30m``, ``24h``, ``7d``, ``1h30m``."""
    written = text.strip().lower()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", written, re.ASCII):
        written += "s"
    parts = _duration_part.findall(written)
    if not parts or "".join(number + unit for number, unit in parts) != written:
        raise ValueError(f"{text!r} is not a time such as 30m, 24h, 7d or 90 (seconds)")
    seconds = sum(Decimal(number) * Decimal(_SECONDS[unit]) for number, unit in parts)
    if seconds > Decimal(LONGEST.total_seconds()):
        raise ValueError(f"{text!r} is longer than {LONGEST.days} days")
    return timedelta(seconds=float(seconds))


def parse_lifetime(text: str) -> timedelta | None:
    return None if text.lower() in ("none", "never") else parse_duration(text)


def parse_list(text: str) -> list[str]:
    """Between commas. An empty text is an empty list."""
    return [item for item in (item.strip() for item in text.split(",")) if item]


def parse_paths(text: str) -> list[str]:
    paths = parse_list(text)
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} does not start with a slash")
    return paths


def parse_origins(text: str) -> list[str]:
    """As browsers write them in ``Origin``, or ``*``."""
    origins = parse_list(text)
    for origin in origins:
        if origin != "*" and not is_origin(origin):
            raise ValueError(f"{origin!r} is not an origin such as https://app.example")
    return origins


def parse_reference(text: str) -> str:
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", text):
        raise ValueError(f"{text!r} is not module:name")
    return text


def one_of(choices: Collection[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text.lower()

    return parse


def some_of(choices: Collection[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = parse_list(text)
        for name in names:
            if name not in choices:
                raise ValueError(f"{name!r} is none of {', '.join(choices)}")
        return names

    return parse
