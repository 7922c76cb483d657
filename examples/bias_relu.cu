// y[i] = max(y[i] + bias[i % columns], 0)
extern "C" __global__ void bias_relu(float *y, const float *bias, unsigned n, unsigned columns) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = fmaxf(y[i] + bias[i % columns], 0.0f);
}
