"""Handlers: a slow one delays no other, a failing one is reported, and a lost ownership stops everything."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from v6_pipeline.errors import FencedError, SettingsError
from v6_pipeline.model import PositionUpdate
from v6_pipeline.settings import Settings
from v6_pipeline.streaming.handlers import HandlerDispatcher, load_handlers
from v6_pipeline.streaming.status import HandlerStatus
from v6_pipeline_tests.unit.lake.builders import update


class Recorder:
    """Keeps the updates that it gets; may be blocked, or made to fail."""

    def __init__(self, failure: Callable[[PositionUpdate], BaseException | None] = lambda _: None) -> None:
        self.updates: list[PositionUpdate] = []
        self.free = asyncio.Event()
        self.free.set()
        self.begun = asyncio.Event()
        self._failure = failure

    async def on_position_update(self, update: PositionUpdate) -> None:
        self.begun.set()
        await self.free.wait()
        failure = self._failure(update)
        if failure is not None:
            raise failure
        self.updates.append(update)

    @property
    def conids(self) -> list[int]:
        return [item.conid for item in self.updates]


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)


def figures(dispatcher: HandlerDispatcher, name: str) -> HandlerStatus:
    return next(item for item in dispatcher.status() if item.name == name)


async def test_every_handler_hears_every_update_in_order() -> None:
    first, second = Recorder(), Recorder()
    dispatcher = HandlerDispatcher({"first": first, "second": second})
    running = asyncio.create_task(dispatcher.run())
    for conid in (3, 1, 2):
        dispatcher.publish(update(conid))
    await settle()

    assert first.conids == second.conids == [3, 1, 2]
    assert figures(dispatcher, "first") == HandlerStatus("first", 3, 0, 0, 0, None)
    running.cancel()


async def test_a_slow_handler_delays_no_other_and_gets_the_newest_only() -> None:
    slow, quick = Recorder(), Recorder()
    slow.free.clear()
    dispatcher = HandlerDispatcher({"slow": slow, "quick": quick})
    running = asyncio.create_task(dispatcher.run())
    dispatcher.publish(update(1, position=1.0))
    await settle()
    for position in (2.0, 3.0, 4.0):
        dispatcher.publish(update(1, position=position))
        dispatcher.publish(update(2, position=position))
        await settle()

    assert [item.position for item in quick.updates if item.conid == 1] == [1.0, 2.0, 3.0, 4.0]
    assert figures(dispatcher, "slow") == HandlerStatus("slow", 0, 4, 0, 2, None)

    slow.free.set()
    await settle()
    assert [(item.conid, item.position) for item in slow.updates] == [(1, 1.0), (1, 4.0), (2, 4.0)]
    running.cancel()


async def test_the_same_contract_in_two_accounts_is_two_holdings() -> None:
    recorder = Recorder()
    dispatcher = HandlerDispatcher({"it": recorder})
    dispatcher.publish(update(1, "A"))
    dispatcher.publish(update(1, "B"))
    await dispatcher.drain(1)

    assert [item.account for item in recorder.updates] == ["A", "B"]


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError("no")], ids=["error", "cancelled inside"])
async def test_a_failing_handler_is_counted_and_goes_on(error: BaseException) -> None:
    """A ``CancelledError`` of something that the handler waited for must not end its service silently."""
    failing = Recorder(lambda item: error if item.conid == 1 else None)
    dispatcher = HandlerDispatcher({"failing": failing})
    running = asyncio.create_task(dispatcher.run())
    dispatcher.publish(update(1))
    dispatcher.publish(update(2))
    await settle()

    assert failing.conids == [2]
    found = figures(dispatcher, "failing")
    assert (found.handled, found.failed) == (1, 1)
    assert found.last_error == f"{type(error).__name__}: no"
    assert not running.done()
    running.cancel()


async def test_a_lost_ownership_ends_the_service_of_all() -> None:
    """Raised unchanged: an ExceptionGroup would not be caught as a FencedError."""
    dispatcher = HandlerDispatcher({"fenced": Recorder(lambda _: FencedError("epoch 2 is here")), "other": Recorder()})
    before = asyncio.all_tasks()
    dispatcher.publish(update(1))

    with pytest.raises(FencedError, match="epoch 2 is here"):
        await dispatcher.run()
    assert asyncio.all_tasks() == before


async def test_a_lost_ownership_ends_the_drain_of_all() -> None:
    stuck = Recorder()
    stuck.free.clear()
    dispatcher = HandlerDispatcher({"fenced": Recorder(lambda _: FencedError("epoch 2 is here")), "stuck": stuck})
    before = asyncio.all_tasks()
    dispatcher.publish(update(1))

    with pytest.raises(FencedError):
        await dispatcher.drain(60)
    assert asyncio.all_tasks() == before


async def test_the_end_leaves_no_task() -> None:
    dispatcher = HandlerDispatcher({"it": Recorder()})
    before = asyncio.all_tasks()
    running = asyncio.create_task(dispatcher.run())
    await settle()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert asyncio.all_tasks() == before


async def test_what_waits_is_handed_over_at_the_end() -> None:
    recorder = Recorder()
    dispatcher = HandlerDispatcher({"it": recorder})
    dispatcher.publish(update(1))
    dispatcher.publish(update(2))

    await dispatcher.drain(60)

    assert recorder.conids == [1, 2]


@pytest.mark.parametrize(("newer", "positions"), [(False, [1.0, 9.0]), (True, [9.0, 2.0])])
async def test_an_update_that_the_end_interrupted_is_handed_over_again(newer: bool, positions: list[float]) -> None:
    recorder = Recorder()
    recorder.free.clear()
    dispatcher = HandlerDispatcher({"it": recorder})
    running = asyncio.create_task(dispatcher.run())
    dispatcher.publish(update(1, position=1.0))
    await recorder.begun.wait()
    dispatcher.publish(update(2, position=9.0))
    if newer:
        dispatcher.publish(update(1, position=2.0))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    recorder.free.set()

    await dispatcher.drain(60)

    assert [item.position for item in recorder.updates] == positions
    assert figures(dispatcher, "it").conflated == int(newer)


async def test_a_handler_that_stays_busy_does_not_hold_up_the_end() -> None:
    stuck, quick = Recorder(), Recorder()
    stuck.free.clear()
    dispatcher = HandlerDispatcher({"stuck": stuck, "quick": quick})
    dispatcher.publish(update(1))

    await dispatcher.drain(0.05)

    assert quick.conids == [1]
    assert stuck.conids == []


# V6_HANDLERS

GOOD = """
class Handler:
    def __init__(self, settings):
        self.settings = settings
    async def on_position_update(self, update):
        pass

