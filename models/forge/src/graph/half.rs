//! IEEE 754 half precision, which Rust has no stable type for.

/// The half's value; exact.
pub(crate) fn to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let exponent = u32::from(half >> 10) & 0x1f;
    let fraction = u32::from(half) & 0x3ff;
    match (exponent, fraction) {
        (0, _) => {
            // Subnormal: fraction times 2^-24.
            let magnitude = fraction as f32 * 2.0_f32.powi(-24);
            f32::from_bits(sign | magnitude.to_bits())
        }
        (0x1f, 0) => f32::from_bits(sign | 0x7f80_0000),
        (0x1f, _) => f32::from_bits(sign | 0x7fc0_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

/// The nearest half, ties to even; none where the number is too large for it or is not finite.
pub(crate) fn from_f32(number: f32) -> Option<u16> {
    // Half of the gap above 65,504, the largest half, rounds to infinity.
    if !number.is_finite() || number.abs() >= 65_520.0 {
        return None;
    }
    let bits = number.to_bits();
    let sign = u16::try_from(bits >> 31).ok()? << 15;
    let magnitude = number.abs();
    let half = if magnitude < 2.0_f32.powi(-14) {
        // Subnormal: in units of 2^-24; adding and taking away 2^23 would do the same in f32's own rounding.
        u32_of((magnitude * 2.0_f32.powi(24)).round_ties_even())
    } else {
        let exponent = (bits >> 23 & 0xff) - 112;
        let fraction = bits & 0x007f_ffff;
        let kept = exponent << 10 | fraction >> 13;
        let dropped = fraction & 0x1fff;
        let up = dropped > 0x1000 || (dropped == 0x1000 && kept & 1 == 1);
        // A carry out of the fraction raises the exponent, which is what rounding up means there.
        kept + u32::from(up)
    };
    Some(sign | u16::try_from(half).ok()?)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rounded number from 0 to 1024"
)]
fn u32_of(number: f32) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_comes_back_from_its_value() {
        for half in 0..=u16::MAX {
            let value = to_f32(half);
            if value.is_finite() {
                assert_eq!(from_f32(value), Some(half), "{value}");
            } else {
                assert_eq!(from_f32(value), None);
            }
        }
    }

    #[test]
    fn numbers_between_two_halves_go_to_the_nearer_and_ties_to_the_even_one() {
        for half in 0..0x7bff_u16 {
            let (low, high) = (to_f32(half), to_f32(half + 1));
            let middle = f32::midpoint(low, high);
            let even = if half % 2 == 0 { half } else { half + 1 };
            assert_eq!(from_f32(middle), Some(even), "{middle}");
            assert_eq!(from_f32(f32::midpoint(low, middle)), Some(half));
            assert_eq!(from_f32(f32::midpoint(middle, high)), Some(half + 1));
        }
        assert_eq!(from_f32(65_519.0), Some(0x7bff));
        assert_eq!(from_f32(65_520.0), None);
    }
}
