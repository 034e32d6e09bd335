#include "dynamic.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

int ct_dynamic_load(
    const char *soname, const ct_symbol *symbols, size_t symbol_count, void *functions_p,
    char text_p[CT_LIBRARY_TEXT_BYTES]) {
    void *handle = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        snprintf(text_p, CT_LIBRARY_TEXT_BYTES, "%s", dlerror());
        return 0;
    }
    for (size_t i = 0; i < symbol_count; i++) {
        void *address = dlsym(handle, symbols[i].name);
        if (address == NULL) {
            snprintf(text_p, CT_LIBRARY_TEXT_BYTES, "%s has no %s", soname, symbols[i].name);
            dlclose(handle);
            return 0;
        }
        memcpy((char *)functions_p + symbols[i].offset, &address, sizeof(address));
    }
    text_p[0] = '\0';
    return 1;
}

static ct_library libraries[CT_LIBRARY_COUNT] = {
    [CT_LIBRARY_UCX] = {.name = "ucx", .purpose = "RDMA"},
    [CT_LIBRARY_HWLOC] = {.name = "hwloc", .purpose = "topology"},
    [CT_LIBRARY_NUMA] = {.name = "numa", .purpose = "pools on a chosen node"},
    [CT_LIBRARY_OPENSSL] = {.name = "openssl", .purpose = "TLS"},
    [CT_LIBRARY_CUDA] = {.name = "cuda", .purpose = "NVIDIA GPUs"},
};

static ct_hwloc hwloc;
static ct_numa numa;
static ct_ucx ucx;
static ct_openssl openssl;
static ct_cuda cuda;

#define OPEN(id, soname, symbols, functions)                                                       \
    open_library(&libraries[id], soname, symbols, sizeof(symbols) / sizeof(*(symbols)), functions)

static int open_library(
    ct_library *library, const char *soname, const ct_symbol *symbols, size_t symbol_count,
    void *functions_p) {
    library->is_open =
        (uint32_t)ct_dynamic_load(soname, symbols, symbol_count, functions_p, library->text);
    return (int)library->is_open;
}

static void refuse(ct_library *library, const char *text) {
    library->is_open = 0;
    snprintf(library->text, sizeof(library->text), "%s", text);
}

static void open_hwloc(void) {
    static const ct_symbol symbols[] = {
        {"hwloc_get_api_version", offsetof(ct_hwloc, get_api_version)},
        {"hwloc_topology_init", offsetof(ct_hwloc, topology_init)},
        {"hwloc_topology_destroy", offsetof(ct_hwloc, topology_destroy)},
        {"hwloc_topology_set_xml", offsetof(ct_hwloc, topology_set_xml)},
        {"hwloc_topology_set_synthetic", offsetof(ct_hwloc, topology_set_synthetic)},
        {"hwloc_topology_set_components", offsetof(ct_hwloc, topology_set_components)},
        {"hwloc_topology_set_io_types_filter", offsetof(ct_hwloc, topology_set_io_types_filter)},
        {"hwloc_topology_load", offsetof(ct_hwloc, topology_load)},
        {"hwloc_get_nbobjs_by_depth", offsetof(ct_hwloc, get_nbobjs_by_depth)},
        {"hwloc_get_obj_by_depth", offsetof(ct_hwloc, get_obj_by_depth)},
        {"hwloc_bitmap_first", offsetof(ct_hwloc, bitmap_first)},
    };
    ct_library *library = &libraries[CT_LIBRARY_HWLOC];
    if (!OPEN(CT_LIBRARY_HWLOC, "libhwloc.so.15", symbols, &hwloc)) {
        return;
    }
    unsigned version = hwloc.get_api_version();
    if (version >> 16 != HWLOC_API_VERSION >> 16) {
        refuse(library, "its objects are laid out in another way than in the version built for");
        return;
    }
    snprintf(
        library->text, sizeof(library->text), "API %u.%u.%u", version >> 16, version >> 8 & 0xff,
        version & 0xff);
}

static void open_numa(void) {
    static const ct_symbol symbols[] = {
        {"numa_available", offsetof(ct_numa, available)},
        {"numa_max_node", offsetof(ct_numa, max_node)},
        {"mbind", offsetof(ct_numa, mbind)},
    };
    ct_library *library = &libraries[CT_LIBRARY_NUMA];
    if (!OPEN(CT_LIBRARY_NUMA, "libnuma.so.1", symbols, &numa)) {
        return;
    }
    if (numa.available() != 0) {
        refuse(library, "this kernel, or the container's seccomp filter, does not let it choose");
        return;
    }
    snprintf(library->text, sizeof(library->text), "nodes 0 to %d", numa.max_node());
}

static void open_ucx(void) {
    static const ct_symbol symbols[] = {
        {"ucp_get_version_string", offsetof(ct_ucx, get_version_string)},
    };
    ct_library *library = &libraries[CT_LIBRARY_UCX];
    if (OPEN(CT_LIBRARY_UCX, "libucp.so.0", symbols, &ucx)) {
        snprintf(library->text, sizeof(library->text), "%s", ucx.get_version_string());
    }
}

static void open_openssl(void) {
    // Found in libcrypto, which libssl needs.
    static const ct_symbol symbols[] = {{"OpenSSL_version", offsetof(ct_openssl, version)}};
    ct_library *library = &libraries[CT_LIBRARY_OPENSSL];
    if (OPEN(CT_LIBRARY_OPENSSL, "libssl.so.3", symbols, &openssl)) {
        snprintf(library->text, sizeof(library->text), "%s", openssl.version(0));
    }
}

static void open_cuda(void) {
    static const ct_symbol symbols[] = {
        {"cuDriverGetVersion", offsetof(ct_cuda, driver_get_version)},
        {"cuInit", offsetof(ct_cuda, init)},
        {"cuDeviceGetCount", offsetof(ct_cuda, device_get_count)},
        {"cuDeviceGet", offsetof(ct_cuda, device_get)},
        {"cuDeviceGetPCIBusId", offsetof(ct_cuda, device_get_pci_bus_id)},
        {"cuDeviceCanAccessPeer", offsetof(ct_cuda, device_can_access_peer)},
    };
    ct_library *library = &libraries[CT_LIBRARY_CUDA];
    if (!OPEN(CT_LIBRARY_CUDA, "libcuda.so.1", symbols, &cuda)) {
        return;
    }
    int version;
    if (cuda.driver_get_version(&version) != 0) {
        refuse(library, "the driver does not say its version");
        return;
    }
    snprintf(
        library->text, sizeof(library->text), "driver for CUDA %d.%d", version / 1000,
        version % 1000 / 10);
}

#define GETTER(kind, id)                                                                           \
    const ct_##kind *ct_##kind##_get(void) {                                                       \
        static pthread_once_t once = PTHREAD_ONCE_INIT;                                            \
        pthread_once(&once, open_##kind);                                                          \
        return libraries[id].is_open ? &kind : NULL;                                               \
    }
GETTER(hwloc, CT_LIBRARY_HWLOC)
GETTER(numa, CT_LIBRARY_NUMA)
GETTER(ucx, CT_LIBRARY_UCX)
GETTER(openssl, CT_LIBRARY_OPENSSL)
GETTER(cuda, CT_LIBRARY_CUDA)
#undef GETTER

void ct_libraries(ct_library libraries_p[CT_LIBRARY_COUNT]) {
    ct_hwloc_get();
    ct_numa_get();
    ct_ucx_get();
    ct_openssl_get();
    ct_cuda_get();
    memcpy(libraries_p, libraries, sizeof(libraries));
}
