#include "CScan.h"

const char *cs_status_message(cs_status status)
{
    switch (status) {
#define XX(name, value, message)                                                                   \
    case CS_##name:                                                                                \
        return message;
        CS_STATUS_MAP(XX)
#undef XX
    }
    return "unknown status";
}
