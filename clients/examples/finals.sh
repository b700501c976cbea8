#!/bin/sh
# Server-sent events with curl: every final of one stream, as JSON lines. Goes on where it broke off.
# Usage: finals.sh http://127.0.0.1:8642 door
since=""
while :; do
  curl -sN "$1/captions/$2?interim=0${since:+&since=$since}" | while IFS= read -r line; do
    case $line in id:*) echo "${line#id: }" >"${TMPDIR:-/tmp}/since.$$" ;; data:*\"caption\"*) echo "${line#data: }" ;; esac
  done
  since=$(cat "${TMPDIR:-/tmp}/since.$$" 2>/dev/null); sleep 2
done
