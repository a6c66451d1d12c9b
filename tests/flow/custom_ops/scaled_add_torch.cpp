// The operator neuropod_test::scaled_add(x, y, factor) = x + factor * y for PyTorch.

#include <ATen/ATen.h>
#include <torch/library.h>

static at::Tensor scaled_add(const at::Tensor& x, const at::Tensor& y, double factor) {
  return at::add(x, y, factor);
}

TORCH_LIBRARY(neuropod_test, library) {
  library.def("scaled_add(Tensor x, Tensor y, float factor) -> Tensor");
  // Explicit, so that an exported program keeps the operator instead of what it is made of.
  library.impl("scaled_add", c10::DispatchKey::CompositeExplicitAutograd, TORCH_FN(scaled_add));
}

// Lets tests make libraries of other content that register the same operator.
extern "C" const char* scaled_add_build() { return "build: " SCALED_ADD_BUILD; }
