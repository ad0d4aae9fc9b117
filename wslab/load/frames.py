"""Where WebSocket frames end, without decoding them: the one thing the Sans-I/O protocols do not tell.

A connection's protocol object can be dropped only at a frame boundary, so bytes of an incomplete frame must wait
outside of it.
"""

from __future__ import annotations

OPCODES = (0x0, 0x1, 0x2, 0x8, 0x9, 0xA)


def whole_frames(data: bytes, *, masked: bool, bytes_max: int) -> int:
    """Return how many leading bytes of `data` are whole frames.

    All of them count as whole as soon as a header is seen that the protocol will refuse (a wrong mask bit, reserved
    bits, an unknown opcode, more than `bytes_max` bytes of payload): it need not wait for the payload.
    """
    position = 0
    while len(data) - position >= 2:
        first, second = data[position], data[position + 1]
        if first & 0x70 or first & 0x0F not in OPCODES or bool(second & 0x80) is not masked:
            return len(data)
        size, header = second & 0x7F, 2
        if size > 125:
            extended = 2 if size == 126 else 8
            if len(data) - position < 2 + extended:
                return position
            size = int.from_bytes(data[position + 2 : position + 2 + extended], "big")
            header += extended
        if size > bytes_max:
            return len(data)
        header += 4 if masked else 0
        if len(data) - position < header + size:
            return position
        position += header + size
    return position
