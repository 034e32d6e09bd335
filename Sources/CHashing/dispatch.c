/* The only file that knows about CPUs. Compiled, like the others, without -m flags: a kernel
 * names its instruction set on its functions. */
#include <stdatomic.h>

#include "impl.h"

#if defined(__x86_64__)
#include <cpuid.h>

static int has_shani(void)
{
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_SSSE3) || !(ecx & bit_SSE4_1))
        return 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bit_SHA);
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

static int has_armv8_sha2(void)
{
    enum { HWCAP_SHA2_BIT = 1 << 6 };
    return (getauxval(AT_HWCAP) & HWCAP_SHA2_BIT) != 0;
}
#endif

static int always(void)
{
    return 1;
}

/* Best first. */
static const struct {
    const ch_kernel *kernel;
    int (*is_supported)(void);
} kernels[] = {
#if defined(__x86_64__)
    {&ch_kernel_shani, has_shani},
    {&ch_kernel_openssl, ch_has_openssl},
#elif defined(__aarch64__)
    {&ch_kernel_armv8, has_armv8_sha2},
#endif
    {&ch_kernel_portable, always},
};

static const ch_kernel *supported_kernel(const char *name)
{
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if ((name == NULL || strcmp(name, kernels[i].kernel->name) == 0) &&
            kernels[i].is_supported())
            return kernels[i].kernel;
    return NULL;
}

/* Relaxed order suffices: it points at constants. */
static _Atomic(const ch_kernel *) selected;

ch_status ch_kernel_select(const char *name)
{
    const ch_kernel *kernel = supported_kernel(name);
    if (kernel == NULL)
        return CH_KERNEL;
    atomic_store_explicit(&selected, kernel, memory_order_relaxed);
    return CH_OK;
}

const ch_kernel *ch_selected_kernel(void)
{
    const ch_kernel *kernel = atomic_load_explicit(&selected, memory_order_relaxed);
    if (kernel == NULL) {
        kernel = supported_kernel(NULL);
        atomic_store_explicit(&selected, kernel, memory_order_relaxed);
    }
    return kernel;
}

const char *ch_kernel_name(void)
{
    return ch_selected_kernel()->name;
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
