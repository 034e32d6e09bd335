#include "placement.h"

#include <errno.h>
#include <linux/memfd.h>
#include <sys/mman.h>

#include "dynamic.h"

#define NODES_MAX 1024u
#define WORD_BITS (8 * sizeof(unsigned long))

static unsigned page_shift(ct_pages pages) {
    return pages == CT_PAGES_2M ? 21 : pages == CT_PAGES_1G ? 30 : 0;
}

ct_status ct_placement_round(ct_pages pages, uint64_t bytes, uint64_t *rounded_p) {
    if (pages > CT_PAGES_1G) {
        return CT_EINVAL;
    }
    uint64_t page_bytes = UINT64_C(1) << page_shift(pages);
    *rounded_p = (bytes + page_bytes - 1) & -page_bytes;
    return CT_OK;
}

unsigned ct_placement_memfd_flags(ct_pages pages) {
    return pages == CT_PAGES_ADVISED ? 0 : MFD_HUGETLB | page_shift(pages) << MFD_HUGE_SHIFT;
}

static ct_status bind_to_node(uint32_t node, void *memory, uint64_t bytes) {
    const ct_numa *numa = ct_numa_get();
    if (numa == NULL) {
        return CT_ENOTSUP;
    }
    if (node >= NODES_MAX || (int)node > numa->max_node()) {
        return CT_EINVAL;
    }
    unsigned long nodes[NODES_MAX / WORD_BITS] = {0};
    nodes[node / WORD_BITS] = 1ul << node % WORD_BITS;
    if (numa->mbind(memory, bytes, MPOL_BIND, nodes, NODES_MAX + 1, 0) == 0) {
        return CT_OK;
    }
    // A node that is not this process's own, or none at all.
    return errno == EINVAL ? CT_EINVAL : errno == ENOMEM ? CT_ENOMEM : CT_EPERM;
}

ct_status ct_placement_apply(const ct_pool_params *params, void *memory, uint64_t bytes) {
    if (params->has_node) {
        ct_status status = bind_to_node(params->node, memory, bytes);
        if (status != CT_OK) {
            return status;
        }
    }
    if (params->pages == CT_PAGES_ADVISED) {
        // Only advice: where shared memory has no huge pages, small ones do.
        madvise(memory, bytes, MADV_HUGEPAGE);
    }
    if (!params->has_node) {
        return CT_OK;
    }
    // All of it now: later, a node that has run out is found out by a signal.
    if (madvise(memory, bytes, MADV_POPULATE_WRITE) == 0) {
        return CT_OK;
    }
    // Before Linux 5.14; small pages that a node lacks then cost the OOM killer's attention only.
    if (errno == EINVAL) {
        return params->pages == CT_PAGES_ADVISED ? CT_OK : CT_ENOTSUP;
    }
    return CT_ENOMEM;
}
