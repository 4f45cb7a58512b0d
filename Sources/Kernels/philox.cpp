// Counter-based random words: every draw is a pure function of (seed, stream, index), so resuming replays nothing.
#include "kernels.h"

extern "C" void nt_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t(0xD2511F53) * c0, p1 = uint64_t(0xCD9E8D57) * c2;
        c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
        c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
        c1 = uint32_t(p1);
        c3 = uint32_t(p0);
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

extern "C" void nt_random_words(uint64_t seed, uint64_t stream, uint64_t offset, uint32_t *out, size_t count) {
    const uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    uint32_t block[4];
    uint64_t loaded = UINT64_MAX;
    for (size_t i = 0; i < count; ++i) {
        const uint64_t word = offset + i;
        if (word / 4 != loaded) {
            loaded = word / 4;
            const uint32_t counter[4] = {uint32_t(loaded), uint32_t(loaded >> 32), uint32_t(stream), uint32_t(stream >> 32)};
            nt_philox4x32(counter, key, block);
        }
        out[i] = block[word % 4];
    }
}
