"""Dagster's webserver behind the guard: ``python -m v6_pipeline.defs.webserver`` with the options of dagster-webserver.

``v6 up`` and ``v6 demo`` start it so. Options, logs and shutdown are Dagster's own; only the application that it serves
is wrapped. ``dagster dev`` and ``dg dev`` start Dagster's webserver without the guard.
"""

from __future__ import annotations

import v6_pipeline.own_process  # noqa: F401  sets up the interpreter, so before the other imports

# isort: split
from typing import Any

from dagster_webserver import cli
from starlette.applications import Starlette

from v6_pipeline.defs.webserver_guard import SameOriginGuard

_CREATE_APP = "create_app_from_workspace_process_context"
"""Dagster has no public way to wrap its application: this is the function by which its command line creates it."""
_create_app = getattr(cli, _CREATE_APP)


def _create_guarded_app(*arguments: Any, **options: Any) -> Starlette:  # noqa: ANN401  (Dagster's own)
    app: Starlette = _create_app(*arguments, **options)
    app.add_middleware(SameOriginGuard)
    return app


def main() -> None:
    """Run the webserver until a signal."""
    setattr(cli, _CREATE_APP, _create_guarded_app)
    cli.cli(auto_envvar_prefix="DAGSTER_WEBSERVER", prog_name="v6_pipeline.defs.webserver")


if __name__ == "__main__":
    main()
