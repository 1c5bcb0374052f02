"""A bounded queue from one thread to another that ends, fails, or is abandoned."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

from mambamed.errors import CaseError

Item = TypeVar("Item")

_POLL_SECONDS = 0.2  # how long a reader waits for an item before it checks whether the stream was abandoned


class Abandoned(Exception):  # noqa: N818 - the writing thread raises the cause
    """The thread that fills a stream stopped for a reason that it reports itself."""


class Stream(Generic[Item]):
    """A queue with one writer and one reader.

    Args:
        size: the largest number of items that may wait.
    """

    def __init__(self, size: int) -> None:
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(size)
        self._ended, self._abandoned = False, False

    def put(self, item: Item) -> None:
        """Add an item; waits while `size` items are waiting."""
        self._queue.put((item, None))

    @contextmanager
    def filled(self) -> Iterator[None]:
        """The block that puts items. Its end, or its error, reaches the reader.

        A CaseError is raised for the reader only.
        """
        fault: BaseException | None = None
        try:
            yield
        except CaseError as error:
            fault = error
        except BaseException as error:
            fault = error
            raise
        finally:
            self._queue.put((None, fault))

    def abandon(self) -> None:
        """Mark that nothing follows the waiting items, not even an end. Does not wait."""
        self._abandoned = True

    def _next(self) -> tuple[Item | None, BaseException | None]:
        while True:
            with suppress(queue.Empty):
                return self._queue.get(timeout=_POLL_SECONDS)
            if self._abandoned:
                return None, Abandoned()

    def __iter__(self) -> Iterator[Item]:
        while not self._ended:
            item, error = self._next()
            if item is not None:
                yield item
                continue
            self._ended = True
            if isinstance(error, CaseError):
                raise error
            if error is not None:
                raise Abandoned

    def drain(self) -> None:
        """Discard the remaining items, so that the writer never waits for a reader that has stopped."""
        while not self._ended:
            self._ended = self._next()[0] is None


@contextmanager
def abandoned_on_error(streams: Sequence[Stream]) -> Iterator[None]:
    """A block after whose error (e.g. Ctrl-C, at any moment) no reader waits for these streams."""
    try:
        yield
    except BaseException:
        for stream in streams:
            stream.abandon()
        raise
