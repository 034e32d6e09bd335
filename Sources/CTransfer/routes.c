// What lies between the places of a machine, which is nearest, and the way that bytes take.
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "topology.h"

const ct_place *ct_topology_places(const ct_topology *topology, size_t *count_p) {
    *count_p = topology->count;
    return topology->places;
}

// Domain, bus, device and function as one number. 0 if the text is no address.
static int parse_address(const char *text, uint64_t *address_p) {
    unsigned parts[4];
    int end = 0;
    if (sscanf(text, "%8x:%2x:%2x.%1x%n", &parts[0], &parts[1], &parts[2], &parts[3], &end) != 4) {
        parts[0] = 0;
        end = 0;
        if (sscanf(text, "%2x:%2x.%1x%n", &parts[1], &parts[2], &parts[3], &end) != 3) {
            return 0;
        }
    }
    *address_p = (uint64_t)parts[0] << 32 | parts[1] << 16 | parts[2] << 8 | parts[3];
    return isxdigit((unsigned char)text[0]) && text[end] == '\0';
}

ct_status ct_topology_find(
    const ct_topology *topology, const char *pci_address, size_t *index_p) {
    uint64_t wanted;
    if (!parse_address(pci_address, &wanted)) {
        return CT_EINVAL;
    }
    for (size_t i = 0; i < topology->count; i++) {
        uint64_t address;
        if (topology->places[i].kind != CT_PLACE_NODE &&
            parse_address(topology->places[i].pci_address, &address) && address == wanted) {
            *index_p = i;
            return CT_OK;
        }
    }
    return CT_ENOTFOUND;
}

static int contains(hwloc_obj_t ancestor, hwloc_obj_t object) {
    while (object != NULL && object != ancestor) {
        object = object->parent;
    }
    return object != NULL;
}

static ct_distance distance(const ct_topology *topology, size_t from, size_t to) {
    if (from == to) {
        return CT_DISTANCE_SAME;
    }
    const ct_place *a = &topology->places[from];
    const ct_place *b = &topology->places[to];
    hwloc_obj_t common = topology->objects[from];
    while (!contains(common, topology->objects[to])) {
        common = common->parent;
    }
    if (common->type == HWLOC_OBJ_PCI_DEVICE || common->type == HWLOC_OBJ_BRIDGE) {
        int is_host_bridge = common->type == HWLOC_OBJ_BRIDGE &&
                             common->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_HOST;
        return is_host_bridge ? CT_DISTANCE_BRIDGE : CT_DISTANCE_SWITCH;
    }
    if (a->node >= 0 && a->node == b->node) {
        return CT_DISTANCE_NODE;
    }
    return a->package >= 0 && a->package == b->package ? CT_DISTANCE_PACKAGE : CT_DISTANCE_SYSTEM;
}

// Less is better: a NIC without RDMA comes after all that have it, however near it is.
static unsigned rank(const ct_topology *topology, size_t index, size_t candidate) {
    const ct_place *place = &topology->places[candidate];
    int is_slow = place->kind == CT_PLACE_NIC && !place->is_rdma;
    return distance(topology, index, candidate) + (is_slow ? CT_DISTANCE_SYSTEM + 1 : 0);
}

// Marks the best places of a kind for another one, and counts them.
static size_t mark_best(
    const ct_topology *topology, size_t index, ct_place_kind kind, uint8_t set[CT_PLACES_MAX]) {
    unsigned least = UINT32_MAX;
    size_t count = 0;
    for (size_t i = 0; i < topology->count; i++) {
        set[i] = 0;
        if (topology->places[i].kind != kind || i == index) {
            continue;
        }
        unsigned r = rank(topology, index, i);
        if (r < least) {
            memset(set, 0, i);
            least = r;
            count = 0;
        }
        if (r == least) {
            set[i] = 1;
            count++;
        }
    }
    return count;
}

