"""`guard`: one line that puts a rule before anybody's ServerApp."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedguard.errors import ConfigurationError
from fedguard.grids.guarded import Guarded
from fedguard.grids.guarded_older import is_older_app, run_older
from fedguard.grids.judge import RuleLike, rule_of
from fedguard.strategies.base import RobustStrategy

App = TypeVar("App", bound=ServerApp | Callable[[Grid, Context], None])


def guard(rule: RuleLike = "multi-krum", /, **arguments: Any) -> Callable[[App], App]:
    """Return a decorator that defends a ServerApp, or its main function, with a rule.

    ``app = fedguard.guard("multi-krum", assumed_malicious=0.2)(app)`` at the end of a server's
    file, or ``@fedguard.guard(...)`` under ``@app.main()``. Apps of Flower's older API
    (``server_fn``, or a strategy handed to the ServerApp) are defended by the first form.

    Parameters
    ----------
    rule : str or RobustStrategy
        A registered rule's name or a rule; see `Guarded`.
    **arguments : Any
        The named rule's arguments, and ``model``, ``server_data`` and ``latent_layer`` for a rule
        that judges by the server's.

    Raises
    ------
    ConfigurationError
        If the rule cannot stand before another strategy, or what is decorated is neither.
    """

    def make() -> RobustStrategy:
        """Return the rule for one run; one that is given by name begins anew."""
        lent = {name: arguments.get(name) for name in ("model", "server_data", "latent_layer")}
        rest = {name: value for name, value in arguments.items() if name not in lent}
        return rule_of(rule, lent["model"], lent["server_data"], lent["latent_layer"], rest)

    make()  # a rule that cannot work is refused where it is written down

    def decorate(app: App) -> App:
        found: Any = app
        if isinstance(app, ServerApp):
            found = GuardedApp(app, make)
        elif callable(app):
            found = _guarded_main(app, make)
        else:
            raise ConfigurationError("app", app, "a flwr ServerApp or its main function")
        guarded: App = found
        return guarded

    return decorate


def _guarded_main(
    main: Callable[[Grid, Context], None], make: Callable[[], RobustStrategy]
) -> Callable[[Grid, Context], None]:
    @wraps(main)
    def guarded(grid: Grid, context: Context) -> None:
        main(Guarded(grid, make()), context)

    return guarded


class GuardedApp(ServerApp):
    """A ServerApp around another one, which sees only what a rule has decided on.

    Parameters
    ----------
    inner : ServerApp
        The app, of today's or of the older API.
    make : callable
        Returns the rule for one run.
    """

    def __init__(self, inner: ServerApp, make: Callable[[], RobustStrategy]) -> None:
        super().__init__()
        self.inner = inner
        self.make = make

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run the inner app on a guarded grid."""
        if is_older_app(self.inner):
            run_older(self.inner, self.make(), grid, context)
        else:
            self.inner(Guarded(grid, self.make()), context)
