#!/bin/sh
# Lint the API's own description against the OpenAPI and OWASP rules in .spectral.yaml.
# Needs Node. The linter lives in a scratch directory: the project itself has no Node packages.
set -eu
root=$(CDPATH='' cd "$(dirname "$0")/.." && pwd -P)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cd "$root"
.venv/bin/python -c '
import json, sys
from api.app import create_app
from deps.settings import Settings
json.dump(create_app(Settings(_env_file=None)).openapi(), sys.stdout)
' >"$scratch/openapi.json"
cp .spectral.yaml "$scratch/"

cd "$scratch"
npx --yes -p @stoplight/spectral-cli@6.16.3 -p @stoplight/spectral-owasp-ruleset@2.0.1 -c '
    modules=$(dirname "$(dirname "$(command -v spectral)")")
    ln -s "$modules" node_modules
    spectral lint openapi.json --ruleset .spectral.yaml --fail-severity "${1:-warn}"
'
