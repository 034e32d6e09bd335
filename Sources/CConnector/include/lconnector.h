// lconnector.h: libllmd_connector.so, which carries KV cache in and out of an inference engine.
//
//   This header ....... lc_abi_version, lc_version, lc_capabilities
//   ctransfer.h ....... ct_: engines, memory, peers, transfers; ct_status_message tells errors
//   ctopology.h ....... ct_: libraries, limits, nodes, GPUs, NICs
//   CHashing.h ........ ch_: names of KV blocks; ch_status_message tells errors
//
// The library needs libc alone. All functions of this header may be called from any thread.
#ifndef LCONNECTOR_H
#define LCONNECTOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Grows with every change that breaks a program built before; then the number in the library's
// name does, too. Structs that begin with struct_size may grow without.
#define LC_ABI_VERSION 0
#define LC_VERSION "0.1.0-dev"

// LC_ABI_VERSION and LC_VERSION of the library that is loaded.
uint32_t lc_abi_version(void);
const char *lc_version(void);

// What this machine and process can do, for a log: a line each for the hash kernel, the libraries
// and the limits. Writes as much as fits, with a NUL, and returns the bytes of all of it without.
size_t lc_capabilities(char *text, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
