"""The verdict of each check of history, with its numbers and a sample of offenders."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest

from v6_pipeline.checks.history import no_day_missing, quantities_explained, snapshot_complete, values_agree
from v6_pipeline.checks.verdict import Verdict
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.tables import FLEX_ACTIVITY, FLEX_POSITIONS, FLEX_STATEMENTS, POSITION_SNAPSHOTS
from v6_pipeline_tests.unit.history.day_builders import BEFORE, CALENDAR, DAY, table

START = date(2026, 1, 2)
ALL_SECTIONS = ["CorporateActions", "OpenPositions", "OptionEAE", "Trades", "Transfers"]


# --- days ---


def missing(*days: date, last: date = DAY, flat: Collection[date] = ()) -> Verdict:
    return no_day_missing(days, CALENDAR, start=START, last=last, is_flat=lambda day: day in flat)


def test_days_without_a_gap_pass_weekends_and_holidays_are_none() -> None:
    days = CALENDAR.sessions_between(date(2026, 1, 14), date(2026, 1, 22))
    assert date(2026, 1, 19) not in days
    verdict = missing(*days)
    assert verdict.passed
    assert verdict.numbers == {"days": 6, "missing": 0, "first": "2026-01-14", "last": "2026-01-22"}


def test_a_gap_is_named() -> None:
    verdict = missing(*(date(2026, 2, day) for day in (2, 4, 6)))
    assert not verdict.passed
    assert verdict.reason == "2 of 5 trading days have no snapshot: 2026-02-03, 2026-02-05; backfill them"


def test_a_day_on_which_nothing_was_held_is_no_gap() -> None:
    given = [date(2026, 2, day) for day in (2, 4, 6)]
    flat = [date(2026, 2, 3), date(2026, 2, 5)]

    one_left = missing(*given, flat=flat[:1])

    assert one_left.reason == "1 of 5 trading days have no snapshot: 2026-02-05; backfill them"
    assert missing(*given, flat=flat).passed


def test_many_gaps_are_named_by_a_sample() -> None:
    assert missing(date(2026, 2, 2), date(2026, 2, 20)).reason.endswith("2026-02-09 and 7 more; backfill them")


def test_days_outside_start_and_last_do_not_count() -> None:
    assert missing(date(2025, 12, 1), DAY, date(2026, 3, 20)).numbers["days"] == 1


def test_no_snapshot_at_all_is_a_warning() -> None:
    verdict = missing()
    assert (verdict.passed, verdict.serious) == (False, False)


# --- completeness ---


def rows(spec: TableSpec, *given: tuple[str, int, float], **values: Any) -> pl.DataFrame:
    return table(
        spec,
        *(
            {"account": account, "conid": conid, "position": position, "source": "flex"} | values
            for account, conid, position in given
        ),
    ).select(spec.column_names)


def snapshots(*given: tuple[str, int, float], **values: Any) -> pl.DataFrame:
    filled = [{"account": account, "conid": conid, "position": position} | values for account, conid, position in given]
    return table(POSITION_SNAPSHOTS, *filled)


def flex(*given: tuple[str, int, float], **values: Any) -> pl.DataFrame:
    return rows(FLEX_POSITIONS, *given, **values)


def test_a_snapshot_of_every_open_position_passes_closed_ones_aside() -> None:
    verdict = snapshot_complete(
        snapshots(("DU1", 1, 5.0), ("DU1", 2, 0.0), carried_forward=True), flex(("DU1", 1, 5.0), ("DU1", 3, 0.0))
    )
    assert verdict.passed
    assert verdict.numbers["carried_forward"] == 2
    assert verdict.numbers["without_price"] == 1


def test_what_is_missing_invented_or_unequal_is_named() -> None:
    verdict = snapshot_complete(
        snapshots(("DU1", 1, 5.0), ("DU1", 2, 6.0), ("DU2", 4, 1.0)),
        flex(("DU1", 1, 5.0), ("DU1", 2, 7.0), ("DU1", 3, 1.0)),
    )
    assert not verdict.passed
    assert verdict.serious
    assert {name: verdict.numbers[name] for name in ("missing", "not_in_source", "unequal")} == {
        "missing": 1,
        "not_in_source": 1,
        "unequal": 1,
    }
    assert "DU1/3, DU2/4, DU1/2" in verdict.reason


# --- values ---


def agree(own: pl.DataFrame, theirs: pl.DataFrame) -> Verdict:
    return values_agree(own, theirs)


def test_values_that_agree_within_the_threshold_pass() -> None:
    own = snapshots(("DU1", 1, 1.0), market_value=100.9, fx_rate_to_base=1.0)
    verdict = agree(own, flex(("DU1", 1, 1.0), market_value=100.0, fx_rate_to_base=1.0))
    assert verdict.passed
    assert 0.89 < float(verdict.numbers["largest_difference_percent"]) < 0.91


def test_values_that_differ_are_a_warning_by_account() -> None:
    own = pl.concat(
        [
            snapshots(("DU1", 1, 1.0), market_value=100.0, fx_rate_to_base=2.0),
            snapshots(("DU2", 1, 1.0), market_value=102.0, fx_rate_to_base=2.0),
        ]
    )
    verdict = agree(own, flex(("DU1", 1, 1.0), ("DU2", 1, 1.0), market_value=100.0, fx_rate_to_base=2.0))
    assert (verdict.passed, verdict.serious) == (False, False)
    assert "DU2 204.00 against 200.00" in verdict.reason
    assert "DU1" not in verdict.reason


def test_long_and_short_are_measured_by_the_gross_value() -> None:
    own = pl.concat([snapshots(("DU1", 1, 1.0), market_value=1000.0), snapshots(("DU1", 2, -1.0), market_value=-999.0)])
    theirs = pl.concat(
        [
            flex(("DU1", 1, 1.0), market_value=1000.0, fx_rate_to_base=1.0),
            flex(("DU1", 2, -1.0), market_value=-1000.0, fx_rate_to_base=1.0),
        ]
    )
    assert agree(own, theirs).passed


def priced(*values: tuple[int, str, float], **shared: object) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Own rows with these values (conid, security type, value), and Flex rows of 10,000 each."""
    given = {"multiplier": 1.0, "fx_rate_to_base": 1.0, **shared}
    own = [snapshots(("DU1", conid, 1.0), sec_type=kind, market_value=value, **given) for conid, kind, value in values]
    theirs = [flex(("DU1", conid, 1.0), market_value=10_000.0, fx_rate_to_base=1.0) for conid, _, _ in values]
    return pl.concat(own), pl.concat(theirs)


