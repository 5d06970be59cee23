# shellcheck shell=bash
# One line for each step of a setup. Sourced by the scripts beside it.

# fail MESSAGE: print it and exit.
fail() {
    echo "$1" >&2
    exit 1
}

# step TEXT COMMAND...: print TEXT, run the command with its output in a file, print the seconds it
# took. If the command fails, print its last line and exit.
step() {
    local text=$1 began=$SECONDS log
    shift
    log=$(mktemp)
    echo -n "$text ... "
    if ! "$@" >"$log" 2>&1 </dev/null; then
        echo "failed"
        fail "$(grep -v '^$' "$log" | tail -n 1) (all of it: $log)"
    fi
    rm "$log"
    echo "$((SECONDS - began)) s"
}
