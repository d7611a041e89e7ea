#!/bin/sh
# Makes .venv, or brings it up to date with the pins. Usage: tools/venv.sh runtime|dev
#
# A stamp holds the hash of what was asked for, so that an unchanged virtualenv costs one checksum. Only wheels are
# installed: a compiler is not among the things a first look may ask for.
set -eu

cd "$(dirname "$0")/.."
kind=${1:?runtime or dev}
say() { echo "venv: $*" >&2; }
die() { say "$*"; exit 1; }

case $kind in
    runtime) requirements=requirements.txt ;;
    dev) requirements=requirements-dev.txt ;;
    *) die "usage: tools/venv.sh runtime|dev" ;;
esac

fingerprint() {
    # The dev set contains the runtime set; the interpreter's version is part of what the wheels were chosen for.
    { cat requirements.txt; [ "$kind" = runtime ] || cat requirements-dev.txt; .venv/bin/python -V; } 2>&1 | sha256sum
}
stamp=.venv/.$kind-stamp
up_to_date() { [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ]; }

up_to_date && exit 0

# Two makes at once would install into one directory; the second waits, then finds it done.
if command -v flock >/dev/null 2>&1 && [ -z "${UPBEAT_VENV_LOCKED:-}" ]; then
    UPBEAT_VENV_LOCKED=1 exec flock "${TMPDIR:-/tmp}/upbeat-venv-$(id -u)-$(pwd | cksum | cut -d' ' -f1).lock" "$0" "$kind"
fi

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3; do
        # Wheels are pinned for 3.11: Django 5.2 with Celery 5.7 is the newest pair that it runs.
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 is needed and not found; install it, or name it: make PYTHON=/path/to/python3.11 …"
}

apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    say "installing $*"
    { apt-get -qq -o DPkg::Lock::Timeout=120 update &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 --no-install-recommends install "$@"; } >/dev/null
}

if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        # Debian ships the interpreter without what makes virtualenvs.
        apt_install python3.11-venv || die "the package python3.11-venv is missing; as root: apt-get install python3.11-venv"
    fi
    say "making .venv with $python"
    "$python" -m venv --clear .venv
fi

tries=0
until .venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet --retries 5 --timeout 60 \
    --only-binary :all: -r "$requirements" >&2; do
    tries=$((tries + 1))
    [ "$tries" -lt 3 ] || die "installing $requirements failed three times; the lines above say why"
    say "installing $requirements failed; trying again"
    sleep $((tries * 5))
done
fingerprint >"$stamp"
say "$kind packages are installed"
