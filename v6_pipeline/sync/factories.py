"""Parts that users bring: made by the factories that a setting names as ``module:factory``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable

from v6_pipeline.errors import SettingsError
from v6_pipeline.settings import Settings


def make_all(variable: str, specs: Iterable[str], settings: Settings) -> dict[str, object]:
    """Call each factory with the settings.

    Args:
        variable: the setting, for messages.
        specs: ``module:factory`` each.
        settings: what factories are called with.

    Returns:
        What they made, by spec.

    Raises:
        SettingsError: a module or factory does not exist or fails.
    """
    return {spec: _make(variable, spec, settings) for spec in specs}


def _make(variable: str, spec: str, settings: Settings) -> object:
    module_name, _, factory_name = spec.partition(":")
    try:
        factory: Callable[[Settings], object] = getattr(importlib.import_module(module_name), factory_name)
        return factory(settings)
    except Exception as error:  # foreign code may fail in any way, and its user cannot do without it
        raise SettingsError(f"{variable}: cannot load {spec}: {type(error).__name__}: {error}") from error
