"""`Desk`: where one thread trains clients; both are replaced when a client never comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fedguard.clients.training import ClientTrainer
from fedguard.clients.watch import ClientLateError, Watch, as_failure

Result = TypeVar("Result")


class Desk:
    """A trainer of one thread, and what happens to it when a client outlasts its time.

    Parameters
    ----------
    trainer : ClientTrainer
        Whose settings and memories count.
    own : ClientTrainer, optional
        The desk's trainer where no time is set; `trainer` itself if left out.
    """

    def __init__(self, trainer: ClientTrainer, own: ClientTrainer | None = None) -> None:
        self.trainer = trainer
        self._plain = own or trainer
        self._watched: ClientTrainer | None = own
        self._watch = Watch()

    def run(self, do: Callable[[ClientTrainer], Result], seconds: float | None) -> Result:
        """Return what `do` returns for the desk's trainer.

        With a time, `do` gets a trainer that nobody else uses: a client that outlasts it keeps that
        trainer, and may do to it what it likes.

        Raises
        ------
        ClientError
            If the client failed or did not come back within `seconds`.
        """
        if seconds is None:
            self._plain.follow(self.trainer)
            try:
                return do(self._plain)
            except Exception as error:  # a stranger's rule or network can fail in any way
                raise as_failure(error) from error
        if self._watched is None:
            self._watched = self.trainer.twin()
        mine = self._watched
        mine.follow(self.trainer)
        try:
            return self._watch.call(lambda: do(mine), seconds)
        except ClientLateError:
            mine.detach()
            self._watched = None
            raise

    def close(self) -> None:
        """End the thread."""
        self._watch.close()
