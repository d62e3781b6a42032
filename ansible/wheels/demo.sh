#!/bin/sh
# `sh demo.sh` runs the demonstration from this folder. It needs Linux, Python 3.11 to 3.13 with venv, and neither a network nor
# a compiler. Its options are those of `edge-agent demo`, such as --keep --web.
set -eu
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
if ! [ -e "$here/env/complete" ]; then
  echo "installing into $here/env, which takes up to a minute" >&2
  python3 -m venv --clear "$here/env"
  "$here/env/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --require-hashes \
    --find-links "$here" --find-links "$here/pc" --requirement "$here/pc/requirements.txt"
  touch "$here/env/complete"
fi
exec "$here/env/bin/edge-agent" demo --work "$here/pc" "$@"
