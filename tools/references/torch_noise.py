"""`torch.randn` on an x86 CPU with AVX2, rewritten in numpy: the same bits. `noise.md` says it in words."""

import math

import numpy as np

f32 = np.float32
LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
LN2_LOW, LN2_HIGH, SQRT_HALF = -2.12194440e-4, 0.693359375, 0.707106781186547524
MINUS_PI_4 = (-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8)
SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


def fma(a, b, c):
    """a * b + c of f32 arrays with one rounding.

    The product is exact in f64; the f64 sum is rounded to odd, so that rounding it once more to f32 does no harm.
    """
    product = np.multiply(a, b, dtype=np.float64)
    c = np.broadcast_to(np.asarray(c, f32).astype(np.float64), product.shape)
    total = product + c
    rest = total - product
    error = (product - (total - rest)) + (c - rest)
    toward = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    even = (total.view(np.int64) & 1) == 0
    return np.where((error != 0) & even, toward, total).astype(f32)


def horner(x, coefficients):
    y = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        y = fma(y, x, f32(c))
    return y


def log(u):
    """Natural logarithm of f32 in (0, 1]: Cephes' polynomial on [sqrt(1/2), sqrt(2))."""
    bits = u.view(np.uint32)
    exponent = ((bits >> 23).astype(np.int32) - 127).astype(f32) + f32(1)
    x = ((bits & np.uint32(0x007FFFFF)) | np.uint32(0x3F000000)).view(f32)
    low = x < f32(SQRT_HALF)
    exponent = np.where(low, exponent - f32(1), exponent)
    x = np.where(low, (x - f32(1)) + x, x - f32(1))
    z = x * x
    y = horner(x, LOG) * x
    y = fma(y, z, exponent * f32(LN2_LOW))
    y = fma(-z, f32(0.5), y)
    return fma(exponent, f32(LN2_HIGH), x + y)


def sin_cos(theta):
    """Sine and cosine of f32 in [0, 2 pi): Cephes' polynomials on [-pi/4, pi/4] after a three-term reduction."""
    octant = ((theta * f32(4 / math.pi)).astype(np.int32) + 1) & ~1
    x, y = theta, octant.astype(f32)
    for part in MINUS_PI_4:
        x = fma(y, f32(part), x)
    z = x * x
    c = horner(z, COS) * z
    c = fma(c, z, -(z * f32(0.5))) + f32(1)
    s = fma(horner(z, SIN) * z, x, x)
    swap = (octant & 2) != 0
    sine, cosine = np.where(swap, c, s), np.where(swap, s, c)
    sine = np.where(octant & 4, -sine, sine)
    return sine, np.where((octant - 2) & 4, cosine, -cosine)


def box_muller(u):
    """Sixteen uniforms to sixteen normals, block by block: eight radii, then eight angles."""
    u = u.reshape(-1, 16)
    u1, u2 = f32(1) - u[:, :8], np.ascontiguousarray(u[:, 8:])
    radius = np.sqrt(f32(-2) * log(u1))
    sine, cosine = sin_cos(f32(2 * math.pi) * u2)
    return (np.concatenate([radius * cosine, radius * sine], 1) + f32(0)).ravel()


class Generator:
    """`torch.Generator().manual_seed(seed)`: MT19937 seeded with the low 32 bits."""

    def __init__(self, seed):
        self.engine = np.random.MT19937()
        self.engine._legacy_seeding(seed & 0xFFFFFFFF)
        self.second = None

    def uniform(self, count):
        """`count` f32 in [0, 1): the low 24 bits of each draw."""
        draws = self.engine.random_raw(count).astype(np.uint32)
        return (draws & np.uint32(0xFFFFFF)).astype(f32) * f32(2**-24)

    def randn(self, count):
        """What `torch.randn(count, generator=…)` gives, f32."""
        return self._few(count) if count < 16 else self._many(count)

    def _many(self, count):
        out, whole = np.empty(count, f32), count // 16 * 16
        uniform = self.uniform(count)
        out[:whole] = box_muller(uniform[:whole])
        if whole != count:
            out[-16:] = box_muller(self.uniform(16))
        return out

    def _few(self, count):
        return np.array([self._one() for _ in range(count)], np.float64).astype(f32)

    def _one(self):
        if self.second is not None:
            value, self.second = self.second, None
            return value
        u1, u2 = self._uniform64(), self._uniform64()
        radius, theta = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
        self.second = radius * math.sin(theta)
        return radius * math.cos(theta)

    def _uniform64(self):
        high, low = (int(d) for d in self.engine.random_raw(2))
        return ((high << 32 | low) & (2**53 - 1)) * 2.0**-53
