#!/bin/sh
# Server-sent events with curl: every final of one stream, as JSON lines. Resumes after a lost connection.
# Usage: finals.sh http://127.0.0.1:8642 door
seen=$(mktemp) || exit
trap 'rm -f "$seen"' EXIT
trap exit HUP INT TERM
while :; do
  since=$(cat "$seen")
  curl -sN ${since:+-H "Last-Event-ID: $since"} "$1/captions/$2?interim=0" | while IFS= read -r line; do
    case $line in id:*) echo "${line#id: }" >"$seen" ;; data:*\"caption\"*) echo "${line#data: }" ;; esac
  done
  sleep 2
done
