// exp, tanh, erf and what networks make of them, 16 at a time.
#pragma once

IRONCLIW_BEGIN

// Relative error below 2e-7; 0 below -104, infinity above 88.73. Cody and Waite's reduction by ln 2
// in two parts, Taylor of degree 6 on [-ln 2 / 2, ln 2 / 2] (remainder 1.2e-7).
IRONCLIW_INLINE Floats exp(Floats x) {
  x = at_most(at_least(x, -104.0f), 89.0f);
  const Floats n = round(x * broadcast(1.44269504f));
  Floats r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Floats p = broadcast(1.0f / 720.0f);
  p = fma(p, r, broadcast(1.0f / 120.0f));
  p = fma(p, r, broadcast(1.0f / 24.0f));
  p = fma(p, r, broadcast(1.0f / 6.0f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
  return scale_by_power(p, n);
}

// 1 / (1 + exp(-x))
IRONCLIW_INLINE Floats sigmoid(Floats x) { return broadcast(1.0f) / (broadcast(1.0f) + exp(zero() - x)); }
IRONCLIW_INLINE Floats silu(Floats x) { return x / (broadcast(1.0f) + exp(zero() - x)); }

IRONCLIW_INLINE Floats tanh(Floats x) {
  // odd polynomial where 1 - 2 / (1 + exp(2x)) would cancel
  const Floats size = abs(x), square = x * x;
  Floats p = broadcast(-17.0f / 315.0f);
  p = fma(p, square, broadcast(2.0f / 15.0f));
  p = fma(p, square, broadcast(-1.0f / 3.0f));
  const Floats small = fma(p * square, x, x);
  const Floats large = broadcast(1.0f) - broadcast(2.0f) / (broadcast(1.0f) + exp(size + size));
  return where_not_negative(size - broadcast(0.15f), copy_sign(large, x), where_not_negative(size, small, x));
}

// Abramowitz and Stegun 7.1.26 has an absolute error of 1.5e-7.
IRONCLIW_INLINE Floats erf(Floats x) {
  const Floats size = abs(x);
  const Floats t = broadcast(1.0f) / fma(size, broadcast(0.3275911f), broadcast(1.0f));
  Floats p = broadcast(1.061405429f);
  p = fma(p, t, broadcast(-1.453152027f));
  p = fma(p, t, broadcast(1.421413741f));
  p = fma(p, t, broadcast(-0.284496736f));
  p = fma(p, t, broadcast(0.254829592f));
  const Floats large = fma(zero() - p * t, exp(zero() - size * size), broadcast(1.0f));
  return copy_sign(large, x);
}

// x * Phi(x)
IRONCLIW_INLINE Floats gelu(Floats x) {
  return x * fma(erf(x * broadcast(0.70710678f)), broadcast(0.5f), broadcast(0.5f));
}
// Hendrycks and Gimpel's approximation with tanh.
IRONCLIW_INLINE Floats gelu_tanh(Floats x) {
  const Floats inner = broadcast(0.79788456f) * fma(broadcast(0.044715f) * x * x, x, x);
  return broadcast(0.5f) * x * (broadcast(1.0f) + tanh(inner));
}

IRONCLIW_END
