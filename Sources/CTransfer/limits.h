// Limits of the system on what a process may do, judged.
#ifndef CT_LIMITS_H
#define CT_LIMITS_H

#include "ctopology.h"

#pragma GCC visibility push(hidden)

typedef struct ct_limit_facts {
    uint64_t memlock_bytes;       // UINT64_MAX: no limit
    uint64_t memory_bytes;        // of the machine
    int ptrace_scope;             // Yama's; -1: there is no Yama
    int may_lock;                 // CAP_IPC_LOCK
    int may_trace;                // CAP_SYS_PTRACE
    const char *shared_huge;      // the file shmem_enabled; empty: there is none
} ct_limit_facts;

void ct_limits_judge(const ct_limit_facts *facts, ct_limit limits_p[CT_LIMIT_COUNT]);

#pragma GCC visibility pop

#endif
