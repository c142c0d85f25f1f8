"""Threads that send samples to a server and hand over what comes back, in any order."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from vniah.engines.base import Outcome
from vniah.errors import RequestLimitError
from vniah.tasks.base import Sample


class Workers:
    """Threads that answer samples.

    They are daemon threads: none of them keeps the process from ending at Ctrl-C.

    Args:
        samples: the samples to be answered.
        answer: called with a sample and the event that says that no answer is needed any more.
        num_threads: number of threads.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        answer: Callable[[Sample, threading.Event], Outcome],
        num_threads: int,
    ) -> None:
        self.stopped = threading.Event()
        self._answer = answer
        self._samples: queue.SimpleQueue[Sample] = queue.SimpleQueue()
        for sample in samples:
            self._samples.put(sample)
        self._inbox: queue.SimpleQueue[tuple[Sample, Outcome] | BaseException | None] = (
            queue.SimpleQueue()
        )
        self._num_running = num_threads
        for number in range(num_threads):
            threading.Thread(target=self._work, name=f"vniah-sample-{number}", daemon=True).start()

    def _work(self) -> None:
        ended: BaseException | None = None
        try:
            while not self.stopped.is_set():
                sample = self._samples.get_nowait()
                self._inbox.put((sample, self._answer(sample, self.stopped)))
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            ended = error
        self._inbox.put(ended)

    def outcomes(self) -> Iterator[tuple[Sample, Outcome]]:
        """Every outcome as it arrives; then raises the error that ended a thread, if one did."""
        error: BaseException | None = None
        while self._num_running:
            message = self._inbox.get()
            if isinstance(message, tuple):
                yield message
                continue
            self._num_running -= 1
            error = error or message
            if error is not None and not isinstance(error, RequestLimitError):
                self.stopped.set()
                yield from self.arrived()
                break
        if error is not None:
            raise error

    def arrived(self) -> Iterator[tuple[Sample, Outcome]]:
        """The outcomes that have arrived already."""
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(message, tuple):
                yield message
