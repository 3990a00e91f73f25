#!/bin/bash
# Installs what is missing from Debian 12 for one of: build, demo, check, bench. Says what it installs, nothing if all is there.
# usage: tests/setup.sh build|demo|check
set -eu

build="gcc make flex bison libc6-dev libjansson-dev"
run="libopenblas-openmp-dev openmpi-bin libopenmpi-dev"
case "${1:-build}" in
build) want="$build" ;;
demo) want="$build $run fortunes" ;;
check) want="$build $run fortunes clang-14 libclang-rt-14-dev clang-format-14 valgrind mandoc iproute2" ;;
*) echo "usage: tests/setup.sh build|demo|check" >&2; exit 2 ;;
esac

missing=
for p in $want; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || { echo "setup: needs root or sudo to install:$missing" >&2; exit 1; }
	sudo=sudo
fi
echo "setup: installing from Debian:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ $sudo apt-get update -q && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing; } \
	>"$log" 2>&1 || { tail -20 "$log" >&2; echo "setup: apt-get failed" >&2; exit 1; }