def fails(settings):
    raise RuntimeError("no webhook address")

def nothing(settings):
    return None
"""


@pytest.fixture
def settings_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    (tmp_path / "good_handlers.py").write_text(GOOD)
    (tmp_path / "bad_handlers.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("good_handlers", "bad_handlers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return lambda spec: Settings(home=tmp_path, handlers=(spec,) if spec else ())


def test_no_handlers_by_default(settings_with: Callable[[str], Settings]) -> None:
    assert load_handlers(settings_with("")) == {}


def test_a_factory_is_given_the_settings(settings_with: Callable[[str], Settings]) -> None:
    settings = settings_with("good_handlers:Handler")

    handlers = load_handlers(settings)

    assert list(handlers) == ["good_handlers:Handler"]
    assert getattr(handlers["good_handlers:Handler"], "settings", None) is settings


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent_handlers:Handler", "cannot load absent_handlers:Handler: ModuleNotFoundError: No module named"),
        ("good_handlers:Absent", "cannot load good_handlers:Absent: AttributeError: module"),
        ("bad_handlers:Handler", "cannot load bad_handlers:Handler: ZeroDivisionError: division by zero"),
        ("good_handlers:fails", "cannot load good_handlers:fails: RuntimeError: no webhook address"),
        ("good_handlers:nothing", "good_handlers:nothing made a NoneType without on_position_update"),
    ],
)
def test_a_handler_that_cannot_be_had_is_a_setting_that_is_wrong(
    spec: str, message: str, settings_with: Callable[[str], Settings]
) -> None:
    with pytest.raises(SettingsError, match=f"^V6_HANDLERS: {message}"):
        load_handlers(settings_with(spec))
