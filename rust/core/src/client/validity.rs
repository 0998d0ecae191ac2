//! When a certificate ends.

use std::time::SystemTime;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The certificate's version, which its first form does not have.
const VERSION: u8 = 0xa0;

/// The end of a certificate's validity; None: it cannot be read from it.
///
/// rustls keeps it to itself. Only its place in DER is read here (RFC 5280, 4.1): whether the
/// certificate is right in all else is for others to say.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let certificate = inside(certificate, SEQUENCE)?;
    let mut rest = inside(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // The number, the algorithm and the issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, _, ends) = element(inside(rest, SEQUENCE)?)?;
    let (tag, time, _) = element(ends)?;
    let time = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let century = match tag {
        // RFC 5280, 4.1.2.5.1.
        UTC_TIME if time < "50" => "20",
        UTC_TIME => "19",
        GENERALIZED_TIME => "",
        _ => return None,
    };
    let digits = format!("{century}{time}");
    if digits.len() != 14 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (date, time) = digits.split_at(8);
    let [year, month, day] = [&date[..4], &date[4..6], &date[6..]];
    let [hour, minute, second] = [&time[..2], &time[2..4], &time[4..]];
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    humantime::parse_rfc3339(&text).ok()
}

/// The content of an element that has this tag.
fn inside(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (found, content, _) = element(bytes)?;
    (found == tag).then_some(content)
}

/// The tag of the first element, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        length = digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit));
        rest = behind;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A certificate that ends at the begin of a year.
    fn ending(year: i32) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(["plane.test".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(1970, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_when_it_ends_in_both_forms_of_a_time() {
        for (year, days) in [(1999, 10_592), (2049, 28_855), (2050, 29_220), (9999, 2_932_532)] {
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 3600);
            assert_eq!(not_after(&ending(year)), Some(end), "{year}");
        }
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        let whole = ending(2049);
        let before = whole.windows(13).rposition(|at| at == b"490101000000Z").unwrap() + 13;
        for end in 0..before {
            assert_eq!(not_after(&whole[..end]), None);
        }
        let mut digit = whole.clone();
        digit[before - 2] = b'x';
        assert_eq!(not_after(&digit), None);
        assert_eq!(not_after(b"\x30\xff"), None);
    }
}
