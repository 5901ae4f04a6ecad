//! Until when a certificate is valid: as much of X.509 as that takes, and no more. Nothing is checked by it; it is
//! for the alarm that comes before clients refuse the certificate.

use rustls::pki_types::CertificateDer;

/// DER's tags for what stands on the way to a certificate's validity.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When the first of a chain's certificates ends to be valid, in Unix seconds; `None` if one cannot be read.
pub(crate) fn ends(chain: &[CertificateDer<'_>]) -> Option<i64> {
    chain.iter().map(|certificate| end(certificate)).try_fold(i64::MAX, |first, end| Some(first.min(end?)))
}

fn end(certificate: &[u8]) -> Option<i64> {
    let (_, certificate, _) = element(certificate)?;
    let (SEQUENCE, mut rest, _) = element(certificate)? else { return None };
    if rest.first() == Some(&VERSION) {
        (_, _, rest) = element(rest)?;
    }
    // The serial number, the signature's algorithm, the issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (SEQUENCE, validity, _) = element(rest)? else { return None };
    let (_, _, not_after) = element(validity)?;
    let (tag, text, _) = element(not_after)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// An element of DER: its tag, what is in it, what stands behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], mut rest) = bytes.split_first_chunk()?;
    let mut size = usize::from(length);
    if length >= 0x80 {
        // So many bytes of length follow; a certificate's fits into four.
        let count = usize::from(length & 0x7F);
        let digits = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
        size = digits.iter().fold(0, |size, digit| size << 8 | usize::from(*digit));
        rest = &rest[count..];
    }
    let (inside, behind) = rest.split_at_checked(size)?;
    Some((tag, inside, behind))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, which is all that RFC 5280 allows.
fn time(tag: u8, text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let (year, rest) = match tag {
        // 50 and more are of the last century.
        UTC_TIME => (number(0, 2).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
        GENERALIZED_TIME => (number(0, 4)?, 4),
        _ => return None,
    };
    if text.get(rest + 10..) != Some("Z") {
        return None;
    }
    let [month, day, hour, minute, second] =
        [0, 2, 4, 6, 8].map(|at| number(rest + at, rest + at + 2).unwrap_or(-1));
    let is_a_time = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    is_a_time.then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// The days from 1970 to a day of the Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day at their end.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that is valid until the beginning of a day.
    fn until(year: i32, month: u8, day: u8) -> CertificateDer<'static> {
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, month, day);
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        parameters.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_end_is_read_in_either_form_and_across_leap_years() {
        // As `date -u -d 2027-03-01 +%s` has it.
        for (year, month, day, seconds) in [
            (2027, 3, 1, 1_803_859_200),
            (2028, 2, 29, 1_835_395_200),
            (2028, 3, 1, 1_835_481_600),
            (2049, 12, 31, 2_524_521_600),
            (2050, 1, 1, 2_524_608_000),
            (2100, 3, 1, 4_107_542_400),
        ] {
            assert_eq!(ends(&[until(year, month, day)]), Some(seconds), "{year}-{month}-{day}");
        }
        assert_eq!(ends(&[until(2040, 1, 1), until(2028, 3, 1), until(2050, 1, 1)]), Some(1_835_481_600));
    }

    #[test]
    fn what_is_no_certificate_has_no_end_and_does_no_harm() {
        let good = until(2030, 1, 1);
        for cut in 0..good.len() {
            assert_eq!(end(&good[..cut]), None, "{cut} bytes");
        }
        for place in 0..good.len().min(200) {
            for value in [0, 0x7F, 0x80, 0x84, 0xFF] {
                let mut harmed = good.to_vec();
                harmed[place] = value;
                // Whatever it says, it says it without a panic.
                std::hint::black_box(end(&harmed));
            }
        }
    }
}
