// AMX's tiles, as the kernels of level 4 use them. Included in their namespaces.

// While it lives, this thread's eight tiles are 16 rows of 64 bytes. Nothing else may count on tiles meanwhile, and
// whoever uses them later configures them anew.
struct Tiles {
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        _tile_loadconfig(&config);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles &) = delete;
};

// c [rows, columns] (+)= a [rows, steps] b [steps, columns]: rows and columns multiples of 32, steps of 16 words.
template <bool add>
static void product_of_tiles(const float *a, int64_t a_row, const float *b, int64_t b_step, float *c, int64_t c_row,
                             int64_t rows, int64_t columns, int64_t steps) {
    const int64_t a_bytes = a_row * 4, b_bytes = b_step * 4, c_bytes = c_row * 4;
    for (int64_t column = 0; column < columns; column += 32)
        for (int64_t row = 0; row < rows; row += 32) {
            float *out = c + row * c_row + column;
            if constexpr (add) {
                _tile_loadd(0, out, c_bytes);
                _tile_loadd(1, out + 16, c_bytes);
                _tile_loadd(2, out + 16 * c_row, c_bytes);
                _tile_loadd(3, out + 16 * c_row + 16, c_bytes);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            const float *left = a + row * a_row, *right = b + column;
            for (int64_t step = 0; step < steps; step += 16, left += 16, right += 16 * b_step) {
                _tile_loadd(4, left, a_bytes);
                _tile_loadd(6, right, b_bytes);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, right + 16, b_bytes);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, left + 16 * a_row, a_bytes);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, out, c_bytes);
            _tile_stored(1, out + 16, c_bytes);
            _tile_stored(2, out + 16 * c_row, c_bytes);
            _tile_stored(3, out + 16 * c_row + 16, c_bytes);
        }
}
