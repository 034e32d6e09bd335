// Libraries opened at run time, limits, and the places and routes of machines: a synthetic one, two
// of eight GPUs, and this one.
#include "ctopology.h"

#include "dynamic.h"
#include "limits.h"
#include "support.h"

#define VECTORS "Tests/Vectors/topology/"

static ct_topology *read_topology(const char *xml_file, const char *synthetic) {
    ct_topology_params params = CT_TOPOLOGY_PARAMS_INIT;
    params.xml_file = xml_file;
    params.synthetic = synthetic;
    ct_topology *topology;
    char problem[CT_PROBLEM_BYTES] = "";
    ct_status status = ct_topology_create(&params, &topology, problem);
    if (status != CT_OK) {
        fprintf(stderr, "%s\n", problem);
    }
    CHECK_STATUS(status, CT_OK);
    return topology;
}

static const ct_place *place_at(const ct_topology *topology, size_t index) {
    size_t count;
    const ct_place *places = ct_topology_places(topology, &count);
    CHECK(index < count);
    return &places[index];
}

static size_t count_of(const ct_topology *topology, ct_place_kind kind) {
    size_t count;
    size_t found = 0;
    const ct_place *places = ct_topology_places(topology, &count);
    for (size_t i = 0; i < count; i++) {
        found += places[i].kind == kind;
    }
    return found;
}

static size_t named(const ct_topology *topology, const char *name) {
    size_t count;
    const ct_place *places = ct_topology_places(topology, &count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(places[i].name, name) == 0) {
            return i;
        }
    }
    fprintf(stderr, "no place is named %s\n", name);
    abort();
}

static void check_nearest(
    const ct_topology *topology, const char *name, ct_place_kind kind, const char *expected) {
    size_t nearest;
    CHECK_STATUS(ct_topology_nearest(topology, named(topology, name), kind, &nearest), CT_OK);
    if (strcmp(place_at(topology, nearest)->name, expected) != 0) {
        fprintf(
            stderr, "nearest to %s is %s, not %s\n", name, place_at(topology, nearest)->name,
            expected);
        abort();
    }
}

static void check_route(
    const ct_topology *topology, const char *from, const char *to, ct_distance distance,
    ct_way way, uint32_t is_nearest) {
    ct_route route;
    CHECK_STATUS(
        ct_topology_route(topology, named(topology, from), named(topology, to), &route), CT_OK);
    if (route.distance != distance || route.way != way || route.is_nearest != is_nearest) {
        fprintf(
            stderr, "%s to %s: %s, %s, nearest %u; not %s, %s, %u\n", from, to,
            ct_distance_name(route.distance), ct_way_name(route.way), route.is_nearest,
            ct_distance_name(distance), ct_way_name(way), is_nearest);
        abort();
    }
}

static void test_missing_libraries(void) {
    char text[CT_LIBRARY_TEXT_BYTES];
    void *function = NULL;
    ct_symbol absent[] = {{"ct_no_such_function", 0}};
    CHECK(!ct_dynamic_load("libllmd-absent.so.9", absent, 1, &function, text));
    CHECK(strstr(text, "libllmd-absent.so.9") != NULL);
    CHECK(!ct_dynamic_load("libm.so.6", absent, 1, &function, text));
    CHECK(strcmp(text, "libm.so.6 has no ct_no_such_function") == 0);
    CHECK(function == NULL);
    ct_symbol present[] = {{"cbrt", 0}};
    CHECK(ct_dynamic_load("libm.so.6", present, 1, &function, text));
    CHECK(function != NULL && text[0] == '\0');
}

static void test_libraries(void) {
    ct_library libraries[CT_LIBRARY_COUNT];
    ct_libraries(libraries);
    for (int i = 0; i < CT_LIBRARY_COUNT; i++) {
        CHECK(libraries[i].name != NULL && libraries[i].purpose != NULL);
        CHECK(libraries[i].text[0] != '\0');
        // All but CUDA are installed where the tests run.
        CHECK(libraries[i].is_open || i == CT_LIBRARY_CUDA);
    }
}

static ct_limit judged(ct_limit_facts facts, int limit) {
    ct_limit limits[CT_LIMIT_COUNT];
    ct_limits_judge(&facts, limits);
    return limits[limit];
}

