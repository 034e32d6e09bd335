// Where a pool's memory comes from: a node, and pages of a size.
#ifndef CT_PLACEMENT_H
#define CT_PLACEMENT_H

#include "ctransfer.h"

#pragma GCC visibility push(hidden)

// Bytes rounded up to whole pages of the wanted size. CT_EINVAL if there is no such size.
ct_status ct_placement_round(ct_pages pages, uint64_t bytes, uint64_t *rounded_p);
// Flags of memfd_create for such pages.
unsigned ct_placement_memfd_flags(ct_pages pages);
// Puts a pool's mapping where it was asked to be, before anything has touched it. CT_ENOTSUP
// without libnuma, CT_EINVAL if there is no such node, CT_EPERM where the system does not let this
// process choose, CT_ENOMEM if the node has not enough.
ct_status ct_placement_apply(const ct_pool_params *params, void *memory, uint64_t bytes);

#pragma GCC visibility pop

#endif
