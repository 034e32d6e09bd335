// ctopology.h: what this machine has for moving KV cache, and what stands in the way.
//
//   Libraries ......... ct_libraries
//   Limits ............ ct_limits
//   Topology .......... ct_topology_create, _destroy, _places, _find, _nearest, _route
//   Names ............. ct_distance_name, ct_way_name
//
// Nothing here needs an engine. Every function may be called from any thread; a topology does not
// change once it is made. Statuses are those of ctransfer.h.
#ifndef CTOPOLOGY_H
#define CTOPOLOGY_H

#include <stddef.h>
#include <stdint.h>

#include "ctransfer.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- Libraries ----

enum {
    CT_LIBRARY_UCX = 0,
    CT_LIBRARY_HWLOC = 1,
    CT_LIBRARY_NUMA = 2,
    CT_LIBRARY_OPENSSL = 3,
    CT_LIBRARY_CUDA = 4,
    CT_LIBRARY_COUNT = 5,
};

// A library that is opened at run time.
typedef struct ct_library {
    const char *name;     // static
    const char *purpose;  // static: what is missing where it is missing
    uint32_t is_open;
    char text[228];       // its version, or why it could not be opened
} ct_library;

// Opens all of them, if that has not happened yet. From then on UCX watches the mappings of the
// process, unless the environment has UCX_MEM_EVENTS=n.
void ct_libraries(ct_library libraries[CT_LIBRARY_COUNT]);

// ---- Limits ----

enum {
    CT_LIMIT_MEMLOCK = 0,       // memory that may be pinned, for RDMA and GPUs
    CT_LIMIT_PTRACE = 1,        // reaching another process' memory, for the path cma
    CT_LIMIT_SHARED_HUGE = 2,   // transparent huge pages in pools
    CT_LIMIT_COUNT = 3,
};

typedef struct ct_limit {
    const char *name;  // static
    uint32_t is_low;   // it slows something down or forbids it
    char text[308];    // one line: the value; if low, what that costs and how to change it
} ct_limit;

// The limits of this process now.
void ct_limits(ct_limit limits[CT_LIMIT_COUNT]);

// ---- Topology ----

typedef struct ct_topology ct_topology;

// Zero means this machine. Start from CT_TOPOLOGY_PARAMS_INIT.
typedef struct ct_topology_params {
    uint32_t struct_size;
    uint32_t asks_cuda;     // 1: numbers GPUs as CUDA does and asks it which reach each other. That
                            // starts CUDA in this process, whose children cannot use it after fork
    const char *xml_file;   // another machine, as hwloc's lstopo writes it
    const char *synthetic;  // an invented one, in hwloc's language
} ct_topology_params;
#define CT_TOPOLOGY_PARAMS_INIT {.struct_size = sizeof(ct_topology_params)}

#define CT_PROBLEM_BYTES 256

// Reads the topology; the caller destroys it. On failure `problem` says why in one line: CT_ENOTSUP
// without hwloc, CT_EINVAL for a file or a description that is not valid.
ct_status ct_topology_create(
    const ct_topology_params *params, ct_topology **topology_p, char problem[CT_PROBLEM_BYTES]);

// NULL is allowed.
void ct_topology_destroy(ct_topology *topology);

typedef uint32_t ct_place_kind;
enum {
    CT_PLACE_NODE = 1,  // memory: a NUMA node
    CT_PLACE_GPU = 2,
    CT_PLACE_NIC = 3,
};

// Where bytes lie or leave the machine.
typedef struct ct_place {
    ct_place_kind kind;
    uint32_t number;           // NODE: the system's; GPU: CUDA's if asked, else from 0 in the order
                               // of places; NIC: from 0 in that order
    int32_t node;              // number of the nearest node; -1: the machine does not say
    int32_t package;           // number of the processor package; -1: none or all
    uint64_t memory_bytes;     // NODE
    uint64_t huge_page_bytes;  // NODE: the size of which most memory is reserved; 0: none is
    uint64_t huge_page_count;  // NODE: reserved of that size
    uint32_t vendor_id;        // GPU, NIC: of PCI
    uint32_t device_id;        // GPU, NIC: of PCI
    uint32_t is_rdma;          // NIC: InfiniBand, or Ethernet with an RDMA device
    char pci_address[20];      // GPU, NIC: such as 0000:1b:00.0
    char name[32];             // node0, gpu0; NIC: mlx5_0, or eth0, or nic0
    char interface[32];        // NIC: of the network, or empty
} ct_place;

// The places in order: nodes, GPUs, NICs; devices by package and then by PCI address. They belong
// to the topology.
const ct_place *ct_topology_places(const ct_topology *topology, size_t *count_p);

// The index of the device at a PCI address, in upper or lower case, with a domain of any length or
// none. CT_EINVAL if it is no address, CT_ENOTFOUND if no GPU or NIC is there.
ct_status ct_topology_find(
    const ct_topology *topology, const char *pci_address, size_t *index_p);

// The index of the place of a kind that is nearest to another. A NIC with RDMA comes before all
// without. Places that have the same choice take turns. CT_ENOTFOUND if there is no other place of
// that kind.
ct_status ct_topology_nearest(
    const ct_topology *topology, size_t index, ct_place_kind kind, size_t *nearest_p);

// What lies between two places, nearest first.
typedef uint32_t ct_distance;
enum {
    CT_DISTANCE_SAME = 0,
    CT_DISTANCE_SWITCH = 1,   // PCI bridges
    CT_DISTANCE_BRIDGE = 2,   // one PCI host bridge
    CT_DISTANCE_NODE = 3,     // one NUMA node
    CT_DISTANCE_PACKAGE = 4,  // one processor package
    CT_DISTANCE_SYSTEM = 5,   // the link between packages, or unknown
};

// How bytes travel between two places, with all that the hardware and the libraries allow; for a
// NIC: to or from another machine through it.
typedef uint32_t ct_way;
enum {
    CT_WAY_NONE = 0,
    CT_WAY_HOST = 1,         // memfd for pools, cma for other memory
    CT_WAY_GPU_COPY = 2,     // the GPU's copy engine, to pinned memory
    CT_WAY_GPU_PEER = 3,     // from GPU to GPU
    CT_WAY_STAGED = 4,       // from GPU to GPU through memory
    CT_WAY_RDMA = 5,         // memory, or a GPU by GPUDirect
    CT_WAY_TCP = 6,
    CT_WAY_STAGED_RDMA = 7,  // from a GPU through memory
    CT_WAY_STAGED_TCP = 8,
};

typedef struct ct_route {
    ct_distance distance;
    ct_way way;
    uint32_t is_nearest;  // `to` is the nearest of its kind to `from`
} ct_route;

// CT_EINVAL if there is no place of such an index.
ct_status ct_topology_route(
    const ct_topology *topology, size_t from, size_t to, ct_route *route_p);

// ---- Names ----

// Static lower-case names.
const char *ct_distance_name(ct_distance distance);
const char *ct_way_name(ct_way way);

#ifdef __cplusplus
}
#endif

#endif
