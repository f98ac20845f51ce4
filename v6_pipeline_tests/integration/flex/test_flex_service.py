"""The Flex Web Service over real HTTP: what is fetched, what is refused, and that the token shows nowhere."""

from __future__ import annotations

import gzip
import logging
import os
import stat
import threading
import traceback
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.exchange import FlexLimits
from v6_pipeline.flex.service import REACTIONS, FlexService, Reaction
from v6_pipeline.paper.flex_server import TOKEN, FlexFault, FlexServer
from v6_pipeline.paper.flex_statements import FlexQuery
from v6_pipeline_tests.integration.flex.flex_rig import (
    ACCOUNTS,
    FIRST,
    LAST,
    OwnPace,
    VirtualTime,
    server_of,
    service_of,
)


@pytest.fixture
def service(server: FlexServer, time: VirtualTime) -> FlexService:
    return service_of(server, time)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "flex" / "statements.xml"


def refused(service: FlexService, file: Path, first: date = FIRST, last: date = LAST) -> str:
    """Return the message of the error; no file is left, and no text shows the token or an address."""
    with pytest.raises(FlexServiceError) as caught:
        service.download(first, last, file)
    text = str(caught.value)
    assert not file.parent.exists() or not list(file.parent.iterdir())
    whole = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__dict__)
    assert TOKEN not in whole
    assert "http://" not in text
    assert "\n" not in text
    problem: BaseException | None = caught.value
    while problem is not None:  # contexts are shown by some reporters even where they are suppressed
        assert TOKEN not in repr(problem)
        assert TOKEN not in str(problem)
        problem = problem.__context__
    return text


# What comes


def test_a_range_comes_as_one_statement_per_account_and_day(
    service: FlexService, server: FlexServer, file: Path
) -> None:
    periods = service.download(FIRST, LAST, file)

    days = [FIRST + timedelta(days=number) for number in range(5)]
    assert [(row.account, row.first, row.last) for row in periods] == [
        (account, day, day) for day in days for account in ACCOUNTS
    ]
    assert len(ET.parse(file).getroot().findall(".//FlexStatement")) == 10
    assert server.requests == {"SendRequest": 1, "GetStatement": 2}


def test_the_file_is_its_owners_and_appears_whole(service: FlexService, file: Path) -> None:
    service.download(FIRST, LAST, file)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]


def test_what_a_killed_download_left_is_removed_after_a_day(service: FlexService, file: Path) -> None:
    file.parent.mkdir()
    old, fresh = file.parent / ".statements.xml.00000000.part", file.parent / ".statements.xml.11111111.part"
    old.touch()
    fresh.touch()
    os.utime(old, (old.stat().st_mtime - 90_000,) * 2)

    service.download(FIRST, LAST, file)

    assert sorted(file.parent.iterdir()) == [fresh, file]


def test_a_statement_that_takes_long_is_waited_for(time: VirtualTime, file: Path) -> None:
    with server_of(time, in_progress=20) as server:
        service_of(server, time).download(FIRST, LAST, file)

    assert server.requests["refused"] == 0
    assert 20 * 5 <= time.seconds < 200


def test_the_rate_is_kept_while_polling(time: VirtualTime, file: Path) -> None:
    with server_of(time, in_progress=30) as server:
        service_of(server, time).download(FIRST, LAST, file)

    assert server.requests == {"SendRequest": 1, "GetStatement": 31}


def test_throttled_everyone_pauses_and_this_download_goes_slower(
    server: FlexServer, time: VirtualTime, file: Path
) -> None:
    server.faults.flex_fault(FlexFault.STATEMENT_ERROR, code=1018, count=2)
    pace = OwnPace(time)

    service_of(server, time, pace=pace).download(FIRST, LAST, file)

    assert pace.pauses == [20, 40]
    assert time.waits[-1] == 20, "1019 after two 1018 is waited for four times as long as the table says"


@pytest.mark.parametrize("reaction", [row for row in REACTIONS.values() if not row.is_fatal], ids=lambda row: row.code)
@pytest.mark.parametrize("fault", [FlexFault.REQUEST_ERROR, FlexFault.STATEMENT_ERROR])
def test_codes_that_pass_are_waited_out(
    server: FlexServer, service: FlexService, time: VirtualTime, file: Path, fault: FlexFault, reaction: Reaction
) -> None:
    assert reaction.retry_after is not None
    server.faults.flex_fault(fault, code=reaction.code, count=3)

    service.download(FIRST, LAST, file)

    assert time.seconds >= 3 * reaction.retry_after


# What is refused


