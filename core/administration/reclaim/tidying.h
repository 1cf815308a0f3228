// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Files that vmsnapfs was writing to in the background when it was killed: what they read as is right, but a
 * qcow2 image may have clusters that are counted once too often, which qemu-img check takes for damage.
 * Inside of administration/.
 */
#pragma once

#include "administration/inside.h"

/* Mends that, and takes the files as they are then. For the start, when nothing runs; what can't be done now
 * is left for the next start. */
void tidy_touched(struct administration *administration);
