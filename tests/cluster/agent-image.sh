#!/usr/bin/env bash
# Packs a shell and Debian's curl, with the libraries it needs, into the image that the samples' agents use.
#
#   agent-image.sh OUT.tar NAME:TAG
set -euo pipefail
here=$(dirname "$(realpath "$0")")
curl=$(command -v curl)
files=("$curl=/bin/curl" /bin/busybox=/bin/busybox)
for applet in sh cat env find grep ls printf sleep; do files+=("/bin/busybox=/bin/$applet"); done
# Both forms of ldd's lines: `name => path (address)` and, for the loader, `path (address)`.
while read -r library; do files+=("$library=$library"); done \
  < <(ldd "$curl" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }')
exec python3 "$here/image.py" "$1" "$2" '["/bin/sh"]' "${files[@]}"
