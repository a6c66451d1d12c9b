// The operator NeuropodTestScaledAdd(x, y; factor) = x + factor * y for TensorFlow.

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"

REGISTER_OP("NeuropodTestScaledAdd")
    .Input("x: float")
    .Input("y: float")
    .Attr("factor: float")
    .Output("z: float")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);

class ScaledAdd : public tensorflow::OpKernel {
 public:
  explicit ScaledAdd(tensorflow::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, construction->GetAttr("factor", &factor_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& x = context->input(0);
    const tensorflow::Tensor& y = context->input(1);
    OP_REQUIRES(context, x.shape() == y.shape(), tensorflow::errors::InvalidArgument("x and y differ in shape"));
    tensorflow::Tensor* z = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &z));
    auto from = x.flat<float>(), more = y.flat<float>();
    auto to = z->flat<float>();
    for (int64_t place = 0; place < to.size(); ++place) to(place) = from(place) + factor_ * more(place);
  }

 private:
  float factor_;
};

REGISTER_KERNEL_BUILDER(Name("NeuropodTestScaledAdd").Device(tensorflow::DEVICE_CPU), ScaledAdd);

// Lets tests make libraries of other content that register the same operator.
extern "C" const char* scaled_add_build() { return "build: " SCALED_ADD_BUILD; }
