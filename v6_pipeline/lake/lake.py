"""The lake as a whole: addresses of its tables, and the kind of accounts that it holds.

Simulated accounts (``SIM...``) and real ones never share a lake. The first write decides permanently: it creates the
table ``v6_lake``, which has no rows and one property. Creating a Delta table is atomic on every store that Delta
supports: one of two first writers wins, and the other gets an error.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType

from v6_pipeline.errors import LakeError
from v6_pipeline.lake.columns import TableSpec
from v6_pipeline.lake.definition import ONCE
from v6_pipeline.lake.faults import lake_faults, safe_uri
from v6_pipeline.lake.recovery.durability import Fsync, fsync_path, local_path, make_durable
from v6_pipeline.lake.table import CompactionLease, DeltaTableStore

if TYPE_CHECKING:
    from v6_pipeline.settings import Settings

MARKER_TABLE = "v6_lake"
ACCOUNTS_PROPERTY = "v6.accounts"
SIMULATED_PREFIX = "SIM"


DEADLINES = {"connect_timeout": "5s", "timeout": "20s", "retry_timeout": "30s"}
"""Of one request to an object store. By default delta-rs repeats one for three minutes, without a word. An option of
the same name in ``V6_LAKE_OPTIONS`` takes precedence. No ``max_retries``: polars, which reads with the same options,
accepts only a number there, and delta-rs only text."""


class AccountKind(enum.StrEnum):
    """Kind of the accounts in a lake."""

    SIMULATED = "simulated"
    REAL = "real"

    @classmethod
    def of(cls, account: str) -> AccountKind:
        """Return the kind of an account by its name."""
        return cls.SIMULATED if account.startswith(SIMULATED_PREFIX) else cls.REAL


class Lake:
    """The Delta tables under ``root``; the first use reads or creates them."""

    def __init__(
        self,
        root: str,
        storage_options: Mapping[str, str] | None = None,
        *,
        fsync: Fsync = fsync_path,
        compaction_lease: CompactionLease | None = None,
    ) -> None:
        self.root = root.rstrip("/")
        self._options = _with_deadlines(self.root, storage_options or {})
        self._fsync = fsync
        self._compaction_lease = compaction_lease
        self._kind: AccountKind | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Lake:
        """Return the lake of the settings."""

        def lease(table: str) -> AbstractContextManager[None]:
            from v6_pipeline.lake.compaction_lease import compaction_lease  # with SQLAlchemy, for object stores only

            return compaction_lease(settings, table)

        return cls(settings.lake_root, settings.lake_storage_options, compaction_lease=lease)

    def __repr__(self) -> str:
        return f"Lake({safe_uri(self.root)!r})"

    def uri(self, spec: TableSpec) -> str:
        """Return the address of a table."""
        return f"{self.root}/{spec.name}"

    def table(self, spec: TableSpec) -> DeltaTableStore:
        """Return a table of this lake; its appends go through ``admit``."""
        return DeltaTableStore(
            spec,
            self.uri(spec),
            storage_options=self._options,
            admit=self.admit,
            fsync=self._fsync,
            compaction_lease=self._compaction_lease,
        )

    def kind(self) -> AccountKind | None:
        """Return the kind of accounts in the lake; None before the first write.

        Raises:
            LakeError: the marker is damaged or unreachable.
        """
        if self._kind is None:
            self._kind = self._stored_kind()
        return self._kind

    def admit(self, accounts: Sequence[str]) -> None:
        """Check that rows of these accounts may enter; the first ones ever decide the lake's kind.

        Raises:
            LakeError: simulated accounts in a lake of real ones, or the reverse, or both at once.
        """
        kinds = {AccountKind.of(account): account for account in accounts}
        if not kinds:
            return
        if len(kinds) > 1:
            mixed = " and ".join(sorted(kinds.values()))
            raise LakeError(f"rows of {mixed} in one commit: simulated and real accounts never share a lake")
        wanted, account = kinds.popitem()
        held = self.kind() or self._claim(wanted)
        if held is not wanted:
            raise LakeError(
                f"lake {safe_uri(self.root)} holds {held.value} accounts, {account} is {wanted.value}: "
                "use another V6_LAKE_URI or V6_HOME"
            )

    def try_writing(self) -> None:
        """Write a small object next to the tables of an object store, and delete it.

        The whole process blocks until the store has answered.

        Raises:
            LakeError: the store refuses it, or refuses to delete it; the error names the object.
        """
        # The public class derives from one of pyarrow, which is not installed; this is the one behind it.
        from deltalake._internal import DeltaFileSystemHandler

        name = f"_v6_probe_{uuid4().hex}"
        with lake_faults(table=name, uri=f"{self.root}/{name}", options=self._options):
            store = DeltaFileSystemHandler(self.root, self._options)
            stream: Any = store.open_output_stream(name)  # delta-rs's stub has no close
            stream.write(b"v6")
            stream.close()
            store.delete_file(name)

    @property
    def _marker(self) -> str:
        return f"{self.root}/{MARKER_TABLE}"

    def _stored_kind(self) -> AccountKind | None:
        with lake_faults(table=MARKER_TABLE, uri=self._marker, options=self._options):
            try:
                handle = DeltaTable(self._marker, storage_options=self._options or None)
            except TableNotFoundError as error:
                if "scheme" in str(error).lower():
                    raise
                return None
        text = handle.metadata().configuration.get(ACCOUNTS_PROPERTY, "")
        if text not in set(AccountKind):
            raise LakeError(f"table {MARKER_TABLE} in {safe_uri(self.root)} names no kind of accounts: restore it")
        return AccountKind(text)

    def _claim(self, kind: AccountKind) -> AccountKind:
        with lake_faults(table=MARKER_TABLE, uri=self._marker, options=self._options):
            try:
                DeltaTable.create(
                    self._marker,
                    Schema([Field("kind", PrimitiveType("string"))]),
                    mode="error",
                    description="Names the kind of accounts in this lake; has no rows. Never delete it.",
                    configuration={ACCOUNTS_PROPERTY: kind.value},
                    storage_options=self._options or None,
                    raise_if_key_not_exists=False,
                    commit_properties=ONCE,
                )
            except DeltaError:
                stored = self._stored_kind()  # another process was first
                if stored is None:
                    raise
                self._kind = stored
                return stored
            folder = local_path(self._marker)
            if folder is not None:
                make_durable(folder, 0, self._fsync)
        self._kind = kind
        return kind


def _with_deadlines(root: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return the storage options, with deadlines for an object store."""
    if local_path(root) is not None:
        return dict(options)
    given = {name.lower() for name in options}
    return {name: value for name, value in DEADLINES.items() if name not in given} | dict(options)
