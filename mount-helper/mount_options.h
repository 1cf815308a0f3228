// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The option list of `mount -o`: what of it is for vmsnapfs, and what means nothing to a mount helper.
 *
 * fstab lines carry options for systemd, for mount(8) and for people beside those of the file system, and
 * mount(8) hands most of them on. They are dropped here. What is left goes to vmsnapfs, which alone judges
 * the values. Pure; any thread.
 */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/text.h"

/*
 * Takes `list` apart, as mount(8) writes it: commas separate, except within double quotes or after a
 * backslash. Appends to `passed` what vmsnapfs gets: options in their order, without quotes, commas and
 * backslashes within one written as `\,` and `\\`, as libfuse reads them.
 *
 * -EINVAL, with a text, for an option that nobody knows (dropped instead where `sloppy`), one without the
 * value that it needs or with one that it can't have, a quote that doesn't end, and for `remount`. `passed`
 * is then untouched. -ENOMEM.
 */
int mount_options_parse(const char *list, bool sloppy, struct text *passed, struct error *err);

/* Appends the names that are passed on, each followed by `separator`; those with a value end in `=`. */
void mount_options_names(struct text *names, const char *separator);
