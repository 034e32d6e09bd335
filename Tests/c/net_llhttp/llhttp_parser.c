/* The generated part of llhttp, which is not declared as its other parts see it. */
#define LLHTTP_STRICT_MODE 1
/* It calls its callbacks through pointers of another type. */
#pragma clang attribute push(__attribute__((no_sanitize("function"))), apply_to = function)
#include <llhttp.c>
#pragma clang attribute pop
