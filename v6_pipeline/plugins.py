"""Objects of the user, made by the factories that a setting names as ``module:factory``."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator

from v6_pipeline.errors import SettingsError
from v6_pipeline.settings import Settings


def make_all(variable: str, specs: Iterable[str], settings: Settings) -> dict[str, object]:
    """Call each factory (``module:factory``) with the settings, and return the objects by spec.

    ``variable`` is the setting's name, for messages.

    Raises:
        SettingsError: a module or factory does not exist or fails.
    """
    return {spec: _make(variable, spec, settings) for spec in specs}


def find(variable: str, spec: str) -> Callable[[Settings], object]:
    """Import a factory without calling it.

    Raises:
        SettingsError: the module or the factory does not exist, or the module fails.
    """
    with _load_errors(variable, spec):
        module_name, _, factory_name = spec.partition(":")
        factory: Callable[[Settings], object] = getattr(importlib.import_module(module_name), factory_name)
        return factory


def _make(variable: str, spec: str, settings: Settings) -> object:
    factory = find(variable, spec)
    with _load_errors(variable, spec):
        return factory(settings)


@contextlib.contextmanager
def _load_errors(variable: str, spec: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # code of the user may fail in any way
        raise SettingsError(f"{variable}: cannot load {spec}: {type(error).__name__}: {error}") from error
