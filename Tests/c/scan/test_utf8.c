/* The UTF-8 check against a model that decodes and compares with the shortest encoding. */
#include "check.h"
#include "text.h"

/* 2 to 4 for a well-formed sequence at `p`, which is followed by what is no continuation. */
static int model(const uint8_t p[4])
{
    int length = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc0 || p[0] > 0xf7)
        return -1;
    uint32_t scalar = p[0] & (0xff >> (length + 1));
    for (int i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return -1;
        scalar = scalar << 6 | (p[i] & 0x3f);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    bool surrogate = scalar >= 0xd800 && scalar <= 0xdfff;
    return scalar < least[length] || scalar > 0x10ffff || surrogate ? -1 : length;
}

int main(void)
{
    static const uint8_t tails[] = {0x00, 0x41, 0x7f, 0x80, 0xa5, 0xbf, 0xc0, 0xff};
    enum { TAILS = sizeof tails };
    for (unsigned first = 0x80; first < 0x100; first++)
        for (unsigned second = 0; second < 0x100; second++)
            for (unsigned i = 0; i < TAILS * TAILS; i++) {
                uint8_t bytes[4] = {(uint8_t)first, (uint8_t)second, tails[i / TAILS],
                                    tails[i % TAILS]};
                int expected = model(bytes);
                CHECK(cs_utf8_sequence(bytes, bytes + 4) == expected, "%02x %02x %02x %02x",
                      bytes[0], bytes[1], bytes[2], bytes[3]);
                for (int known = 1; expected > 0 && known < 4; known++)
                    CHECK(cs_utf8_sequence(bytes, bytes + known) ==
                              (known < expected ? 0 : expected),
                          "%d bytes of %02x %02x %02x %02x", known, bytes[0], bytes[1], bytes[2],
                          bytes[3]);
            }
    return 0;
}