@pytest.mark.parametrize("code", [*(code for code, row in REACTIONS.items() if row.is_fatal), 1002, 1022, 7])
@pytest.mark.parametrize("fault", [FlexFault.REQUEST_ERROR, FlexFault.STATEMENT_ERROR])
def test_codes_that_do_not_pass_end_the_download_at_once(
    server: FlexServer, service: FlexService, time: VirtualTime, file: Path, fault: FlexFault, code: int
) -> None:
    server.faults.flex_fault(fault, code=code)

    text = refused(service, file)

    assert f"Flex statements of {FIRST} to {LAST}: error {code}, " in text
    assert sum(server.requests.values()) == (1 if fault == FlexFault.REQUEST_ERROR else 2)
    assert time.seconds < 2


@pytest.mark.parametrize("code", [1019, 1018, 1009])
def test_what_never_passes_is_given_up_at_the_deadline(
    server: FlexServer, time: VirtualTime, file: Path, code: int
) -> None:
    server.faults.flex_fault(FlexFault.STATEMENT_ERROR, code=code)

    text = refused(service_of(server, time, limits=FlexLimits(deadline=300)), file)

    assert f"gave up after 300 s: error {code}, {REACTIONS[code].meaning}; {REACTIONS[code].remedy}" in text
    assert 150 < time.seconds <= 300
    assert server.requests["refused"] == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (FlexFault.HALF_DOCUMENT, "reply is incomplete"),
        (FlexFault.CUT_CONNECTION, "cannot reach the Flex Web Service at 127.0.0.1"),
        (FlexFault.WEB_PAGE, "answered with a web page instead of a statement"),
        (FlexFault.HTTP_ERROR, "answered with HTTP 500"),
        (FlexFault.OTHER_DATES, "the service sent 2026-10-26 to 2026-10-26 of account SIM0000001 instead"),
        (FlexFault.NO_POSITIONS, "has no section OpenPositions, so its positions are unknown"),
        (FlexFault.NO_STATEMENTS, "sent none, so positions are unknown"),
        (FlexFault.REDIRECT, "redirects us to example.invalid: not followed"),
        (FlexFault.FOREIGN_URL, "sends us to example.invalid, which is not IB's: nothing was sent there"),
    ],
)
def test_no_fault_is_taken_for_a_flat_account(
    server: FlexServer, service: FlexService, file: Path, fault: FlexFault, said: str
) -> None:
    server.faults.flex_fault(fault)

    assert said in refused(service, file)


def test_a_collapsed_range_has_the_periods_of_its_days(server: FlexServer, service: FlexService, file: Path) -> None:
    server.faults.flex_fault(FlexFault.COLLAPSED)

    assert {row.last for row in service.download(FIRST, LAST, file)} == {LAST}


def test_one_statement_of_a_whole_range_has_its_period(time: VirtualTime, file: Path) -> None:
    with server_of(time, query=FlexQuery(by_day=False)) as server:
        periods = service_of(server, time).download(FIRST, LAST, file)

    assert [(row.first, row.last) for row in periods] == [(FIRST, LAST)] * 2


def test_silence_ends_with_the_read_time_out(server: FlexServer, time: VirtualTime, file: Path) -> None:
    server.faults.flex_fault(FlexFault.SILENCE, seconds=60)

    text = refused(service_of(server, time, limits=FlexLimits(read=0.2)), file)

    assert "no answer from the Flex Web Service at 127.0.0.1 in 0.2 s" in text


def test_a_statement_that_is_too_large_is_given_up(server: FlexServer, time: VirtualTime, file: Path) -> None:
    assert "is larger than" in refused(service_of(server, time, limits=FlexLimits(size=10_000)), file)


def test_a_service_that_is_not_there_is_named_without_its_address(time: VirtualTime, file: Path) -> None:
    with server_of(time) as server:
        url = server.url

    text = refused(service_of(server, time, url=url), file)

    assert text == (
        "cannot reach the Flex Web Service at 127.0.0.1 (ConnectionError): check the network and V6_FLEX_URL"
    )


def test_a_wrong_token_is_not_repeated(server: FlexServer, time: VirtualTime, file: Path) -> None:
    with pytest.raises(FlexServiceError, match="error 1015, token is invalid") as caught:
        service_of(server, time, token="SECRET0", query_id="1").download(FIRST, LAST, file)
    assert "SECRET0" not in str(caught.value)
    assert caught.value.code == 1015


def test_too_many_days_are_refused_before_anything_is_sent(
    server: FlexServer, service: FlexService, file: Path
) -> None:
    assert "spans 1 to 365 days" in refused(service, file, date(2025, 1, 1), date(2026, 1, 1))
    assert "spans 1 to 365 days" in refused(service, file, LAST, FIRST)
    assert not server.requests


