"""The truth at the gateway: the holder of each line, blind streams, the positions of each account.

Only the gateway's own objects are read, and the simulation's processes; nothing that the product says of itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from v6_pipeline_tests.simulation.loop import PROCESS, SimulatedProcess, State
from v6_pipeline_tests.simulation.wire import MemoryTransport
from v6_pipeline_tests.simulation.world import World

Key = tuple[str, int]


class Truth:
    """The gateway as it is."""

    def __init__(self, world: World) -> None:
        self._world = world

    def sessions(self) -> Iterator[tuple[Any, SimulatedProcess | None]]:
        """Connected sessions whose client has not closed its end, and the client's process."""
        for session in self._world.gateway._sessions.values():
            transport = session._writer.transport
            assert isinstance(transport, MemoryTransport)
            peer = transport.peer
            if not peer.is_closing():
                yield session, peer._context.get(PROCESS)

    def lines(self) -> dict[SimulatedProcess, list[int]]:
        """Conids of the lines of each process that runs: a stopped one cannot give back what is no longer its own."""
        found: dict[SimulatedProcess, list[int]] = defaultdict(list)
        for session, process in self.sessions():
            if process is not None and process.state is State.RUNNING and not self._was_stopped(process):
                found[process] += [item.contract.conid for item in session.subscriptions.market_data.values()]
        return found

    def streamed(self) -> dict[int, int]:
        """Lines by conid of streamers that run."""
        counts: dict[int, int] = defaultdict(int)
        for process, conids in self.lines().items():
            if process.name.startswith("streamer"):
                for conid in conids:
                    counts[conid] += 1
        return dict(counts)

    def dead(self) -> dict[str, set[int]]:
        """Contracts whose stream will not tick again, of streamers that run, by type; a type of which one lives is not.

        A stream that began after the others died ticks: they may then be contracts that do not trade.
        """
        streams = [
            item
            for session, process in self.sessions()
            if process is not None and process.name.startswith("streamer") and process.state is State.RUNNING
            for item in session.subscriptions.market_data.values()
        ]
        living = {item.contract.sec_type for item in streams if not item.is_dead}
        dead: dict[str, set[int]] = defaultdict(set)
        for item in streams:
            if item.is_dead and item.contract.sec_type not in living:
                dead[item.contract.sec_type].add(item.contract.conid)
        return dict(dead)

    def sees(self) -> bool:
        """Return True if a streamer is connected to a gateway that has its link."""
        connected = any(process is not None and process.name.startswith("streamer") for _, process in self.sessions())
        return connected and self._world.gateway.market.link.is_up

    def book(self) -> dict[Key, float]:
        """Open positions."""
        return {(item.account, item.conid): item.quantity for item in self._world.gateway.book.held()}

    def _was_stopped(self, process: SimulatedProcess) -> bool:
        """Stopped for so long that its lines may be another's, and going on for too short a time to have seen it."""
        return process.continued_at > 0 and self._world.loop.time() - process.continued_at < 60
