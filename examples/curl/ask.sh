#!/bin/sh
# Asks a board over HTTP and waits for its answer: ask.sh BOARD TASK INPUT, or ask.sh pool/NAME TASK INPUT.
# WEB is the address of `edge-agent web`; TOKEN is a user's token, if it has users.
set -eu

if [ $# != 3 ]; then
    echo "usage: $0 BOARD TASK INPUT" >&2
    exit 64
fi
# After 429 and 503, curl waits as long as Retry-After says. Because the Idempotency-Key stays the same, the board gives a
# request that it has already had the same answer.
exec curl --silent --show-error --fail-with-body --retry 2 --retry-max-time 60 \
    --header "X-Edge-Agent: 1" \
    --header "Content-Type: application/json" \
    --header "Idempotency-Key: $(od -An -N8 -tx8 /dev/urandom | tr -d ' ')" \
    ${TOKEN:+--header "Authorization: Bearer $TOKEN"} \
    --data "$3" \
    "${WEB:-http://127.0.0.1:8780}/api/v1/ask/$1/$2"
