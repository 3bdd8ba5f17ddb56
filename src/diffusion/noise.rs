//! Initial noise for a seed: the numbers of torch's CPU generator, bit for bit.
//!
//! `randn(shape, seed)` equals `torch.randn(shape, generator=torch.Generator().manual_seed(seed))` in f32 on x86-64 with
//! AVX2, so a seed means here what it means elsewhere. Sixteen values or more take torch's vectorised Box–Muller: blocks
//! of 16 uniforms, the logarithm and the sine of the Cephes library in f32. Which products are fused into additions
//! decides the last bit; the order below is the one that torch's binaries have. Fewer than sixteen take the scalar path
//! in f64.

use std::f64::consts::PI;

const STATE: usize = 624;
const SHIFT: usize = 397;
const BLOCK: usize = 16;

/// `count` standard normal values for `seed`, in memory order of a contiguous tensor.
pub fn randn(count: usize, seed: u64) -> Vec<f32> {
    Generator::new(seed).randn(count)
}

/// A torch CPU generator, for drawing several tensors one after the other.
pub struct Generator {
    bits: Mt19937,
    /// second half of the last scalar pair
    spare: Option<f32>,
}

impl Generator {
    /// `torch.Generator().manual_seed(seed)`; torch uses the low 32 bits of a seed.
    pub fn new(seed: u64) -> Self {
        Generator {
            bits: Mt19937::new(seed as u32),
            spare: None,
        }
    }

    /// The next `count` normal values, as one contiguous tensor.
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.scalar()).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.bits.uniform()).collect();
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        if !count.is_multiple_of(BLOCK) {
            // A ragged end: the last sixteen are drawn again, on top of finished values.
            let tail = &mut values[count - BLOCK..];
            tail.fill_with(|| self.bits.uniform());
            box_muller(tail);
        }
        values
    }

    /// One value; they come in pairs from two uniforms of 53 bits.
    fn scalar(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = 2.0 * PI * self.bits.uniform_f64();
        let radius = (-2.0 * (-self.bits.uniform_f64()).ln_1p()).sqrt();
        self.spare = Some((radius * angle.sin()) as f32);
        (radius * angle.cos()) as f32
    }
}

/// Sixteen uniforms in [0, 1) to sixteen normals; lane `i` pairs with lane `i + 8`.
fn box_muller(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * log(1.0 - *first)).sqrt();
        let (sine, cosine) = sine_cosine((2.0 * PI) as f32 * *second);
        *first = radius * cosine + 0.0; // a mean of zero: -0 becomes 0
        *second = radius * sine + 0.0;
    }
}

/// Cephes `logf` of a normal positive number.
fn log(x: f32) -> f32 {
    const POLYNOMIAL: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const LN2_HIGH: f32 = 0.693_359_4;

    let mut exponent = ((x.to_bits() >> 23) as i32 - 126) as f32;
    let fraction = f32::from_bits(x.to_bits() & 0x007f_ffff | 0.5f32.to_bits()); // [0.5, 1)
    let mut x = fraction - 1.0;
    if fraction < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        x += fraction;
    }
    let square = x * x;
    let polynomial = POLYNOMIAL
        .into_iter()
        .reduce(|sum, next| sum.mul_add(x, next))
        .unwrap_or(0.0);
    let tail = (polynomial * x).mul_add(square, exponent * LN2_LOW) - square * 0.5;
    exponent.mul_add(LN2_HIGH, x + tail)
}

/// Cephes `sinf` and `cosf` of a non-negative angle.
fn sine_cosine(angle: f32) -> (f32, f32) {
    const FOUR_OVER_PI: f32 = 1.273_239_5;
    const QUARTER_PI: [f32; 3] = [-0.785_156_25, -2.418_756_5e-4, -3.774_895e-8];
    const SINE: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
    const COSINE: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];

    let octant = ((angle * FOUR_OVER_PI) as i32 + 1) & !1;
    let x = QUARTER_PI
        .iter()
        .fold(angle, |x, part| (octant as f32).mul_add(*part, x));
    let square = x * x;
    let horner = |terms: [f32; 3]| {
        terms
            .into_iter()
            .reduce(|sum, next| sum.mul_add(square, next))
            .unwrap_or(0.0)
    };
    let cosine = (horner(COSINE) * square).mul_add(square, -(square * 0.5)) + 1.0;
    let sine = (horner(SINE) * square).mul_add(x, x);
    let (sine, cosine) = if octant & 2 == 0 {
        (sine, cosine)
    } else {
        (cosine, sine)
    };
    let negate = |value: f32, negative: bool| if negative { -value } else { value };
    (negate(sine, octant & 4 != 0), negate(cosine, (octant - 2) & 4 == 0))
}

/// The Mersenne Twister of 32 bits.
struct Mt19937 {
    state: [u32; STATE],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; STATE];
        for index in 1..STATE {
            let previous = state[index - 1];
            state[index] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(index as u32);
        }
        Mt19937 { state, next: STATE }
    }

    fn twist(&mut self) {
        for index in 0..STATE {
            let mixed = self.state[index] & 0x8000_0000 | self.state[(index + 1) % STATE] & 0x7fff_ffff;
            let odd = if mixed & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[index] = self.state[(index + SHIFT) % STATE] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    fn bits(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// [0, 1) in steps of 2^-24.
    fn uniform(&mut self) -> f32 {
        (self.bits() & 0x00ff_ffff) as f32 / (1u32 << 24) as f32
    }

    /// [0, 1) in steps of 2^-53.
    fn uniform_f64(&mut self) -> f64 {
        let word = u64::from(self.bits()) << 32 | u64::from(self.bits());
        (word & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}
