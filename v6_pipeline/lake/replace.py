"""Replacing a group of rows as a whole: a trading day, or an account's trading day, of the tables of history.

Content is compared first, without the columns of provenance: a second run of equal content commits nothing. The table
holds either a group's old rows or its new ones, whatever fails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import reduce
from operator import or_

import polars as pl
from deltalake import DeltaTable

from v6_pipeline.errors import LakeConflictError, LakeError
from v6_pipeline.lake.columns import PARTITION_COLUMN, TableSpec
from v6_pipeline.lake.commits import commit_entries
from v6_pipeline.lake.faults import too_many_conflicts
from v6_pipeline.lake.lineage import CommitInfo, CommitKind, CommitLineage
from v6_pipeline.lake.reader import scan
from v6_pipeline.lake.table import DeltaTableStore

Group = tuple[date | str, ...]
"""Values of ``TableSpec.replaced_by``: (date,) or (date, account)."""

REPLACE_ATTEMPTS = 50
"""Any other commit conflicts, even one of another day; each failed attempt means that one has landed."""
_VERSIONS_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """Result of a replacement: the number of rows in its groups, the version that holds them, and whether it is new.

    ``version`` is None if there is no table yet, and no row for it.
    """

    version: int | None
    changed: bool
    rows: int


def replace(
    store: DeltaTableStore,
    frame: pl.DataFrame,
    groups: Sequence[Group],
    commit: CommitLineage,
    *,
    accounts: Collection[str] = (),
) -> Replacement:
    """Replace all rows of ``groups`` with ``frame``, in one commit at most, durable on return.

    A group without rows in ``frame`` is emptied. After a failure, call again with the same ``commit``: a commit that
    has landed is found. ``accounts`` are those of the rows, which the lake must admit, for a table without that column.

    Raises:
        LakeError: the groups or rows are refused, or the table is damaged, not writable or unreachable.
        LakeConflictError: other writers changed the table during each attempt.
    """
    _check_groups(store.spec, groups)
    rows = store.prepare(frame, commit, accounts=accounts)
    _check_inside(store.spec, rows, groups)
    named = dataclasses.replace(commit, replaced=tuple(_named(store.spec, group) for group in groups))
    if not rows.height and store.load() is None:
        return Replacement(version=None, changed=False, rows=0)
    for _ in range(REPLACE_ATTEMPTS):
        handle = store.current()
        landed = store.look_up(handle, commit.commit_id)
        if landed is not None:
            return Replacement(version=landed, changed=True, rows=rows.height)
        if _is_there(store, handle, rows, groups):
            return Replacement(version=_written_by(store, handle, named.replaced), changed=False, rows=rows.height)
        try:
            made = store.commit(handle, rows, named, replacing=_predicate(store.spec, groups))
        except LakeConflictError:
            continue
        return Replacement(version=made.version, changed=True, rows=rows.height)
    raise too_many_conflicts(store.spec.name, REPLACE_ATTEMPTS)


def _check_groups(spec: TableSpec, groups: Sequence[Group]) -> None:
    if not spec.replaced_by:
        raise LakeError(f"table {spec.name} is a log: append to it")
    if not groups:
        raise LakeError(f"table {spec.name}: no group to replace: name its {', '.join(spec.replaced_by)}")
    for group in groups:
        fits = len(group) == len(spec.replaced_by) and all(
            isinstance(value, date) and not isinstance(value, datetime)
            if name == PARTITION_COLUMN
            else isinstance(value, str)
            for name, value in zip(spec.replaced_by, group, strict=False)
        )
        if not fits:
            raise LakeError(f"table {spec.name}: {group!r} is not a group of ({', '.join(spec.replaced_by)})")


def _check_inside(spec: TableSpec, rows: pl.DataFrame, groups: Sequence[Group]) -> None:
    outside = rows.filter(~_of_groups(spec, groups))
    if outside.height:
        example = ", ".join(str(value) for value in outside.select(spec.replaced_by).row(0))
        raise LakeError(
            f"table {spec.name} refused the rows: {outside.height} lie outside the groups replaced, such as {example}"
        )


def _is_there(store: DeltaTableStore, handle: DeltaTable, rows: pl.DataFrame, groups: Sequence[Group]) -> bool:
    """Return whether the table holds exactly these rows of the groups, in any order."""
    spec = store.spec
    compared = [name for name in spec.column_names if name not in spec.provenance]
    days = {value for group in groups for value in group if isinstance(value, date)}
    with store.faults():
        # The days in a filter of their own: only they keep other files from being read.
        of_days = scan(store, handle, None).filter(pl.col(PARTITION_COLUMN).is_in(days))
        held = of_days.filter(_of_groups(spec, groups)).select(compared).collect()
    key = list(spec.key)
    return held.height == rows.height and held.sort(key).equals(rows.select(compared).sort(key), null_equal=True)


def _written_by(store: DeltaTableStore, handle: DeltaTable, groups: Sequence[Mapping[str, str]]) -> int:
    """Return the newest version that replaced one of the groups: since then all have their content.

    The handle's own version if the log does not reach back that far.
    """
    newest = handle.version()
    last = newest
    while last >= 0:
        first = max(last - _VERSIONS_AT_ONCE + 1, 0)
        with store.faults():
            entries = commit_entries(handle, store.uri, first=first, limit=last - first + 1)
        commits = [CommitInfo.parse(entry) for entry in entries if entry["version"] <= last]
        for commit in reversed(commits):
            if commit.kind is CommitKind.DATA and any(group in groups for group in commit.replaced):
                return commit.version
        if len(commits) < last - first + 1:  # older commits have expired
            break
        last = first - 1
    return newest


def _of_groups(spec: TableSpec, groups: Sequence[Group]) -> pl.Expr:
    return reduce(
        or_,
        [
            pl.all_horizontal(pl.col(name) == value for name, value in zip(spec.replaced_by, group, strict=True))
            for group in groups
        ],
    )


def _named(spec: TableSpec, group: Group) -> dict[str, str]:
    return {name: str(value) for name, value in zip(spec.replaced_by, group, strict=True)}


def _predicate(spec: TableSpec, groups: Sequence[Group]) -> str:
    alternatives = [
        " AND ".join(f"{name} = {_literal(value)}" for name, value in _named(spec, group).items()) for group in groups
    ]
    return " OR ".join(f"({alternative})" for alternative in alternatives)


def _literal(text: str) -> str:
    quoted = text.replace("'", "''")
    return f"'{quoted}'"
