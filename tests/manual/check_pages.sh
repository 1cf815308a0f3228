#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Manual pages (the arguments) are well-formed to both programs that show them.
set -u
status=0
for page in "$@"; do
    mandoc -T lint -W warning "$page" || status=1
    warnings=$(man --warnings --local-file "$page" 2>&1 >/dev/null) || status=1
    if [ -n "$warnings" ]; then
        echo "$page: $warnings"
        status=1
    fi
done
exit $status
