//! The time in which a certificate is good.

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The certificate's version, which its first form does not have.
const VERSION: u8 = 0xa0;

/// The begin and the end of a certificate's validity, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    /// The first second; 0 for all that is before 1970.
    pub(crate) begins: u64,
    /// The last second; 0 for all that is before 1970.
    pub(crate) ends: u64,
}

/// The validity of a certificate in DER; None: it cannot be read from it.
///
/// rustls keeps it to itself. Only its place is read here (RFC 5280, 4.1): whether the certificate
/// is right in all else is for others to say.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let certificate = inside(certificate, SEQUENCE)?;
    let mut rest = inside(certificate, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    // The number, the algorithm and the issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (tag, begins, rest) = element(inside(rest, SEQUENCE)?)?;
    let begins = unix_seconds(tag, begins)?;
    let (tag, ends, _) = element(rest)?;
    Some(Validity { begins, ends: unix_seconds(tag, ends)? })
}

/// A time as RFC 5280, 4.1.2.5 has it: with seconds, in UTC.
fn unix_seconds(tag: u8, time: &[u8]) -> Option<u64> {
    let time = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let century = match tag {
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
    if year < "1970" {
        return Some(0);
    }
    let [hour, minute, second] = [&time[..2], &time[2..4], &time[4..]];
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    let time = humantime::parse_rfc3339(&text).ok()?;
    Some(time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?.as_secs())
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
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 24 * 3600;

    /// A certificate that is good between two first days of a year.
    fn issued(begins: i32, ends: i32) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(["plane.test".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(begins, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(ends, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    /// An element of DER; a content of 128 bytes and more has a long form of its length.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        let long: &[u8] = if length < 0x80 { &[] } else { &[0x81] };
        [&[tag], long, &[length], content].concat()
    }

    /// As much of a certificate as is read, with these times. `version`: whether it tells its own.
    fn head(begins: (u8, &str), ends: (u8, &str), version: bool) -> Vec<u8> {
        let version = if version { der(VERSION, &der(0x02, &[2])) } else { Vec::new() };
        let [number, algorithm] = [der(0x02, &[7]), der(SEQUENCE, b"algorithm")];
        let issuer = der(SEQUENCE, &[0; 130]);
        let times = [der(begins.0, begins.1.as_bytes()), der(ends.0, ends.1.as_bytes())].concat();
        let validity = der(SEQUENCE, &times);
        der(SEQUENCE, &der(SEQUENCE, &[version, number, algorithm, issuer, validity].concat()))
    }

    #[test]
    fn a_certificate_says_when_it_begins_and_ends_in_both_forms_of_a_time() {
        let days_of =
            [(1970, 0), (1999, 10_592), (2049, 28_855), (2050, 29_220), (9999, 2_932_532)];
        for window in days_of.windows(2) {
            let [(begins, first), (ends, last)] = window else { unreachable!() };
            let found = validity(&issued(*begins, *ends));
            let expected = Validity { begins: first * DAY, ends: last * DAY };
            assert_eq!(found, Some(expected), "{begins} to {ends}");
        }
    }

    #[test]
    fn a_time_before_1970_is_long_ago_and_no_riddle() {
        let expected = Some(Validity { begins: 0, ends: 0 });
        assert_eq!(validity(&issued(1950, 1969)), expected);
        let zero = (GENERALIZED_TIME, "00010101000000Z");
        assert_eq!(validity(&head(zero, zero, true)), expected);
    }

    #[test]
    fn the_century_of_two_digits_turns_with_the_year_50() {
        let last = (UTC_TIME, "491231235959Z");
        let found = validity(&head((UTC_TIME, "500101000000Z"), last, true));
        assert_eq!(found, Some(Validity { begins: 0, ends: 29_220 * DAY - 1 }));
        let first = (GENERALIZED_TIME, "20500101000000Z");
        let found = validity(&head(last, first, true));
        assert_eq!(found, Some(Validity { begins: 29_220 * DAY - 1, ends: 29_220 * DAY }));
    }

    #[test]
    fn the_version_may_be_missing() {
        let times = [(UTC_TIME, "700101000000Z"), (UTC_TIME, "700102000001Z")];
        let expected = Some(Validity { begins: 0, ends: DAY + 1 });
        for version in [true, false] {
            assert_eq!(validity(&head(times[0], times[1], version)), expected);
        }
    }

    #[test]
    fn what_is_no_time_of_a_certificate_says_nothing() {
        let right = (UTC_TIME, "260101000000Z");
        assert!(validity(&head(right, right, true)).is_some());
        for wrong in [
            (UTC_TIME, "260101000000"),
            (UTC_TIME, "2601010000Z"),
            (UTC_TIME, "260101000000+0000"),
            (UTC_TIME, "261301000000Z"),
            (UTC_TIME, "260230000000Z"),
            (UTC_TIME, "2601010000x0Z"),
            (UTC_TIME, "20260101000000Z"),
            (UTC_TIME, "260101240000Z"),
            (UTC_TIME, "２60101000Z"),
            (UTC_TIME, ""),
            (GENERALIZED_TIME, "260101000000Z"),
            (GENERALIZED_TIME, "20260101000000.5Z"),
            (0x04, "260101000000Z"),
        ] {
            assert_eq!(validity(&head(wrong, right, true)), None, "begins: {wrong:?}");
            assert_eq!(validity(&head(right, wrong, true)), None, "ends: {wrong:?}");
        }
    }

    #[test]
    fn a_certificate_that_is_cut_says_nothing() {
        let whole = issued(1999, 2049);
        let behind = whole.windows(13).rposition(|at| at == b"490101000000Z").unwrap() + 13;
        for end in 0..behind {
            assert_eq!(validity(&whole[..end]), None);
        }
        for wrong in [&b"\x30\xff"[..], b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x30"] {
            assert_eq!(validity(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..256)
        ) {
            let _ = validity(&bytes);
        }

        #[test]
        fn any_change_of_a_certificate_is_read_without_a_panic(
            at in 0..256_usize, byte in any::<u8>(), form in any::<bool>(), time in "\\PC{0,20}"
        ) {
            let tag = if form { UTC_TIME } else { GENERALIZED_TIME };
            let mut bytes = head((tag, &time), (UTC_TIME, "260101000000Z"), form);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = validity(&bytes);
        }
    }
}
