"""What `import fedguard` offers, for editors and type checkers; see `__init__.py`."""

from fedguard.commands.results import Comparison as Comparison
from fedguard.commands.results import Page as Page
from fedguard.commands.results import Result as Result
from fedguard.commands.results import Sweep as Sweep
from fedguard.door import audit as audit
from fedguard.door import compare as compare
from fedguard.door import load as load
from fedguard.door import run as run
from fedguard.door import sweep as sweep
from fedguard.errors import ConfigurationError as ConfigurationError
from fedguard.errors import RunError as RunError
from fedguard.grids.guard import guard as guard
from fedguard.grids.guarded import Guarded as Guarded

__version__: str
