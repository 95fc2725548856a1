#!/usr/bin/env bash
# The HTTP API with curl alone. docs/API.md explains every call.
#
# usage: KEPLER_URL=http://127.0.0.1:3001 examples/curl.sh
set -euo pipefail
url=${KEPLER_URL:-http://127.0.0.1:3000}
curl() { command curl --silent --show-error --fail "$@"; }
show() { printf '\n== %s\n' "$1"; }

show "store a file, and a pipe of unknown length"
echo 'hello, world' | curl -T - -H 'Content-Type: text/plain' "$url/v1/files/curl/hello.txt"
echo
seq 1000000 | curl -T - "$url/v1/files/curl/numbers?durability=all"

show "read it; a range; its headers"
curl "$url/v1/files/curl/hello.txt"
curl -r 0-4 "$url/v1/files/curl/hello.txt"
echo
etag=$(curl -I "$url/v1/files/curl/hello.txt" | tr -d '\r' | sed -n 's/^etag: //Ip')
echo "its version is $etag"

show "replace it, but only this version"
echo 'hello again' | curl -T - -H "If-Match: $etag" "$url/v1/files/curl/hello.txt"
echo
echo 'too late' | command curl -s -o /dev/null -w 'a second time: %{http_code}\n' \
  -T - -H "If-Match: $etag" "$url/v1/files/curl/hello.txt"

show "list, copy, move, stat"
curl "$url/v1/files?prefix=curl/&delimiter=/"
echo
post() { curl -X POST -H 'Kepler-Client: curl' -H 'Content-Type: application/json' -d "$2" "$url/v1/$1"; }
post copy '{"from": "curl/hello.txt", "to": "curl/copy.txt"}'
echo
post move '{"from": "curl/copy.txt", "to": "curl/moved.txt"}'
echo
curl "$url/v1/stat/curl/moved.txt"

show "upload by a form, as a browser does"
curl -H 'Kepler-Client: curl' -F "file=@$0;filename=from-a-form.sh" "$url/v1/files?prefix=curl/"

show "delete"
for name in hello.txt numbers moved.txt from-a-form.sh; do
  curl -X DELETE -w "$name: %{http_code}\n" "$url/v1/files/curl/$name"
done
