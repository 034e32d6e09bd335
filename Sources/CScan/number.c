#include "CScan.h"
#include "text.h"

bool cs_decimal(const uint8_t *text, size_t text_bytes, double *value_p)
{
    /* Powers of ten that a double holds exactly; with a significand that it holds exactly as
     * well, one multiplication or division rounds once, which is correct rounding. */
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const uint8_t *p = text, *end = text + text_bytes;
    bool negative = p < end && *p == '-';
    p += negative;
    uint64_t significand = 0;
    int digits = 0, point = -1;
    for (; p < end && (cs_is_digit(*p) || (*p == '.' && point < 0)); p++) {
        if (*p == '.') {
            point = digits;
            continue;
        }
        if (++digits > 19)
            return false;
        significand = significand * 10 + (*p - '0');
    }
    int exponent = point < 0 ? 0 : point - digits;
    if (p < end && (*p | 0x20) == 'e') {
        p++;
        bool down = p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+'))
            p++;
        int value = 0;
        if (p == end || end - p > 3)
            return false;
        for (; p < end && cs_is_digit(*p); p++)
            value = value * 10 + (*p - '0');
        exponent += down ? -value : value;
    }
    if (p != end || digits == 0 || significand > (1ull << 53) || exponent < -22 || exponent > 22)
        return false;
    double value = (double)significand;
    value = exponent < 0 ? value / powers[-exponent] : value * powers[exponent];
    *value_p = negative ? -value : value;
    return true;
}
