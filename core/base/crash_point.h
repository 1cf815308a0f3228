// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Places where tests have the process killed, to see that nothing is lost: a build for tests ends at the Nth
 * passing of the point NAME where VMSNAPFS_TEST_CRASH=NAME:N is in its environment, as SIGKILL would end it.
 * In other builds there is nothing.
 */
#pragma once

#ifdef VMSNAPFS_CRASH_POINTS
void crash_point(const char *name);
#else
static inline void crash_point(const char *name) {}
#endif
