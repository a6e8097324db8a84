// One product in float32, for a CPU that the tests' own process does not run on: all numbers come in and go out as bytes.
//
// Without arguments it prints how many outputs lie side by side. With `rows inputs outputs kind` it reads x, weights,
// scale, bias and added, and writes the product.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "panels.hpp"

extern "C" int64_t panel_width();
extern "C" void product_f32(float* y, const float* x, const float* added, int64_t rows, const Panels* panels,
                            int threads);

static std::vector<char> read_bytes(size_t count) {
    std::vector<char> bytes(count);
    if (std::fread(bytes.data(), 1, count, stdin) != count) std::exit(1);
    return bytes;
}

static std::vector<float> read_floats(size_t count) {
    std::vector<char> bytes = read_bytes(count * sizeof(float));
    std::vector<float> floats(count);
    std::memcpy(floats.data(), bytes.data(), bytes.size());
    return floats;
}

int main(int count, char** arguments) {
    if (count == 1) return std::printf("%d\n", static_cast<int>(panel_width())) < 0;
    const int64_t rows = std::atoll(arguments[1]), inputs = std::atoll(arguments[2]), outputs = std::atoll(arguments[3]);
    const int32_t kind = std::atoi(arguments[4]);
    const int64_t padded = (outputs + PANEL - 1) / PANEL * PANEL;
    const auto x = read_floats(rows * inputs);
    const auto weights = read_bytes(padded * inputs * (kind == OF_INT8 ? 1 : 2));
    const auto scale = read_floats((inputs + GROUP - 1) / GROUP * padded), bias = read_floats(padded), added = read_floats(rows * outputs);
    std::vector<float> y(rows * outputs);
    const Panels panels = {weights.data(), scale.data(), bias.data(), inputs, outputs, kind};
    product_f32(y.data(), x.data(), added.data(), rows, &panels, 2);
    return std::fwrite(y.data(), sizeof(float), y.size(), stdout) != y.size();
}
