"""Specs of the tables are sound, and PositionUpdate agrees with them."""

from __future__ import annotations

import typing
from dataclasses import fields, replace
from datetime import date, datetime

import polars as pl
import pytest

from v6_pipeline.lake.columns import TIMESTAMP, Column, Origin, TableSpec
from v6_pipeline.lake.tables import POSITION_SNAPSHOTS, QUEUED_POSITIONS, STREAMED_POSITIONS, TABLES
from v6_pipeline.lake.tables.positions import POSITION_COLUMNS, Part, columns_of
from v6_pipeline.lake.tables.sources import (
    BROKER_FIELDS,
    FLEX_ATTRIBUTES,
    IB_ACCOUNT,
    IB_FLEX,
    REGISTRY_FIELDS,
    STRATEGY_REGISTRY,
)
from v6_pipeline.model import PositionUpdate, PriceSource

OF_TYPE: dict[object, pl.DataType] = {
    str: pl.String(),
    PriceSource: pl.String(),
    float: pl.Float64(),
    date: pl.Date(),
    datetime: TIMESTAMP,
    tuple[str, ...]: pl.List(pl.String()),
}


def test_a_position_update_has_a_field_for_each_column_but_the_date() -> None:
    columns = {shared.column.name: shared.column for shared in POSITION_COLUMNS if shared.column.name != "date"}
    assert {field.name for field in fields(PositionUpdate)} == set(columns)

    for name, hint in typing.get_type_hints(PositionUpdate).items():
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
        given = choices[0] if type(None) in typing.get_args(hint) else hint
        dtype = columns[name].dtype
        assert dtype.is_integer() if given is int else OF_TYPE[given] == dtype, name
        assert not columns[name].required or given == hint, f"{name} is required but may be None"


@pytest.mark.parametrize("spec", TABLES, ids=lambda spec: spec.name)
def test_a_spec_is_sound(spec: TableSpec) -> None:
    assert len(set(spec.column_names)) == len(spec.columns)
    assert set(spec.key) | set(spec.replaced_by) | {"date"} <= set(spec.column_names)
    newer = [one for one in spec.columns if one.since > 1]
    assert not any(one.required for one in newer), "an older table cannot be given a required column"


@pytest.mark.parametrize("spec", TABLES, ids=lambda spec: spec.name)
def test_every_origin_is_a_column_that_exists(spec: TableSpec) -> None:
    known = {table.name: set(table.column_names) for table in TABLES} | {
        IB_ACCOUNT: set(BROKER_FIELDS),
        IB_FLEX: set(FLEX_ATTRIBUTES),
        STRATEGY_REGISTRY: set(REGISTRY_FIELDS),
    }
    for one in spec.columns:
        assert len(set(one.origins)) == len(one.origins), f"{one.name} names an origin twice"
        for origin in one.origins:
            assert origin.column in known[origin.table], f"{one.name}: {origin}"


def test_a_new_column_raises_the_version_and_what_is_upstream() -> None:
    new = Column(pl.Float64(), "rho", "price change", (Origin("rates", "r"),), unit="percent", since=70)
    newer = replace(POSITION_SNAPSHOTS, columns=(*POSITION_SNAPSHOTS.columns, new))

    assert POSITION_SNAPSHOTS.version < newer.version == 70
    assert set(newer.upstream) - set(POSITION_SNAPSHOTS.upstream) == {"rates"}
    assert new.description == "price change (percent)"


def test_both_logs_have_the_same_columns_of_a_position() -> None:
    shared = [one.column.name for one in POSITION_COLUMNS]
    for spec in (STREAMED_POSITIONS, QUEUED_POSITIONS, POSITION_SNAPSHOTS):
        assert list(spec.column_names[: len(shared)]) == shared
    assert columns_of(Part.QUOTE)[:4] == ("bid", "ask", "last", "close")
