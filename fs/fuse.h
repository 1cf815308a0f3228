// SPDX-License-Identifier: LGPL-2.1-or-later
/* libfuse's low-level interface, at the one version that this folder is written for. */
#pragma once

#define FUSE_USE_VERSION 314

#include <fuse_lowlevel.h>
