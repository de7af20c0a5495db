#!/bin/sh
# SPDX-License-Identifier: MulanPSL-2.0
# What graphdriver.h says of the exports is what graphdriver.abi recorded: nothing removed, changed or added unnoticed.
# (That the library exports what the header declares is the test `symbols`.)
#
#   abi.sh check INCLUDE_DIR       compares; fails on any difference
#   abi.sh selftest INCLUDE_DIR    checks that the comparison notices changes
#   abi.sh update INCLUDE_DIR      writes graphdriver.abi anew, after an addition. A removal or a change needs a new SONAME as
#                                  well: programs that were built against the old ones are out there
set -eu
here=$(cd "$(dirname "$0")" && pwd)
command=$1
include=$(cd "$2" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

die() {
    echo "abi.sh: $*" >&2
    exit 1
}

# describe INCLUDE_DIR: makes $tmp/abi.so, which says in C's terms what the header says. The library's own debug information
# has no types that abidw would recognise. One pointer per export leads to its arguments and to every struct behind them.
describe() {
    rm -f "$tmp/abi.so"
    {
        echo '#include <graphdriver.h>'
        sed -n 's/^[a-z].*/__typeof__(\&&) abi_& = 0;/p' "$here/../symbols.txt"
    } >"$tmp/abi.c"
    (cd "$tmp" && "${CC:-cc}" -std=c11 -g -gdwarf-4 -fPIC -shared -I "$1" -o abi.so abi.c)
}

# compare INCLUDE_DIR: what differs between the record and the header. The record is one for all architectures that the library is
# for: in C's terms the header says the same on each.
compare() {
    describe "$1" || return
    abidiff --no-architecture --no-show-locs "$here/graphdriver.abi" "$tmp/abi.so"
}

# mutant WHAT SED_SCRIPT: a header changed that way must not pass.
mutant() {
    mkdir "$tmp/include"
    sed "$2" "$include/graphdriver.h" >"$tmp/include/graphdriver.h"
    ! cmp -s "$include/graphdriver.h" "$tmp/include/graphdriver.h" || die "the change '$1' changes nothing"
    if compare "$tmp/include" >"$tmp/out" 2>&1; then
        die "not noticed: $1"
    fi
    rm -r "$tmp/include"
}

case $command in
check)
    compare "$include" || die "graphdriver.h differs from graphdriver.abi (an addition? run '$0 update $include')"
    ;;
selftest)
    compare "$include" || die "the header differs from the record before any change"
    mutant "an argument's type" 's/int64_t \*layer_size/int32_t *layer_size/'
    mutant "a result's type" 's/bool graphdriver_layer_exists/int graphdriver_layer_exists/'
    mutant "a struct's member" 's/char \*backing_fs;/char *backing_fs; int more;/'
    mutant "a removed function" 's/graphdriver_cleanup/graphdriver_gone/'
    ;;
update)
    describe "$include"
    (cd "$tmp" && abidw --no-show-locs --no-comp-dir-path --no-corpus-path abi.so >"$here/graphdriver.abi")
    ;;
*) die "unknown command $command" ;;
esac
