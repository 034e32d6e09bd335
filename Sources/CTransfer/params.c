#include "params.h"

#include <string.h>

ct_status ct_params_read(const void *given, void *params_p, size_t params_bytes) {
    uint32_t given_bytes;
    if (given == NULL) {
        return CT_EINVAL;
    }
    memcpy(&given_bytes, given, sizeof(given_bytes));
    if (given_bytes < sizeof(given_bytes)) {
        return CT_EINVAL;
    }
    const uint8_t *bytes = given;
    for (size_t i = params_bytes; i < given_bytes; i++) {
        if (bytes[i] != 0) {
            return CT_EINVAL;
        }
    }
    memset(params_p, 0, params_bytes);
    memcpy(params_p, given, given_bytes < params_bytes ? given_bytes : params_bytes);
    return CT_OK;
}