static void test_limits(void) {
    ct_limit_facts roomy = {
        .memlock_bytes = UINT64_MAX,
        .memory_bytes = UINT64_C(1) << 40,
        .ptrace_scope = -1,
        .shared_huge = "always within_size [advise] never deny force\n",
    };
    for (int i = 0; i < CT_LIMIT_COUNT; i++) {
        CHECK(!judged(roomy, i).is_low);
    }
    CHECK(strcmp(judged(roomy, CT_LIMIT_SHARED_HUGE).text, "advise") == 0);

    ct_limit_facts tight = roomy;
    tight.memlock_bytes = 8192 << 10;
    ct_limit memlock = judged(tight, CT_LIMIT_MEMLOCK);
    CHECK(memlock.is_low);
    CHECK(strncmp(memlock.text, "8192 KiB ", 9) == 0);
    CHECK(strstr(memlock.text, "--ulimit memlock=-1") != NULL);
    tight.may_lock = 1;
    CHECK(!judged(tight, CT_LIMIT_MEMLOCK).is_low);

    for (int scope = 0; scope <= 3; scope++) {
        for (int may_trace = 0; may_trace <= 1; may_trace++) {
            tight.ptrace_scope = scope;
            tight.may_trace = may_trace;
            ct_limit ptrace = judged(tight, CT_LIMIT_PTRACE);
            CHECK(ptrace.is_low == (scope == 3 || (scope > 0 && !may_trace)));
            CHECK(!ptrace.is_low || strstr(ptrace.text, "ptrace_scope") != NULL);
        }
    }
    tight.shared_huge = "always within_size advise [never] deny force\n";
    CHECK(judged(tight, CT_LIMIT_SHARED_HUGE).is_low);
    tight.shared_huge = "";
    CHECK(judged(tight, CT_LIMIT_SHARED_HUGE).is_low);

    ct_limit limits[CT_LIMIT_COUNT];
    ct_limits(limits);
    for (int i = 0; i < CT_LIMIT_COUNT; i++) {
        CHECK(limits[i].text[0] != '\0');
        // No text was cut off, and each is one line.
        CHECK(strlen(limits[i].text) < sizeof(limits[i].text) - 1);
        CHECK(strchr(limits[i].text, '\n') == NULL);
    }
}

static void test_synthetic(void) {
    ct_topology *topology = read_topology(NULL, "pack:2 [numa(memory=1GB)] core:2 pu:1");
    CHECK(count_of(topology, CT_PLACE_NODE) == 2);
    CHECK(count_of(topology, CT_PLACE_GPU) == 0 && count_of(topology, CT_PLACE_NIC) == 0);
    CHECK(place_at(topology, 1)->memory_bytes == 1000000000 ||
          place_at(topology, 1)->memory_bytes == 1 << 30);
    CHECK(place_at(topology, 1)->package == 1);
    check_route(topology, "node0", "node0", CT_DISTANCE_SAME, CT_WAY_HOST, 0);
    check_route(topology, "node0", "node1", CT_DISTANCE_SYSTEM, CT_WAY_HOST, 1);
    size_t nearest;
    CHECK_STATUS(ct_topology_nearest(topology, 0, CT_PLACE_NIC, &nearest), CT_ENOTFOUND);
    CHECK_STATUS(ct_topology_nearest(topology, 2, CT_PLACE_NODE, &nearest), CT_EINVAL);
    ct_route route;
    CHECK_STATUS(ct_topology_route(topology, 0, 2, &route), CT_EINVAL);
    ct_topology_destroy(topology);

    topology = read_topology(NULL, "pack:2 die:2 [numa] core:1 pu:1");
    CHECK(count_of(topology, CT_PLACE_NODE) == 4);
    check_route(topology, "node0", "node1", CT_DISTANCE_PACKAGE, CT_WAY_HOST, 1);
    check_route(topology, "node2", "node1", CT_DISTANCE_SYSTEM, CT_WAY_HOST, 0);
    ct_topology_destroy(topology);
}

static void test_find(const ct_topology *topology) {
    static const char *const spellings[] = {
        "0000:9d:00.0", "0000:9D:00.0", "9d:00.0", "00000000:9D:00.0"};
    size_t index;
    for (size_t i = 0; i < sizeof(spellings) / sizeof(*spellings); i++) {
        CHECK_STATUS(ct_topology_find(topology, spellings[i], &index), CT_OK);
        CHECK(strcmp(place_at(topology, index)->name, "gpu4") == 0);
    }
    // The second is the display of the management controller.
    CHECK_STATUS(ct_topology_find(topology, "0001:9d:00.0", &index), CT_ENOTFOUND);
    CHECK_STATUS(ct_topology_find(topology, "0000:05:00.0", &index), CT_ENOTFOUND);
    static const char *const others[] = {"", "9d", "9d:00", "9d:00.0x", " 9d:00.0", "eth0"};
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        CHECK_STATUS(ct_topology_find(topology, others[i], &index), CT_EINVAL);
    }
}

