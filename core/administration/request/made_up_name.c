// SPDX-License-Identifier: LGPL-2.1-or-later
/* Names from the time; see made_up_name.h. */
#include "administration/request/made_up_name.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

char *made_up_name(const struct domain *domain, const char *prefix)
{
    time_t now = time(NULL);
    struct tm utc;
    char stamp[32], name[128];
    gmtime_r(&now, &utc);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H-%M-%SZ", &utc);
    snprintf(name, sizeof name, "%s%s", prefix, stamp);
    for (unsigned number = 2; domain_find_snapshot(domain, name); number++)
        snprintf(name, sizeof name, "%s%s~%u", prefix, stamp, number);
    return strdup(name);
}
