// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * For those who change domains (administration/): a domain is held while it is being changed, so that whoever
 * looks at the files meanwhile leaves it as it was, and is then put in its new state as a whole.
 *
 * Any thread may call; none of these may be called from the callbacks of catalog_options. They wait for
 * storage.
 */
#pragma once

#include "catalog/catalog.h"

/* From now until catalog_release, as often, the domain stays as it is in the catalog. -ESTALE: it is gone. */
int catalog_hold(struct catalog_service *service, uint64_t domain, struct error *err);
void catalog_release(struct catalog_service *service, uint64_t domain);

/*
 * Looks at the files of a held domain, and publishes what is new. The domain gets a reference, and the copy
 * of its state is the caller's; both may be NULL. Errors: ESTALE, the domain is gone; ENOMEM; what reading
 * the source gives.
 */
int catalog_refresh(struct catalog_service *service, uint64_t domain, struct domain **result,
                    struct state_domain **state, struct error *err);

/*
 * The same, as if the overlays at the absolute paths `ignored` (NULL-terminated) were not there: somebody is
 * about to use them, and until then they may have been taken for another program's. Publishes nothing: what
 * comes of it is shown when it is saved, and if nothing does, all stays as it was.
 */
int catalog_imagine(struct catalog_service *service, uint64_t domain, char *const *ignored,
                    struct domain **result, struct state_domain **state, struct error *err);

/*
 * Saves the state of a held domain durably: with that, what was done to its files has happened. Errors: as
 * store_save, and then the store has what it had before.
 */
int catalog_save(struct catalog_service *service, const struct state_domain *state, struct error *err);

/*
 * Shows the domain as its files are now and `state`, which was saved, tells. Errors: as catalog_refresh; the
 * next look shows it then.
 */
int catalog_show(struct catalog_service *service, const struct state_domain *state, struct domain **result,
                 struct error *err);

/*
 * A domain is about to be made: `state` (copied) tells of its files, so that nobody takes them for something
 * else before its definition is there. Undone by catalog_unexpect. -ENOMEM.
 */
int catalog_expect(struct catalog_service *service, const struct state_domain *state, struct error *err);
void catalog_unexpect(struct catalog_service *service, uint64_t domain);

/* Waits for a whole look that begins now. */
void catalog_look(struct catalog_service *service);

/* A new serial number; errors as store_next_serial. */
int catalog_next_serial(struct catalog_service *service, uint64_t *serial, struct error *err);

/*
 * Does any image that the last look saw, but for those at the paths `except` (may be NULL), stand on the file
 * at this absolute path, or is it a data file, or in more than one disk? Then whoever first administers a
 * domain that writes to it must not write to it. True also where memory ran out.
 */
bool catalog_is_backing(struct catalog_service *service, const char *path, char *const *except);
