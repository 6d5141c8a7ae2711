"""Bytes of one stream, read from the front: whole numbers, and what is said where they end too early."""

from __future__ import annotations

from collections.abc import Iterable


class StreamError(ValueError):
    """A stream that no writer has written; the message says what is wrong, and the caller where."""


class StreamReader:
    """Takes bytes from the front of a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            StreamError: If there are fewer.
        """
        start, self._place = self._place, self._place + count
        if self._place > len(self._data):
            raise StreamError(f"it ends after {len(self._data)} bytes, in the middle of a number or table")
        return self._data[start : self._place]

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._place)

    def number(self, largest: int) -> int:
        """The next whole number (``number_bytes``).

        Raises:
            StreamError: If it is above ``largest``, is not in the fewest bytes, or there is none.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if value > largest or shift > 63:
                raise StreamError(f"it holds a count of {value} or more where {largest} is the most possible")
            if byte == 0 and shift > 7:
                raise StreamError(f"it holds a count of {value} in more bytes than that takes")
            if byte < 128:
                return value

    def numbers(self, count: int, *, total: int) -> list[int]:
        """Counts that add up to ``total``.

        Raises:
            StreamError: If they do not.
        """
        values = [self.number(total) for _ in range(count)]
        if sum(values) != total:
            raise StreamError(f"its counts add up to {sum(values)}, which must be {total}")
        return values


def number_bytes(*numbers: int) -> bytes:
    """Whole numbers in seven bits a byte, the lowest first; the high bit says that more follow (LEB128)."""
    written = bytearray()
    for number in numbers:
        while number > 127:
            written.append(number & 127 | 128)
            number >>= 7
        written.append(number)
    return bytes(written)


def number_size(numbers: Iterable[int]) -> int:
    """How many bytes ``number_bytes`` takes."""
    return sum(max(1, -(-int(number).bit_length() // 7)) for number in numbers)
