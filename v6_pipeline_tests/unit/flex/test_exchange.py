"""The token goes to IB's hosts over https, or to the very place of the settings, and nowhere else."""

from __future__ import annotations

import pytest

from v6_pipeline.errors import FlexServiceError
from v6_pipeline.flex.exchange import check_address, host_of, is_loopback

IB = "https://ndcdyn.interactivebrokers.com/AccountManagement/FlexWebService"
PAPER = "http://127.0.0.1:8123/AccountManagement/FlexWebService"


@pytest.mark.parametrize(
    ("url", "configured"),
    [
        (f"{IB}/GetStatement", IB),
        ("https://gdcdyn.interactivebrokers.com/Universal/servlet/FlexStatementService.GetStatement", IB),
        ("https://ndcdyn.interactivebrokers.com:443/GetStatement", IB),
        (f"{IB}/GetStatement", PAPER),
        (f"{PAPER}/GetStatement", PAPER),
        ("https://proxy.example:8443/x/GetStatement", "https://proxy.example:8443/flex"),
        ("http://[::1]:80/GetStatement", "http://[::1]/flex"),
    ],
)
def test_ibs_own_hosts_and_the_configured_place_are_followed(url: str, configured: str) -> None:
    assert check_address(url, configured=configured) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://ndcdyn.interactivebrokers.com/GetStatement",
        "https://ndcdyn.interactivebrokers.com:8443/GetStatement",
        "https://interactivebrokers.com.example.org/GetStatement",
        "https://evilinteractivebrokers.com/GetStatement",
        "https://example.org/ndcdyn.interactivebrokers.com",
        "https://user@ndcdyn.interactivebrokers.com/GetStatement",
        "https://example.org\\@ndcdyn.interactivebrokers.com/GetStatement",
        "https://example.org#.interactivebrokers.com/GetStatement",
        "https://ndcdyn.interactivebrokers.com/GetStatement#x",
        "https://ndcdyn.interactivebrokers.com/GetStatement?next=https://example.org",
        "https://example.org\t.interactivebrokers.com/",
        "https://ndcdyn.interactivebrokers.com/ x",
        "https://ndcdyn.interactivebrökers.com/",
        "http://127.0.0.1:8124/GetStatement",
        "https://127.0.0.1:8123/GetStatement",
        "http://localhost:8123/GetStatement",
        "http://127.0.0.1:99999/",
        "file:///etc/passwd",
        "//ndcdyn.interactivebrokers.com/",
        "http://[::1/",
        "",
    ],
)
def test_anything_else_is_refused_by_its_host_alone(url: str) -> None:
    with pytest.raises(FlexServiceError, match="which is not IB's: nothing was sent there") as caught:
        check_address(url, configured=PAPER)
    assert "GetStatement" not in str(caught.value)


def test_a_host_is_all_that_is_shown_of_an_address() -> None:
    assert host_of(f"{IB}?t=SECRET") == "ndcdyn.interactivebrokers.com"
    assert host_of("https://SECRET@host/") == "an unreadable address"


def test_this_machine_is_known_by_its_names() -> None:
    assert is_loopback(PAPER)
    assert is_loopback("http://[::1]:1/")
    assert not is_loopback(IB)
    assert not is_loopback("http://127.0.0.1.example.org/")
