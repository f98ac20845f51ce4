"""Links to code lead to where it is."""

from __future__ import annotations

import inspect
import linecache

import dagster as dg
import pytest

from v6_pipeline.defs.code_references import MADE_BY, code_references
from v6_pipeline.lake.schemas import TABLES


@pytest.mark.parametrize("table", [table.name for table in TABLES])
def test_each_table_names_the_line_where_its_maker_begins(table: str) -> None:
    found = code_references(table).code_references

    for reference, maker in zip(found, MADE_BY[table], strict=True):
        assert isinstance(reference, dg.LocalFileCodeReference)
        assert reference.file_path == inspect.getsourcefile(maker)
        assert f" {maker.__name__}" in linecache.getline(reference.file_path, reference.line_number or 0)
        assert reference.label == f"{maker.__module__}.{maker.__qualname__}"
