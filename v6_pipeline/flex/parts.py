"""One account's day from several statements: its own, those of closed days before it, and that of its futures. Pure.

- A statement of a day without a session can have trades of other exchanges: they belong to the next session.
- IB may book futures of account U1 under U1F: it is the same account (reported from a real statement).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from v6_pipeline.flex.model import FlexPosition, FlexStatement
from v6_pipeline.flex.statement import together


def whole(main: FlexStatement, parts: Iterable[FlexStatement]) -> FlexStatement:
    """Return the account's statement of a session with what other statements add to it.

    Of closed days these are the changes alone, nothing of a day that the main statement's own period contains, and no
    change that it has as well.
    """
    positions: dict[int, FlexPosition] = {position.conid: position for position in main.positions}
    added = [part for part in parts if part.account != main.account or part.to_date < main.from_date]
    for part in added:
        if part.to_date == main.to_date:
            for position in part.positions:
                held = positions.get(position.conid)
                positions[position.conid] = position if held is None else together(held, position)
    if not added:
        return main
    digests = sorted(part.sha256 for part in added)
    return replace(
        main,
        from_date=min(main.from_date, *(part.from_date for part in added)),
        sections=main.sections.intersection(*(part.sections for part in added)),
        sha256=hashlib.sha256("".join([main.sha256, *digests]).encode()).hexdigest(),
        positions=tuple(positions.values()),
        not_in_query=tuple(sorted({*main.not_in_query, *(code for part in added for code in part.not_in_query)})),
        activities=(
            *(activity for part in added for activity in part.activities if activity not in main.activities),
            *main.activities,
        ),
    )
