#!/bin/sh
# Makes a clone ready: Python packages, Kafka's jars, PostgreSQL, libfaketime. Quick when all is there.
# What is missing on the machine is installed when root runs this, and else named with the command.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$1; type: $2"; exit 1; }

# One setup at a time in one clone; other clones have folders of their own.
if mkdir -p .tools 2>/dev/null && [ -w .tools ] && [ -z "${CDRSTREAM_SETUP_LOCKED:-}" ] &&
    command -v flock >/dev/null; then
    CDRSTREAM_SETUP_LOCKED=1 exec flock .tools/lock sh scripts/setup.sh "$@"
fi

uv_version=0.13.9
stamp=.tools/ready
wanted="$root $(cat pyproject.toml uv.lock scripts/setup.sh | cksum)"
runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && runs .venv/bin/python; then
    exit 0
fi

apt_missing=""
need() { apt_missing="$apt_missing $1"; }
apt_install() {
    [ -n "$apt_missing" ] || return 0
    # shellcheck disable=SC2086  one word a package
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing$apt_missing"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y -q --no-install-recommends $apt_missing >.tools/apt.log 2>&1 ||
            { apt-get update -q >>.tools/apt.log 2>&1 &&
                apt-get install -y -q --no-install-recommends $apt_missing >>.tools/apt.log 2>&1; } ||
            { tail -n 5 .tools/apt.log >&2; fail "apt-get cannot install$apt_missing" \
                "apt-get install$apt_missing"; }
    else
        fail "missing on this machine:$apt_missing" "sudo apt-get install -y$apt_missing"
    fi
    apt_missing=""
}

# The system's Python first: every account can run it, so that a clone can be shared.
find_python() {
    for each in ${PYTHON:+"$PYTHON"} /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if found=$(command -v "$each") && runs "$found"; then
            python=$found
            return 0
        fi
    done
    return 1
}
find_python || { need python3; need python3-venv; }

java_major() {
    java=${JAVA_HOME:+$JAVA_HOME/bin/}java
    "$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1
}
major=$(java_major || true)
[ "${major:-0}" -ge 17 ] || need default-jre-headless
command -v mvn >/dev/null || need maven
faketime_there() {
    for each in /usr/lib/*/faketime /usr/local/lib/*/faketime /usr/lib/faketime /usr/local/lib/faketime \
        /usr/lib64/faketime; do
        [ -e "$each/libfaketime.so.1" ] && return 0
    done
    return 1
}
faketime_there || need libfaketime
apt_install
find_python || fail "there is no Python 3.11 or newer" "sudo apt-get install -y python3 python3-venv"
major=$(java_major || true)
[ "${major:-0}" -ge 17 ] || fail "Java is ${major:-missing}, and Apache Kafka 4 needs 17 or newer" \
    "sudo apt-get install -y openjdk-17-jre-headless, or set JAVA_HOME"

# uv, in a folder of its own: with venv and ensurepip, else with the machine's pip.
uv=.tools/uv/bin/uv
if ! "$uv" --version 2>/dev/null | grep -qF "$uv_version"; then
    say "getting uv $uv_version"
    rm -rf .tools/uv
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null &&
        ! "$python" -m pip --version >/dev/null 2>&1; then
        need python3-venv
        apt_install
    fi
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        "$python" -m venv .tools/uv
        .tools/uv/bin/python -m pip install -q --no-cache-dir --disable-pip-version-check "uv==$uv_version"
    else
        "$python" -m pip install -q --no-cache-dir --disable-pip-version-check --target .tools/uv "uv==$uv_version"
    fi
fi

# Accounts such as `nobody` have no home to keep a cache in.
if [ -z "${UV_CACHE_DIR:-}" ] && ! mkdir -p "${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/uv" 2>/dev/null; then
    export UV_CACHE_DIR="$root/.tools/uv-cache"
fi
say "getting Python packages"
UV_PYTHON="$python" UV_NO_PROGRESS=1 "$uv" sync --frozen --quiet
say "getting Kafka, and PostgreSQL where the machine has none"
.venv/bin/python -m ops.stack >.tools/stack.log || { cat .tools/stack.log >&2; exit 1; }
printf '%s\n' "$wanted" >"$stamp"
say "done"
