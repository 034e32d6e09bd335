// Included before every source of the library, which hides all else: what it exports.
#pragma GCC visibility push(default)
#include "CHashing.h"
#include "ctopology.h"
#include "ctransfer.h"
#include "lconnector.h"
#pragma GCC visibility pop
