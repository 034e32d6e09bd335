// The kills without a sanitizer in the way: faster, and memory is counted.
#include "test_kills.c"