def test_two_stocks_that_are_wrong_in_opposite_directions_are_named() -> None:
    own, theirs = priced((1, "STK", 12_000), (2, "STK", 8_000), (3, "STK", 10_000))
    verdict = agree(own, theirs)
    assert not verdict.passed
    assert verdict.numbers["positions_that_differ"] == 2
    assert "DU1/1 AAPL 12,000.00 against 10,000.00, DU1/2 AAPL 8,000.00 against 10,000.00" in verdict.reason


@pytest.mark.parametrize(
    ("kind", "value", "passes"),
    [
        ("STK", 10_400, True),
        ("STK", 10_600, False),
        ("FUT", 9_400, False),
        ("BOND", 9_400, False),
        ("OPT", 10_600, True),
        ("OPT", 12_000, False),
    ],
)
def test_one_position_in_a_large_account_counts(kind: str, value: float, passes: bool) -> None:
    """An option of delta 0.5 on an underlying of 500 moves by 250 when that moves by 1 %: 750 are allowed."""
    others = [(conid, "STK", 10_000.0) for conid in range(2, 60)]
    own, theirs = priced((1, kind, value), *others, delta=0.5, underlying_price=500.0, multiplier=100.0)
    verdict = agree(own, theirs)
    assert verdict.passed is passes
    assert passes or "DU1/1" in verdict.reason


def test_an_option_worth_a_tick_more_agrees_and_one_that_is_worth_twice_as_much_does_not() -> None:
    terms = {"multiplier": 100.0, "strike": 500.0}
    own, _ = priced((1, "OPT", 9.0), (2, "OPT", 10_000), **terms)
    theirs = pl.concat(
        [
            flex(("DU1", 1, 1.0), market_value=5.0, fx_rate_to_base=1.0),
            flex(("DU1", 2, 1.0), market_value=10_000.0, fx_rate_to_base=1.0),
        ]
    )
    assert agree(own, theirs).passed
    worse, _ = priced((1, "OPT", 20.0), (2, "OPT", 10_000), **terms)
    assert not agree(worse, theirs).passed


