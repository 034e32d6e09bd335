// A libcuda.so.1 of eight GPUs at the addresses of Tests/Vectors/topology/dgx-a100.xml, numbered
// backwards, of which the first four reach each other. Built as that library it is found instead of
// a real one; built with CUDA_TEST it is the program that looks.
#ifndef CUDA_TEST
#include <stdio.h>

static const char *const addresses[] = {
    "00000000:BD:00.0", "00000000:B7:00.0", "00000000:90:00.0", "00000000:87:00.0",
    "00000000:4E:00.0", "00000000:47:00.0", "00000000:0F:00.0", "00000000:07:00.0",
};

static int is_started;

int cuDriverGetVersion(int *version_p) {
    *version_p = 12080;
    return 0;
}

int cuInit(unsigned flags) {
    is_started = flags == 0;
    return 0;
}

int cuDeviceGetCount(int *count_p) {
    *count_p = 8;
    return is_started ? 0 : 3;
}

// Devices are not their ordinals.
int cuDeviceGet(int *device_p, int ordinal) {
    *device_p = 100 + ordinal;
    return ordinal < 8 ? 0 : 101;
}

int cuDeviceGetPCIBusId(char *text_p, int capacity, int device) {
    return snprintf(text_p, (size_t)capacity, "%s", addresses[device - 100]) < capacity ? 0 : 1;
}

int cuDeviceCanAccessPeer(int *can_p, int device, int peer) {
    *can_p = device < 104 && peer < 104;
    return 0;
}
#else
#include "../c/transfer/support.h"
#include "ctopology.h"

static ct_way way_between(const ct_topology *topology, uint32_t from, uint32_t to) {
    size_t count;
    const ct_place *places = ct_topology_places(topology, &count);
    size_t found[2] = {0, 0};
    for (size_t i = 0; i < count; i++) {
        if (places[i].kind == CT_PLACE_GPU && places[i].number == from) {
            found[0] = i;
        }
        if (places[i].kind == CT_PLACE_GPU && places[i].number == to) {
            found[1] = i;
        }
    }
    ct_route route;
    CHECK_STATUS(ct_topology_route(topology, found[0], found[1], &route), CT_OK);
    return route.way;
}

int main(void) {
    ct_library libraries[CT_LIBRARY_COUNT];
    ct_libraries(libraries);
    CHECK(libraries[CT_LIBRARY_CUDA].is_open);
    CHECK(strcmp(libraries[CT_LIBRARY_CUDA].text, "driver for CUDA 12.8") == 0);
    for (uint32_t asks_cuda = 0; asks_cuda <= 1; asks_cuda++) {
        ct_topology_params params = CT_TOPOLOGY_PARAMS_INIT;
        params.xml_file = "Tests/Vectors/topology/dgx-a100.xml";
        params.asks_cuda = asks_cuda;
        ct_topology *topology;
        char problem[CT_PROBLEM_BYTES];
        CHECK_STATUS(ct_topology_create(&params, &topology, problem), CT_OK);
        size_t index;
        size_t count;
        CHECK_STATUS(ct_topology_find(topology, "0000:07:00.0", &index), CT_OK);
        const ct_place *place = &ct_topology_places(topology, &count)[index];
        CHECK(strcmp(place->name, asks_cuda ? "gpu7" : "gpu0") == 0);
        CHECK(place->number == (asks_cuda ? 7 : 0));
        // Without CUDA, what lies between them decides: 0 and 3 have two switches, 6 and 7 one.
        CHECK(way_between(topology, 0, 3) == (asks_cuda ? CT_WAY_GPU_PEER : CT_WAY_STAGED));
        CHECK(way_between(topology, 6, 7) == (asks_cuda ? CT_WAY_STAGED : CT_WAY_GPU_PEER));
        ct_topology_destroy(topology);
    }
    puts("cuda: ok");
    return 0;
}
#endif