ct_status ct_topology_nearest(
    const ct_topology *topology, size_t index, ct_place_kind kind, size_t *nearest_p) {
    uint8_t set[CT_PLACES_MAX];
    uint8_t other[CT_PLACES_MAX];
    if (index >= topology->count) {
        return CT_EINVAL;
    }
    size_t count = mark_best(topology, index, kind, set);
    if (count == 0) {
        return CT_ENOTFOUND;
    }
    size_t turn = 0;
    for (size_t i = 0; i < index; i++) {
        if (topology->places[i].kind == topology->places[index].kind) {
            mark_best(topology, i, kind, other);
            turn += memcmp(set, other, topology->count) == 0;
        }
    }
    turn %= count;
    size_t i = 0;
    while (!set[i] || turn-- > 0) {
        i++;
    }
    *nearest_p = i;
    return CT_OK;
}

static int reach_each_other(const ct_topology *topology, size_t from, size_t to, ct_distance d) {
    const ct_cuda *cuda = topology->uses_cuda ? ct_cuda_get() : NULL;
    int device;
    int peer;
    int can;
    if (cuda != NULL && cuda->device_get(&device, (int)topology->places[from].number) == 0 &&
        cuda->device_get(&peer, (int)topology->places[to].number) == 0 &&
        cuda->device_can_access_peer(&can, device, peer) == 0) {
        return can;
    }
    return d <= CT_DISTANCE_NODE;
}

static ct_way way(const ct_topology *topology, size_t from, size_t to, ct_distance d) {
    const ct_place *a = &topology->places[from];
    const ct_place *b = &topology->places[to];
    int gpus = (a->kind == CT_PLACE_GPU) + (b->kind == CT_PLACE_GPU);
    int nics = (a->kind == CT_PLACE_NIC) + (b->kind == CT_PLACE_NIC);
    if (nics == 2) {
        return CT_WAY_NONE;
    }
    if (nics == 0) {
        if (gpus < 2) {
            return gpus == 0 ? CT_WAY_HOST : CT_WAY_GPU_COPY;
        }
        return from == to                                  ? CT_WAY_GPU_COPY
               : reach_each_other(topology, from, to, d) ? CT_WAY_GPU_PEER
                                                           : CT_WAY_STAGED;
    }
    const ct_place *nic = a->kind == CT_PLACE_NIC ? a : b;
    if (!nic->is_rdma || !topology->has_ucx) {
        return gpus > 0 ? CT_WAY_STAGED_TCP : CT_WAY_TCP;
    }
    // Across nodes, reads of a GPU by a NIC are slower than a copy into memory beside the NIC.
    return gpus > 0 && d > CT_DISTANCE_NODE ? CT_WAY_STAGED_RDMA : CT_WAY_RDMA;
}

ct_status ct_topology_route(
    const ct_topology *topology, size_t from, size_t to, ct_route *route_p) {
    if (from >= topology->count || to >= topology->count) {
        return CT_EINVAL;
    }
    ct_distance d = distance(topology, from, to);
    size_t nearest;
    int has_nearest =
        ct_topology_nearest(topology, from, topology->places[to].kind, &nearest) == CT_OK;
    *route_p = (ct_route){
        .distance = d,
        .way = way(topology, from, to, d),
        .is_nearest = has_nearest && nearest == to,
    };
    return CT_OK;
}

// ---- Names ----

const char *ct_distance_name(ct_distance distance) {
    static const char *const names[] = {"same", "switch", "bridge", "node", "package", "system"};
    return distance <= CT_DISTANCE_SYSTEM ? names[distance] : "unknown";
}

const char *ct_way_name(ct_way way) {
    static const char *const names[] = {
        "none", "host", "gpu copy",    "gpu peer",   "staged",
        "rdma", "tcp",  "staged rdma", "staged tcp",
    };
    return way <= CT_WAY_STAGED_TCP ? names[way] : "unknown";
}
