// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the ending of a file's name says. Pure. */
#pragma once

enum ending {
    ENDING_QCOW2,
    ENDING_DEFINITION,       /* .json */
    ENDING_OTHER_DEFINITION, /* .xml, .vmx, .cfg: of hypervisors; not read by this version */
    ENDING_OTHER,            /* another format of images, or something else that is no overlay */
    ENDING_MEANINGLESS,      /* none, or one without a meaning, as virsh gives its overlays (web1.snap1) */
};

/* `name` may be a path. */
enum ending ending_of(const char *name);

/* Where the ending begins, its dot included; the end of the string where there is none. A dot at the
 * beginning of a file's name begins no ending. */
const char *ending_start(const char *name);
