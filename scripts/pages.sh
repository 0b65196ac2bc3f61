# Build the pages of docs/ into build/site: sh scripts/pages.sh .venv/bin
# What only they need is installed first, where it is not there: the extra `docs`.
set -eu
"$1/python" -c 'import furo, latex2mathml, myst_nb' 2>/dev/null ||
  "$1/python" -m pip install --quiet --constraint requirements.lock --editable '.[docs]'
exec "$1/python" -m sphinx -W -q -c docs . build/site
