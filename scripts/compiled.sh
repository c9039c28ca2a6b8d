#!/bin/sh
# Compiles `callstate` into .tools/compiled, where it is not there yet in its newest form.
# Used as PYTHONPATH with PYTHONSAFEPATH=1, it goes before the sources; nothing else changes.
set -eu
cd "$(dirname "$0")/.."
say() { printf 'compiled: %s\n' "$*" >&2; }

stamp=.tools/compiled/stamp
wanted=$(cat callstate/*.py hatch_build.py uv.lock | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

header=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
if ! command -v cc >/dev/null || [ ! -f "$header" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing a C compiler and Python's headers"
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
            --no-install-recommends gcc libc6-dev python3-dev; } >.tools/apt.log 2>&1 ||
            { tail -n 5 .tools/apt.log >&2; exit 1; }
    else
        say "a C compiler and Python's headers are missing; type: sudo apt-get install gcc python3-dev"
        exit 1
    fi
fi

say "compiling callstate (a minute)"
rm -rf .tools/compiled
CDRSTREAM_COMPILED=1 .venv/bin/python -m hatchling build -t wheel -d .tools/compiled >.tools/compiled.log 2>&1 ||
    { tail -n 20 .tools/compiled.log >&2; exit 1; }
.venv/bin/python -m zipfile -e .tools/compiled/*.whl .tools/compiled/all
mv .tools/compiled/all/callstate .tools/compiled/all/*__mypyc* .tools/compiled/
rm -rf .tools/compiled/all .tools/compiled/*.whl
printf '%s' "$wanted" >"$stamp"
say "done"
