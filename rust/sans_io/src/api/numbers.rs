//! Numbers of requests, which clients write in many ways.

use serde_json::value::RawValue;

/// A whole number that is not negative, however it is written: `50`, `50.0` and `5e1` are the same,
/// as libraries with one kind of number write them. None for anything else, a fraction too.
pub(crate) fn whole(raw: &RawValue) -> Option<u64> {
    let text = raw.get();
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let significant = if fraction.bytes().all(|digit| digit == b'0') {
        (whole.trim_start_matches('0'), "")
    } else {
        (whole.trim_start_matches('0'), fraction.trim_end_matches('0'))
    };
    if significant == ("", "") {
        return Some(0);
    }
    if !sign.is_empty() {
        return None;
    }
    let exponent: i32 = exponent.parse().ok()?;
    shifted(significant, exponent)
}

/// The digits with their point moved; None where that leaves a fraction, or is too large.
fn shifted((whole, fraction): (&str, &str), exponent: i32) -> Option<u64> {
    let mut number = 0_u64;
    for digit in whole.bytes().chain(fraction.bytes()) {
        // Zeros behind the last digit that counts may be taken away again.
        if number > u64::MAX / 10 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    let places = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let power = 10_u64.checked_pow(places.unsigned_abs());
    if places >= 0 {
        return number.checked_mul(power?);
    }
    // A number below 2^64 has no 10^20 in it.
    power.filter(|power| number.is_multiple_of(*power)).map(|power| number / power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<u64> {
        whole(serde_json::from_str(text).unwrap_or_else(|_| unreachable!("{text} is JSON")))
    }

    #[test]
    fn a_whole_number_is_whole_however_it_is_written() {
        for text in
            ["50", "50.0", "5e1", "5E+1", "5.0e1", "0.5e2", "0.50E+2", "500e-1", "5000.00e-2"]
        {
            assert_eq!(read(text), Some(50), "{text}");
        }
        for text in ["0", "-0", "0.0", "-0.0", "0e5", "0e999999999999", "0.000e-3"] {
            assert_eq!(read(text), Some(0), "{text}");
        }
        assert_eq!(read("18446744073709551615"), Some(u64::MAX));
        assert_eq!(read("1.8446744073709551615e19"), Some(u64::MAX));
        assert_eq!(read("18446744073709551615.000"), Some(u64::MAX));
    }

    #[test]
    fn fractions_negative_numbers_and_what_is_too_large_are_none() {
        for text in [
            "1.5",
            "5e-1",
            "0.1e0",
            "-1",
            "-1.0",
            "1e20",
            "1e999999999999",
            "1e-999999999999",
            "\"5\"",
            "null",
            "[]",
            "true",
            "18446744073709551616",
            "18446744073709551616.0",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
