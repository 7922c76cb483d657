// The model's kernels. Rows are tokens; MAX_HEAD_DIM comes from the Rust side, as does Shape (see
// kernels/mod.rs). Tokens and positions are whole numbers below 2^24, which floats hold exactly.

typedef unsigned int u32;

struct Shape {
    u32 heads, kv_heads, head_dim, len, stripe, stripes, slots;
};

constexpr u32 LANES = 32;
constexpr u32 EVERYONE = 0xffffffff;
// Finite, so that no difference of two peaks is NaN.
constexpr float LOWEST = -3.402823466e38f;

__device__ float warp_sum(float x) {
    for (u32 offset = LANES / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(EVERYONE, x, offset);
    return x;
}

// The weighted values of `shares` records that lie `stride` apart, relative to their common peak;
// peak and sum of weights on the side.
__device__ float merged(const float* records, u32 shares, size_t stride, u32 dim, u32 at,
                        float& peak, float& sum) {
    peak = LOWEST;
    for (u32 i = 0; i < shares; i++) peak = fmaxf(peak, records[i * stride + dim]);
    float value = 0.0f;
    sum = 0.0f;
    for (u32 i = 0; i < shares; i++) {
        const float* record = records + i * stride;
        const float weight = expf(record[dim] - peak);
        value += weight * record[at];
        sum += weight * record[dim + 1];
    }
    return value;
}

// A block for each token.
extern "C" __global__ void embed(const float* tokens, const float* table, float* x, u32 width) {
    const float* entry = table + (size_t)tokens[blockIdx.x] * width;
    float* row = x + (size_t)blockIdx.x * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) row[i] = entry[i];
}

// A block for each row.
extern "C" __global__ void rms_norm(const float* x, const float* scale, float* y, u32 width) {
    x += (size_t)blockIdx.x * width;
    y += (size_t)blockIdx.x * width;
    __shared__ float sums[32];
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) sum += x[i] * x[i];
    sum = warp_sum(sum);
    if (threadIdx.x % LANES == 0) sums[threadIdx.x / LANES] = sum;
    __syncthreads();
    sum = 0.0f;
    for (u32 warp = 0; warp < blockDim.x / LANES; warp++) sum += sums[warp];
    const float root = sqrtf(sum / width + 1e-5f);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) y[i] = x[i] / root * scale[i];
}

// A block for each row and head of queries, keys and values; a thread for each pair.
extern "C" __global__ void rotate(float* qkv, float* cache, const float* positions, Shape s) {
    const u32 row = blockIdx.x, head = blockIdx.y, half = s.head_dim / 2, pair = threadIdx.x;
    const u32 position = (u32)positions[row];
    float* x = qkv + ((size_t)row * gridDim.y + head) * s.head_dim;
    float a = x[pair], b = x[pair + half];
    if (head < s.heads + s.kv_heads) {
        float sine, cosine;
        sincosf(position * powf(10000.0f, -2.0f * pair / s.head_dim), &sine, &cosine);
        const float turned = a * cosine - b * sine;
        b = a * sine + b * cosine;
        a = turned;
        x[pair] = a;
        x[pair + half] = b;
    }
    if (head >= s.heads && position % s.stripes == s.stripe) {
        const size_t slot = (size_t)(row / s.len) * s.slots + position / s.stripes;
        float* entry = cache + (slot * 2 * s.kv_heads + head - s.heads) * s.head_dim;
        entry[pair] = a;
        entry[pair + half] = b;
    }
}

// A block for each row and head. Its warps deal out the positions as ranks do, and their records
// are merged alike.
extern "C" __global__ void attend(const float* qkv, const float* cache, const float* positions,
                                  float* records, Shape s) {
    extern __shared__ float shared[];
    const u32 row = blockIdx.x, head = blockIdx.y, dim = s.head_dim;
    const u32 warp = threadIdx.x / LANES, warps = blockDim.x / LANES, lane = threadIdx.x % LANES;
    // Its own position and those before it, as far as they are this rank's.
    const u32 visible = ((u32)positions[row] + s.stripes - s.stripe) / s.stripes;
    const size_t slot = (size_t)2 * s.kv_heads * dim;
    const float* query = qkv + ((size_t)row * (s.heads + 2 * s.kv_heads) + head) * dim;
    const u32 kv_head = head / (s.heads / s.kv_heads);
    const float* keys = cache + row / s.len * s.slots * slot + kv_head * dim;
    const float scale = 1.0f / sqrtf(dim);

    constexpr u32 PARTS = MAX_HEAD_DIM / LANES;
    float q[PARTS], values[PARTS], peak = LOWEST, sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < PARTS; i++) {
        const u32 at = lane + i * LANES;
        q[i] = at < dim ? query[at] * scale : 0.0f;
        values[i] = 0.0f;
    }
    for (u32 position = warp; position < visible; position += warps) {
        const float* key = keys + position * slot;
        const float* value = key + slot / 2;
        float score = 0.0f;
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) {
            const u32 at = lane + i * LANES;
            if (at < dim) score += q[i] * key[at];
        }
        score = warp_sum(score);
        const float higher = fmaxf(peak, score);
        const float keep = expf(peak - higher), weight = expf(score - higher);
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) {
            const u32 at = lane + i * LANES;
            if (at < dim) values[i] = values[i] * keep + weight * value[at];
        }
        sum = sum * keep + weight;
        peak = higher;
    }
    float* own = shared + warp * (dim + 2);
#pragma unroll
    for (u32 i = 0; i < PARTS; i++) {
        const u32 at = lane + i * LANES;
        if (at < dim) own[at] = values[i];
    }
    if (lane == 0) {
        own[dim] = peak;
        own[dim + 1] = sum;
    }
    __syncthreads();
    float* record = records + ((size_t)row * s.heads + head) * (dim + 2);
    for (u32 at = threadIdx.x; at < dim; at += blockDim.x) {
        record[at] = merged(shared, warps, dim + 2, dim, at, peak, sum);
        if (at == 0) {
            record[dim] = peak;
            record[dim + 1] = sum;
        }
    }
}

// A block for each row and head; a thread for each number.
extern "C" __global__ void merge(const float* records, float* y, Shape s) {
    const u32 dim = s.head_dim, at = threadIdx.x;
    const size_t record = dim + 2;
    float peak, sum;
    const float* first = records + blockIdx.x * record;
    const float value = merged(first, s.stripes, gridDim.x * record, dim, at, peak, sum);
    y[(size_t)blockIdx.x * dim + at] = value / sum;
}

// A block for each row, which is the gate's numbers and then those that it lets pass.
extern "C" __global__ void gate(const float* gate_up, float* y, u32 width) {
    const float* gates = gate_up + (size_t)blockIdx.x * 2 * width;
    float* row = y + (size_t)blockIdx.x * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        row[i] = gates[i] / (1.0f + expf(-gates[i])) * gates[width + i];
    }
}

extern "C" __global__ void add(float* x, const float* y, u32 count) {
    const u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) x[at] += y[at];
}
