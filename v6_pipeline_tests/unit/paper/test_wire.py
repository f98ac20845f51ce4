"""Frames, fields and the handshake: nothing a client sends may be misread, and nothing absurd may be buffered."""

import struct

import pytest

from v6_pipeline.paper.wire import (
    HANDSHAKE_PREFIX,
    MAX_FRAME_BYTES,
    Fields,
    Framer,
    WireError,
    encode_payload,
    frame,
    negotiate,
)


def test_fields_are_nul_terminated_text_and_floats_read_back_unchanged() -> None:
    payload = encode_payload((61, "a", True, False, None, 0.1 + 0.2, -3, 1e-12))
    assert payload == b"61\0a\x001\x000\0\x000.30000000000000004\0-3\x001e-12\0"


def test_a_nul_inside_a_text_cannot_shift_the_fields_after_it() -> None:
    assert encode_payload(("a\0b", 1)) == b"a b\x001\0"


def test_a_frame_is_its_length_and_its_payload() -> None:
    assert frame(b"49\x001\0") == struct.pack(">I", 5) + b"49\x001\0"


def test_a_stream_is_cut_into_the_same_payloads_however_it_arrives() -> None:
    stream = HANDSHAKE_PREFIX + frame(b"v157..178") + frame(b"71\0") + frame(b"") + frame(b"61\x001\0")
    whole = Framer().feed(stream)
    framer = Framer()
    bytewise = [payload for byte in stream for payload in framer.feed(bytes([byte]))]
    assert whole == bytewise == [b"v157..178", b"71\0", b"", b"61\x001\0"]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"X", b"API\x01", b"APX"])
def test_a_stream_that_does_not_begin_with_the_handshake_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(WireError, match="handshake"):
        Framer().feed(data)


def test_an_absurd_length_prefix_is_refused_before_anything_is_buffered() -> None:
    with pytest.raises(WireError, match="announced"):
        Framer().feed(HANDSHAKE_PREFIX + struct.pack(">I", MAX_FRAME_BYTES + 1))


@pytest.mark.parametrize(
    ("payload", "version"),
    [(b"v157..178", 178), (b"v100..176", 176), (b"v157..203", 178), (b"v157..178 +PACEAPI", 178)],
)
def test_the_newest_common_version_is_spoken(payload: bytes, version: int) -> None:
    assert negotiate(payload) == version


@pytest.mark.parametrize("payload", [b"v100..175", b"v179..203", b"178", b"", b"\xff\xff", b"v1..2..3"])
def test_a_client_whose_field_lists_would_not_fit_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        negotiate(payload)


def test_fields_are_read_with_their_types_and_empty_means_zero() -> None:
    fields = Fields(b"1\0-7\0\x002.5\0\0text\x001\0")
    assert (fields.integer(), fields.integer(), fields.integer()) == (1, -7, 0)
    assert (fields.number(), fields.number(), fields.text(), fields.flag()) == (2.5, 0.0, "text", True)


@pytest.mark.parametrize("payload", [b"x\0", b"1.5\0", b"", b"9999999999999999999\0", "\u0663\0".encode()])
def test_text_that_is_not_an_integer_is_refused_and_never_guessed(payload: bytes) -> None:
    with pytest.raises(WireError):
        Fields(payload).integer()


def test_a_message_that_ends_early_is_refused() -> None:
    fields = Fields(b"62\x001\0")
    fields.skip(2)
    with pytest.raises(WireError, match="ends after 2 fields"):
        fields.text()
