// All kernels, in one translation unit: XLA's headers take longer to compile than they do.
#include "batch_norm.h"
#include "grouped_conv.h"

extern "C" int resnext_jax_lanes() { return kLanes; }
