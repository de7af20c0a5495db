#!/bin/sh
# SPDX-License-Identifier: MulanPSL-2.0
# The ABI of libgraphdriver.so.1 is what graphdriver.abi says: nothing removed, changed or added unnoticed.
#
#   abi.sh check LIBRARY INCLUDE_DIR    compares; fails on any difference
#   abi.sh selftest INCLUDE_DIR         checks that the comparison notices changes
#   abi.sh update INCLUDE_DIR           writes graphdriver.abi anew, after an addition. A removal or a change needs a new
#                                       SONAME as well: programs that were built against the old ones are out there
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

die() {
    echo "abi.sh: $*" >&2
    exit 1
}

# describe INCLUDE_DIR: makes $tmp/abi.so of the header.
describe() {
    (cd "$tmp" && rm -f abi.so && cp "$here/abi.c" . && "${CC:-cc}" -std=c11 -g -gdwarf-4 -fPIC -shared -I "$1" -o abi.so abi.c)
}

# compare INCLUDE_DIR: what differs between the baseline and the header.
compare() {
    describe "$1" || return
    abidiff --no-show-locs "$here/graphdriver.abi" "$tmp/abi.so"
}

check() {
    nm --dynamic --defined-only --format=posix "$1" | cut -d' ' -f1 | sort >"$tmp/exported"
    sed -n 's/^EXPORT(\(.*\));$/\1/p' "$here/abi.c" | sort >"$tmp/expected"
    diff -u "$tmp/expected" "$tmp/exported" || die "$1 does not export what abi.c lists"
    readelf -d "$1" | grep -q 'SONAME.*\[libgraphdriver\.so\.1\]' || die "$1 has another SONAME than libgraphdriver.so.1"
    compare "$2" || die "graphdriver.h differs from graphdriver.abi (an addition? run 'abi.sh update $2')"
}

# mutant NAME SED_SCRIPT: a header changed that way must not pass.
mutant() {
    mkdir "$tmp/include"
    sed "$2" "$include/graphdriver.h" >"$tmp/include/graphdriver.h"
    ! cmp -s "$include/graphdriver.h" "$tmp/include/graphdriver.h" || die "the change '$1' changes nothing"
    if compare "$tmp/include" >"$tmp/out" 2>&1; then
        die "not noticed: $1"
    fi
    rm -r "$tmp/include"
}

selftest() {
    include=$1
    compare "$include" >/dev/null || die "the header differs from the baseline before any change"
    mutant "an argument's type" 's/int64_t *\* *layer_size/int32_t *layer_size/'
    mutant "a result's type" 's/bool graphdriver_layer_exists/int graphdriver_layer_exists/'
    mutant "a struct's member" 's/char *\* *backing_fs;/char *backing_fs; int more;/'
    mutant "a removed function" 's/graphdriver_cleanup/graphdriver_gone/'
}

case $1 in
check) check "$2" "$(cd "$3" && pwd)" ;;
selftest) selftest "$(cd "$2" && pwd)" ;;
update)
    describe "$(cd "$2" && pwd)"
    (cd "$tmp" && abidw --no-show-locs --no-comp-dir-path --no-corpus-path abi.so >"$here/graphdriver.abi")
    ;;
*) die "unknown command $1" ;;
esac
