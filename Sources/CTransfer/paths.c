// The list of paths, and what can be said of them without a transfer.
#include <stdio.h>

#include "engine.h"

const ct_path_ops *const ct_paths[] = {&ct_memfd_ops, &ct_cma_ops, &ct_tcp_ops, NULL};

void ct_capabilities(const ct_engine *engine, ct_capability capabilities[CT_PATH_COUNT]) {
    capabilities[CT_PATH_NONE] = (ct_capability){.reason = "not a path"};
    for (size_t i = 0; ct_paths[i] != NULL; i++) {
        ct_capability *capability = &capabilities[ct_paths[i]->path];
        *capability = (ct_capability){0};
        int is_possible = ct_paths[i]->capability(
            engine, capability->reason, sizeof(capability->reason));
        capability->is_possible = (uint32_t)is_possible;
    }
}

void ct_peer_capabilities(ct_peer *peer, ct_capability capabilities[CT_PATH_COUNT]) {
    pthread_mutex_lock(&peer->engine->lock);
    for (uint32_t path = 0; path < CT_PATH_COUNT; path++) {
        ct_capability *capability = &capabilities[path];
        *capability = (ct_capability){.is_possible = peer->info.paths >> path & 1};
        snprintf(
            capability->reason, sizeof(capability->reason), "%s", peer->reasons[path]);
    }
    pthread_mutex_unlock(&peer->engine->lock);
}

const ct_path_ops *ct_peer_choose_path(const ct_peer *peer, uint32_t paths, uint32_t region_id) {
    for (size_t i = 0; ct_paths[i] != NULL; i++) {
        uint32_t mask = CT_PATH_MASK(ct_paths[i]->path);
        if ((paths & peer->ready_paths & mask) && ct_paths[i]->reaches(peer, region_id)) {
            return ct_paths[i];
        }
    }
    return NULL;
}
