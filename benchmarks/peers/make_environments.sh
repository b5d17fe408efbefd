#!/usr/bin/env bash
# Make the peers' pinned environments, .venv-NAME for each requirements-NAME.txt here. Needs uv.
set -euo pipefail
cd "$(dirname "$0")"
for file in requirements-*.txt; do
    name=${file#requirements-}
    folder=.venv-${name%.txt}
    uv venv --quiet --python 3.11 "$folder"
    uv pip install --quiet --python "$folder/bin/python" -r "$file"
    echo "$folder"
done