def test_only_what_both_value_is_compared() -> None:
    own = snapshots(("DU1", 1, 1.0), market_value=None)
    verdict = agree(own, flex(("DU1", 1, 1.0), ("DU1", 2, 1.0), market_value=1.0, fx_rate_to_base=1.0))
    assert (verdict.passed, verdict.reason) == (True, "no position is valued by both")


# --- quantities ---


def booked(conid: int, quantity: float, on: date = DAY, ordinal: int = 0) -> pl.DataFrame:
    given = {"conid": conid, "quantity": quantity, "activity_date": on, "ordinal": ordinal}
    return table(FLEX_ACTIVITY, given)


def explained(
    now: pl.DataFrame, before: pl.DataFrame, *activity: pl.DataFrame, sections: list[str] | None = None
) -> Verdict:
    given = ALL_SECTIONS if sections is None else sections
    statements = table(FLEX_STATEMENTS, {"date": DAY, "sections": given}, {"date": BEFORE, "sections": given})
    booked_rows = pl.concat([table(FLEX_ACTIVITY), *activity])
    return quantities_explained(now, before, booked_rows, statements, day=DAY, previous_day=BEFORE)


def test_trades_explain_what_was_opened_changed_and_closed() -> None:
    verdict = explained(
        flex(("DU1", 1, 5.0), ("DU1", 2, 7.0)),
        flex(("DU1", 2, 3.0), ("DU1", 3, -1.0)),
        *(booked(1, 5.0), booked(2, 1.0, ordinal=1), booked(2, 3.0, ordinal=2), booked(3, 1.0, ordinal=3)),
    )
    assert (verdict.passed, verdict.numbers["unexplained"]) == (True, 0)


def test_a_change_that_was_not_booked_is_a_warning_with_its_numbers() -> None:
    verdict = explained(flex(("DU1", 1, 5.0)), flex(("DU1", 1, 3.0)), booked(1, 1.0))
    assert (verdict.passed, verdict.serious) == (False, False)
    assert "DU1/1 3 to 5 with +1 booked" in verdict.reason


def test_what_was_booked_and_changed_nothing_is_seen() -> None:
    assert not explained(flex(), flex(), booked(9, 1.0)).passed


def test_only_what_was_booked_since_the_day_before_counts() -> None:
    """A statement of a month has the activity of all its days."""
    month = (booked(1, 9.0, BEFORE), booked(1, 9.0, BEFORE - timedelta(days=9), ordinal=1), booked(1, 2.0, ordinal=2))
    assert explained(flex(("DU1", 1, 5.0)), flex(("DU1", 1, 3.0)), *month).passed


def test_expiry_explains_where_the_statement_has_no_section_that_would() -> None:
    expired = flex(("DU1", 1, -3.0), sec_type="OPT", expiry=DAY)
    without = [section for section in ALL_SECTIONS if section != "OptionEAE"]
    verdict = explained(flex(), expired, sections=without)
    assert (verdict.passed, verdict.numbers["cannot_tell"]) == (True, 0)
    assert not explained(flex(), expired).passed


def test_quantities_are_not_judged_without_the_sections() -> None:
    verdict = explained(flex(("DU1", 1, 5.0)), flex(("DU1", 1, 3.0)), sections=["OpenPositions"])
    assert verdict.passed
    assert verdict.reason.startswith("1 quantities are not judged: the statement has no CorporateActions, OptionEAE")


def test_an_account_without_a_statement_of_both_days_is_not_judged() -> None:
    verdict = quantities_explained(
        flex(("DU1", 1, 5.0)), flex(), table(FLEX_ACTIVITY), table(FLEX_STATEMENTS, {"date": DAY}), day=DAY,
        previous_day=BEFORE,
    )  # fmt: skip
    assert (verdict.passed, verdict.numbers) == (True, {"accounts": 0})
