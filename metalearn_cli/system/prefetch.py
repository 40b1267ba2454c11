"""Get the next item ready in a thread, while this one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Number = TypeVar("Number")
Item = TypeVar("Item")


def ahead(work: Callable[[Number], Item], numbers: Iterable[Number]) -> Iterator[Item]:
    """Yield work(number) for each of them: the next one is begun while this one is used, and what it raises is raised
    when its turn has come. A caller that stops early closes the iterator, which waits for what was begun."""
    thread = ThreadPoolExecutor(1)
    try:
        coming = None
        for number in numbers:
            present, coming = coming, thread.submit(work, number)
            if present is not None:
                yield present.result()
        if coming is not None:
            yield coming.result()
    finally:
        thread.shutdown(cancel_futures=True)
