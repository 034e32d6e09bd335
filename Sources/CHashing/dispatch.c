/* The only file that knows about CPUs. Compiled, like the others, without -m flags: a kernel
 * names its instruction set on its functions. */
#include <stdatomic.h>

#include "impl.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

struct kernel {
    const char *name;
    ch_compress *compress;
    int (*is_supported)(void);
};

#if defined(__x86_64__)
static int has_shani(void)
{
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_SSSE3) || !(ecx & bit_SSE4_1))
        return 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bit_SHA);
}
#endif

static int has_anything(void)
{
    return 1;
}

/* Best first. */
static const struct kernel kernels[] = {
#if defined(__x86_64__)
    {"sha-ni", ch_compress_shani, has_shani},
#endif
    {"portable", ch_compress_portable, has_anything},
};

enum { KERNEL_COUNT = sizeof kernels / sizeof kernels[0] };

/* Relaxed order suffices: it points at constants. */
static _Atomic(const struct kernel *) selected;

ch_status ch_kernel_select(const char *name)
{
    for (int i = 0; i < KERNEL_COUNT; i++) {
        if ((name == NULL || strcmp(name, kernels[i].name) == 0) && kernels[i].is_supported()) {
            atomic_store_explicit(&selected, &kernels[i], memory_order_relaxed);
            return CH_OK;
        }
    }
    return CH_KERNEL;
}

static const struct kernel *selected_kernel(void)
{
    const struct kernel *kernel = atomic_load_explicit(&selected, memory_order_relaxed);
    if (kernel == NULL) {
        ch_kernel_select(NULL);
        kernel = atomic_load_explicit(&selected, memory_order_relaxed);
    }
    return kernel;
}

ch_compress *ch_selected_compress(void)
{
    return selected_kernel()->compress;
}

const char *ch_kernel_name(void)
{
    return selected_kernel()->name;
}

const char *ch_status_message(ch_status status)
{
    switch (status) {
#define XX(name, value, message)                                                                   \
    case CH_##name:                                                                                \
        return message;
        CH_STATUS_MAP(XX)
#undef XX
    }
    return "unknown status";
}
