"""``v6 strategies``: the registry from the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from v6_pipeline.model import ContractSpec, Holding, SecType
from v6_pipeline.settings import Settings
from v6_pipeline.state.account import holdings
from v6_pipeline.state.database import StateDatabase
from v6_pipeline_tests.unit.cli.conftest import Run

NOW = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


@pytest.fixture
def held(settings: Settings) -> None:
    """SPX option 1 in both accounts, AAPL 2 in DU1."""
    database = StateDatabase.open(settings.state_database_url, name_for_messages="state")
    spx = ContractSpec(conid=1, symbol="SPX", sec_type=SecType.OPTION, currency="USD", local_symbol="SPXW P5800")
    aapl = ContractSpec(conid=2, symbol="AAPL", sec_type=SecType.STOCK, currency="USD")
    with database.write() as connection:
        holdings.upsert_holdings(
            connection,
            [
                Holding(account=account, contract=contract, position=1.0, average_cost=None, observed_at=NOW)
                for account, contract in (("DU1", spx), ("DU2", spx), ("DU1", aapl))
            ],
        )
    database.close()


def entries(v6: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = v6("strategies", "list", "--json").document["entries"]
    return [{name: value for name, value in entry.items() if name != "valid_from"} for entry in found]


def entry(strategy: str, **changes: Any) -> dict[str, Any]:
    base = {"conid": None, "selector": None, "account": None, "quantity": None, "priority": 100, "holdings": 0}
    return {"strategy": strategy, **base, **changes}


@pytest.mark.usefixtures("held")
def test_contracts_and_selectors_are_added_and_listed(v6: Run) -> None:
    added = v6("strategies", "add", "condors", 1, "--match", "symbol=AAPL", "--priority", 5, "--json")
    assert added.document == {"strategy": "condors", "conids": [1], "selectors": ["symbol=AAPL"], "warnings": []}
    assert entries(v6) == [
        entry("condors", conid=1, priority=5, holdings=2),
        entry("condors", selector="symbol=AAPL", priority=5, holdings=1),
    ]
    shown = v6("strategies", "list").out
    assert "SPXW P5800" in shown
    assert "symbol=AAPL" in shown


@pytest.mark.usefixtures("held")
def test_account_quantity_and_a_short_one(v6: Run) -> None:
    assert v6("strategies", "add", "hedge", 1, "--account", "DU2", "--quantity=-3").code == 0
    assert entries(v6) == [entry("hedge", conid=1, account="DU2", quantity=-3.0, holdings=1)]


@pytest.mark.usefixtures("held")
def test_the_account_goes_into_the_selector(v6: Run) -> None:
    v6("strategies", "add", "s", "--match", "symbol=SPX", "--account", "DU2")
    assert entries(v6) == [entry("s", selector="account=DU2,symbol=SPX", holdings=1)]
    result = v6("strategies", "add", "s", "--match", "account=DU1", "--account", "DU2")
    assert result.code == 2
    assert "differ" in result.error


@pytest.mark.usefixtures("held")
def test_a_conid_or_selector_without_a_holding_is_a_warning(v6: Run) -> None:
    result = v6("strategies", "add", "s", 1, 77, "--match", "symbol=NONE", "--unchecked")
    assert result.code == 0
    assert "warning: no account holds 77: streamed once held" in result.err
    assert "warning: symbol=NONE matches no holding" in result.err
    assert "warning: no account holds 1" not in result.err


@pytest.mark.usefixtures("held")
def test_an_account_that_holds_nothing_is_a_warning(v6: Run, tmp_path: Path) -> None:
    said = "warning: account NOSUCH has no known holding: the known accounts are DU1, DU2\n"
    assert v6("strategies", "add", "s", 1, "--account", "NOSUCH").err == said
    assert v6("strategies", "add", "s", 2, "--account", "du2").err == "", "not held there, which may well be"
    file = tmp_path / "strategies.csv"
    file.write_text("strategy,conid,account\na,1,NOSUCH\na,2,NOSUCH\na,1,DU1\n")
    assert v6("strategies", "import", file).err == said


def test_before_the_first_download_the_warning_says_so(v6: Run, settings: Settings) -> None:
    assert "no holdings are known yet" in v6("strategies", "add", "s", 1, "--unchecked").err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "s", "0"), "0 is not a conid"),
        (("add", "bad*name", "1"), "is not a strategy name"),
        (("add", "s", "1", "--priority", "-1"), "priority -1"),
        (("add", "s", "1", "--quantity", "0"), "quantity 0.0 is not valid"),
        (("add", "s", "--match", "symbol=SPX", "--quantity", "2"), "--quantity goes with conids"),
        (("add", "s", "1", "--match", "colour=red"), "colour=red"),
        (("remove", "none"), "no strategy none"),
        (("remove", "s", "1", "--match", "symbol=SPX"), "one after the other"),
    ],
)
def test_what_cannot_be_is_refused_whole(v6: Run, settings: Settings, arguments: tuple[str, ...], said: str) -> None:
    result = v6("strategies", *arguments)
    assert result.code == 2
    assert said in result.error
    assert entries(v6) == []


def test_without_a_gateway_a_conid_never_seen_is_not_taken_on_trust(v6: Run, settings: Settings) -> None:
    result = v6("strategies", "add", "s", 1)
    assert result.code == 1
    assert "cannot check the conids (no gateway at 127.0.0.1:" in result.error
    assert "--unchecked adds them without the check" in result.error
    assert entries(v6) == []


def test_contracts_selectors_and_all_are_removed(v6: Run, settings: Settings) -> None:
    v6("strategies", "add", "s", 1, 2, 3, "--match", "symbol=SPX", "--unchecked")
    assert v6("strategies", "remove", "s", 1, "--json").document == {"strategy": "s", "removed": 1}
    assert v6("strategies", "remove", "s", "--match", "symbol=SPX").code == 0
    assert [item["conid"] for item in entries(v6)] == [2, 3]
    assert v6("strategies", "remove", "s", 9).code == 2
    assert v6("strategies", "remove", "s", "--json").document["removed"] == 2
    assert "no strategies yet" in v6("strategies", "list").err


def test_a_file_is_imported(v6: Run, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "strategies.csv"
    # As spreadsheets write it: a byte-order mark, CRLF, an empty line.
    file.write_bytes(
        b"\xef\xbb\xbfstrategy,conid,account,quantity,priority\r\na,1,,,\r\na,2,DU1,-2.5,7\r\n,,,,\r\nb,1,,,\r\n"
    )
    result = v6("strategies", "import", file, "--unchecked", "--json")
    assert result.document["rows"] == 3
    assert result.document["strategies"] == ["a", "b"]
    assert entries(v6) == [
        entry("a", conid=1),
        entry("a", conid=2, account="DU1", quantity=-2.5, priority=7),
        entry("b", conid=1),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,x,,,", "line 3, conid: 'x'"),
        ("a,-1,,,", "line 3, conid: '-1'"),
        (",1,,,", "line 3, strategy: ''"),
        ("a,1,,much,", "line 3, quantity: 'much'"),
        ("a,1,,nan,", "line 3, quantity: 'nan'"),
        ("a,1,,0,", "line 3, quantity: '0'"),
        ("a,1,,,high", "line 3, priority: 'high'"),
        ("a,1,,,1000001", "line 3, priority: '1000001'"),
        ("a,1,,,,6", "line 3: more fields than the header: put a selector in quotes"),
        ('a,"1', "is not a CSV file"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    v6: Run, settings: Settings, tmp_path: Path, row: str, said: str
) -> None:
    file = tmp_path / "strategies.csv"
    file.write_text(f"strategy,conid,account,quantity,priority\na,1,,,\n{row}\n")
    result = v6("strategies", "import", file)
    assert result.code == 2
    assert said in result.error
    assert str(file) in result.error
    assert entries(v6) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the header is empty"),
        (b"strategy,conid\n", "no rows"),
        (b"strategy\na\n", "must have strategy and conid or selector"),
        (b"strategy,conid,colour\na,1,red\n", "line 1: the header is strategy,conid,colour"),
        (b"strategy,conid,conid\na,1,2\n", "each once"),
        (b"strategy;conid\na;1\n", "separate with commas"),
        (b"strategy,selector,selector\na,1,2\n", "each once"),
        (b"strategy,conid\n\xff\xfe,1\n", "UTF-8"),
    ],
)
def test_a_bad_file_is_named(v6: Run, settings: Settings, tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "strategies.csv"
    file.write_bytes(content)
    result = v6("strategies", "import", file)
    assert result.code == 2
    assert said in result.error


def test_selectors_are_imported_from_csv(v6: Run, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "strategies.csv"
    file.write_text(
        'strategy,selector,conid,account,priority\na,"symbol=spx,sec_type=OPT",,,5\na,right=P,,du1,5\na,,7,,5\n'
    )
    v6("strategies", "import", file, "--unchecked")
    assert entries(v6) == [
        entry("a", conid=7, priority=5),
        entry("a", selector="account=DU1,right=P", priority=5),
        entry("a", selector="symbol=SPX,sec_type=OPT", priority=5),
    ]


YAML = """
# what streams
- strategy: condors
  priority: 10
  conids: [1, 2]
  selectors:
    - symbol=SPX, sec_type=OPT
    - right=P
