#include "cnet.h"

const char *cn_status_message(cn_status status)
{
    switch (status) {
#define CN_STATUS_MESSAGE(name, value, message)                                                    \
    case CN_##name:                                                                                \
        return message;
        CN_STATUS_MAP(CN_STATUS_MESSAGE)
#undef CN_STATUS_MESSAGE
    }
    return "unknown status";
}
