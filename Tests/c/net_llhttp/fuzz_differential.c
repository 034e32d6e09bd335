/* CNet and llhttp under any input. */
#include "../net/words.h"
#include "compare.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count)
{
    if (count < 2)
        return 0;
    static uint8_t input[MAX_INPUT_BYTES];
    size_t input_count = expand(data + 2, count - 2, input, sizeof input);
    compare((data[0] & 1) != 0, (data[0] & 2) != 0, input, input_count, 1 + data[1]);
    return 0;
}
