// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the ending of a file's name says; see endings.h. */
#include "base/endings.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

const char *ending_start(const char *name)
{
    const char *slash = strrchr(name, '/');
    const char *first = slash ? slash + 1 : name;
    const char *dot = strrchr(first, '.');
    return dot && dot > first ? dot : first + strlen(first);
}

enum ending ending_of(const char *name)
{
    static const struct {
        const char *ending;
        enum ending meaning;
    } known[] = {
        {".json", ENDING_DEFINITION},
        {".xml", ENDING_OTHER_DEFINITION},
        {".vmx", ENDING_OTHER_DEFINITION},
        {".cfg", ENDING_OTHER_DEFINITION},
    };
    /* Formats (in any case of letters: .IMG is as raw as .img), and what lies beside images. */
    static const char *const others[] = {
        ".raw", ".img", ".iso",  ".vmdk", ".vhd",   ".vhdx",  ".vpc",  ".vdi",       ".qcow",
        ".qed", ".hdd", ".hds",  ".dmg",  ".cloop", ".bochs", ".luks", ".ova",       ".ovf",
        ".fd",  ".rom", ".vmsd", ".vmsn", ".nvram", ".vmss",  ".vmem", ".parallels",
    };
    const char *ending = ending_start(name);
    if (strcmp(ending, ".qcow2") == 0)
        return ENDING_QCOW2;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(ending, known[i].ending) == 0)
            return known[i].meaning;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcasecmp(ending, others[i]) == 0)
            return ENDING_OTHER;
    return ENDING_MEANINGLESS;
}
