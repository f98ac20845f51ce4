"""Settings: environment over file over defaults, and one clear line for everything impossible."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest

from v6_pipeline.errors import SettingsError
from v6_pipeline.settings import MarketHours, Settings, bounds, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("V6_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    settings = load_settings()

    assert settings.home == tmp_path / ".v6"
    assert (settings.ib_host, settings.ib_port, settings.ib_client_id) == ("127.0.0.1", 4002, 60)
    assert list(settings.run_client_ids) == list(range(61, 76))
    assert (settings.market_data_lines, settings.reserved_lines, settings.batch_lines) == (100, 10, 10)
    assert settings.state_database_url == f"sqlite:///{tmp_path / '.v6' / 'state.db'}"
    assert settings.lake_root == str(tmp_path / ".v6" / "lake")
    assert settings.market_hours is MarketHours.SESSION


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "v6.toml").write_text("ib_port = 4001\nqueue_batch = 7\n")
    monkeypatch.setenv("V6_HOME", str(home))
    monkeypatch.setenv("V6_IB_PORT", "7497")

    settings = load_settings()

    assert (settings.ib_port, settings.queue_batch, settings.home) == (7497, 7, home)


def test_lists_are_comma_separated_in_the_environment_and_arrays_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V6_IB_ACCOUNTS", "U1, U2,")
    (tmp_path / ".v6").mkdir()
    (tmp_path / ".v6" / "v6.toml").write_text('handlers = ["a.b:make"]\n')

    settings = load_settings()

    assert settings.ib_accounts == ("U1", "U2")
    assert settings.handlers == ("a.b:make",)


def test_bounds_of_every_number_and_every_choice_are_in_the_reference() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `V6_")}
    assert "| a whole number from 15 to 3600 |" in lines["V6_LEASE_SECONDS"]
    assert "| a whole number from 60 to 86400 |" in lines["V6_REFRESH_SECONDS"]
    assert "| spawn or supervised |" in lines["V6_STREAMER"]
    numbers = [name for name, field in Settings.model_fields.items() if field.annotation in {int, float}]
    assert len(numbers) > 10
    for name in numbers:
        assert f"| {bounds(name)} |" in lines[f"V6_{name.upper()}"]


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("V6_IB_PROT", "4002", "V6_IB_PROT: no such setting; did you mean V6_IB_PORT?"),
        ("V6_IB_PORT", "0", "V6_IB_PORT: a whole number from 1 to 65535 (got '0')"),
        ("V6_IB_PORT", "abc", "V6_IB_PORT: a whole number from 1 to 65535 (got 'abc')"),
        ("V6_RESERVED_LINES", "-1", "V6_RESERVED_LINES: a whole number, 0 or more (got '-1')"),
        ("V6_REFRESH_SECONDS", "5", "V6_REFRESH_SECONDS: a whole number from 60 to 86400"),
        ("V6_FLUSH_SECONDS", "x", "V6_FLUSH_SECONDS: a number from 0.05 to 3600 (got 'x')"),
        ("V6_TIMEZONE", "Mars", "V6_TIMEZONE: 'Mars' is no time zone"),
        ("V6_HANDLERS", "nonsense", "V6_HANDLERS: 'nonsense' is not module:factory"),
        ("V6_LAKE_OPTIONS", "{", "V6_LAKE_OPTIONS: not valid JSON"),
        ("V6_OWNERS", "me", "V6_OWNERS: 'me' is neither team:NAME nor an address"),
        ("V6_RESERVED_LINES", "100", "reserved_lines 100 leaves none of the 100 market_data_lines"),
        ("V6_BATCH_LINES", "91", "batch_lines 91 is more than the 90 lines that are left"),
        ("V6_LAKE_URI", "s3://", "V6_LAKE_URI: 's3://' without a bucket: name the place too"),
        ("V6_LAKE_URI", "s3:///lake", "V6_LAKE_URI: 's3://' without a bucket"),
        ("V6_LAKE_URI", "gs:/bucket/lake", "V6_LAKE_URI: 'gs:/' has one slash"),
        ("V6_STREAMER", "magic", "V6_STREAMER: must be 'spawn' or 'supervised'"),
    ],
)
def test_an_impossible_setting_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "zone",
    ["America/New_York", "UTC", "Europe/Berlin", "America/Los_Angeles", "America/Adak", "Asia/Kolkata"],
)
def test_trading_days_may_begin_wherever_that_is_outside_the_session(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V6_TIMEZONE", zone)

    assert load_settings().timezone == zone


@pytest.mark.parametrize(
    "zone",
    [
        "Asia/Singapore",
        "Asia/Hong_Kong",
        "Asia/Tokyo",
        "Australia/Sydney",
        pytest.param("Asia/Bangkok", id="in the minutes up to the cut-off, in winter"),
        pytest.param("Pacific/Honolulu", id="after the open, in summer"),
        pytest.param("Pacific/Kiritimati", id="before the open of the day before, in winter"),
    ],
)
def test_a_zone_whose_trading_days_would_begin_within_the_session_is_refused(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 04:00 in Singapore, 15:00 in New York, the day's snapshot was cut short."""
    monkeypatch.setenv("V6_TIMEZONE", zone)

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert str(caught.value) == (
        f"V6_TIMEZONE: '{zone}': its 04:00, when the trading day begins, falls into the session of New York: "
        "choose a zone of the Americas, Europe or UTC, such as America/New_York"
    )


