#!/bin/sh
# Compare tonight's flights with earlier ones, and send a notification if the result needs attention.
#
#   nightly.sh BEFORE_DIR AFTER_DIR OUTPUT_DIR
#
# Safe to run again at any time: finished pairs are kept, and failed ones are retried. GEOSIAM names the command if it is
# not on the PATH; GEOSIAM_NOTIFY names a command that gets a line of text if something needs attention.
set -u

before=$1 after=$2 output=$3
geosiam=${GEOSIAM:-geosiam}
notify=${GEOSIAM_NOTIFY:-echo}

mkdir -p "$output"
# shellcheck disable=SC2086  # GEOSIAM may be a command with arguments
$geosiam batch "$before" "$after" -o "$output" --json-log "$output/batch.jsonl" --time-limit 7200
code=$?

case $code in
  0) ;;
  4) $notify "geosiam: some pairs have no results; see $output/summary.json" ;;
  130) $notify "geosiam: interrupted; the next run resumes" ;;
  *) $notify "geosiam: nothing could be run (exit code $code); see the journal" ;;
esac
exit $code
