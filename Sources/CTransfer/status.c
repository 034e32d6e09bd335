#include "ctransfer.h"

const char *ct_status_message(ct_status status) {
    switch (status) {
#define CT_STATUS_TEXT(name, value, text)                                                          \
    case CT_##name:                                                                                \
        return text;
        CT_STATUS_MAP(CT_STATUS_TEXT)
#undef CT_STATUS_TEXT
    default:
        return "an unknown status";
    }
}

const char *ct_path_name(ct_path path) {
    switch (path) {
    case CT_PATH_MEMFD:
        return "memfd";
    case CT_PATH_TCP:
        return "tcp";
    case CT_PATH_CMA:
        return "cma";
    default:
        return "none";
    }
}
