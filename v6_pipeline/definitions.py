"""The code location ``v6_pipeline``: all definitions, assembled by one function."""

from __future__ import annotations

import v6_pipeline.quick_start  # noqa: F401  sets up the interpreter, so before the other imports

# isort: split
import dagster as dg
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from v6_pipeline import privacy
from v6_pipeline.calendar import TradingCalendar
from v6_pipeline.defs.alert_sensor import alerts_sensor
from v6_pipeline.defs.assets import queued_positions, source_assets, streamed_positions
from v6_pipeline.defs.checks import asset_checks
from v6_pipeline.defs.flex_sensor import flex_statements_sensor
from v6_pipeline.defs.history import history
from v6_pipeline.defs.jobs import asset_jobs, maintain_lake, set_strategy_contracts
from v6_pipeline.defs.partitions import trading_days
from v6_pipeline.defs.resources import PipelineResource
from v6_pipeline.defs.schedules import lake_maintenance_schedule, position_snapshots_schedule, queued_positions_schedule
from v6_pipeline.defs.streamer_sensor import ib_streamer_sensor
from v6_pipeline.errors import SettingsError
from v6_pipeline.lake.lake import Lake
from v6_pipeline.settings import Settings, load_settings


def build_defs(settings: Settings | None = None, *, pipeline: PipelineResource | None = None) -> dg.Definitions:
    """Return a fresh set of definitions.

    By default with the settings of the process; tests pass their own ``pipeline``.

    Raises:
        SettingsError: the process's settings are wrong; Dagster shows the line as the code location's error.
    """
    if settings is None:
        settings = load_settings()
        privacy.protect(settings, own_process=False)
    calendar = TradingCalendar(settings.timezone)
    lake = Lake.from_settings(settings)
    days = trading_days(settings, calendar)
    owners = settings.owners
    return dg.Definitions(
        assets=[
            *source_assets(owners),
            streamed_positions(lake, days, owners),
            queued_positions(lake, days, calendar, owners),
            history(lake, days, calendar, owners),
        ],
        asset_checks=asset_checks(),
        jobs=[*asset_jobs(), maintain_lake(), set_strategy_contracts()],
        schedules=[
            queued_positions_schedule(settings, calendar),
            position_snapshots_schedule(settings, calendar),
            lake_maintenance_schedule(settings),
        ],
        sensors=[ib_streamer_sensor(), flex_statements_sensor(), alerts_sensor()],
        resources={"pipeline": pipeline or PipelineResource()},
        # A run is one short step: a process per step would import for five seconds each time.
        executor=dg.in_process_executor,
    )


class LocationSettingsError(SettingsError, DagsterUserCodeProcessError):
    """Wrong settings of this process, as Dagster shows them in one line: of any other error it shows the stack."""

    def __init__(self, line: str) -> None:
        shown = SerializableErrorInfo(message=line, stack=[], cls_name=SettingsError.__name__)
        DagsterUserCodeProcessError.__init__(  # type: ignore[no-untyped-call]  # Dagster leaves it without annotations
            self, line, user_code_process_error_infos=[shown]
        )


def _of_this_process() -> dg.Definitions:
    try:
        return build_defs()
    except SettingsError as error:
        raise LocationSettingsError(str(error)) from None


defs = _of_this_process()
