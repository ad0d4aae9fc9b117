"""Where WebSocket frames end, which both ends of the load find out themselves, and the bytes of incomplete ones.

Frames are not decoded here. A connection's protocol object can be dropped at a frame boundary only, so the bytes of an
incomplete frame have to wait outside of it, and the Sans-I/O protocols do not report where a frame ends.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OPCODES = (0x0, 0x1, 0x2, 0x8, 0x9, 0xA)


def frame_ends(data: bytes, *, masked: bool, bytes_max: int) -> Iterator[int]:
    """Yield where each whole frame of `data` ends; bytes behind the last of them are an incomplete frame.

    As soon as a header is seen that the protocol refuses without looking at the payload (an unknown opcode, a wrong
    mask bit, more than `bytes_max` bytes of payload), all that is left counts as one frame. This does not hold for what
    the protocol refuses only after the payload (reserved bits, a control frame that is too long): it would keep the
    incomplete frame, which is lost when the protocol object is dropped.
    """
    position = 0
    while len(data) - position >= 2:
        first, second = data[position], data[position + 1]
        if first & 0x0F not in OPCODES or bool(second & 0x80) is not masked:
            yield len(data)
            return
        size, header = second & 0x7F, 2
        if size > 125:
            header += 2 if size == 126 else 8
            if len(data) - position < header:
                return
            size = int.from_bytes(data[position + 2 : position + header], "big")
        if size > bytes_max:
            yield len(data)
            return
        end = position + header + (4 if masked else 0) + size
        if len(data) < end:
            return
        yield end
        position = end


class FrameBuffer:
    """The bytes of a frame that is not whole yet.

    Args:
        masked: whether the peer has to mask its frames.
        bytes_max: the largest payload that is accepted.
    """

    def __init__(self, *, masked: bool, bytes_max: int) -> None:
        self.masked, self.bytes_max = masked, bytes_max
        self._data = bytearray()
        self._needed = 2  # bytes with which it is worthwhile to look again

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what was read and yield the frames that are whole now, one by one."""
        if not self._data and len(data) >= 2:
            joined = data
        else:
            self._data += data
            if len(self._data) < self._needed:
                return
            joined, self._data = bytes(self._data), bytearray()
        start = 0
        for end in frame_ends(joined, masked=self.masked, bytes_max=self.bytes_max):
            yield joined[start:end]
            start = end
        self._data, self._needed = bytearray(joined[start:]), frame_bytes(joined[start : start + 14])


def frame_bytes(start: bytes) -> int:
    """Return how many bytes the frame that starts so has, as far as they tell: at least two, and its header first."""
    if len(start) < 2:
        return 2
    size, header = start[1] & 0x7F, 2
    if size > 125:
        header += 2 if size == 126 else 8
        if len(start) < header:
            return header
        size = int.from_bytes(start[2:header], "big")
    return header + (4 if start[1] & 0x80 else 0) + size
