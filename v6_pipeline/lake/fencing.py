"""Appending as the single owner of a table: a replaced owner writes nothing, however late it resumes.

Every commit carries an application transaction of one constant id with the version ``epoch << 32 | sequence``. delta-rs
does not compare versions itself: it writes a repeated or lower one. It refuses a commit on a handle if another commit
of the same application id has landed since the handle's version. So check and commit use one kept handle without a
refresh in between, and a new owner first makes an empty commit: an owner that stalled anywhere before that commit
either sees the new epoch in its check, or loses its commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import polars as pl
from deltalake import DeltaTable, Transaction

from v6_pipeline.errors import FencedError, LakeConflictError, LakeError
from v6_pipeline.lake.faults import too_many_conflicts
from v6_pipeline.lake.lineage import CommitLineage
from v6_pipeline.lake.maintenance import compact
from v6_pipeline.lake.table import CONFLICT_ATTEMPTS, Commit, DeltaTableStore

EPOCH_SHIFT = 32
"""Bits of the sequence: at one commit per second an epoch lasts 136 years."""
_LARGEST_EPOCH = 2**31 - 1

_log = logging.getLogger(__name__)


class FencedAppender:
    """Appends to ``store`` as the owner of ``epoch``.

    Args:
        application_id: a constant per table; one per owner would let an old owner write.
        epoch: from the state database, higher for each new owner.
        lineage: metadata of the fencing commit.
        compact_every: commits between compactions, 0 for none.
        check_lease: raises ``FencedError`` once the owner's time has ended, by a clock of its own; called before each
            commit, since the table refuses an old owner only after the new one's first commit.
    """

    def __init__(
        self,
        store: DeltaTableStore,
        *,
        application_id: str,
        epoch: int,
        lineage: CommitLineage,
        compact_every: int = 50,
        check_lease: Callable[[], None] | None = None,
    ) -> None:
        if not 0 < epoch <= _LARGEST_EPOCH:
            raise LakeError(f"epoch {epoch} is not within 1 and {_LARGEST_EPOCH}")
        self._store = store
        self._application_id = application_id
        self._epoch = epoch
        self._fence = lineage
        self._compact_every = compact_every
        self._check_lease = check_lease
        self._handle: DeltaTable | None = None
        self._last = -1
        """Newest transaction version that has landed, as far as this owner knows."""
        self._doubt: tuple[int, str] | None = None
        """Transaction version and commit id of an attempt whose outcome is unknown."""
        self._uncompacted = 0
        self.last_compaction_error: str | None = None
        """Reason why the newest compaction failed, for the owner's status; the rows themselves are safe."""

    def open(self) -> int:
        """Take the table over with an empty commit and return its version; later rows of older owners are refused.

        Raises:
            FencedError: an owner of a newer epoch has the table.
            LakeError: damaged, not writable or unreachable.
        """
        handle = self._store.open()
        rows = pl.DataFrame(schema=self._store.spec.schema)
        for _ in range(CONFLICT_ATTEMPTS):
            last = self._landed_version(handle)
            if last >> EPOCH_SHIFT > self._epoch:
                raise self._refusal(last)
            version = max(last + 1, self._epoch << EPOCH_SHIFT)
            try:
                commit = self._store.commit(handle, rows, self._fence, Transaction(self._application_id, version))
            except LakeConflictError:
                self._store.refresh(handle)
                continue
            self._handle, self._last, self._doubt = handle, version, None
            return commit.version if commit.version is not None else handle.version()
        raise too_many_conflicts(self._store.spec.name, CONFLICT_ATTEMPTS)

    def append(self, frame: pl.DataFrame, commit: CommitLineage) -> Commit:
        """Append rows in one commit, durable on return; an empty frame makes none.

        After a ``LakeError`` call again with the same ``commit``: rows that have landed are not written twice.

        Raises:
            FencedError: another owner has taken over, and this object writes nothing, now or later; or the lease has
                ended.
            LakeError: not opened, rows refused, or the table is damaged, not writable or unreachable.
        """
        if self._handle is None:
            raise LakeError(f"table {self._store.spec.name} is not open for epoch {self._epoch}: call open() first")
        rows = self._store.prepare(frame, commit)
        if not rows.height:
            return Commit(version=None)
        landed = self._resolve_doubt(self._handle, commit)
        if landed is not None:
            return self._store.describe(landed, rows, commit)
        done = self._commit(self._handle, rows, commit)
        self._uncompacted += 1
        if self._compact_every and self._uncompacted >= self._compact_every:
            self._compact(self._handle)
        return done

    def _commit(self, handle: DeltaTable, rows: pl.DataFrame, commit: CommitLineage) -> Commit:
        for _ in range(CONFLICT_ATTEMPTS):
            self._check(handle)
            if self._check_lease is not None:
                self._check_lease()
            version = self._last + 1
            self._doubt = (version, commit.commit_id)
            try:
                done = self._store.commit(handle, rows, commit, Transaction(self._application_id, version))
            except LakeConflictError:
                # Fencing and harmless changes look alike here; the check at the newest version distinguishes them.
                self._doubt = None
                self._store.refresh(handle)
                continue
            self._last, self._doubt = version, None
            return done
        raise too_many_conflicts(self._store.spec.name, CONFLICT_ATTEMPTS)

    def _check(self, handle: DeltaTable) -> None:
        landed = self._landed_version(handle)
        if landed != self._last:
            raise self._refusal(landed)

    def _resolve_doubt(self, handle: DeltaTable, commit: CommitLineage) -> int | None:
        """Look up the previous attempt; return its version if it was this commit and has landed."""
        if self._doubt is None:
            return None
        version, commit_id = self._doubt
        landed = self._store.look_up(handle, commit_id)
        if landed is not None:
            self._last = version
        self._store.refresh(handle)
        self._doubt = None
        return landed if commit_id == commit.commit_id else None

    def _compact(self, handle: DeltaTable) -> None:
        """Compact; keep a failure for the status instead of raising it, and retry after ``compact_every`` commits."""
        self._uncompacted = 0
        try:
            compact(self._store, handle)
            self.last_compaction_error = None
        except LakeConflictError:
            self.last_compaction_error = None  # another compaction came first, which is as good
        except LakeError as error:
            self.last_compaction_error = str(error)
            _log.warning("compaction failed, retrying after %d commits: %s", self._compact_every, error)

    def _landed_version(self, handle: DeltaTable) -> int:
        with self._store.faults():
            version = handle.transaction_version(self._application_id)
        return -1 if version is None else version

    def _refusal(self, landed: int) -> FencedError:
        epoch = max(landed >> EPOCH_SHIFT, self._epoch)
        return FencedError(
            f"table {self._store.spec.name} belongs to epoch {epoch} now: epoch {self._epoch} must stop writing",
            epoch=epoch,
        )
