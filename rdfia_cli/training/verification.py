"""Whether a dataset's source is still what was prepared, found out beside other work."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Verification:
    """A look at the source of a dataset, in a thread that keeps no process from ending.

    Args:
        verify: raises where the source changed; None where there is nothing to look at.
    """

    def __init__(self, verify: Callable[[], None] | None) -> None:
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        if verify is not None:
            self._thread = threading.Thread(target=self._look, args=(verify,), daemon=True)
            self._thread.start()

    def _look(self, verify: Callable[[], None]) -> None:
        try:
            verify()
        except Exception as error:  # whatever it is, whoever waits shall have it
            self._error = error

    @property
    def pending(self) -> bool:
        """Whether nobody knows yet."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Return once the source is known to be unchanged; a signal's handler may end the wait.

        Raises:
            ChangedError: it changed.
        """
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
