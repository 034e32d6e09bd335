/* The scanner without vector instructions. */
#include "../scan/test_json.c"
