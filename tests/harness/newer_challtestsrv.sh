#!/usr/bin/env bash
# pebble-challtestsrv with the flags of its newest version, on top of the one that Debian has: -dnsserver for -dns01, which it
# refuses, and -doh, where it would listen as well unless told not to.
set -euo pipefail
real=/usr/bin/pebble-challtestsrv
if [[ ${1:-} == -h || ${1:-} == -help ]]; then
    "$real" -help 2>&1 | sed 's/^  -dns01 /  -dnsserver /' >&2
    printf '  -doh string\n    \tComma separated bind addresses/ports for DoH queries. Set empty to disable. (default ":8443")\n' >&2
    exit 0
fi
flags=() doh=:8443
for flag in "$@"; do
    case $flag in
        -dns01=*) echo "flag provided but not defined: -dns01" >&2; exit 2 ;;
        -dnsserver=*) flags+=("-dns01=${flag#*=}") ;;
        -doh=*) doh=${flag#*=} ;;
        *) flags+=("$flag") ;;
    esac
done
[[ -z $doh ]] || { echo "listen tcp $doh: the address may be in use" >&2; exit 1; }
exec "$real" "${flags[@]}"
