"""``DeltaLakePositionWriter``: the handler that puts streamed positions into Delta Lake.

It keeps the newest update per (account, conid) and writes them in one commit every ``V6_FLUSH_SECONDS``. Commits,
fencing, compaction and durability are in ``v6_pipeline.lake``.

While the lake cannot be written (disk full, unmounted, unreachable) the rows wait: those of the failed flush, which may
have landed and are therefore retried unchanged, and the newest later update of each holding. That is at most two
rows per holding, however long the outage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, datetime

from v6_pipeline import __version__
from v6_pipeline.errors import FencedError, LakeError
from v6_pipeline.lake.fencing import FencedAppender
from v6_pipeline.lake.lineage import CommitKind, CommitLineage
from v6_pipeline.lake.rows import position_rows
from v6_pipeline.lake.table import Commit, DeltaTableStore
from v6_pipeline.lake.tables import STREAMED_POSITIONS
from v6_pipeline.model import PositionUpdate, UpdateSource
from v6_pipeline.state.answers import to_its_end
from v6_pipeline.streaming.status import WriterStatus

log = logging.getLogger(__name__)

SLOW_SECONDS = 15.0
"""A commit that takes longer is reported while it lasts; a healthy one takes well under a second."""
LAST_FLUSH_SECONDS = 4.0
"""How long the end of the stream waits for the lake: supervisors grant a process ten seconds."""
APPLICATION_ID = "v6_pipeline.streamer"
"""The same for all owners: under an id of its own, a stalled old owner could still write."""


class DeltaLakePositionWriter:
    """A ``PositionUpdateHandler`` that writes ``streamed_positions`` as the owner of ``epoch``.

    Every commit names the ``gateway`` (``host:port``) that the updates come from. ``check_lease`` raises
    ``FencedError`` once this process's time has ended: see ``FencedAppender``.
    """

    def __init__(
        self,
        store: DeltaTableStore,
        *,
        epoch: int,
        gateway: str,
        trading_day: Callable[[datetime], date],
        clock: Callable[[], datetime],
        flush_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        check_lease: Callable[[], None] | None = None,
    ) -> None:
        self._epoch = epoch
        self._gateway = gateway
        self._trading_day = trading_day
        self._clock = clock
        self._flush_seconds = flush_seconds
        self._sleep = sleep
        self._appender = FencedAppender(
            store,
            application_id=APPLICATION_ID,
            epoch=epoch,
            lineage=self._lineage(CommitKind.FENCE),
            check_lease=check_lease,
        )
        self._newest: dict[tuple[str, int], PositionUpdate] = {}
        self._pending: tuple[list[PositionUpdate], CommitLineage] | None = None
        self._flushing: asyncio.Task[Commit | None] | None = None
        self._fenced = False
        self._status = WriterStatus(epoch=epoch)

    async def open(self) -> None:
        """Take the table over; must come before the first flush.

        Raises:
            FencedError: an owner with a newer epoch wrote to the table.
            LakeError: the table is damaged, not writable or unreachable.
        """
        version = await to_its_end(self._appender.open)
        self._status = replace(self._status, last_version=version)

    async def on_position_update(self, update: PositionUpdate) -> None:
        """Keep the update for the next flush, in place of an older one of the same holding."""
        self._newest[update.key] = update

    async def run(self) -> None:
        """Flush every ``flush_seconds`` until cancelled.

        Raises:
            FencedError: another streamer has taken over.
        """
        while True:
            await self._sleep(self._flush_seconds)
            # The rows are kept until the lake is back; the failure is logged once and is in the status.
            with contextlib.suppress(LakeError):
                await self.flush()

    async def flush(self) -> Commit | None:
        """Write the updates since the last flush in one commit; return None if there are none.

        Raises:
            FencedError: another streamer has taken over; the rows are not written.
            LakeError: the lake refused the rows; the next flush tries them again, so none is lost.
        """
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        # The thread of a cancelled caller must not commit at the same time as the next flush.
        return await asyncio.shield(self._flushing)

    async def _flush(self) -> Commit | None:
        if self._pending is None:
            if not self._newest:
                return None
            self._pending = (list(self._newest.values()), self._lineage(CommitKind.DATA))
            self._newest.clear()
        updates, lineage = self._pending
        try:
            commit = await self._answer_to(asyncio.create_task(to_its_end(self._append, updates, lineage)))
        except FencedError:
            self._fenced = True
            raise
        except LakeError as error:
            self._note_failure(error)
            raise
        self._pending = None
        self._note_success(commit)
        return commit

    async def _answer_to(self, append: asyncio.Task[Commit]) -> Commit:
        """Wait for a commit; one that takes long is reported before its outcome is known."""
        done, _ = await asyncio.wait({append}, timeout=SLOW_SECONDS)
        if not done:
            self._note_failure(LakeError(f"the lake has not answered for {SLOW_SECONDS:g} s"))
        return await append

    def _note_failure(self, error: LakeError) -> None:
        since = self._status.failing_since or self._clock()
        if self._status.failing_since is None:
            log.warning(
                "the lake accepts no rows since %s, %d wait, the newest of each holding is kept: %s",
                f"{since:%Y-%m-%d %H:%M:%SZ}",
                self._buffered,
                error,
            )
        self._status = replace(self._status, failing_since=since, last_error=str(error))

    def _note_success(self, commit: Commit) -> None:
        status, now = self._status, self._clock()
        if status.failing_since is not None:
            away = (now - status.failing_since).total_seconds()
            again = "the lake accepts rows again after %.0f s: %d written, %d follow"
            log.info(again, away, commit.rows, len(self._newest))
        self._status = replace(
            status,
            commits=status.commits + 1,
            rows=status.rows + commit.rows,
            last_version=commit.version,
            last_commit_at=now,
            failing_since=None,
            last_error=None,
        )

    async def close(self) -> None:
        """Flush what is left, unless another streamer has taken over."""
        while not self._fenced and (self._newest or self._pending):
            try:
                async with asyncio.timeout(LAST_FLUSH_SECONDS):
                    await self.flush()
            except FencedError as error:
                log.warning("last flush: %s", error)
            except TimeoutError:
                log.error(  # noqa: TRY400  (the line says all; the traceback is that of this wait)
                    "last flush: the lake has not answered for %g s: %d rows are lost; the next start writes current "
                    "ones",
                    LAST_FLUSH_SECONDS,
                    self._buffered,
                )
                return
            except LakeError:
                log.exception("last flush failed: %d rows are lost; the next start writes current ones", self._buffered)
                return

    def status(self) -> WriterStatus:
        """Return the writer's figures at this moment."""
        error = self._appender.last_compaction_error
        return replace(self._status, buffered=self._buffered, last_compaction_error=error)

    @property
    def _buffered(self) -> int:
        return len(self._newest) + (len(self._pending[0]) if self._pending else 0)

    def _append(self, updates: list[PositionUpdate], lineage: CommitLineage) -> Commit:
        rows = position_rows(
            updates,
            spec=STREAMED_POSITIONS,
            trading_day=self._trading_day,
            source=UpdateSource.STREAM,
            ingested_at=self._clock(),
            epoch=self._epoch,
        )
        return self._appender.append(rows, lineage)

    def _lineage(self, kind: CommitKind) -> CommitLineage:
        return CommitLineage(
            asset=STREAMED_POSITIONS.name,
            source=UpdateSource.STREAM.value,
            code_version=__version__,
            epoch=self._epoch,
            gateway=self._gateway,
            kind=kind,
        )
