"""Malicious requests over HTTP, WebSocket and Realtime, as bytes on a socket, for `benchmarks.runtime.serve` and the tests.

Everything is a function of a seed. Each attack lists the allowed statuses; a connection closed without an answer is allowed,
except where the attack says what the answer must hold.
"""

from __future__ import annotations

import gzip
import io
import random
import socket
import struct
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import soundfile

REFUSED = frozenset({400, 401, 404, 405, 408, 411, 413, 414, 415, 429, 431, 501, 504})


@dataclass(frozen=True)
class Attack:
    """``parts`` are sent in order with pauses of ``pause_s``; with ``leave`` the client disconnects after the last."""

    kind: str
    parts: Sequence[bytes]
    fine: frozenset[int] = REFUSED
    pause_s: float = 0.0
    leave: bool = False
    upgrade: bool = False
    """the first part is a WebSocket's handshake, whose answer is awaited; a close frame is an end, too"""
    says: bytes = b""
    """what the answer must hold; the client leaves when it has come"""


@dataclass(frozen=True)
class Answer:
    """The server's answer; status 0 if the connection was closed without one."""

    status: int
    body: bytes = field(repr=False)


class Attacks:
    """Attacks by number. ``speech`` is a wave (samples,) at 16 kHz, ``canary`` the path of a file that must not be read."""

    def __init__(self, speech: np.ndarray, canary: str, long_s: float = 4000.0) -> None:
        self.canary = canary
        self.files = {name: _audio(speech, name) for name in ("WAV", "FLAC", "OGG", "MP3")}
        quiet = np.zeros(16_000 * 100, np.int16)
        out = io.BytesIO()
        with soundfile.SoundFile(out, "w", 16_000, 1, "PCM_16", format="FLAC") as file:
            for _ in range(int(long_s / 100) + 1):
                file.write(quiet)
        self.bomb = out.getvalue()
        self.kinds: list[Callable[[random.Random], Attack]] = [
            self.bad_path, self.bad_http, self.huge_headers, self.bad_lengths, self.bad_form, self.no_audio, self.cut_audio,
            self.damaged_audio, self.bombs, self.forged_headers, self.left_alone, self.file_names, self.wrong_words,
            self.pipelined, self.bad_handshake, self.bad_frames, self.bad_stream, self.bad_realtime,
        ]  # fmt: skip

    def attack(self, number: int) -> Attack:
        """The attack with this number; the kinds alternate."""
        return self.kinds[number % len(self.kinds)](random.Random(number))

    def bad_path(self, dice: random.Random) -> Attack:
        path = dice.choice(
            ["/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/page.html/../../x",
             "//etc/passwd", "/\\..\\..\\windows", "/transcribe/../../../etc", "/%00", "/" + "a" * 9000,
             f"/{self.canary}", "/.git/config", "*",
             "http://elsewhere/transcribe", "/v1/files", "/?" + "x=" * 4000, "/static/%c0%ae%c0%ae/x"]
        )  # fmt: skip
        method = dice.choice(["GET", "POST", "DELETE", "PUT", "TRACE", "CONNECT", "PROPFIND", "X" * 50])
        fine = REFUSED | ({200} if path.startswith("/?") else set())
        return Attack("bad path", [_request(f"{method} {path}")], frozenset(fine))

    def bad_http(self, dice: random.Random) -> Attack:
        return Attack(
            "bad HTTP",
            [dice.choice([
                dice.randbytes(dice.randrange(1, 4000)), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(500),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + dice.randbytes(40), b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 2000,
                b"GET\r\n\r\n",
                b"POST /transcribe HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"\x00" * 3000,
                b"GET / HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n", b"POST /transcribe HTTP/1.0\r\n\r\nRIFF", 
                b"GET / HTTP/1.1\nHost: a\n\n",
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
            ])],
            REFUSED | {200},
        )  # fmt: skip

    def huge_headers(self, dice: random.Random) -> Attack:
        many = {f"X-{i}": "y" * 20 for i in range(2000)}
        large = {
            dice.choice(["Cookie", "Authorization", "X" * 100, "Content-Type"]): "z"
            * dice.choice([20_000, 200_000, 2_000_000])
        }
        return Attack("huge headers", [_request("POST /transcribe", dice.choice([many, large]), b"x")])

    def bad_lengths(self, dice: random.Random) -> Attack:
        headers = dice.choice(
            [{"Content-Length": "-1"}, {"Content-Length": "1e9"}, {"Content-Length": "99999999999999999999"},
             {"Content-Length": "5", "Transfer-Encoding": "chunked"}, {"Transfer-Encoding": "gzip, chunked"},
             {"Content-Length": "4000000000"}, {"Content-Length": "1, 2"}, {"Transfer-Encoding": "chunked"}]
        )  # fmt: skip
        body = dice.choice(
            [
                b"FFFFFFFFFFFFFFFF\r\nabc",
                b"zz\r\n\r\n",
                b"5\r\nabcde\r\n0\r\n\r\n",
                b"-5\r\nabc",
                b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            ]
        )
        head = _request("POST /transcribe", headers, None)
        return Attack("bad lengths", [head + body], leave=dice.random() < 0.5)

    def bad_form(self, dice: random.Random) -> Attack:
        wav = self.files["WAV"]
        part = b'--b\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n\r\n%b\r\n'
        end = b"--b--\r\n"
        kind = "multipart/form-data; boundary=b"
        body, type_ = dice.choice(
            [(part % (b"file", b"a.wav", wav) + end, "multipart/form-data"),
             (part % (b"file", b"a.wav", wav) + end, "multipart/form-data; boundary=other"),
             (part % (b"file", b"a.wav", wav) * 2 + end, kind),
             (part % (b"other", b"a.wav", wav) + end, kind),
             (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nno file but text\r\n' + end, kind),
             (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n' * 500 + end, kind),
             (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + b"p" * 900_000 + b"\r\n" + end, kind),
             (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + end, kind),
             (b"--b\r\n" + b"X: y\r\n" * 3000 + b"\r\nx\r\n" + end, kind),
             (b"", kind), (end, kind), (dice.randbytes(5000), kind), (wav, "application/json"), (b"{}", "application/json"),
             (part % (b"file", b"a.wav", wav), kind + "; charset=" + "u" * 500),
             (b"a=b&file=c", "application/x-www-form-urlencoded")]
        )  # fmt: skip
        return Attack(
            "bad form", [_request("POST /v1/audio/transcriptions", {"Content-Type": type_}, body)], REFUSED | {200}
        )

    def no_audio(self, dice: random.Random) -> Attack:
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x" * 50, b"\0" * 1_000_000)
        body = dice.choice(
            [b"", b"\0", dice.randbytes(dice.randrange(1, 50_000)), b"<!doctype html><p>hello",
             b"\x89PNG\r\n\x1a\n" + dice.randbytes(900),
             zipped.getvalue(), b"#EXTM3U\nfile://" + self.canary.encode(), b"ffconcat version 1.0\nfile " + self.canary.encode(),
             b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 9 RTP/AVP 0\r\n", b"RIFF", b"fLaC", b"OggS",
             b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f",
             b"\xff\xfb" * 5000, b"\x1aE\xdf\xa3" + dice.randbytes(3000), b"\0\0\0\x20ftypM4A " + dice.randbytes(3000),
             _movie_that_refers_to(self.canary)]
        )  # fmt: skip
        name = dice.choice(["a.wav", "a.g722", "a.raw", "a.mp4", ""])
        # With a .g722 name any bytes are valid audio.
        return Attack("no audio", [_request(f"POST /transcribe?name={name}", {}, body)], REFUSED | {200})

    def cut_audio(self, dice: random.Random) -> Attack:
        whole = self.files[dice.choice(list(self.files))]
        body = whole[: dice.randrange(len(whole))]
        return Attack("cut audio", [_request("POST /transcribe", {}, body)], REFUSED | {200})

    def damaged_audio(self, dice: random.Random) -> Attack:
        body = bytearray(self.files[dice.choice(list(self.files))])
        for _ in range(dice.choice([1, 10, 300])):
            body[dice.randrange(len(body))] = dice.randrange(256)
        return Attack("damaged audio", [_request("POST /transcribe", {}, bytes(body))], REFUSED | {200})

    def bombs(self, dice: random.Random) -> Attack:
        if dice.random() < 0.2:
            return Attack("bomb", [_request("POST /transcribe", {}, self.bomb)])
        packed = gzip.compress(b"\0" * 3_000_000)
        headers = dice.choice(
            [{"Content-Encoding": "gzip"}, {"Transfer-Encoding": "gzip"}, {"Content-Type": "application/gzip"}]
        )
        return Attack("bomb", [_request("POST /transcribe", headers, packed)])

    def forged_headers(self, dice: random.Random) -> Attack:
        channels, rate, bits = (
            dice.choice([0, 1, 2, 1024, 65535]),
            dice.choice([0, 1, 16_000, 2**32 - 1]),
            dice.choice([0, 1, 16, 32, 65535]),
        )
        size = dice.choice([0, 2**31, 2**32 - 1])
        block = (channels * bits // 8) & 0xFFFF
        head = b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack(
            "<IHHIIHH", 16, dice.choice([1, 3, 0xFFFE, 85]), channels, rate, (rate * block) & 0xFFFFFFFF, block, bits
        ) + b"data" + struct.pack("<I", size)  # fmt: skip
        body = head + dice.randbytes(dice.randrange(2000))
        return Attack("forged header", [_request("POST /transcribe", {}, body)], REFUSED | {200})

    def left_alone(self, dice: random.Random) -> Attack:
        """Clients that disconnect in the middle, or send so slowly that they never finish."""
        whole = _request("POST /transcribe", {}, self.files["WAV"])
        if dice.random() < 0.9:
            return Attack("gone", [whole[: dice.randrange(len(whole))]], leave=True)
        at = dice.choice([3, 30, 200])
        return Attack("slow", [whole[:at], *(whole[at + i : at + i + 1] for i in range(60))], pause_s=0.25)

    def file_names(self, dice: random.Random) -> Attack:
        name = dice.choice(
            ["../../../../etc/passwd", self.canary, "/dev/zero", "/dev/stdin", "a\\..\\..\\b.wav", "con.wav", "%00.wav",
             "x" * 9000, "file:///etc/passwd", "concat:/etc/passwd", "pipe:0", "a%0d%0aX-Injected:%20yes.wav", 
             "\u202e3pm.exe", "'; rm -rf / #", "|ls"]
        )  # fmt: skip
        wav = self.files["WAV"]
        quoted = name.replace("%0d%0a", "\r\n").encode()
        body = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
            + quoted
            + b'"\r\n\r\n'
            + wav
            + b"\r\n--b--\r\n"
        )
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        return Attack("file name", [_request("POST /v1/audio/transcriptions", form, body)], REFUSED | {200})

    def wrong_words(self, dice: random.Random) -> Attack:
        """Unknown formats, fields and tokens."""
        target, headers = dice.choice(
            [("POST /transcribe?format=doc", {}), ("POST /transcribe?format=" + "j" * 5000, {}), 
             ("POST /transcribe?format=%00", {}),
             ("GET /transcribe", {}), ("POST /metrics", {}), ("POST /", {}), ("DELETE /v1/models", {}),
             ("POST /transcribe?format=json&format=doc", {}), ("POST /v1/audio/transcriptions", {"Content-Type": "text/plain"}),
             ("GET /v1/models?token=x", {"Authorization": "Basic eDp5"}), ("GET /metrics", {"Authorization": "Bearer \xff\xfe"}),
             ("POST /transcribe", {"Range": "bytes=0-1", "Expect": "100-continue"}),
             ("POST /transcribe", {"Expect": "200-maybe"})]
        )  # fmt: skip
        return Attack("wrong words", [_request(target, headers, self.files["WAV"][:3000])], REFUSED | {200})

    def pipelined(self, dice: random.Random) -> Attack:
        many = _request("GET /health", {"Connection": "keep-alive"}) * dice.choice([5, 50, 400])
        return Attack("pipelined", [many + _request("GET /health")], frozenset({200}), leave=dice.random() < 0.3)

    def bad_handshake(self, dice: random.Random) -> Attack:
        query = dice.choice(
            ["?rate=0", "?rate=1e5", "?rate=", "?rate=" + "9" * 4000, "?format=exe", "?token=guess", "?language=" + "x" * 5000,
             "?hot_words=" + "a," * 6000, "?session=" + "../" * 50, "?model=../../etc/passwd", "?silence_ms=-1", "?%00=%ff"]
        )  # fmt: skip
        route = dice.choice(["/stream", "/v1/realtime"])
        lost = dice.choice([{}, {"Sec-WebSocket-Version": "99"}, {"Sec-WebSocket-Key": "short"}, {"Origin": "https://x.example"},
                            {f"X-{number}": "y" for number in range(200)}])  # fmt: skip
        return Attack("bad handshake", [_upgrade(route + query, **lost)], REFUSED | {403, 426, 101}, leave=True)

    def bad_frames(self, dice: random.Random) -> Attack:
        frame = dice.choice(
            [_frame(2, b"x" * 40, mask=False), _frame(11, b"reserved"), _frame(9, b"p" * 200), _frame(1, b"\xff\xfe"),
             _frame(0, b"no beginning"), b"\x82\xff" + struct.pack(">Q", 1 << 62), b"\xf2\x80abcd", dice.randbytes(300),
             _frame(2, bytes(1 << 21)), _frame(8, b"\x00"), _frame(8, b"\x03\xe8" + b"\xff" * 20)]
        )  # fmt: skip
        return Attack("bad frames", [_upgrade(_LIVE), frame], frozenset({101}), leave=dice.random() < 0.3, upgrade=True)

    def bad_stream(self, dice: random.Random) -> Attack:
        says = b'"error"'
        message = dice.choice(
            [_frame(1, b"hello"), _frame(1, b"[" * 200_000), _frame(1, b'{"finish": "yes"}'), _frame(1, b'{"token": 5}'),
             _frame(1, b"9" * 9_000), _frame(1, b'{"a": ' * 50_000), _frame(2, b"\x01") + _frame(1, b"null"),
             _frame(2, dice.randbytes(dice.randrange(40_000))) + _frame(1, b'"\\ud800"')]
        )  # fmt: skip
        query = dice.choice(["", "?rate=192000", "?format=webm", "?format=ogg", "?vad=true"])
        return Attack("bad stream", [_upgrade("/stream" + query), message], REFUSED | {101}, upgrade=True, says=says)

    def bad_realtime(self, dice: random.Random) -> Attack:
        def update(input: str) -> bytes:
            return b'{"type": "session.update", "session": {"audio": {"input": %b}}}' % input.encode()

        append = b'{"type": "input_audio_buffer.append", "audio": %b}'
        message = dice.choice(
            [b"hello", b"[" * 200_000, b"{}}", b'{"type": 5}', b'{"type": "response.create"}', append % b'"%%%%"', append % b"7",
             append % (b'"' + b"A" * 4_001 + b'"'), b'{"type": "input_audio_buffer.commit"}', b'{"type": "session.update"}',
             update('{"format": {"type": "audio/pcm", "rate": 0}}'), update('{"format": {"type": "audio/pcm", "rate": NaN}}'),
             update('{"format": "mp3"}'), update('{"turn_detection": {"threshold": 1e999}}'), update('{"transcription": 3}'),
             update('{"transcription": {"prompt": "%s"}}' % ("a," * 10_000)), update("null"), update('{"turn_detection": 1}')]
        )  # fmt: skip
        kind, says = 2 if dice.random() < 0.1 else 1, b'"type": "error"'
        return Attack(
            "bad realtime", [_upgrade(_LIVE), _frame(kind, message)], frozenset({101}), upgrade=True, says=says
        )


def fire(address: tuple[str, int], attack: Attack, timeout_s: float = 60.0) -> Answer:
    """Send ``attack`` and read the answer; ``TimeoutError`` if the server neither answers nor closes the connection."""
    received = b""
    with socket.create_connection(address, timeout=timeout_s) as connection:
        try:
            for number, part in enumerate(attack.parts):
                connection.sendall(part)
                time.sleep(attack.pause_s)
                while attack.upgrade and not number and b"\r\n\r\n" not in received:
                    if not (chunk := connection.recv(65_536)):
                        break
                    received += chunk
        except ConnectionError:
            pass  # closed before everything was sent: an answer may still be readable
        if attack.leave:
            return Answer(0, b"")
        try:
            while chunk := connection.recv(65_536):
                received += chunk
                said = attack.says and attack.says in received
                if said or (attack.upgrade and b"\x88" in received.partition(b"\r\n\r\n")[2]):
                    break
        except ConnectionError:
            pass
    last = received.removeprefix(b"HTTP/1.1 100 \r\n\r\n").removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Answer(int(last[9:12]) if last.startswith(b"HTTP/1.1 ") else 0, received)


_LIVE = "/v1/realtime?intent=transcription"


def wrong(attack: Attack, answer: Answer) -> bool:
    """Whether the server should not have answered ``attack`` like this."""
    if attack.says and not attack.leave and attack.says not in answer.body and answer.status == 101:
        return True
    return answer.status not in attack.fine and answer.status != 0


def _upgrade(target: str, **headers: str) -> bytes:
    """The handshake of a WebSocket."""
    lines = {"Host": "victim", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
             "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **headers}  # fmt: skip
    text = f"GET {target} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in lines.items()) + "\r\n"
    return text.encode()


def _frame(kind: int, payload: bytes, mask: bool = True) -> bytes:
    """A frame of a WebSocket (RFC 6455), masked with zeros."""
    size, bit = len(payload), 0x80 if mask else 0
    if size < 126:
        length = bytes([bit | size])
    else:
        length = (
            bytes([bit | 126]) + struct.pack(">H", size)
            if size < 1 << 16
            else bytes([bit | 127]) + struct.pack(">Q", size)
        )
    return bytes([0x80 | kind]) + length + (bytes(4) if mask else b"") + payload


def _request(target: str, headers: dict[str, str] | None = None, body: bytes | None = b"") -> bytes:
    """A request; with a Content-Length unless ``body`` is None or the headers already state a length."""
    lines = {"Host": "victim", "Connection": "close", **(headers or {})}
    if body and not {"Content-Length", "Transfer-Encoding"} & set(lines):
        lines["Content-Length"] = str(len(body))
    text = f"{target} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in lines.items()) + "\r\n"
    return text.encode("latin-1", "replace") + (body or b"")


def _audio(wave: np.ndarray, format: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, wave, 16_000, format=format)
    return out.getvalue()


def _movie_that_refers_to(path: str) -> bytes:
    """A QuickTime file that refers to samples in another file (a data reference with a path)."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + kind + content

    reference = box(b"dref", struct.pack(">II", 0, 1) + box(b"url ", struct.pack(">I", 0) + path.encode() + b"\0"))
    tables = box(
        b"stsd",
        struct.pack(">II", 0, 1)
        + box(b"sowt", b"\0" * 6 + struct.pack(">HHIHHHHI", 1, 0, 0, 1, 16, 0, 0, 16_000 << 16)),
    )
    tables += box(b"stts", struct.pack(">IIII", 0, 1, 4000, 1)) + box(b"stsc", struct.pack(">IIIII", 0, 1, 1, 4000, 1))
    tables += box(b"stsz", struct.pack(">III", 0, 2, 4000)) + box(b"stco", struct.pack(">III", 0, 1, 0))
    media = box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, 16_000, 4000, 0, 0))
    media += box(b"hdlr", b"\0" * 4 + b"mhlrsoun" + b"\0" * 13)
    media += box(b"minf", box(b"smhd", b"\0" * 8) + box(b"dinf", reference) + box(b"stbl", tables))
    track = box(b"tkhd", struct.pack(">IIIII", 1, 0, 0, 1, 0) + b"\0" * 64) + box(b"mdia", media)
    header = box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 16_000, 4000) + b"\0" * 80)
    return box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", header + box(b"trak", track))