def test_a_bad_value_is_named_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "v6.toml"
    file.write_text('ib_port = "x"\nhandlers = "nomod"\n')
    monkeypatch.setenv("V6_HANDLERS", "nomod")

    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path)

    assert str(caught.value) == (
        f"ib_port in {file}: a whole number from 1 to 65535 (got 'x'); V6_HANDLERS: 'nomod' is not module:factory"
    )


def test_an_unknown_key_in_the_file_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "v6.toml").write_text("ib_prt = 4002\n")

    with pytest.raises(SettingsError, match=rf"ib_prt in {tmp_path}/v6\.toml: no such setting; did you mean ib_port\?"):
        load_settings(tmp_path)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v6.toml").write_text("ib_port = = 4\n")

    with pytest.raises(SettingsError, match=rf"^{tmp_path}/v6\.toml is not valid TOML"):
        load_settings(tmp_path)


def test_no_message_and_no_representation_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V6_STATE_URL", "mysql://user:hunter2@host/db")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
    monkeypatch.delenv("V6_STATE_URL")
    for uri in ("s3:/key:hunter2@bucket", "s3:///key:hunter2"):
        monkeypatch.setenv("V6_LAKE_URI", uri)
        with pytest.raises(SettingsError) as caught:
            load_settings()
        assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("V6_LAKE_URI", "s3://key:hunter5@bucket/lake")

    monkeypatch.setenv("V6_STATE_URL", "postgresql+psycopg://user:hunter2@host:5/db")
    monkeypatch.setenv("V6_FLEX_TOKEN", "hunter3")
    monkeypatch.setenv("V6_FLEX_QUERY_ID", "1000001")
    monkeypatch.setenv("V6_LAKE_OPTIONS", '{"AWS_SECRET_ACCESS_KEY": "hunter4"}')
    settings = load_settings()
    assert "hunter" not in repr(settings)
    assert settings.safe_state_url == "postgresql+psycopg://host:5/db"
    assert settings.lake_storage_options == {"AWS_SECRET_ACCESS_KEY": "hunter4"}


@pytest.mark.parametrize(
    ("variable", "value", "missing"),
    [("V6_FLEX_TOKEN", "hunter3", "flex_query_id"), ("V6_FLEX_QUERY_ID", "1000001", "flex_token")],
)
def test_half_of_the_flex_settings_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, missing: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as caught:
        load_settings()

    assert str(caught.value) == f"{missing} is not set: the Flex Web Service needs both flex_token and flex_query_id"


@pytest.mark.parametrize(
    "url",
    [
        "http://ndcdyn.interactivebrokers.com/AccountManagement/FlexWebService",
        "https://user:hunter3@ndcdyn.interactivebrokers.com/x",
        "https://ndcdyn.interactivebrokers.com/x?y=z",
        "http://127.0.0.1@example.com/",
        "http://127.0.0.1.example.com/",
        "ftp://127.0.0.1/",
        "ndcdyn.interactivebrokers.com",
    ],
)
def test_the_flex_token_is_sent_nowhere_unsafe(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("V6_FLEX_URL", url)

    with pytest.raises(
        SettingsError, match="V6_FLEX_URL: must be a plain https:// address, or http:// on this machine"
    ):
        load_settings()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/x", "http://[::1]:80/x", "http://localhost:1", "https://a.b/x"])
def test_the_flex_address_is_https_or_on_this_machine(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("V6_FLEX_URL", url + "/")

    assert load_settings().flex_url == url


def test_a_query_id_may_stand_in_the_file_without_quotes(tmp_path: Path) -> None:
    (tmp_path / "v6.toml").write_text('flex_token = "hunter3"\nflex_query_id = 1000001\n')

    assert load_settings(tmp_path).flex_query_id == "1000001"


@pytest.mark.parametrize("owner", ["team:trading", "ops@example.com", "first.last+ib@desk.firm.co.uk", "a@b.museum"])
def test_dagster_takes_every_owner_that_is_accepted(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V6_OWNERS", owner)

    assert list(dg.AssetSpec("rows", owners=load_settings().owners).owners) == [owner]


@pytest.mark.parametrize("owner", ["team:", "ops", "ops@firm", "ops@firm.technology", ".ops@firm.com"])
def test_an_owner_that_dagster_would_refuse_is_refused(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the definitions would not load, and with them the sensor that owns the streamer."""
    monkeypatch.setenv("V6_OWNERS", owner)

    with pytest.raises(SettingsError, match="V6_OWNERS"):
        load_settings()


def test_a_variable_in_lower_case_is_blamed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("v6_ib_port", "abc")

    with pytest.raises(SettingsError, match=r"^V6_IB_PORT: a whole number from 1 to 65535 \(got 'abc'\)$"):
        load_settings()
