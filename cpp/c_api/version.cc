#include "cpp/c_api/include/feedfast/feedfast.h"

const char* ff_status_name(ff_status status) {
  switch (status) {
    case FF_OK:
      return "FF_OK";
    case FF_INVALID_ARGUMENT:
      return "FF_INVALID_ARGUMENT";
    case FF_OUT_OF_RANGE:
      return "FF_OUT_OF_RANGE";
    case FF_NOT_FOUND:
      return "FF_NOT_FOUND";
    case FF_DATA_LOSS:
      return "FF_DATA_LOSS";
    case FF_FAILED_PRECONDITION:
      return "FF_FAILED_PRECONDITION";
    case FF_RESOURCE_EXHAUSTED:
      return "FF_RESOURCE_EXHAUSTED";
    case FF_INTERNAL:
      return "FF_INTERNAL";
    default:
      return "unknown";
  }
}

int32_t ff_abi_version(void) { return FF_ABI_VERSION; }

const char* ff_version(void) { return FEEDFAST_VERSION; }
