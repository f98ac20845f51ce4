"""Settings: ``V6_`` environment variables over ``$V6_HOME/v6.toml`` over defaults.

There is one class: a module that needs a setting gets the ``Settings`` object. Unknown names and bad values raise
``SettingsError`` with one line. Values that may hold secrets are never shown.
"""

from __future__ import annotations

import difflib
import enum
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as PydanticSettingsError

from v6_pipeline.calendar import DAY_BEGINS, TradingCalendar
from v6_pipeline.errors import SettingsError
from v6_pipeline.model import IBRegion

PREFIX = "V6_"
FILE_NAME = "v6.toml"
_LOCAL_SCHEMES = {"file"}
_THIS_MACHINE = {"127.0.0.1", "localhost", "::1"}
_WINTER_AND_SUMMER = (date(2026, 1, 14), date(2026, 7, 15))
"""A session in winter time and one in summer time, in New York and most other zones."""
RUN_CLIENT_IDS = 15
"""Runs lease the client ids after the streamer's: ``ib_client_id + 1`` to ``ib_client_id + 15``."""
_Names = Annotated[tuple[str, ...], NoDecode]
"""Comma-separated in the environment; a list in the file."""


class StreamerMode(enum.StrEnum):
    """The process that starts the streamer."""

    SPAWN = "spawn"
    SUPERVISED = "supervised"


class MarketHours(enum.StrEnum):
    """Hours in which schedules refresh, and in which prices are expected to move."""

    SESSION = "session"
    ALWAYS = "always"

    def is_open(self, calendar: TradingCalendar, instant: datetime, *, until_cut_off: bool = False) -> bool:
        """Return whether the market counts as open at an aware instant; see ``TradingCalendar.is_open``."""
        return self is MarketHours.ALWAYS or calendar.is_open(instant, until_cut_off=until_cut_off)


