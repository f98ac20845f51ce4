"""Parts that users bring: made by the factories that a setting names as ``module:factory``."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator

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


def find(variable: str, spec: str) -> Callable[[Settings], object]:
    """The factory, which is not called.

    Raises:
        SettingsError: the module or the factory does not exist, or the module fails.
    """
    with _told(variable, spec):
        module_name, _, factory_name = spec.partition(":")
        factory: Callable[[Settings], object] = getattr(importlib.import_module(module_name), factory_name)
        return factory


def _make(variable: str, spec: str, settings: Settings) -> object:
    factory = find(variable, spec)
    with _told(variable, spec):
        return factory(settings)


@contextlib.contextmanager
def _told(variable: str, spec: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # foreign code may fail in any way, and its user cannot do without it
        raise SettingsError(f"{variable}: cannot load {spec}: {type(error).__name__}: {error}") from error
