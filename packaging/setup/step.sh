# shellcheck shell=bash
# Prints one line for each step of a setup. Sourced by the other scripts in this folder.

# fail MESSAGE: prints it and exits.
fail() {
    echo "$1" >&2
    exit 1
}

# step TEXT COMMAND...: prints TEXT, runs the command with its output in a file, prints the seconds it
# took. If the command fails, prints the last line of its output and exits.
step() {
    local text=$1 began=$SECONDS log
    shift
    log=$(mktemp)
    echo -n "$text ... "
    if ! "$@" >"$log" 2>&1 </dev/null; then
        echo "failed"
        fail "$(grep -v '^$' "$log" | tail -n 1) (complete output: $log)"
    fi
    rm "$log"
    echo "$((SECONDS - began)) s"
}
