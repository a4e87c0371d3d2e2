// Products of bfloat16 matrices, summed in float32, in steps of 32 rows, 32 columns and a depth of 32: by the
// processor's matrix unit (AMX) if it has one, else by its vectors (AVX512_BF16).
#ifndef RESNEXT_JAX_BF16_TILES_H_
#define RESNEXT_JAX_BF16_TILES_H_

// GCC 12 takes the undefined operands within its own intrinsics for variables that were forgotten.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "buffer.h"
#include "conv_target.h"

#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define RESNEXT_JAX_AMX 1
#endif

namespace bf16 {

typedef uint16_t Value;

constexpr int64_t kSide = 32;                // rows, columns and depth of a step
constexpr int64_t kTile = 16;                // half of that: rows or columns of a tile
constexpr int64_t kPacked = kSide * kSide;   // values of a step's packed columns
constexpr int64_t kProduct = kSide * kSide;  // sums of a product

using Buffer = ::Buffer<Value>;

// Where one step reads, in values from where the product reads.
struct Step {
  int64_t rows, columns;
};

// Whether the processor has a matrix unit that the kernel lets this process use.
inline bool HasMatrixUnit() {
#if RESNEXT_JAX_AMX
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h, of Linux 5.16
  static const bool has = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return has;
#else
  return false;
#endif
}

// While it lives, this thread's tiles are set up.
class Tiles {
 public:
  Tiles() {
#if RESNEXT_JAX_AMX
    struct alignas(64) Config {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static_assert(sizeof(Config) == 64);
    static const Config config;
    if (HasMatrixUnit()) _tile_loadconfig(&config);
#endif
  }
  ~Tiles() {
#if RESNEXT_JAX_AMX
    if (HasMatrixUnit()) _tile_release();
#endif
  }
  Tiles(const Tiles&) = delete;
};

// Operands of a product.
//
// Row r of a step is at rows + step.rows + r * stride, 32 values. Its columns are packed at columns +
// step.columns: for each of two tiles, for each pair of the depth, 16 columns of two values.
struct Operands {
  const Value* rows;
  int64_t stride;
  const Value* columns;
  const std::vector<Step>& steps;
};

#if RESNEXT_JAX_AMX
// Rows and Columns are in tiles, 1 or 2 each.
template <int Rows, int Columns>
void MultiplyInMatrixUnit(const Operands& of, bool add, float* sums) {
  constexpr int kRowBytes = kSide * sizeof(float);
  float *right = sums + kTile, *below = sums + kTile * kSide, *corner = below + kTile;
  __asm__ volatile("" ::: "memory");  // GCC's intrinsics do not say that they read memory
  if (add) {
    _tile_loadd(0, sums, kRowBytes);
    if constexpr (Columns == 2) _tile_loadd(1, right, kRowBytes);
    if constexpr (Rows == 2) _tile_loadd(2, below, kRowBytes);
    if constexpr (Rows == 2 && Columns == 2) _tile_loadd(3, corner, kRowBytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const int64_t stride = of.stride * sizeof(Value);
  for (const Step& step : of.steps) {
    const Value *rows = of.rows + step.rows, *columns = of.columns + step.columns;
    _tile_loadd(6, columns, 64);
    _tile_loadd(4, rows, stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Rows == 2) {
      _tile_loadd(5, rows + kTile * of.stride, stride);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (Columns == 2) {
      _tile_loadd(7, columns + kTile * kSide, 64);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (Rows == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kRowBytes);
  if constexpr (Columns == 2) _tile_stored(1, right, kRowBytes);
  if constexpr (Rows == 2) _tile_stored(2, below, kRowBytes);
  if constexpr (Rows == 2 && Columns == 2) _tile_stored(3, corner, kRowBytes);
}
#endif

template <int Rows, int Columns>
void MultiplyInVectors(const Operands& of, bool add, float* sums) {
  constexpr int kTogether = 8;  // rows whose sums stay in registers
  for (int64_t first = 0; first < Rows * kTile; first += kTogether) {
    __m512 sum[kTogether][Columns];
    for (int r = 0; r < kTogether; ++r)
      for (int c = 0; c < Columns; ++c)
        sum[r][c] = add ? _mm512_loadu_ps(sums + (first + r) * kSide + c * kTile) : _mm512_setzero_ps();
    for (const Step& step : of.steps) {
      const Value* rows = of.rows + step.rows + first * of.stride;
      const Value* columns = of.columns + step.columns;
      for (int64_t pair = 0; pair < kSide / 2; ++pair) {
        __m512bh column[Columns];
        for (int c = 0; c < Columns; ++c)
          column[c] = (__m512bh)_mm512_loadu_si512(columns + c * kTile * kSide + pair * kSide);
        for (int r = 0; r < kTogether; ++r) {
          int32_t two;
          std::memcpy(&two, rows + r * of.stride + 2 * pair, sizeof(two));
          for (int c = 0; c < Columns; ++c)
            sum[r][c] = _mm512_dpbf16_ps(sum[r][c], (__m512bh)_mm512_set1_epi32(two), column[c]);
        }
      }
    }
    for (int r = 0; r < kTogether; ++r)
      for (int c = 0; c < Columns; ++c) _mm512_storeu_ps(sums + (first + r) * kSide + c * kTile, sum[r][c]);
  }
}

// The product of all steps, [32, 32], of which the first `rows` and `columns` are wanted. It is added to
// `sums`, or replaces them. Tiles must be set up.
inline void Multiply(const Operands& of, int64_t rows, int64_t columns, bool add, float* sums) {
  const auto run = [&](auto row_tiles, auto column_tiles) {
#if RESNEXT_JAX_AMX
    if (HasMatrixUnit()) return MultiplyInMatrixUnit<row_tiles, column_tiles>(of, add, sums);
#endif
    MultiplyInVectors<row_tiles, column_tiles>(of, add, sums);
  };
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 2> two;
  if (rows > kTile)
    columns > kTile ? run(two, two) : run(two, one);
  else
    columns > kTile ? run(one, two) : run(one, one);
}

// 16 columns of two rows, each pair of values together.
inline __m512i Interleave(const Value* even, const Value* odd) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// Packs the columns of one step. row(i) is row i of its depth, 32 values.
template <typename Row>
void PackColumns(const Row& row, Value* packed) {
  for (int64_t pair = 0; pair < kSide / 2; ++pair) {
    const Value *even = row(2 * pair), *odd = row(2 * pair + 1);
    for (int64_t tile = 0; tile < 2; ++tile)
      _mm512_storeu_si512(packed + tile * kTile * kSide + pair * kSide,
                          Interleave(even + tile * kTile, odd + tile * kTile));
  }
}

// Transposes 16 rows of 16 pairs.
inline void TransposePairs(__m512i (&a)[kTile]) {
  __m512i b[kTile];
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
      a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
    }
  // a[4 q + r] has, of the rows 4 q to 4 q + 3, the columns r, 4 + r, 8 + r and 12 + r.
  for (int r = 0; r < 4; ++r) {
    const __m512i even = _mm512_shuffle_i32x4(a[r], a[4 + r], 0x88);  // columns r and 8 + r, of rows 0 to 7
    const __m512i odd = _mm512_shuffle_i32x4(a[r], a[4 + r], 0xdd);   // columns 4 + r and 12 + r
    const __m512i even_below = _mm512_shuffle_i32x4(a[8 + r], a[12 + r], 0x88);
    const __m512i odd_below = _mm512_shuffle_i32x4(a[8 + r], a[12 + r], 0xdd);
    b[r] = _mm512_shuffle_i32x4(even, even_below, 0x88);
    b[4 + r] = _mm512_shuffle_i32x4(odd, odd_below, 0x88);
    b[8 + r] = _mm512_shuffle_i32x4(even, even_below, 0xdd);
    b[12 + r] = _mm512_shuffle_i32x4(odd, odd_below, 0xdd);
  }
  for (int i = 0; i < 16; ++i) a[i] = b[i];
}

// Transposes 32 rows of 16 values, a stride apart, to 16 rows of 32.
inline void Transpose(const Value* from, int64_t from_stride, Value* to, int64_t to_stride) {
  __m512i rows[kTile];
  for (int i = 0; i < kTile; ++i)
    rows[i] = Interleave(from + 2 * i * from_stride, from + (2 * i + 1) * from_stride);
  TransposePairs(rows);
  for (int i = 0; i < kTile; ++i) _mm512_storeu_si512(to + i * to_stride, rows[i]);
}

// Packs the columns of one step, given as 32 rows of their depth, 32 values each, a stride apart.
inline void PackTransposed(const Value* from, int64_t stride, Value* packed) {
  for (int64_t tile = 0; tile < 2; ++tile) {
    __m512i columns[kTile];
    for (int i = 0; i < kTile; ++i) columns[i] = _mm512_loadu_si512(from + (tile * kTile + i) * stride);
    TransposePairs(columns);
    for (int i = 0; i < kTile; ++i) _mm512_storeu_si512(packed + (tile * kTile + i) * kSide, columns[i]);
  }
}

// Stores 32 sums of neighbouring channels, of which the first `count` are wanted.
inline void StoreSums(const float* sums, int64_t count, const conv::Target<Value>& to) {
  const __mmask32 wanted = count >= kSide ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
  __m512 half[2];
  for (int i = 0; i < 2; ++i) {
    const __mmask16 mask = wanted >> (i * kTile);
    half[i] = _mm512_loadu_ps(sums + i * kTile);
    if (to.scale)
      half[i] = _mm512_fmadd_ps(half[i], _mm512_maskz_loadu_ps(mask, to.scale + i * kTile),
                                _mm512_maskz_loadu_ps(mask, to.shift + i * kTile));
    if (to.shortcut) {
      const __m256i values = _mm256_maskz_loadu_epi16(mask, to.shortcut + i * kTile);
      const __m512i floats = _mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16);
      half[i] = _mm512_add_ps(half[i], _mm512_castsi512_ps(floats));
    }
    if (to.relu) {
      const __mmask16 negative = _mm512_cmp_ps_mask(half[i], _mm512_setzero_ps(), _CMP_LT_OQ);
      half[i] = _mm512_mask_mov_ps(half[i], negative, _mm512_setzero_ps());  // not-a-number stays
    }
  }
  _mm512_mask_storeu_epi16(to.result, wanted, (__m512i)_mm512_cvtne2ps_pbh(half[1], half[0]));
}

}  // namespace bf16

#endif  // RESNEXT_JAX_BF16_TILES_H_
