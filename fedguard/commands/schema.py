"""``fedguard schema``: the configuration's JSON Schema, for editors."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(name="schema")
def schema() -> None:
    """Print the JSON Schema of a configuration file, as configs/schema.json holds it."""
    from fedguard.config.schema import schema_text

    print(schema_text(), end="")