// Every GPU has a NIC of its own under its switch.
static void test_h100(void) {
    ct_topology *topology = read_topology(VECTORS "hgx-h100.xml", NULL);
    CHECK(count_of(topology, CT_PLACE_NODE) == 2);
    CHECK(count_of(topology, CT_PLACE_GPU) == 8);
    CHECK(count_of(topology, CT_PLACE_NIC) == 10);
    const ct_place *node = place_at(topology, named(topology, "node1"));
    CHECK(node->memory_bytes == UINT64_C(1) << 40);
    CHECK(node->huge_page_bytes == 2 << 20 && node->huge_page_count == 512);
    static const char *const nics[] = {"mlx5_0", "mlx5_3", "mlx5_4", "mlx5_5",
                                       "mlx5_6", "mlx5_9", "mlx5_10", "mlx5_11"};
    for (int i = 0; i < 8; i++) {
        char gpu[8];
        char memory[8];
        snprintf(gpu, sizeof(gpu), "gpu%d", i);
        snprintf(memory, sizeof(memory), "node%d", i / 4);
        check_nearest(topology, gpu, CT_PLACE_NIC, nics[i]);
        check_nearest(topology, nics[i], CT_PLACE_GPU, gpu);
        check_nearest(topology, gpu, CT_PLACE_NODE, memory);
        check_nearest(topology, nics[i], CT_PLACE_NODE, memory);
        check_route(topology, gpu, nics[i], CT_DISTANCE_SWITCH, CT_WAY_RDMA, 1);
        check_route(topology, memory, gpu, CT_DISTANCE_NODE, CT_WAY_GPU_COPY, i % 4 == 0);
    }
    check_route(topology, "gpu0", "mlx5_3", CT_DISTANCE_NODE, CT_WAY_RDMA, 0);
    check_route(topology, "gpu0", "mlx5_6", CT_DISTANCE_SYSTEM, CT_WAY_STAGED_RDMA, 0);
    check_route(topology, "gpu0", "gpu1", CT_DISTANCE_NODE, CT_WAY_GPU_PEER, 1);
    check_route(topology, "gpu3", "gpu4", CT_DISTANCE_SYSTEM, CT_WAY_STAGED, 0);
    check_route(topology, "gpu3", "gpu3", CT_DISTANCE_SAME, CT_WAY_GPU_COPY, 0);
    check_route(topology, "node0", "mlx5_7", CT_DISTANCE_SYSTEM, CT_WAY_RDMA, 0);
    check_route(topology, "mlx5_0", "mlx5_1", CT_DISTANCE_NODE, CT_WAY_NONE, 0);
    const ct_place *ethernet = place_at(topology, named(topology, "mlx5_1"));
    CHECK(ethernet->is_rdma && strcmp(ethernet->interface, "ens6f0") == 0);
    CHECK(ethernet->vendor_id == 0x15b3 && ethernet->device_id == 0x101d);
    test_find(topology);
    ct_topology_destroy(topology);
}

// Two GPUs under a switch share two NICs, and take one each.
static void test_a100(void) {
    ct_topology *topology = read_topology(VECTORS "dgx-a100.xml", NULL);
    CHECK(count_of(topology, CT_PLACE_NODE) == 4);
    for (int i = 0; i < 8; i++) {
        char gpu[8];
        char nic[8];
        char memory[8];
        snprintf(gpu, sizeof(gpu), "gpu%d", i);
        snprintf(nic, sizeof(nic), "mlx5_%d", i);
        snprintf(memory, sizeof(memory), "node%d", i / 2);
        check_nearest(topology, gpu, CT_PLACE_NIC, nic);
        check_nearest(topology, nic, CT_PLACE_GPU, gpu);
        check_nearest(topology, gpu, CT_PLACE_NODE, memory);
    }
    check_route(topology, "gpu0", "gpu1", CT_DISTANCE_SWITCH, CT_WAY_GPU_PEER, 1);
    check_route(topology, "gpu0", "gpu2", CT_DISTANCE_PACKAGE, CT_WAY_STAGED, 0);
    check_route(topology, "gpu0", "mlx5_2", CT_DISTANCE_PACKAGE, CT_WAY_STAGED_RDMA, 0);
    // A NIC without RDMA is never preferred, and carries TCP.
    check_route(topology, "node3", "enp226s0", CT_DISTANCE_NODE, CT_WAY_TCP, 0);
    check_route(topology, "gpu7", "enp226s0", CT_DISTANCE_NODE, CT_WAY_STAGED_TCP, 0);
    ct_topology_destroy(topology);
}

static void test_this_machine(void) {
    ct_topology *topology = read_topology(NULL, NULL);
    CHECK(count_of(topology, CT_PLACE_NODE) >= 1);
    CHECK(place_at(topology, 0)->memory_bytes > 0);
    ct_topology_destroy(topology);
}

static void check_refused(const char *xml_file, const char *synthetic, const char *reason) {
    ct_topology_params params = CT_TOPOLOGY_PARAMS_INIT;
    params.xml_file = xml_file;
    params.synthetic = synthetic;
    ct_topology *topology;
    char problem[CT_PROBLEM_BYTES] = "";
    CHECK_STATUS(ct_topology_create(&params, &topology, problem), CT_EINVAL);
    if (strstr(problem, reason) == NULL) {
        fprintf(stderr, "'%s' does not say '%s'\n", problem, reason);
        abort();
    }
}

static void test_refusals(void) {
    check_refused("/nonexistent.xml", NULL, "/nonexistent.xml: No such file");
    check_refused("Package.swift", NULL, "Package.swift: hwloc cannot read it");
    check_refused(NULL, "nonsense", "not a synthetic topology: nonsense");
    check_refused(VECTORS "dgx-a100.xml", "pack:1 pu:1", "exclude each other");
}

int main(void) {
    // UCX patches functions that the sanitizers have patched already.
    setenv("UCX_MEM_EVENTS", "n", 1);
    test_missing_libraries();
    test_libraries();
    test_limits();
    test_synthetic();
    test_h100();
    test_a100();
    test_this_machine();
    test_refusals();
    puts("topology: ok");
    return 0;
}
