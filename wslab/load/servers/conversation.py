"""One WebSocket connection of a server while something on it is in transition.

A thin wrapper around the websockets library's Sans-I/O `ServerProtocol`. It adds what that layer leaves to its user:
an HTTP answer to bytes that are no HTTP, messages put together from fragments and echoed, UTF-8 checked (close code
1007), and the knowledge when nothing is left in transition, so that the object can be dropped.

Bytes of an incomplete frame wait here (`FrameBuffer`) rather than in the library's parser: at a frame boundary the
parser holds nothing, and a new protocol object can take over at the next one.
"""

from __future__ import annotations

from http import HTTPStatus

from websockets.exceptions import InvalidHeader, InvalidMessage
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from wslab.load.engine.server_words import MESSAGE_BYTES_MAX
from wslab.load.rfc6455 import FrameBuffer

VERSION_HEADER = "Sec-WebSocket-Version"
END_OF_REQUEST = b"\r\n\r\n"
# A request may have this many bytes, as with other servers (Node 16 KiB, nginx 32 KiB).
REQUEST_BYTES_MAX = 1 << 14
# What a conversation takes by itself, beside the bytes in it: measured, on 64-bit CPython 3.11.
OBJECT_BYTES = 6000
TOO_LARGE_ANSWER = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
BUSY_ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
NO_HTTP_ANSWER = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Conversation:
    """A connection that needs more than the fast path.

    Args:
        greeting: True when the upgrade request is still to come, False for a connection that is open.
        echoes: False leaves whole messages in `posts`, as frames to be sent to everybody.
    """

    def __init__(self, *, greeting: bool, echoes: bool = True) -> None:
        self.echoes = echoes
        self.posts: list[bytes] = []
        state = State.CONNECTING if greeting else State.OPEN
        self.protocol = ServerProtocol(state=state, max_size=MESSAGE_BYTES_MAX)
        self.tail = b""  # of an incomplete request: its last three bytes
        self.request_bytes = 0
        self.refused = False  # by us, beside the library
        self.frames = FrameBuffer(masked=True, bytes_max=MESSAGE_BYTES_MAX)
        self.opcode: Opcode | None = None  # kind of the fragmented message under way
        self.message = bytearray()  # its payload so far; in one piece, as fragments may be many and empty
        self.messages = 0

    @staticmethod
    def text_as_sent(text: bytes | bytearray) -> bytes:
        """Return the frame of a text message as a client sends it."""
        return Frame(Opcode.TEXT, text).serialize(mask=True)

    @property
    def open(self) -> bool:
        """Whether the upgrade has been granted."""
        return self.protocol.state is not State.CONNECTING

    @property
    def over(self) -> bool:
        """Whether we have said our last word."""
        return self.refused or self.protocol.eof_sent

    @property
    def size(self) -> int:
        """How much memory the peer holds here, in bytes, about."""
        request_bytes = 0 if self.open else self.request_bytes
        return OBJECT_BYTES + request_bytes + len(self.frames) + len(self.message)

    @property
    def settled(self) -> bool:
        """Whether nothing is in transition, so that this object can be dropped."""
        return self.protocol.state is State.OPEN and not self.frames and self.opcode is None

    def take_messages(self) -> int:
        """Return how many messages were echoed since the last call."""
        messages, self.messages = self.messages, 0
        return messages

    def receive(self, data: bytes) -> bytes:
        """Take what was read from the peer and return what is to be written to it."""
        if not self.open:
            request, data = self.split_request(data)
            self.request_bytes += len(request)
            self.protocol.receive_data(request)
            self.answer_request()
            if self.asks_too_much():
                self.refused = True
                return TOO_LARGE_ANSWER
        if self.protocol.state is State.OPEN:
            self.receive_frames(data)
        reply = b"".join(part for part in self.protocol.data_to_send() if part != SEND_EOF)
        if not reply and isinstance(self.protocol.handshake_exc, InvalidMessage):
            return NO_HTTP_ANSWER
        return reply

    def asks_too_much(self) -> bool:
        """Tell whether a request goes on for longer than it may."""
        return not self.open and not self.over and self.request_bytes > REQUEST_BYTES_MAX

    def receive_frames(self, data: bytes) -> None:
        """Take whole frames one by one, so that what precedes a close or an error is answered before it."""
        for whole in self.frames.feed(data):
            self.protocol.receive_data(whole)
            for event in self.protocol.events_received():
                if isinstance(event, Frame):
                    self.receive_frame(event)

    def shed(self) -> bytes:
        """End the connection because its memory is needed; return what is to be written."""
        if not self.open:
            self.refused = True
            return BUSY_ANSWER
        self.protocol.fail(CloseCode.MESSAGE_TOO_BIG, "no memory left for a message of this size")
        return b"".join(part for part in self.protocol.data_to_send() if part != SEND_EOF)

    def split_request(self, data: bytes) -> tuple[bytes, bytes]:
        """Cut `data` behind the end of the request, of which part may have come earlier; behind it come frames."""
        joined = self.tail + data
        end = joined.find(END_OF_REQUEST)
        if end < 0:
            self.tail = joined[1 - len(END_OF_REQUEST) :]
            return data, b""
        cut = end + len(END_OF_REQUEST) - len(self.tail)
        self.tail = b""
        return data[:cut], data[cut:]

    def answer_request(self) -> None:
        """Accept or refuse the upgrade once its request is complete."""
        for event in self.protocol.events_received():
            if isinstance(event, Request):
                response = self.protocol.accept(event)
                refusal = self.protocol.handshake_exc
                if isinstance(refusal, InvalidHeader) and refusal.name == VERSION_HEADER:
                    response.headers[VERSION_HEADER] = "13"  # RFC 6455, 4.4: tell which version would do.
                if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS and len(event.headers.get_all("Host")) != 1:
                    # RFC 6455, 4.2.1 and RFC 9112, 3.2; the library leaves this one to whoever uses it.
                    response = self.protocol.reject(HTTPStatus.BAD_REQUEST, "A request has exactly one Host header.\n")
                self.protocol.send_response(response)

    def receive_frame(self, frame: Frame) -> None:
        """Put a message together and echo it once it is whole."""
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # The protocol has answered control frames by itself.
        if frame.opcode is not Opcode.CONT:
            self.opcode = frame.opcode
        self.message += frame.data
        if not frame.fin:
            return
        opcode, message = self.opcode, bytes(self.message)
        self.opcode, self.message = None, bytearray()
        if opcode is Opcode.TEXT:
            try:
                message.decode()
            except UnicodeDecodeError as error:
                self.protocol.fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
                return
        if not self.echoes:
            self.posts.append(Frame(opcode or Opcode.BINARY, message).serialize(mask=False))
        elif opcode is Opcode.BINARY:
            self.protocol.send_binary(message)
        else:
            self.protocol.send_text(message)
        self.messages += 1
