#!/bin/sh
# The environment: `sh scripts/install.sh ENVIRONMENT PYTHON`, with the versions of requirements.lock.
# Run again after a failure it goes on from there.
set -u
venv=$1 python=$2

refuse() {
  echo "error: $*" >&2
  exit 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || refuse \
  "$python is not Python 3.11 or newer ($("$python" --version 2>&1)); install one and name it, for" \
  "example: make figures PYTHON=python3.12"
"$python" -c 'import ensurepip, venv' 2>/dev/null || refuse \
  "$python lacks the module venv; on Debian and Ubuntu: apt install python3-venv"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv" || refuse \
  "$venv cannot be created; remove it if it is a broken one, and try again"
echo "installing the packages of requirements.lock into $venv: some minutes"
pip="$venv/bin/python -m pip install --disable-pip-version-check"
$pip --requirement requirements.lock \
  && $pip --quiet --no-deps --requirement requirements.rivals \
  && $pip --quiet --no-deps --editable . || refuse \
  "not all packages could be installed (pip says why, above); the same command goes on from here"
# librosa compiles for half a minute at its first stretch: once here, not in every first process
"$venv/bin/python" -c 'import librosa, numpy; librosa.effects.time_stretch(numpy.ones(4096), rate=2)'
