// The machine as hwloc sees it, as nodes, GPUs and NICs.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory.h"
#include "params.h"
#include "topology.h"

// Base classes and classes of PCI.
#define PCI_NETWORK 0x02
#define PCI_DISPLAY 0x03
#define PCI_ACCELERATOR 0x12
#define PCI_VGA 0x0300
#define PCI_INFINIBAND 0x0207

static int package_of(hwloc_obj_t object) {
    while (object != NULL && object->type != HWLOC_OBJ_PACKAGE) {
        object = object->parent;
    }
    return object != NULL ? (int)object->os_index : -1;
}

static ct_place *add_place(ct_topology *topology, hwloc_obj_t object, ct_place_kind kind) {
    if (topology->count == CT_PLACES_MAX) {
        return NULL;
    }
    topology->objects[topology->count] = object;
    ct_place *place = &topology->places[topology->count++];
    *place = (ct_place){.kind = kind, .node = -1, .package = package_of(object)};
    return place;
}

static void add_nodes(ct_topology *topology) {
    const ct_hwloc *hwloc = topology->hwloc;
    int count = hwloc->get_nbobjs_by_depth(topology->tree, HWLOC_TYPE_DEPTH_NUMANODE);
    for (int i = 0; i < count; i++) {
        hwloc_obj_t object =
            hwloc->get_obj_by_depth(topology->tree, HWLOC_TYPE_DEPTH_NUMANODE, (unsigned)i);
        ct_place *place = add_place(topology, object, CT_PLACE_NODE);
        if (place == NULL) {
            return;
        }
        place->number = object->os_index;
        place->node = (int32_t)object->os_index;
        snprintf(place->name, sizeof(place->name), "node%u", place->number);
        const struct hwloc_numanode_attr_s *node = &object->attr->numanode;
        place->memory_bytes = node->local_memory;
        // The first size is that of small pages.
        for (unsigned j = 1; j < node->page_types_len; j++) {
            uint64_t bytes = node->page_types[j].size * node->page_types[j].count;
            if (bytes > place->huge_page_bytes * place->huge_page_count) {
                place->huge_page_bytes = node->page_types[j].size;
                place->huge_page_count = node->page_types[j].count;
            }
        }
    }
}

// Whether all of the machine is equally near to a device, on a machine of several nodes.
static int is_nowhere(const ct_topology *topology, hwloc_obj_t ancestor) {
    return ancestor->type == HWLOC_OBJ_MACHINE &&
           topology->hwloc->get_nbobjs_by_depth(topology->tree, HWLOC_TYPE_DEPTH_NUMANODE) > 1;
}

static void locate(const ct_topology *topology, hwloc_obj_t object, ct_place *place) {
    while (object->cpuset == NULL) {
        object = object->parent;
    }
    if (!is_nowhere(topology, object)) {
        place->node = topology->hwloc->bitmap_first(object->nodeset);
    }
}

// A display of a server's management controller is none that computes.
static int is_gpu(const struct hwloc_pcidev_attr_s *device) {
    int is_maker = device->vendor_id == 0x10de || device->vendor_id == 0x1002 ||
                   device->vendor_id == 0x8086;
    int base = device->class_id >> 8;
    return (base == PCI_DISPLAY && (device->class_id != PCI_VGA || is_maker)) ||
           (base == PCI_ACCELERATOR && is_maker);
}

static void name_nic(hwloc_obj_t object, ct_place *place) {
    for (hwloc_obj_t child = object->io_first_child; child != NULL; child = child->next_sibling) {
        if (child->type != HWLOC_OBJ_OS_DEVICE || child->name == NULL) {
            continue;
        }
        if (child->attr->osdev.type == HWLOC_OBJ_OSDEV_OPENFABRICS) {
            place->is_rdma = 1;
            snprintf(place->name, sizeof(place->name), "%s", child->name);
        } else if (child->attr->osdev.type == HWLOC_OBJ_OSDEV_NETWORK) {
            snprintf(place->interface, sizeof(place->interface), "%s", child->name);
        }
    }
    if (place->name[0] == '\0' && place->interface[0] != '\0') {
        memcpy(place->name, place->interface, sizeof(place->name));
    } else if (place->name[0] == '\0') {
        snprintf(place->name, sizeof(place->name), "nic%u", place->number);
    }
}

static void add_devices(ct_topology *topology, ct_place_kind kind) {
    const ct_hwloc *hwloc = topology->hwloc;
    int count = hwloc->get_nbobjs_by_depth(topology->tree, HWLOC_TYPE_DEPTH_PCI_DEVICE);
    uint32_t number = 0;
    for (int i = 0; i < count; i++) {
        hwloc_obj_t object =
            hwloc->get_obj_by_depth(topology->tree, HWLOC_TYPE_DEPTH_PCI_DEVICE, (unsigned)i);
        const struct hwloc_pcidev_attr_s *device = &object->attr->pcidev;
        int fits = kind == CT_PLACE_GPU ? is_gpu(device) : device->class_id >> 8 == PCI_NETWORK;
        ct_place *place = fits ? add_place(topology, object, kind) : NULL;
        if (place == NULL) {
            continue;
        }
        place->number = number++;
        place->vendor_id = device->vendor_id;
        place->device_id = device->device_id;
        snprintf(
            place->pci_address, sizeof(place->pci_address), "%04x:%02x:%02x.%01x",
            device->domain, device->bus, device->dev, device->func);
        locate(topology, object, place);
        if (kind == CT_PLACE_NIC) {
            place->is_rdma = device->class_id == PCI_INFINIBAND;
            name_nic(object, place);
        } else {
            snprintf(place->name, sizeof(place->name), "gpu%u", place->number);
        }
    }
}

