// Libraries of the system, opened at run time by their versioned names, so that this one needs
// libc alone. One that is missing takes its uses away and is no error. None is ever closed. What
// they export does not become visible to the program.
#ifndef CT_DYNAMIC_H
#define CT_DYNAMIC_H

#include <hwloc.h>
#include <numaif.h>
#include <stddef.h>

#include "ctopology.h"

#pragma GCC visibility push(hidden)

typedef struct ct_symbol {
    const char *name;
    size_t offset;  // of its pointer in the library's struct
} ct_symbol;

#define CT_LIBRARY_TEXT_BYTES sizeof(((ct_library *)0)->text)

// Fills `functions_p` with the addresses of the symbols. 0 and a text that says why, if it cannot.
int ct_dynamic_load(
    const char *soname, const ct_symbol *symbols, size_t symbol_count, void *functions_p,
    char text_p[CT_LIBRARY_TEXT_BYTES]);

typedef struct ct_hwloc {
    __typeof__(&hwloc_get_api_version) get_api_version;
    __typeof__(&hwloc_topology_init) topology_init;
    __typeof__(&hwloc_topology_destroy) topology_destroy;
    __typeof__(&hwloc_topology_set_xml) topology_set_xml;
    __typeof__(&hwloc_topology_set_synthetic) topology_set_synthetic;
    __typeof__(&hwloc_topology_set_components) topology_set_components;
    __typeof__(&hwloc_topology_set_io_types_filter) topology_set_io_types_filter;
    __typeof__(&hwloc_topology_load) topology_load;
    __typeof__(&hwloc_get_nbobjs_by_depth) get_nbobjs_by_depth;
    __typeof__(&hwloc_get_obj_by_depth) get_obj_by_depth;
    __typeof__(&hwloc_bitmap_first) bitmap_first;
} ct_hwloc;

typedef struct ct_numa {
    int (*available)(void);
    int (*max_node)(void);
    __typeof__(&mbind) mbind;
} ct_numa;

// UCX, OpenSSL and CUDA without their headers: little is asked of them.
typedef struct ct_ucx {
    const char *(*get_version_string)(void);
} ct_ucx;

typedef struct ct_openssl {
    const char *(*version)(int kind);
} ct_openssl;

// The driver's functions return 0 for success; a device is an int, as in cuda.h.
typedef struct ct_cuda {
    int (*driver_get_version)(int *version_p);
    int (*init)(unsigned flags);
    int (*device_get_count)(int *count_p);
    int (*device_get)(int *device_p, int ordinal);
    int (*device_get_pci_bus_id)(char *text_p, int capacity, int device);
    int (*device_can_access_peer)(int *can_p, int device, int peer);
} ct_cuda;

// Opened by the first call. NULL where the library is missing. From any thread.
const ct_hwloc *ct_hwloc_get(void);
const ct_numa *ct_numa_get(void);
const ct_ucx *ct_ucx_get(void);
const ct_openssl *ct_openssl_get(void);
const ct_cuda *ct_cuda_get(void);

#pragma GCC visibility pop

#endif
