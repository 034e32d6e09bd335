// Reading parameter structs that grow from version to version.
#ifndef CT_PARAMS_H
#define CT_PARAMS_H

#include <stddef.h>
#include <stdint.h>

#include "ctransfer.h"

#pragma GCC visibility push(hidden)

// Copies a struct whose first member, a uint32_t, is its size as the caller knows it. Members that
// the caller does not know are zero; members that this library does not know must be.
ct_status ct_params_read(const void *given, void *params_p, size_t params_bytes);

#pragma GCC visibility pop

#endif