// Gives GPUs the numbers of CUDA, if it knows them all.
static void number_as_cuda(ct_topology *topology, const ct_cuda *cuda) {
    int count;
    if (cuda == NULL || cuda->init(0) != 0 || cuda->device_get_count(&count) != 0) {
        return;
    }
    for (int i = 0; i < count; i++) {
        int device;
        char address[32];
        size_t index;
        if (cuda->device_get(&device, i) != 0 ||
            cuda->device_get_pci_bus_id(address, sizeof(address), device) != 0 ||
            ct_topology_find(topology, address, &index) != CT_OK) {
            return;
        }
        ct_place *place = &topology->places[index];
        place->number = (uint32_t)i;
        snprintf(place->name, sizeof(place->name), "gpu%d", i);
    }
    topology->uses_cuda = 1;
}

static ct_status load(
    ct_topology *topology, const ct_topology_params *params, char problem[CT_PROBLEM_BYTES]) {
    const ct_hwloc *hwloc = topology->hwloc;
    if (hwloc->topology_init(&topology->tree) != 0) {
        return CT_ENOMEM;
    }
    if (params->xml_file != NULL && access(params->xml_file, R_OK) != 0) {
        snprintf(problem, CT_PROBLEM_BYTES, "%s: %s", params->xml_file, strerror(errno));
        return CT_EINVAL;
    }
    if (params->xml_file != NULL &&
        hwloc->topology_set_xml(topology->tree, params->xml_file) != 0) {
        snprintf(problem, CT_PROBLEM_BYTES, "%s: not a topology of hwloc", params->xml_file);
        return CT_EINVAL;
    }
    if (params->synthetic != NULL &&
        hwloc->topology_set_synthetic(topology->tree, params->synthetic) != 0) {
        snprintf(problem, CT_PROBLEM_BYTES, "not a synthetic topology: %s", params->synthetic);
        return CT_EINVAL;
    }
    // Plugins that would start drivers of GPUs in this process. Unknown names do no harm.
    static const char *const plugins[] = {"cuda", "nvml", "opencl", "rsmi", "levelzero", "gl"};
    for (size_t i = 0; i < sizeof(plugins) / sizeof(*plugins); i++) {
        hwloc->topology_set_components(
            topology->tree, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, plugins[i]);
    }
    hwloc->topology_set_io_types_filter(topology->tree, HWLOC_TYPE_FILTER_KEEP_ALL);
    if (hwloc->topology_load(topology->tree) != 0) {
        snprintf(
            problem, CT_PROBLEM_BYTES, "%s: hwloc cannot read it",
            params->xml_file != NULL ? params->xml_file : "this machine's topology");
        return CT_EINVAL;
    }
    return CT_OK;
}

ct_status ct_topology_create(
    const ct_topology_params *params, ct_topology **topology_p, char problem[CT_PROBLEM_BYTES]) {
    ct_topology_params p;
    ct_status status = ct_params_read(params, &p, sizeof(p));
    if (status != CT_OK || (p.xml_file != NULL && p.synthetic != NULL)) {
        snprintf(problem, CT_PROBLEM_BYTES, "parameters that exclude each other or are unknown");
        return CT_EINVAL;
    }
    const ct_hwloc *hwloc = ct_hwloc_get();
    if (hwloc == NULL) {
        ct_library libraries[CT_LIBRARY_COUNT];
        ct_libraries(libraries);
        snprintf(problem, CT_PROBLEM_BYTES, "%s", libraries[CT_LIBRARY_HWLOC].text);
        return CT_ENOTSUP;
    }
    ct_topology *topology = ct_allocate(sizeof(*topology));
    if (topology == NULL) {
        snprintf(problem, CT_PROBLEM_BYTES, "%s", ct_status_message(CT_ENOMEM));
        return CT_ENOMEM;
    }
    topology->hwloc = hwloc;
    status = load(topology, &p, problem);
    if (status != CT_OK) {
        ct_topology_destroy(topology);
        return status;
    }
    add_nodes(topology);
    add_devices(topology, CT_PLACE_GPU);
    add_devices(topology, CT_PLACE_NIC);
    int is_here = p.xml_file == NULL && p.synthetic == NULL;
    topology->has_ucx = !is_here || ct_ucx_get() != NULL;
    if (p.asks_cuda) {
        number_as_cuda(topology, ct_cuda_get());
    }
    *topology_p = topology;
    return CT_OK;
}

void ct_topology_destroy(ct_topology *topology) {
    if (topology == NULL) {
        return;
    }
    if (topology->tree != NULL) {
        topology->hwloc->topology_destroy(topology->tree);
    }
    free(topology);
}
