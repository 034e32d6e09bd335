#include "limits.h"

#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define PTRACE_SCOPE "/proc/sys/kernel/yama/ptrace_scope"
#define SHARED_HUGE "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

__attribute__((format(printf, 3, 4))) static void judge(
    ct_limit *limit, int is_low, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    limit->is_low = (uint32_t)is_low;
    vsnprintf(limit->text, sizeof(limit->text), format, arguments);
    va_end(arguments);
}

static void judge_memlock(const ct_limit_facts *facts, ct_limit *limit) {
    if (facts->memlock_bytes == UINT64_MAX) {
        judge(limit, 0, "unlimited");
        return;
    }
    unsigned long long kib = facts->memlock_bytes >> 10;
    if (facts->may_lock || facts->memlock_bytes >= facts->memory_bytes) {
        judge(limit, 0, "%llu KiB, which does not bind this process", kib);
        return;
    }
    judge(
        limit, 1,
        "%llu KiB may be pinned, and RDMA and GPU copies pin whole pools: set 'ulimit -l "
        "unlimited', systemd's LimitMEMLOCK=infinity or a container's --ulimit memlock=-1",
        kib);
}

static void judge_ptrace(const ct_limit_facts *facts, ct_limit *limit) {
    if (facts->ptrace_scope <= 0) {
        judge(limit, 0, "processes of this user may reach each other");
    } else if (facts->ptrace_scope >= 3) {
        judge(
            limit, 1,
            "kernel.yama.ptrace_scope is %d: no cma until the machine starts anew with less",
            facts->ptrace_scope);
    } else if (facts->may_trace) {
        judge(
            limit, 0, "kernel.yama.ptrace_scope is %d, but this process has CAP_SYS_PTRACE",
            facts->ptrace_scope);
    } else if (facts->ptrace_scope == 1) {
        judge(
            limit, 1,
            "kernel.yama.ptrace_scope is 1: cma reaches only engines that admit tracers; set that "
            "in the engine, or 'sysctl kernel.yama.ptrace_scope=0', or give CAP_SYS_PTRACE");
    } else {
        judge(
            limit, 1,
            "kernel.yama.ptrace_scope is 2: cma needs CAP_SYS_PTRACE, or 'sysctl "
            "kernel.yama.ptrace_scope=0'");
    }
}

static void judge_shared_huge(const ct_limit_facts *facts, ct_limit *limit) {
    const char *begin = strchr(facts->shared_huge, '[');
    const char *end = begin != NULL ? strchr(begin, ']') : NULL;
    if (end == NULL) {
        judge(limit, 1, "none to be seen: the kernel has no transparent ones, or /sys is hidden");
        return;
    }
    int length = (int)(end - begin - 1);
    int is_low = (length == 5 && memcmp(begin + 1, "never", 5) == 0) ||
                 (length == 4 && memcmp(begin + 1, "deny", 4) == 0);
    judge(
        limit, is_low, "%.*s%s", length, begin + 1,
        is_low ? ": pools have small pages; 'echo advise > " SHARED_HUGE "', or reserve huge pages"
               : "");
}

void ct_limits_judge(const ct_limit_facts *facts, ct_limit limits_p[CT_LIMIT_COUNT]) {
    memset(limits_p, 0, CT_LIMIT_COUNT * sizeof(*limits_p));
    limits_p[CT_LIMIT_MEMLOCK].name = "memlock";
    limits_p[CT_LIMIT_PTRACE].name = "ptrace";
    limits_p[CT_LIMIT_SHARED_HUGE].name = "shared huge pages";
    judge_memlock(facts, &limits_p[CT_LIMIT_MEMLOCK]);
    judge_ptrace(facts, &limits_p[CT_LIMIT_PTRACE]);
    judge_shared_huge(facts, &limits_p[CT_LIMIT_SHARED_HUGE]);
}

// What fits of a small file; empty if there is none.
static void read_text(const char *path, char *text_p, size_t capacity) {
    size_t bytes = 0;
    FILE *file = fopen(path, "re");
    if (file != NULL) {
        bytes = fread(text_p, 1, capacity - 1, file);
        fclose(file);
    }
    text_p[bytes] = '\0';
}

void ct_limits(ct_limit limits[CT_LIMIT_COUNT]) {
    char status[4096];
    char scope[16];
    char shared_huge[128];
    read_text("/proc/self/status", status, sizeof(status));
    read_text(PTRACE_SCOPE, scope, sizeof(scope));
    read_text(SHARED_HUGE, shared_huge, sizeof(shared_huge));
    const char *effective = strstr(status, "\nCapEff:");
    uint64_t capabilities =
        effective != NULL ? strtoull(effective + strlen("\nCapEff:"), NULL, 16) : 0;
    struct rlimit memlock = {.rlim_cur = RLIM_INFINITY};
    getrlimit(RLIMIT_MEMLOCK, &memlock);
    ct_limit_facts facts = {
        .memlock_bytes = memlock.rlim_cur == RLIM_INFINITY ? UINT64_MAX : memlock.rlim_cur,
        .memory_bytes =
            (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE),
        .ptrace_scope = scope[0] != '\0' ? atoi(scope) : -1,
        .may_lock = (capabilities >> CAP_IPC_LOCK & 1) != 0,
        .may_trace = (capabilities >> CAP_SYS_PTRACE & 1) != 0,
        .shared_huge = shared_huge,
    };
    ct_limits_judge(&facts, limits);
}