- {strategy: hedge, conids: 3, account: du12, quantity: -2.5}
- {strategy: hedge, account: du12, selectors: ["symbol=SPX,sec_type=FOP"]}
"""


def test_yaml_is_imported_as_a_whole(v6: Run, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "strategies.yaml"
    file.write_text(YAML)

    result = v6("strategies", "import", file, "--unchecked", "--json")

    assert result.document["strategies"] == ["condors", "hedge"]
    assert entries(v6) == [
        entry("condors", conid=1, priority=10),
        entry("condors", conid=2, priority=10),
        entry("condors", selector="right=P", priority=10),
        entry("condors", selector="symbol=SPX,sec_type=OPT", priority=10),
        entry("hedge", conid=3, account="DU12", quantity=-2.5),
        entry("hedge", selector="account=DU12,symbol=SPX,sec_type=FOP"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: it must be a list of entries"),
        ("# nothing yet", "is empty: it must be a list of entries"),
        ("strategy: a", "it must be a list of entries"),
        ("[]", "it must be a list of entries"),
        ("- strategy: a\n  conids: [1", "line 2: not YAML"),
        ("- strategy: a\n\tconids: 1", "line 2: not YAML"),
        ("- a", "line 1: an entry has strategy, conids"),
        (
            "- strategy: a\n  conid: 1",
            "line 2: an entry has strategy, conids, selectors, account, quantity, priority; ",
        ),
        (
            "- strategy: a\n  strategy: b",
            "line 2: an entry has strategy, conids, selectors, account, quantity, priority; ",
        ),
        ("- strategy: a", "line 1: no conids and no selectors"),
        ("- strategy: a\n  conids:\n  selectors: []", "line 1: no conids and no selectors"),
        ("- strategy: a\n  conids: [x]", "line 1, conid: 'x'"),
        ("- strategy: a\n  conids: [[1]]", "line 2, conids: a text or a number was expected"),
        ("- strategy: a\n  conids: {b: 1}", "line 2, conids: a text or a number was expected"),
        ("- conids: 1", "line 1, strategy: ''"),
        ("- strategy: a\n  selectors: colour=red", "line 1, selector 'colour=red'"),
        ("- strategy: a\n  selectors: account=A\n  account: B", "differ: give one"),
        ("- strategy: a\n  selectors: right=P\n  account: A,B", "line 1, 'A,B' is not an account"),
        ("- strategy: a\n  selectors: right=P\n  quantity: 1", "line 1, quantity: it goes with conids"),
        (
            "- strategy: a\n  selectors: [symbol=SPX,sec_type=OPT]",
            "line 2, selectors: within [...] put each",
        ),
        ("- strategy: a\n  conids: [1, null]", "line 2, conids: one of them is empty"),
        ("- strategy: a\n  conids: [1, '']", "line 2, conids: one of them is empty"),
        (f"- strategy: a\n  conids: {'9' * 5000}", "is not a conid"),
        (f"- strategy: a\n  conids: 1\n  priority: {'9' * 5000}", "is not between 0"),
        ("[" * 2000, "not YAML"),
        ("- ? [a]\n  : b", "a seq is not among them"),
        ("- [a]", "this one is a seq"),
        ("- strategy: a\n  conids: 1\n  priority: yes", "line 1, priority: 'yes'"),
        ("- strategy: a\n  conids: 1\n- strategy: b\n  conids: 0", "line 3, conid: '0'"),
        ("- !!python/object:os.system {}", "line 1: no conids and no selectors"),
        ("\x00", "not YAML"),
    ],
)
def test_bad_yaml_is_named_and_nothing_is_written(
    v6: Run, settings: Settings, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "strategies.yml"
    file.write_text(text)
    result = v6("strategies", "import", file)
    assert (result.code, said in result.error, str(file) in result.error) == (2, True, True), result.error
    assert entries(v6) == []


def test_a_missing_file_is_named(v6: Run, home: Path, tmp_path: Path) -> None:
    result = v6("strategies", "import", tmp_path / "none.csv")
    assert (result.code, result.error) == (2, f"cannot read {tmp_path / 'none.csv'}: No such file or directory")
    assert not home.exists()
