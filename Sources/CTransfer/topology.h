// A topology inside: its places, and what hwloc knows of each.
#ifndef CT_TOPOLOGY_H
#define CT_TOPOLOGY_H

#include "dynamic.h"

#define CT_PLACES_MAX 1024u

struct ct_topology {
    const ct_hwloc *hwloc;
    hwloc_topology_t tree;
    size_t count;
    uint8_t has_ucx;   // or is another machine, of which no library is known to be missing
    uint8_t uses_cuda; // the numbers of GPUs are CUDA's
    ct_place places[CT_PLACES_MAX];
    hwloc_obj_t objects[CT_PLACES_MAX];  // of each place
};

#endif