class Settings(BaseSettings):
    """All settings. Build it with ``load_settings``, which reports faults in one line."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    home: Path = Field(
        default=Path(".v6"), description="folder of the state database, the lake, the logs and Dagster's home"
    )
    ib_host: str = Field(default="127.0.0.1", min_length=1, description="host of the gateway's socket")
    ib_port: int = Field(
        default=4002, ge=1, le=65535, description="port of the gateway's socket (4001 live, 4002 paper; TWS 7496, 7497)"
    )
    ib_client_id: int = Field(
        default=60,
        ge=1,
        le=2**31 - 1 - RUN_CLIENT_IDS,
        description="client id of the streamer; runs lease the 15 ids after it",
    )
    ib_accounts: _Names = Field(
        default=(), description="accounts to keep, comma separated; empty: all that the login manages"
    )
    ib_region: IBRegion = Field(
        default=IBRegion.AMERICA,
        description="IB's data centre, america, europe or asia: decides when its nightly reset is",
    )
    market_data_lines: int = Field(
        default=100, ge=1, le=10_000, description="market-data lines that IB grants the username"
    )
    reserved_lines: int = Field(default=10, ge=0, description="lines kept free for TWS windows and the phone")
    batch_lines: int = Field(default=10, ge=0, description="lines that streams leave to batch quotes")
    messages_per_second: int = Field(
        default=45, ge=1, le=1_000, description="messages a second to the gateway, for all processes together"
    )
    state_url: str = Field(
        default="",
        repr=False,
        description="state database: sqlite:///PATH or postgresql+psycopg://...; empty: state.db in the home",
    )
    lake_uri: str = Field(
        default="",
        repr=False,
        description="folder or object-store address of the Delta tables; empty: lake in the home",
    )
    lake_options: dict[str, SecretStr] = Field(default_factory=dict, description="object-store options of the lake")
    flush_seconds: float = Field(default=3, ge=0.05, le=3_600, description="how often the streamer writes to Delta")
    queue_batch: int = Field(default=50, ge=1, le=10_000, description="queue items per batch, one Delta commit each")
    refresh_seconds: int = Field(
        default=300, ge=60, le=86_400, description="no queued position's value gets older than this"
    )
    lease_seconds: int = Field(
        default=120, ge=15, le=3_600, description="how long the streamer lives without a tick of its sensor"
    )
    streamer: StreamerMode = Field(
        default=StreamerMode.SPAWN,
        description="spawn: the sensor starts the streamer; supervised: others keep 'v6 stream --owned' running",
    )
    market_hours: MarketHours = Field(
        default=MarketHours.SESSION, description="when schedules refresh: session (the exchange's hours) or always"
    )
    timezone: str = Field(
        default="America/New_York",
        description="time zone of trading days; its 04:00, when they begin, must be outside New York's session",
    )
    start_date: date = Field(default=date(2025, 1, 2), description="first trading day of the partitions")
    flex_dir: Path | None = Field(default=None, description="folder in which Flex statements are dropped")
    flex_token: SecretStr | None = Field(default=None, description="token of the Flex Web Service")
    flex_query_id: str | None = Field(default=None, description="number of the Flex Web Service's activity query")
    flex_url: str = Field(
        default="https://ndcdyn.interactivebrokers.com/AccountManagement/FlexWebService",
        description="address of the Flex Web Service; https, or on this machine",
    )
    handlers: _Names = Field(
        default=(), description="extra handlers of streamed positions, module:factory, comma separated"
    )
    alert_webhook: SecretStr | None = Field(
        default=None, description="address to which alerts are posted as JSON; https, or on this machine"
    )
    notifiers: _Names = Field(default=(), description="extra notifiers of alerts, module:factory, comma separated")
    owners: _Names = Field(
        default=("team:trading",),
        description="who answers for the assets, as Dagster shows it: team:NAME or addresses, comma separated",
    )

    dagster_retention_days: int = Field(
        default=7,
        ge=0,
        description="days for which Dagster's runs and events are kept, logs of ticks for two; 0 keeps them for ever",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (pydantic-settings passes these by name)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sources by precedence: the program's arguments, the environment, the file in the home that either names."""
        home = init_settings().get("home") or env_settings().get("home") or cls.model_fields["home"].default
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=_file_in(home))

    @field_validator("ib_accounts", "handlers", "notifiers", "owners", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("flex_dir", "flex_token", "flex_query_id", "alert_webhook", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("flex_query_id", mode="before")
    @classmethod
    def _number_is_text(cls, value: object) -> object:
        """Accept an id that is written without quotes in the file."""
        return str(value) if type(value) is int else value

    @field_validator("flex_url")
    @classmethod
    def _safe_for_the_token(cls, value: str) -> str:
        parts = urlsplit(value)
        if not re.fullmatch(r"https://[\w.-]+(:\d{1,5})?(/[\w./-]*)?", value, re.ASCII) and not (
            re.fullmatch(r"http://[\w.:\[\]-]+(/[\w./-]*)?", value, re.ASCII) and parts.hostname in _THIS_MACHINE
        ):
            raise ValueError("must be a plain https:// address, or http:// on this machine: the token is sent there")
        return value.rstrip("/")

    @field_validator("alert_webhook")
    @classmethod
    def _safe_for_alerts(cls, value: SecretStr | None) -> SecretStr | None:
        parts = urlsplit(value.get_secret_value()) if value is not None else None
        if parts is not None and not (
            parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _THIS_MACHINE))
        ):
            # The address holds a secret, so the message does not show it.
            raise ValueError("must be an https:// address, or http:// on this machine")
        return value

    @field_validator("handlers", "notifiers")
    @classmethod
    def _factory_form(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for spec in value:
            if not re.fullmatch(r"[\w.]+:\w+", spec):
                raise ValueError(f"{spec!r} is not module:factory")
        return value

    @field_validator("owners")
    @classmethod
    def _owner_form(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for owner in value:
            # Dagster's rule: it refuses to load definitions with any other owner.
            if not re.fullmatch(r"team:[\w-]+|\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}", owner):
                msg = f"{owner!r} is neither team:NAME nor an address that Dagster takes, such as ops@example.com"
                raise ValueError(msg)
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone of the IANA database, such as America/New_York") from None
        calendar = TradingCalendar(value)
        for day in _WINTER_AND_SUMMER:
            session = calendar.session(day)
            if not calendar.begins_at(day) <= session.opens_at < session.cut_off < calendar.ends_at(day):
                # A day, and with it its snapshot, would end in mid-session.
                msg = (
                    f"{value!r}: its {DAY_BEGINS:%H:%M}, when the trading day begins, falls into the session of New "
                    "York: choose a zone of the Americas, Europe or UTC, such as America/New_York"
                )
                raise ValueError(msg)
        return value

    @field_validator("state_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if value and not value.startswith(("sqlite:///", "postgresql+psycopg://")):
            # The value may hold a password: show no more than the scheme.
            raise ValueError("must begin with sqlite:/// or postgresql+psycopg://")
        return value

    @field_validator("lake_uri")
    @classmethod
    def _folder_or_store(cls, value: str) -> str:
        # The value may hold a password: show no more than the scheme.
        scheme, slashes, place = value.partition("://")
        if slashes and (not place.strip("/") or (place.startswith("/") and scheme.lower() not in _LOCAL_SCHEMES)):
            raise ValueError(f"'{scheme}://' without a bucket: name the place too, such as s3://BUCKET/FOLDER")
        if not slashes and (found := re.match(r"([A-Za-z][\w+.-]+):/", value, re.ASCII)):
            raise ValueError(f"'{found[1]}:/' has one slash: an object store has two, a folder begins with / or ./")
        return value

    @field_validator("flex_query_id")
    @classmethod
    def _digits(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d+", value, re.ASCII):
            raise ValueError(f"{value!r} is not the number of a Flex query")
        return value

    @field_validator("home", "flex_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @model_validator(mode="after")
    def _lines_add_up(self) -> Settings:
        free = self.market_data_lines - self.reserved_lines
        if free < 1:
            msg = (
                f"reserved_lines {self.reserved_lines} leaves none of the {self.market_data_lines} market_data_lines: "
                "lower reserved_lines"
            )
            raise ValueError(msg)
        if self.batch_lines > free:
            msg = (
                f"batch_lines {self.batch_lines} is more than the {free} lines that are left after reserved_lines "
                f"{self.reserved_lines} of market_data_lines {self.market_data_lines}: lower batch_lines"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _flex_is_whole(self) -> Settings:
        if (self.flex_token is None) != (self.flex_query_id is None):
            missing = "flex_query_id" if self.flex_query_id is None else "flex_token"
            raise ValueError(f"{missing} is not set: the Flex Web Service needs both flex_token and flex_query_id")
        return self

    @property
    def flex_archive(self) -> Path:
        """Folder for statements fetched from the Flex Web Service."""
        return self.home / "flex"

    @property
    def state_database_url(self) -> str:
        """``state_url``, or the SQLite file in the home."""
        return self.state_url or f"sqlite:///{self.home / 'state.db'}"

    @property
    def lake_root(self) -> str:
        """``lake_uri`` without a trailing slash, or the folder in the home; local paths are absolute."""
        if not self.lake_uri:
            return str(self.home / "lake")
        if "://" in self.lake_uri:
            return self.lake_uri.rstrip("/")
        return str(Path(self.lake_uri).expanduser().absolute())

    @property
    def lake_storage_options(self) -> dict[str, str]:
        """``lake_options`` with their secrets in clear text, only for delta-rs."""
        return {name: value.get_secret_value() for name, value in self.lake_options.items()}

    @property
    def log_dir(self) -> Path:
        """Folder of the processes' logs."""
        return self.home / "logs"

    @property
    def dagster_home(self) -> Path:
        """Dagster's home in this installation."""
        return self.home / "dagster"

    @property
    def file(self) -> Path:
        """The settings file."""
        return self.home / FILE_NAME

    @property
    def run_client_ids(self) -> range:
        """Client ids that runs lease."""
        return range(self.ib_client_id + 1, self.ib_client_id + RUN_CLIENT_IDS + 1)

    @property
    def ib_address(self) -> str:
        """``host:port`` of the gateway, for messages and the lineage of commits."""
        return f"{self.ib_host}:{self.ib_port}"

    @property
    def safe_state_url(self) -> str:
        """Address of the state database for messages, without user and password."""
        url = self.state_database_url
        if url.startswith("sqlite:///"):
            return url.removeprefix("sqlite:///")
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings of this process; ``home`` overrides ``V6_HOME``.

    Raises:
        SettingsError: an unknown name, a value of the wrong form or out of range, or an unreadable file: one line that
            names each and never shows a value that may be secret.
    """
    _refuse_unknown_variables(os.environ)
    try:
        return Settings() if home is None else Settings(home=home)
    except ValidationError as error:
        raise SettingsError(_one_line(error, _file_in_use(home))) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{_file_in_use(home)} is not valid TOML: {error}") from None
    except PydanticSettingsError as error:
        raise SettingsError(
            f'{_variable_in(str(error))}: not valid JSON; write an object such as {{"region": "eu"}}'
        ) from None
    except OSError as error:
        raise SettingsError(f"cannot read {error.filename}: {error.strerror}") from None


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in known:
            raise SettingsError(f"{variable}: no such setting{_suggestion(variable, known)}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; 'v6 init' writes a file that lists them all"


def _variable_in(message: str) -> str:
    found = re.search(r'field "(\w+)"', message)
    return PREFIX + found.group(1).upper() if found else "a setting"


def _file_in(home: str | Path) -> Path:
    return Path(home).expanduser() / FILE_NAME


def _file_in_use(home: Path | None) -> Path:
    return _file_in(home or _from_environment(PREFIX + "HOME") or Settings.model_fields["home"].default).absolute()


def _from_environment(variable: str) -> str | None:
    """Look a variable up without regard to case, as pydantic does."""
    return next((value for name, value in os.environ.items() if name.upper() == variable and value), None)


def _one_line(error: ValidationError, file: Path) -> str:
    """Write pydantic's findings as one line, without values that may be secret."""
    parts = []
    for finding in error.errors(include_url=False, include_context=False):
        name = str(finding["loc"][0]) if finding["loc"] else ""
        text = finding["msg"].removeprefix("Value error, ")
        if not name:
            parts.append(text)
        elif finding["type"] == "extra_forbidden":
            parts.append(f"{name} in {file}: no such setting{_suggestion(name, Settings.model_fields)}")
        else:
            variable = PREFIX + name.upper()
            where = variable if _from_environment(variable) else f"{name} in {file}"
            names_value = finding["type"] == "value_error" and text.startswith("'")
            shown = "" if names_value or name in _SECRET else f" (got {finding['input']!r})"
            wanted = bounds(name) if _is_number(name) else text.replace("Input should be", "must be")
            parts.append(f"{where}: {wanted}{shown}")
    return "; ".join(parts)


def _is_number(name: str) -> bool:
    return Settings.model_fields[name].annotation in {int, float}


def bounds(name: str) -> str:
    """Return the values that a setting takes, in plain words: a number's bounds, or a choice; empty for others."""
    field = Settings.model_fields[name]
    if isinstance(field.annotation, type) and issubclass(field.annotation, enum.StrEnum):
        return " or ".join(field.annotation)
    if not _is_number(name):
        return ""
    kind = "a whole number" if field.annotation is int else "a number"
    bounds = {side: getattr(item, side) for item in field.metadata for side in ("ge", "le") if hasattr(item, side)}
    if "le" in bounds:
        return f"{kind} from {bounds['ge']} to {bounds['le']}"
    return f"{kind}, {bounds['ge']} or more"


_SECRET = {"state_url", "lake_uri", "lake_options", "flex_token", "alert_webhook"}
