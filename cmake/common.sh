# shellcheck shell=bash disable=SC2034
# Sourced by cmake/quickstart and cmake/check: what both need of the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
rust_needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
logs=build/logs
mkdir -p "$logs"

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# step NAME COMMAND...: runs it with its output in a log, and says in one line how it went; on failure with the log's end.
step() {
    local name=$1 log="$logs/${1// /-}.log" start=$SECONDS
    shift
    [[ ! -t 1 ]] || printf '%-24s ...\r' "$name"
    if "$@" >"$log" 2>&1 </dev/null; then
        printf '%-24s ok, %d s\n' "$name" $((SECONDS - start))
    else
        printf '%-24s FAILED, %d s: the end of %s\n' "$name" $((SECONDS - start)) "$log"
        tail -n 40 "$log" | sed 's/^/    /'
        return 1
    fi
}

root() {
    [[ $EUID == 0 ]] || die "This mounts filesystems: run it as root."
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -y --no-install-recommends install "$@" ||
        { apt-get -q update && apt-get -q -y --no-install-recommends install "$@"; }
}

# Without apt-get nothing is installed; what building and the example need is looked for.
tools_without_apt() {
    local missing=() tool
    for tool in cmake make cc c++ pkg-config mkfs.ext4 mount ar; do
        type "$tool" >/dev/null 2>&1 || missing+=("$tool")
    done
    pkg-config --exists devmapper 2>/dev/null || missing+=("libdevmapper's headers")
    [[ ${#missing[@]} == 0 ]] || die "There is no apt-get here, and missing are: ${missing[*]}." \
        "On Fedora, openEuler and their like:" "    dnf install ${dnf_packages[*]}" "then run this again."
}

# packages NAME...: installs those of the Debian packages that are not there.
packages() {
    local missing=() name
    if ! type apt-get >/dev/null 2>&1; then
        tools_without_apt
        return
    fi
    for name in "$@"; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^ii' || missing+=("$name")
    done
    [[ ${#missing[@]} == 0 ]] || step "install packages" install_packages "${missing[@]}" ||
        die "Install these Debian packages yourself, then run this again: ${missing[*]}"
}

at_least() { # at_least VERSION WANTED
    [[ -n $1 && $(printf '%s\n' "$2" "$1" | sort -V | head -1) == "$2" ]]
}

# A Rust that is new enough: the one on PATH, else one of the distribution's (Debian keeps a recent one for
# its browsers in rustc-web). Nothing is downloaded from elsewhere unasked.
rust() {
    local have suffix version
    have=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || true
    if at_least "$have" "$rust_needed" && cargo --version >/dev/null 2>&1; then
        return
    fi
    if [[ -z $have ]] && type apt-get >/dev/null 2>&1; then
        apt-get -q update >"$logs/apt-update.log" 2>&1 || true
        for suffix in "" -web; do
            version=$(apt-cache policy "rustc$suffix" 2>/dev/null | sed -n 's/^ *Candidate: //p')
            if at_least "${version%%+*}" "$rust_needed"; then
                step "install Rust" install_packages "rustc$suffix" "cargo$suffix" "rustfmt$suffix"
                return
            fi
        done
    fi
    die "Rust $rust_needed or newer is needed; here is ${have:-none that is, nor a package of one}. Install it with rustup:" \
        "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" \
        "then run this again. (Debian's own rustc, where it is too old, may stay: rustup's comes first.)" \
        "On Debian its security archive will do as well, where apt does not know it yet: rustc-web there is recent enough for Debian 12."
}

# Cargo fetches crates by https: ca-certificates.
build_packages=(ca-certificates cmake make gcc g++ libc6-dev pkg-config libdevmapper-dev libclang-dev)
dnf_packages=(ca-certificates cmake make gcc gcc-c++ glibc-devel pkgconf-pkg-config device-mapper-devel clang-devel
    e2fsprogs util-linux binutils rust cargo)
run_packages=(e2fsprogs util-linux binutils)
