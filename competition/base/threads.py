"""Work in threads, with its results in order."""

import os
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from competition.base.bars import UNLESS_SEEN, tqdm


def in_threads(work, items, title, part=64):
    """Yield `work(item)` for each item, in order, from a pool of threads, with a bar on a terminal.

    A thread takes `part` items at a time. They never run far ahead of whoever uses the results, so that what waits to
    be used does not depend on the number of items.
    """
    threads = min(16, 2 * (os.cpu_count() or 1))
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # say, of broken metadata in a good picture
        with tqdm(total=len(items), desc=title, unit=" images", disable=UNLESS_SEEN) as bar:
            running = deque()
            try:
                for start in range(0, len(items), part):
                    chunk = items[start : start + part]
                    running.append(pool.submit(lambda chunk: [work(item) for item in chunk], chunk))
                    if len(running) == 2 * threads:
                        yield from _finished(running, bar)
                while running:
                    yield from _finished(running, bar)
            finally:  # after an error nothing more is begun
                for future in running:
                    future.cancel()


def _finished(running, bar):
    """The results of the oldest of the running parts."""
    results = running.popleft().result()
    bar.update(len(results))
    return results
