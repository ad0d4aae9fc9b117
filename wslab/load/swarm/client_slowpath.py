"""One client connection while something on it is not plain: a Sans-I/O protocol object around its bytes.

It wraps the websockets library's `ClientProtocol`: an answer to the upgrade that was not seen before or came in parts,
an echo in several frames or parts, pings (answered), a close (answered and reported). Like its twin on the server it is
dropped at the first boundary where nothing is in transition.
"""

from __future__ import annotations

import errno

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import SEND_EOF, State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from wslab.load.rfc6455 import FrameBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wslab.load.swarm.talk import Talk

MESSAGE_BYTES_MAX = 1 << 24
ANSWER_BYTES_MAX = 1 << 16
# The request has been made and sent by the dialect; the library needs some URI to judge the answer.
NOWHERE = WebSocketURI(secure=False, host="localhost", port=80, path="/", query="")


class Exchange:
    """A client connection that needs more than the fast path.

    Args:
        key: the Sec-WebSocket-Key that was sent when the answer to the upgrade is still to come, else None.
        subprotocol: that was asked for; empty for none.
        talk: the application protocol; its replies are sent here, and what it is answered is no message.
    """

    def __init__(self, key: bytes | None, subprotocol: str = "", talk: Talk | None = None) -> None:
        state = State.OPEN if key is None else State.CONNECTING
        subprotocols = [Subprotocol(subprotocol)] if subprotocol else None
        self.protocol = ClientProtocol(NOWHERE, state=state, max_size=MESSAGE_BYTES_MAX, subprotocols=subprotocols)
        self.talk = talk
        self.ready = key is None or talk is None or not talk.protocol.ready
        if key is not None:
            self.protocol.key = key.decode()
        self.answer = bytearray()
        self.frames = FrameBuffer(masked=False, bytes_max=MESSAGE_BYTES_MAX)
        self.message = bytearray()
        self.fragmented = False
        self.messages: list[bytes] = []
        self.pongs: list[bytes] = []
        self.refusal = ""

    @property
    def upgraded(self) -> bool:
        """Whether the upgrade was granted and checked; the connection may be closing already."""
        return self.protocol.state is not State.CONNECTING

    @property
    def entered(self) -> bool:
        """Whether the upgrade was granted, and the application protocol has let the connection in."""
        return self.upgraded and self.ready and not self.refusal

    @property
    def open(self) -> bool:
        """Whether the upgrade was granted and checked, and the connection is not closing."""
        return self.protocol.state is State.OPEN

    @property
    def closing(self) -> bool:
        """Whether the peer has closed, or the protocol was violated."""
        return self.protocol.state in (State.CLOSING, State.CLOSED)

    @property
    def error(self) -> int:
        """What a closing connection counts as: EPROTO when the peer broke the protocol, else ESHUTDOWN."""
        return errno.EPROTO if self.protocol.parser_exc is not None else errno.ESHUTDOWN

    @property
    def farewell(self) -> str:
        """What the peer, or the protocol, gave as the reason for closing."""
        if self.protocol.close_rcvd is not None:
            reason = self.protocol.close_rcvd.reason
            return f"closed with code {self.protocol.close_rcvd.code}" + (f" ({reason})" if reason else "")
        return f"broke the protocol: {self.protocol.parser_exc}"

    @property
    def settled(self) -> bool:
        """Whether nothing is in transition, so that this object can be dropped."""
        return self.open and not self.frames and not self.fragmented

    def receive(self, data: bytes) -> bytes:
        """Take what was read; return what is to be written. Whole messages are then in `messages`."""
        if self.protocol.state is State.CONNECTING:
            searched = max(0, len(self.answer) - 3)
            self.answer += data
            end = self.answer.find(b"\r\n\r\n", searched)
            if end < 0:
                if len(self.answer) > ANSWER_BYTES_MAX:
                    self.refusal = "the answer to the upgrade has no end"
                return b""
            data = bytes(self.answer[end + 4 :])
            del self.answer[end + 4 :]
            self._judge_answer()
            if self.open and self.talk is not None:
                for text in self.talk.protocol.opens_with:
                    self.protocol.send_text(text.encode())
        if self.open:
            for whole in self.frames.feed(data):
                self.protocol.receive_data(whole)
                for event in self.protocol.events_received():
                    if isinstance(event, Frame):
                        self._receive_frame(event)
        return b"".join(part for part in self.protocol.data_to_send() if part != SEND_EOF)

    def _judge_answer(self) -> None:
        self.protocol.receive_data(bytes(self.answer))
        for event in self.protocol.events_received():
            if isinstance(event, Response) and event.status_code == 101 and not self.open:
                self.refusal = str(self.protocol.handshake_exc)
        if not self.open and not self.refusal:
            status, _, _ = self.answer.partition(b"\r\n")
            self.refusal = f"no upgrade: {status.decode('ascii', 'backslashreplace')}"

    def _receive_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self.pongs.append(bytes(frame.data))
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self.message += frame.data
        self.fragmented = not frame.fin
        if frame.fin:
            message, self.message = bytes(self.message), bytearray()
            if self.talk is None or not self._belongs_to(self.talk, message.decode(errors="replace")):
                self.messages.append(message)

    def _belongs_to(self, talk: Talk, text: str) -> bool:
        """Answer a message of the application protocol; tell whether it was one."""
        reply = talk.reply_to(text)
        if reply:
            self.protocol.send_text(reply.encode())
        if not self.ready and talk.ready.fullmatch(text):
            self.ready = True
            return True
        if not self.ready and talk.protocol.refused and talk.refused.fullmatch(text):
            self.refusal = f"refused: {text}"
        return reply is not None