def test_a_folder_that_cannot_be_written_is_named(server: FlexServer, service: FlexService, tmp_path: Path) -> None:
    (tmp_path / "flex").touch()

    with pytest.raises(FlexServiceError, match=r"cannot write Flex statements to .*flex: "):
        service.download(FIRST, LAST, tmp_path / "flex" / "statements.xml")


def test_a_drip_of_bytes_ends_with_the_deadline(server: FlexServer, time: VirtualTime, file: Path) -> None:
    """Each byte comes before the read time-out: only the whole takes too long."""
    with scripted("<FlexStatementResponse>" + " " * 200, drip=time) as url:
        text = refused(service_of(server, time, url=url, limits=FlexLimits(deadline=100, read=2)), file)

    assert "did not arrive within 100 s" in text


@pytest.mark.parametrize("encoding", ["gzip", "chunked"])
def test_statements_may_come_compressed_or_in_chunks(
    server: FlexServer, time: VirtualTime, file: Path, encoding: str
) -> None:
    body = (
        "<FlexStatementResponse><Status>Fail</Status><ErrorCode>1012</ErrorCode>"
        f"<ErrorMessage>{'x' * 300}</ErrorMessage></FlexStatementResponse>"
    )
    with scripted(body, encoding=encoding) as url:
        assert "error 1012, token has expired" in refused(service_of(server, time, url=url), file)


# The token


def test_no_log_at_any_level_shows_the_token(
    server: FlexServer, service: FlexService, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """urllib3 logs every address at DEBUG."""
    caplog.set_level(logging.DEBUG)
    server.faults.flex_fault(FlexFault.STATEMENT_ERROR, code=1018, count=1)
    service.download(FIRST, LAST, file)
    server.faults.flex_fault(FlexFault.CUT_CONNECTION)
    with pytest.raises(FlexServiceError):
        service.download(FIRST, LAST, file)

    assert "GET /AccountManagement/FlexWebService/SendRequest?t=***&q=" in caplog.text
    assert TOKEN not in caplog.text
    assert TOKEN not in "".join(repr(record.__dict__) for record in caplog.records)
    assert not logging.getLogger("urllib3.connectionpool").filters


def test_neither_the_file_nor_its_name_nor_the_service_shows_the_token(service: FlexService, file: Path) -> None:
    service.download(FIRST, LAST, file)

    assert TOKEN.encode() not in file.read_bytes()
    assert TOKEN not in repr(service)


def test_a_message_that_repeats_the_token_is_censored(time: VirtualTime, file: Path) -> None:
    """So are the lines of a message that has several."""
    body = (
        "<FlexStatementResponse><Status>Fail</Status><ErrorCode>1015</ErrorCode>"
        f"<ErrorMessage>Token {TOKEN}\nis invalid</ErrorMessage></FlexStatementResponse>"
    )
    with scripted(body) as url, server_of(time) as server:
        text = refused(service_of(server, time, url=url), file)

    assert "(Token *** is invalid)" in text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "answered with nothing"),
        ("maintenance", "something that is not XML"),
        ("<FlexStatementResponse><Status>Success</Status></FlexStatementResponse>", "neither an error nor a reference"),
        ("<FlexStatementResponse><Status>Fail</Status></FlexStatementResponse>", "answered Fail without an error code"),
        ("<FlexStatementResponse/>", "no status or no readable code"),
        ("<FlexQueryResponse/>", "sent statements instead of a reference"),
        ('<!DOCTYPE x [<!ENTITY e "e">]><FlexStatementResponse/>', "a document of type 'x'"),
        ("<FlexStatementResponse>" + "<a>b</a>" * 10_000, "an endless message"),
    ],
)
def test_nonsense_is_called_so(time: VirtualTime, file: Path, body: str, said: str) -> None:
    with scripted(body) as url, server_of(time) as server:
        assert said in refused(service_of(server, time, url=url), file)


class scripted:  # noqa: N801 - reads as a function
    """A web server that answers every question with the same bytes, as they are, compressed or in chunks.

    With ``drip`` a second passes with each byte, and the end never comes.
    """

    def __init__(self, body: str, *, encoding: str = "", drip: VirtualTime | None = None) -> None:
        stopping = self._stopping = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                data = body.encode()
                self.close_connection = True
                self.send_response(200)
                if encoding == "gzip":
                    self.send_header("Content-Encoding", "gzip")
                    data = gzip.compress(data)
                elif encoding == "chunked":
                    self.send_header("Transfer-Encoding", "chunked")
                    pieces = [data[start : start + 50] for start in range(0, len(data), 50)]
                    data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
                self.end_headers()
                for start in range(0, len(data), 1 if drip else max(1, len(data))):
                    self.wfile.write(data[start : start + 1] if drip else data)
                    if drip:
                        drip.seconds += 1
                if drip:
                    stopping.wait(10)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Silent."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/flex"

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
