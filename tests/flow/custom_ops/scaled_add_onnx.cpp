// The operator neuropod_test::ScaledAdd(x, y; factor) = x + factor * y for ONNX Runtime.
//
// The wheel of ONNX Runtime ships no headers. What this file needs of its C interface is declared here: a table of
// functions whose places never change (those of version 1 are at 0 to 101), and a record of callbacks whose first
// fields are those of version 8.

#include <cstddef>
#include <cstdint>

namespace {

constexpr uint32_t kVersion = 8;
constexpr int kFloat = 1;  // Of the runtime's element types.
constexpr int kRequired = 0;

using Status = void;  // Null where all is well.

enum Place {
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorShapeElementCount = 64,
  kGetTensorTypeAndShape = 65,
  kKernelInfoGetAttributeFloat = 85,
  kKernelContextGetInput = 90,
  kKernelContextGetOutput = 91,
  kReleaseTensorTypeAndShapeInfo = 99,
};

struct Api {
  void* functions[102];

  template <typename Function>
  Function at(Place place) const {
    return reinterpret_cast<Function>(functions[place]);
  }
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

struct Op {
  uint32_t version;
  void* (*create_kernel)(const Op*, const Api*, const void* info);
  const char* (*name)(const Op*);
  const char* (*provider)(const Op*);
  int (*input_type)(const Op*, size_t);
  size_t (*input_count)(const Op*);
  int (*output_type)(const Op*, size_t);
  size_t (*output_count)(const Op*);
  void (*compute)(void* kernel, void* context);
  void (*destroy_kernel)(void* kernel);
  int (*input_kind)(const Op*, size_t);
  int (*output_kind)(const Op*, size_t);
};

constexpr size_t kMostDimensions = 16;

struct Tensor {
  float* elements = nullptr;
  size_t count = 0, rank = 0;
  int64_t lengths[kMostDimensions] = {};
};

struct Kernel {
  const Api* api;
  float factor;

  Tensor input(void* context, size_t index) const {
    Tensor tensor;
    void *value = nullptr, *info = nullptr;
    api->at<Status* (*)(const void*, size_t, void**)>(kKernelContextGetInput)(context, index, &value);
    api->at<Status* (*)(void*, void**)>(kGetTensorMutableData)(value, reinterpret_cast<void**>(&tensor.elements));
    api->at<Status* (*)(const void*, void**)>(kGetTensorTypeAndShape)(value, &info);
    api->at<Status* (*)(const void*, size_t*)>(kGetTensorShapeElementCount)(info, &tensor.count);
    api->at<Status* (*)(const void*, size_t*)>(kGetDimensionsCount)(info, &tensor.rank);
    if (tensor.rank > kMostDimensions) tensor.rank = tensor.count = 0;
    api->at<Status* (*)(const void*, int64_t*, size_t)>(kGetDimensions)(info, tensor.lengths, tensor.rank);
    api->at<void (*)(void*)>(kReleaseTensorTypeAndShapeInfo)(info);
    return tensor;
  }

  void compute(void* context) const {
    const Tensor x = input(context, 0), y = input(context, 1);
    void* value = nullptr;
    float* z = nullptr;
    api->at<Status* (*)(void*, size_t, const int64_t*, size_t, void**)>(kKernelContextGetOutput)(context, 0, x.lengths,
                                                                                               x.rank, &value);
    api->at<Status* (*)(void*, void**)>(kGetTensorMutableData)(value, reinterpret_cast<void**>(&z));
    for (size_t place = 0; place < x.count && place < y.count; ++place)
      z[place] = x.elements[place] + factor * y.elements[place];
  }
};

void* create_kernel(const Op*, const Api* api, const void* info) {
  float factor = 0;
  api->at<Status* (*)(const void*, const char*, float*)>(kKernelInfoGetAttributeFloat)(info, "factor", &factor);
  return new Kernel{api, factor};
}

const Op kScaledAdd = {
    kVersion,
    create_kernel,
    [](const Op*) { return "ScaledAdd"; },
    [](const Op*) -> const char* { return nullptr; },  // The CPU.
    [](const Op*, size_t) { return kFloat; },
    [](const Op*) -> size_t { return 2; },
    [](const Op*, size_t) { return kFloat; },
    [](const Op*) -> size_t { return 1; },
    [](void* kernel, void* context) { static_cast<Kernel*>(kernel)->compute(context); },
    [](void* kernel) { delete static_cast<Kernel*>(kernel); },
    [](const Op*, size_t) { return kRequired; },
    [](const Op*, size_t) { return kRequired; },
};

}  // namespace

extern "C" Status* RegisterCustomOps(void* options, const ApiBase* base) {
  const Api* api = base->get_api(kVersion);
  static void* domain = nullptr;  // Lives as long as the library.
  if (domain == nullptr) {
    if (Status* failed = api->at<Status* (*)(const char*, void**)>(kCreateCustomOpDomain)("neuropod_test", &domain))
      return failed;
    if (Status* failed = api->at<Status* (*)(void*, const Op*)>(kCustomOpDomainAdd)(domain, &kScaledAdd)) return failed;
  }
  return api->at<Status* (*)(void*, void*)>(kAddCustomOpDomain)(options, domain);
}

// Lets tests make libraries of other content that register the same operator.
extern "C" const char* scaled_add_build() { return "build: " SCALED_ADD_BUILD; }
